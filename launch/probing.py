"""What rollout servers tell of themselves at /metrics: busy seconds, and the whole text."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiohttp

from engine.routing import ServerPool

PROBE_EVERY_S = 4.0
IDLE_EVERY_S = 15.0
"""Where nobody watches: as often as there are records."""
YOUNG_S = 60.0
"""At first they are asked often all the same: shares need several answers."""
TIMEOUT_S = 1.0
MAX_BYTES = 4 << 20
COSTS = (
    "process_cpu_seconds_total",
    "prefills_total",
    "prefill_cpu_seconds_total",
    "decode_steps_total",
    "decode_cpu_seconds_total",
    "decode_rows_squared_total",
    "decode_rows_cpu_seconds_total",
    "generation_tokens_total",
    "prompt_tokens_total",
    "cached_tokens_total",
    "num_requests_total",
    "weight_updates_total",
)
"""What work costs a server, for `launch.simulation`; ours tell it all."""
BUSY = "sglang:busy_seconds_total"
"""Ours tell it."""
RUNNING, CACHE = "sglang:num_running_reqs", "sglang:token_usage"
"""SGLang tells no busy time: how full it is stands for it, by requests of those that it may run,
and by tokens of its cache. With continuous batching one request keeps a server at work, and
hundreds of others beside it make it hardly slower: only a full one limits a run."""
Place = tuple[str, str]
"""(policy, url): a server may move to another policy."""


@dataclass(slots=True)
class _Known:
    """A server of a policy, as it was when it last answered."""

    at_s: float
    counter_s: float | None


class Probe:
    """Asks the servers of all policies, now and then."""

    def __init__(self, pools: Mapping[str, ServerPool], session: aiohttp.ClientSession) -> None:
        self._pools = pools
        self._session = session
        self._began_s = self._asked_s = time.monotonic()
        self._known: dict[Place, _Known] = {}
        self._worked: dict[str, tuple[float, float]] = {}
        self._seen: set[Place] = set()
        self._met: set[Place] = set()
        """Those that were asked before."""
        self.costs: dict[Place, dict[str, float]] = {}
        """Of each server as it last answered: those of `COSTS` that it tells."""

    async def busy(self, is_watched: bool = True) -> dict[str, tuple[float, float]] | None:
        """{policy: (seconds its servers worked, seconds there were)} since they were first asked;
        neither ever falls. None: it is not yet time to ask again."""
        now_s = time.monotonic()
        is_often = is_watched or now_s - self._began_s < YOUNG_S
        is_due = now_s - self._asked_s >= (PROBE_EVERY_S if is_often else IDLE_EVERY_S)
        # What a server worked before it was first asked is lost: of a short run, nearly all.
        if not is_due and self._met.issuperset(self._ready()):
            return None
        return await self._busy(by_fullness=True)

    async def busy_at_end(self) -> dict[str, tuple[float, float]]:
        """As `busy`, of those that count it. How full others are when nobody plays any more says
        nothing of the seconds before."""
        return await self._busy(by_fullness=False)

    async def _busy(self, *, by_fullness: bool) -> dict[str, tuple[float, float]]:
        self._asked_s = now_s = time.monotonic()
        ready = self._ready()
        self._met.update(ready)
        # One that went away, or to another policy, begins anew: what it does meanwhile is not ours.
        self._known = {place: self._known[place] for place in ready if place in self._known}
        self.costs = {place: self.costs[place] for place in ready if place in self.costs}
        for place, text in (await self._ask(ready)).items():
            if text is not None and (by_fullness or _value(text, BUSY) is not None):
                self._add(place, text, now_s)
        return dict(self._worked)

    def _ready(self) -> list[Place]:
        return [(policy, url) for policy, pool in self._pools.items() for url in pool.ready]

    def _add(self, place: Place, text: str, now_s: float) -> None:
        """What it worked since it was last asked: at first, nothing is known."""
        told = {name: _value(text, f"sglang:{name}") for name in COSTS}
        self.costs[place] = {name: value for name, value in told.items() if value is not None}
        before, counter_s = self._known.get(place), _value(text, BUSY)
        self._known[place] = _Known(now_s, counter_s)
        full = _fullness(text, self._pools[place[0]].limit(place[1])) if counter_s is None else None
        if before is None or (counter_s is None and full is None):
            return
        since_s = now_s - before.at_s
        if counter_s is None:
            new_s = since_s * (full or 0.0)
        elif before.counter_s is None or counter_s < before.counter_s:
            new_s = min(counter_s, since_s)  # it was started again, and counts anew
        else:
            new_s = counter_s - before.counter_s
        worked_s, there_s = self._worked.get(place[0], (0.0, 0.0))
        self._worked[place[0]] = (worked_s + new_s, there_s + since_s)

    async def texts(self) -> dict[Place, str | None]:
        """{(policy, url): its /metrics} of all servers that have ever served, and still should;
        None where it does not answer."""
        for policy, pool in self._pools.items():
            self._seen |= {(policy, url) for url in pool.ready}
        there = {
            (policy, url) for policy, pool in self._pools.items() for url in pool.stats()["servers"]
        }
        self._seen &= there
        return await self._ask(sorted(self._seen))

    async def _ask(self, places: Sequence[Place]) -> dict[Place, str | None]:
        texts = await asyncio.gather(*(self._text(url) for _, url in places))
        return dict(zip(places, texts, strict=True))

    async def _text(self, url: str) -> str | None:
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._session.get(f"{url}/metrics", timeout=timeout) as response:
                body = b""
                while len(body) < MAX_BYTES and (part := await response.content.readany()):
                    body += part
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return body.decode(errors="replace")


def _fullness(text: str, limit: int) -> float | None:
    """The share of a server's room that is taken; `limit`: requests that it may run."""
    running = _value(text, RUNNING)
    if running is None:
        return None
    return min(1.0, max(running / limit, _value(text, CACHE) or 0.0))


def _value(text: str, name: str) -> float | None:
    """The sum of a metric's samples; None where it is not there."""
    found = []
    # SGLang tells some thousand lines of other things: they are not looked at one by one.
    for part in f"\n{text}".split(f"\n{name}")[1:]:
        line = part.partition("\n")[0]
        if line.startswith(("{", " ")):
            with suppress(ValueError, IndexError):  # a line that was cut off
                found.append(float(line.rpartition("}")[2].split()[0]))
    return sum(found) if found else None
