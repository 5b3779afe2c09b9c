"""A rollout server that only takes time: continuous batching, as processor sharing.

All requests that run get a token with each decode step, so they share one clock of tokens, and a
request of n tokens ends when that clock has gone on by n. A step takes a + b * rows for each policy
that the server decodes for; prompts, requests and new weights are work before the next step,
as much of it as is there.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from launch.simulation.cores import Cores, Processor
from launch.simulation.service_times import ServerTimes

_NEAR = 1e-6
"""Of a token: what is less far away is there."""


@dataclass(slots=True, eq=False)
class Request:
    """One rollout on its way through a server; or, without a policy, somebody who waits for the end
    of a step."""

    policy: str | None
    left: float
    """Tokens still to come, as of when it last entered or left the batch."""
    prefix: object
    """Requests with the same one share their prompt."""
    done: asyncio.Future[None]
    versions: list[int] = field(default_factory=list)
    """That sampled it, oldest first."""
    ends_at: float = 0.0
    """On the server's clock of tokens, while it is in the batch."""


class Server:
    """One process, with the weights of one policy or several. See the module's docstring."""

    def __init__(self, times: ServerTimes, *cores: Cores) -> None:
        self.processor = Processor(*cores)
        self.times = times
        self.versions: dict[str, int] = {}
        """Of the weights of each policy that it serves."""
        self._rows: Counter[str] = Counter()
        """Requests that decode, by policy."""
        self._batch: list[tuple[float, int, Request]] = []
        """A heap, by their ends; who left it early is still here, with `left` > 0."""
        self._coming: dict[Request, None] = {}
        """Those whose prompt is still to be computed, in the order in which they came."""
        self._paused: dict[str, list[Request]] = {}
        self._kept: set[tuple[str, object]] = set()
        """Prompts, until the next update."""
        self._work: list[tuple[float, Callable[[], None]]] = []
        """What comes before the next decode step, and what it brings about."""
        self._now: list[tuple[float, Callable[[], None]]] = []
        """The same, of which it does all before it looks again."""
        self._clock = 0.0
        self._decoding_since_s: float | None = None
        """In CPU seconds of the processor; None: it does not decode now."""
        self._numbers = count()

    @property
    def cycle_s(self) -> float:
        """CPU seconds of one decode step for every policy that has requests."""
        times = self.times
        return sum(times.step_s + times.row_s * rows for rows in self._rows.values() if rows)

    async def generate(self, policy: str, tokens: float, prefix: object) -> Request:
        """Wait until that many tokens are sampled, or it is interrupted: then some are `left`."""
        request = Request(policy, tokens, prefix, asyncio.get_running_loop().create_future())
        self._join(request, policy, is_new=True)
        try:
            await request.done
        except asyncio.CancelledError:
            self._forget(request, policy)
            raise
        return request

    async def work(self, cpu_s: float) -> None:
        """Something else that this process has to do, before the next decode step."""
        done = asyncio.get_running_loop().create_future()
        self._do(cpu_s, lambda: _end(done))
        await done

    async def answer(self, steps: float = 1.0) -> None:
        """What a small question waits for: what is being done, and so many decode steps."""
        await self.work(0.0)
        if self._batch and steps > 0:
            mark = Request(None, steps, None, asyncio.get_running_loop().create_future())
            self._advance()
            self._push(mark)
            self._proceed()
            await mark.done

    # new weights

    def pause(self, policy: str) -> None:
        """Take a policy's requests out of the batch, with what they have."""
        self._advance()
        self._paused.setdefault(policy, []).extend(self._take_out(policy))
        self._proceed()

    def resume(self, policy: str, version: int) -> None:
        """Go on with these weights: prompts, and what was sampled, are computed anew."""
        self.versions[policy] = version
        self._kept = {key for key in self._kept if key[0] != policy}
        for request in self._paused.pop(policy, []):
            self._join(request, policy, is_new=False)

    def interrupt(self, policy: str) -> None:
        """End a policy's requests as they are, also those that wait: they go on elsewhere."""
        self._advance()
        waiting = [request for request in self._coming if request.policy == policy]
        for request in (*self._take_out(policy), *waiting, *self._paused.get(policy, ())):
            _end(request.done)
        if policy in self._paused:
            self._paused[policy] = []
        self._proceed()

    # who is in the batch

    def _join(self, request: Request, policy: str, *, is_new: bool) -> None:
        if policy in self._paused:
            self._paused[policy].append(request)
            return
        cost_s = self.times.request_s if is_new else 0.0
        if not is_new or (policy, request.prefix) not in self._kept:
            self._kept.add((policy, request.prefix))
            cost_s += self.times.prompt_s
        self._coming[request] = None
        self._do(cost_s, lambda: self._enter(request, policy))

    def _enter(self, request: Request, policy: str) -> None:
        del self._coming[request]
        if request.done.done():
            return
        if policy in self._paused:
            self._paused[policy].append(request)
            return
        version = self.versions[policy]
        if not request.versions or request.versions[-1] != version:
            request.versions.append(version)
        self._push(request)
        self._rows[policy] += 1

    def _push(self, request: Request) -> None:
        request.ends_at, request.left = self._clock + request.left, 0.0
        heapq.heappush(self._batch, (request.ends_at, next(self._numbers), request))

    def _take_out(self, policy: str) -> list[Request]:
        """In the order in which they came."""
        out = sorted((entry for entry in self._batch if entry[2].policy == policy), key=_number)
        self._batch = [entry for entry in self._batch if entry[2].policy != policy]
        heapq.heapify(self._batch)
        self._rows[policy] = 0
        for ends_at, _, request in out:
            request.left = max(_NEAR, ends_at - self._clock)
        return [request for _, _, request in out]

    def _forget(self, request: Request, policy: str) -> None:
        """Nobody waits for it any more."""
        self._advance()
        if any(entry[2] is request for entry in self._batch):
            self._batch = [entry for entry in self._batch if entry[2] is not request]
            heapq.heapify(self._batch)
            self._rows[policy] -= 1
        if request in self._paused.get(policy, []):
            self._paused[policy].remove(request)
        self._proceed()

    # what the process does

    def _do(self, cpu_s: float, then: Callable[[], None]) -> None:
        """Queue work. It begins at once: steps are short."""
        self._work.append((cpu_s, then))
        self._advance()
        self._proceed()

    def _advance(self) -> None:
        """Bring the clock of tokens up to date; before anybody enters or leaves the batch."""
        if self._decoding_since_s is not None and (cycle_s := self.cycle_s):
            now_s = self.processor.cpu_s
            self._clock += (now_s - self._decoding_since_s) / cycle_s
            self._decoding_since_s = now_s

    def _proceed(self) -> None:
        """Work first, then decode to the end of the next request, then rest."""
        if self._now:
            return
        self._decoding_since_s = None
        if self._work:
            self._now, self._work = self._work, []
            self.processor.after(sum(cpu_s for cpu_s, _ in self._now), self._worked)
        elif self._batch:
            self._decoding_since_s = self.processor.cpu_s
            left = max(0.0, self._batch[0][0] - self._clock)
            self.processor.after(left * self.cycle_s, self._decoded)
        else:
            self.processor.rest()

    def _worked(self) -> None:
        for _, then in self._now:
            then()
        self._now = []
        self._proceed()

    def _decoded(self) -> None:
        self._clock = max(self._clock, self._batch[0][0])
        self._decoding_since_s = None
        while self._batch and self._batch[0][0] <= self._clock + _NEAR:
            _, _, request = heapq.heappop(self._batch)
            if request.policy is not None:
                self._rows[request.policy] -= 1
            _end(request.done)
        self._proceed()


def _end(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def _number(entry: tuple[float, int, Request]) -> int:
    return entry[1]
