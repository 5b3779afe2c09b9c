"""Which server gets a request: readiness, load, and prefix affinity. No I/O.

Where SGLang's router stands before the servers (`engine.servers.router`), all requests have its url
for a place, as many as the servers that are ready may have together.

Who waits, who wakes: `ServerPool.place` waits until a ready server has room; `mark_ready` and the
end of any placement wake the first waiters for which there is a server, in the order of arrival.
"""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

SUSPECT_S = 2.0
"""For so long a server that failed is the last choice: a dead one answers fast, and would
otherwise look like the least loaded one."""
_LATER_S = 0.01
"""A timer may be early, by the grain of a clock."""
_HOMES = 8192
"""Prefixes whose server is remembered."""
_OVERLOAD_RATIO, _OVERLOAD_REQUESTS = 1.5, 32
"""A prefix leaves its server when that one is this many times, and this many requests of the same
size, more loaded than the least loaded one."""


@dataclass(slots=True)
class _Server:
    url: str
    version: int | None = None
    """None: not routable."""
    running: int = 0
    outstanding: int = 0
    """Tokens that the requests there may still generate."""
    elsewhere: tuple[int, int] = (0, 0)
    """(requests, tokens) that another process has there, as it last told."""
    suspect_until: float = 0.0
    lost_s: float | None = None
    """Since when it is gone; None: it is not."""
    drained: asyncio.Event = field(default_factory=asyncio.Event)
    """It was removed, and its last request has ended."""

    @property
    def load(self) -> int:
        """Tokens that all requests there may still generate."""
        return self.outstanding + self.elsewhere[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    found: asyncio.Future[_Server]
    prefix: bytes
    tokens: int
    avoid: str | None


class ServerPool:
    """The servers of one policy."""

    def __init__(
        self,
        policy: str,
        *,
        max_concurrency: int,
        router: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_concurrency`: requests at one server at a time; `router`: URL of the router that
        stands before all of them, if there is one; `clock`: seconds."""
        self.policy = policy
        self.on_event: Callable[[str, str], None] = lambda level, text: None
        """Told ("info" or "warning", a sentence) of servers that come and go."""
        self.on_gone: Callable[[str, str], None] = lambda url, why: None
        """Told (url, why) of a server that is gone."""
        self.counts: Counter[str] = Counter(requests=0, retries=0, resumed=0, aborted=0, tokens=0)
        """Kept by the samplers; `tokens` are those generated, `dropped_*` the games given up."""
        self._clock = clock
        self._max_concurrency = max_concurrency
        self._servers: dict[str, _Server] = {}
        self._router = None if router is None else _Server(router)
        self._leaving: dict[str, _Server] = {}
        """Removed ones whose requests have not all ended."""
        self._limits: dict[str, int] = {}
        """{url: requests that it runs at a time}, where known, also of servers that are away: more
        would queue there, not here."""
        self._homes: OrderedDict[bytes, str] = OrderedDict()
        self._waiters: deque[_Waiter] = deque()
        self._heard: dict[Hashable, tuple[Counter[str], int]] = {}
        """By who told it: its counts so far, and the requests that wait there."""

    def mark_ready(self, url: str, version: int) -> None:
        """`url` serves weights `version`; requests may go there."""
        is_new = url not in self._servers
        if url in self._leaving:  # it is back before its requests have ended
            self._servers[url] = self._leaving.pop(url)
        server = self._servers.setdefault(url, _Server(url))
        if is_new:
            self.on_event("info", f"{self.policy}: {url} serves version {version}")
        elif server.lost_s is not None:
            away_s = self._clock() - server.lost_s
            text = f"{self.policy}: {url} is back after {away_s:.1f} s, with version {version}"
            self.on_event("info", text)
        server.version = version
        server.lost_s = None
        server.suspect_until = 0.0
        self._wake()

    def mark_unready(self, url: str, why: str = "") -> None:
        """No new request goes to `url` until it is marked ready; those there are left alone.

        That it is gone is an event where `why` says how this was found out. If it is the router,
        none of the servers is there until it is marked ready.
        """
        if self._router is not None and url == self._router.url:
            why = f"its router is: {why}"
            for behind in self.ready:
                self.mark_unready(behind, why)
            return
        server = self._servers.get(url)
        if server is None or server.version is None:
            return
        server.version = None
        server.lost_s = self._clock()
        if why:
            self.on_gone(url, why)
            self.on_event("warning", f"{self.policy}: {url} is gone: {why}")

    def set_limit(self, url: str, max_running: int) -> None:
        """`url` runs so many requests at a time; further ones wait here, for any server."""
        self._limits[url] = max_running
        self._wake()

    def limit(self, url: str) -> int:
        """Requests that may be at `url` at a time."""
        return min(self._max_concurrency, self._limits.get(url, self._max_concurrency))

    def report_failure(self, url: str) -> None:
        """A request failed at `url`: others are preferred for a while."""
        if url in self._servers:
            self._servers[url].suspect_until = self._clock() + SUSPECT_S
            # Nothing else need happen then, and who waits would not see it.
            asyncio.get_running_loop().call_later(SUSPECT_S + _LATER_S, self._wake)

    def remove(self, url: str) -> None:
        """`url` is none of this policy's servers any more; requests there are left alone."""
        server = self._servers.pop(url, None)
        if server is not None and server.running:
            self._leaving[url] = server

    async def drained(self, url: str) -> None:
        """Wait until a removed server has no request of this policy left."""
        server = self._leaving.get(url)
        if server is not None:
            await server.drained.wait()

    @property
    def demand(self) -> int:
        """Tokens that requests may still generate, at servers or waiting for one."""
        waiting = sum(waiter.tokens for waiter in self._waiters if not waiter.found.done())
        return waiting + sum(server.outstanding for server in self._places)

    @property
    def ready(self) -> dict[str, int]:
        """{url: version} of the servers that take requests."""
        return {s.url: s.version for s in self._servers.values() if s.version is not None}

    @property
    def _places(self) -> list[_Server]:
        """Where requests may be."""
        return [*self._servers.values(), *([self._router] if self._router else [])]

    @asynccontextmanager
    async def place(
        self, prefix: bytes, tokens: int, *, avoid: str | None = None
    ) -> AsyncIterator[str]:
        """Wait for a server with room, and hold a place there: its url.

        Requests of one `prefix` share a server (and so its cached prompt) unless it is overloaded.
        `avoid` is taken only where no other server is ready with room.
        """
        server = None if self._waiters else self._choose(prefix, tokens, avoid)
        if server is None:
            server = await self._wait(prefix, tokens, avoid)
        else:
            self._enter(server, tokens)
        try:
            yield server.url
        finally:
            self._leave(server, tokens)

    def stats(self) -> dict[str, Any]:
        """What goes on now, and what was counted; with what other processes told."""
        return {
            **self.counts,
            "waiting": len(self._waiters) + sum(waiting for _, waiting in self._heard.values()),
            "servers": {
                s.url: {
                    "version": s.version,
                    "running": s.running + s.elsewhere[0],
                    "outstanding": s.outstanding + s.elsewhere[1],
                }
                for s in self._places
            },
        }

    def tell(self) -> dict[str, Any]:
        """What the pool of another process is to `hear` of this one, which asks servers of it."""
        return {
            "counts": dict(self.counts),
            "waiting": len(self._waiters),
            "servers": {s.url: [s.running, s.outstanding] for s in self._places},
        }

    def hear(
        self,
        teller: Hashable,
        *,
        counts: Mapping[str, int],
        waiting: int,
        servers: Mapping[str, Sequence[int]],
    ) -> None:
        """What the process `teller`, alone beside this one at these servers, `tell`s."""
        before, _ = self._heard.get(teller, (Counter[str](), 0))
        self.counts.update({name: number - before[name] for name, number in counts.items()})
        self._heard[teller] = Counter(counts), waiting
        for url, (running, outstanding) in servers.items():
            if url in self._servers:
                self._servers[url].elsewhere = running, outstanding

    async def _wait(self, prefix: bytes, tokens: int, avoid: str | None) -> _Server:
        waiter = _Waiter(asyncio.get_running_loop().create_future(), prefix, tokens, avoid)
        self._waiters.append(waiter)
        try:
            return await waiter.found
        except asyncio.CancelledError:
            if waiter.found.cancelled():
                with suppress(ValueError):  # a wake may have passed it by already
                    self._waiters.remove(waiter)
            else:  # it was given a place in the moment in which it was cancelled
                self._leave(waiter.found.result(), tokens)
            raise

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters[0]
            if not waiter.found.done():
                server = self._choose(waiter.prefix, waiter.tokens, waiter.avoid)
                if server is None:
                    return
                self._enter(server, waiter.tokens)
                waiter.found.set_result(server)
            self._waiters.popleft()

    def _choose(self, prefix: bytes, tokens: int, avoid: str | None) -> _Server | None:
        """The server for a request now; None where none is ready with room."""
        if self._router is not None:
            has_room = self._router.running < self._max_concurrency * len(self.ready)
            return self._router if has_room else None
        now = self._clock()
        ready = [s for s in self._servers.values() if s.version is not None]
        ready = [s for s in ready if s.suspect_until <= now] or ready
        # Room before avoidance: whoever waits behind this one may go where it would not.
        ready = [s for s in ready if self._has_room(s)]
        ready = [s for s in ready if s.url != avoid] or ready
        least = min(ready, key=lambda s: s.load, default=None)
        if least is None:
            return None
        home = self._servers.get(self._homes.get(prefix, ""))
        most = least.load * _OVERLOAD_RATIO + _OVERLOAD_REQUESTS * tokens
        if home in ready and home.load <= most:
            least = home
        self._homes[prefix] = least.url
        self._homes.move_to_end(prefix)
        if len(self._homes) > _HOMES:
            self._homes.popitem(last=False)
        return least

    def _has_room(self, server: _Server) -> bool:
        return server.running < self.limit(server.url)

    def _enter(self, server: _Server, tokens: int) -> None:
        server.running += 1
        server.outstanding += tokens

    def _leave(self, server: _Server, tokens: int) -> None:
        server.running -= 1
        server.outstanding -= tokens
        if not server.running and self._leaving.get(server.url) is server:
            del self._leaving[server.url]
            server.drained.set()
        self._wake()
