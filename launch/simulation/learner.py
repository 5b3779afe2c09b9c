"""A learner group that trains nothing: it speaks the protocol of `engine.desk`, and takes its time.

Batches are trained in the order in which they arrive, and published before the next one is. While
the servers of a policy get its weights, they sample nothing for it (`weights.pause: retract`).

With overlap a step is followed by a copy alone. What `engine.learner.publisher` has its thread do
then goes on beside training, one thing after the other, and the next copy under a name waits until
nobody reads the last one. The engine hears of it as it does there: between two steps.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.tasks import concurrently, first_of
from engine.transport import Message
from launch.simulation.cores import Process
from launch.simulation.server import Server
from launch.simulation.service_times import LearnerTimes
from launch.simulation.wire import Wire

_AFTER = 1.0
"""Answers of a server that a publication waits for when it generates again: the probe's."""


@dataclass(slots=True, kw_only=True)
class SimulatedLearner:
    """Rank 0 of a group, and all other ranks with it."""

    name: str
    policies: Sequence[str]
    times: Mapping[str, LearnerTimes]
    senders: int
    """Ranks that share the copies of a publication."""
    via_disk: bool
    """There is one copy, a folder that all servers read at once."""
    overlap: bool
    process: Process
    wire: Wire
    servers: Mapping[str, Server]
    """By url."""
    urls: dict[str, list[str]]
    """{policy or follower: urls of its servers}."""
    prefetch: int
    checkpoint_every: int
    trained: Counter[str] = field(default_factory=Counter)
    """Sampled tokens, by policy."""
    publications: int = 0
    publishing_s: float = 0.0
    """Spent on publications, waiting included."""
    _asked: Counter[str] = field(default_factory=Counter)
    _steps: Counter[str] = field(default_factory=Counter)
    _versions: dict[str, int] = field(default_factory=dict)
    _batches: deque[Message] = field(default_factory=deque)
    _beside: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    """What goes on beside training, with overlap."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whose turn it is there."""
    _jobs: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """The last publication of each name, the last filling of a server (``), and the last leave
    taken of each."""
    _outbox: list[Message] = field(default_factory=list)
    """For the engine, of what was done beside training."""
    _is_waiting: bool = False
    """For the engine, so that it can be told at once."""

    @property
    def peer(self) -> bytes:
        return self.name.encode()

    async def run(self) -> None:
        """From hello to bye, and until the last publication has ended. Raises what went wrong, also
        beside training."""
        try:
            async with self._beside:
                await self._run()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None

    async def _run(self) -> None:
        states = {policy: {"step": 0, "request": 0} for policy in self.policies}
        self._tell("hello", policies=states)
        welcome = await self._inbox.get()
        for name, version in welcome["versions"].items():
            await self._publish(name, int(version), 0)
        for policy in self.policies:
            for _ in range(1 + self.prefetch):
                self._ask(policy)
        while await self._receive():
            if self._batches:
                await self._train(self._batches.popleft())

    def stop(self) -> None:
        """As Ctrl-C does: what is in flight is given up, and the engine says bye."""
        self._tell("stopping", seconds=0.0)

    @property
    def _inbox(self) -> asyncio.Queue[Message]:
        return self.wire.inbox(self.peer)

    def _tell(self, kind: str, **content: object) -> None:
        self.wire.tell(self.peer, {"kind": kind, **content})

    def _ask(self, policy: str) -> None:
        self._asked[policy] += 1
        self._tell("next", policy=policy, request=self._asked[policy])

    async def _receive(self) -> bool:
        """Take what has arrived; wait for it where there is nothing to train on. False: bye."""
        self._report()
        while not self._inbox.empty() or not self._batches:
            self._is_waiting = True
            message = await self._inbox.get()
            self._is_waiting = False
            kind = message["kind"]
            if kind == "bye":
                return False
            if kind == "batch" and message["groups"]:
                self._batches.append(message)
            elif kind == "batch":
                self._ask(message["policy"])
            elif kind == "release":
                await self._release(message["policy"], message["url"])
            elif kind == "assign":
                await self._fill(message["policy"], message["url"])
        return True

    async def _train(self, batch: Message) -> None:
        policy, times = batch["policy"], self.times[batch["policy"]]
        tokens = num_tokens(batch)
        await self.process.work(times.step_s + times.state_s + times.token_s * tokens)
        self._steps[policy] += 1
        self.trained[policy] += tokens
        self._tell(
            "stepped",
            policy=policy,
            request=batch["request"],
            step=batch["step"],
            skipped=False,
            reason="",
            metrics={"tokens": tokens},
        )
        for name, version in batch["versions"].items():
            await self._publish(name, int(version), int(batch["step"]))
        if self._steps[policy] % self.checkpoint_every == 0:
            self._tell("saved", policy=policy, step=batch["step"], oldest_request=batch["request"])
        self._ask(policy)

    async def _publish(self, name: str, version: int, step: int) -> None:
        """To all servers of a policy or follower at once."""
        times, clock = self._times_of(name), asyncio.get_running_loop().time
        if self.overlap:
            for job in (self._jobs.get(name), self._jobs.get("")):
                if job is not None:
                    await job  # it reads the copy that is about to be overwritten
            await self.process.work(times.publish_s)
        self._versions[name] = version

        async def publish() -> None:
            urls, began_s = list(self.urls[name]), clock()
            if not self.overlap:
                await self.process.work(times.publish_s)

            async def send(url: str) -> None:
                await self._send(name, url, times, self._copies(name))

            await concurrently(send, urls)
            self.publications += 1
            self.publishing_s += clock() - began_s
            self._say("published", policy=name, version=version, step=step, servers=urls, failed={})

        await self._do(name, publish)

    async def _release(self, name: str, url: str) -> None:
        """A server that goes to another policy."""

        async def let_go() -> None:
            self.urls[name].remove(url)
            self._say("released", policy=name, url=url)

        await self._do(f"move {url}", let_go)

    async def _fill(self, name: str, url: str) -> None:
        """A server that has come from another policy."""

        async def fill() -> None:
            self.urls[name].append(url)
            await self._send(name, url, self._times_of(name), 1)
            self._say("serving", policy=name, version=self._versions[name], servers=[url])

        await self._do("", fill)

    async def _do(self, name: str, job: Callable[[], Awaitable[None]]) -> None:
        """Now; with overlap beside training, when its turn has come."""

        async def in_turn() -> None:
            async with self._turn:  # of those who wait the first
                await job()
            if self._is_waiting:
                self._report()

        if self.overlap:
            self._jobs[name] = self._beside.create_task(in_turn())
        else:
            await job()
        self._report()

    def _say(self, kind: str, **content: object) -> None:
        """To the engine, at the next report."""
        self._outbox.append({"kind": kind, **content})

    def _report(self) -> None:
        """Tell the engine what was done beside training."""
        for message in self._outbox:
            self.wire.tell(self.peer, message)
        self._outbox.clear()

    async def _send(self, name: str, url: str, times: LearnerTimes, copies: int) -> None:
        """To one server, by a rank that sends so many copies."""
        server, left = self.servers[url], times.answers
        server.pause(name)
        while left > _AFTER:
            await server.answer(min(1.0, left - _AFTER))
            left -= min(1.0, left - _AFTER)
        await asyncio.sleep(times.copy_s * copies)
        await server.work(server.times.update_s)
        server.resume(name, self._versions[name])
        await server.answer(min(left, _AFTER))

    def _copies(self, name: str) -> int:
        """What one rank sends: all share a policy's servers; a follower's are rank 0's."""
        if self.via_disk:
            return 1
        senders = self.senders if name in self.policies else 1
        return math.ceil(len(self.urls[name]) / senders)

    def _times_of(self, name: str) -> LearnerTimes:
        """A follower's weights are those of a policy of this group: as costly as the first's."""
        return self.times.get(name, self.times[self.policies[0]])


def num_tokens(batch: Message) -> int:
    """Sampled tokens of a batch, as `SimulatedSampler` notes them: each rollout's own number."""
    number = 0
    for group in batch["groups"]:
        prompts = [int.from_bytes(prompt, "little") for prompt in group["prompts"]]
        number += sum(prompts[rollout["prompt"]] for rollout in group["rollouts"])
    return number
