"""Moves servers between policies while the run goes on, as `engine.elastic` says.

    no new request goes there -> those in flight are interrupted, and go on elsewhere with what they
    have -> the learner of the old policy lets go -> that of the new one fills it like a late server
    -> requests of the new policy go there

A move is an event; so is its end. Where requests do not end in time the server stays where it was;
where filling fails the learner tries again, as with any server.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from engine.desk import Desk
from engine.elastic import Elastic, Move
from engine.routing import ServerPool

LOOK_EVERY_S = 1.0
ABORT_TIMEOUT_S = 5.0
ABORT_EVERY_S = 1.0
DRAIN_TIMEOUT_S = 30.0
"""A request that is still there then ends the move: versions are numbers of one policy, and those
of the new weights could pass for versions of its own."""


@dataclass(slots=True, kw_only=True)
class Mover:
    """See the module's docstring."""

    elastic: Elastic
    pools: Mapping[str, ServerPool]
    """Of the policies between which servers may move."""
    desk: Desk
    session: aiohttp.ClientSession
    on_event: Callable[[str, str], None]
    clock: Callable[[], float] = time.monotonic
    _began_s: dict[str, tuple[str, float]] = field(default_factory=dict)
    """{url: (its new policy, when the move began)} of moves that are under way."""

    async def run(self) -> None:
        """Look and move until cancelled."""
        while True:
            await self.look(self.clock())
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self, now_s: float) -> None:
        """Make at most one move."""
        self._report_ends()
        if self._began_s:
            return  # one at a time: what it brings is not seen yet
        move = self.elastic.observe(
            now_s,
            {policy: pool.demand for policy, pool in self.pools.items()},
            {policy: sorted(pool.ready) for policy, pool in self.pools.items()},
        )
        if move is not None:
            await self._make(move)

    async def _make(self, move: Move) -> None:
        less, more = move.loads
        self.on_event(
            "info",
            f"{move.url} moves from {move.source} ({less:.0f} tokens to generate per server) to "
            f"{move.target} ({more:.0f})",
        )
        self._began_s[move.url] = (move.target, self.clock())
        pool = self.pools[move.source]
        # First: the old learner goes on saying that the server has its weights.
        self.desk.claim(move.url, move.target)
        pool.remove(move.url)
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._emptied(pool, move.url)
        except TimeoutError:
            self.desk.claim(move.url, move.source)  # whose learner will say that it serves
            del self._began_s[move.url]
            text = f"{move.url}: requests of {move.source} did not end in time; it stays there"
            self.on_event("warning", text)
            return
        await self.desk.release(move.url, move.source)

    async def _emptied(self, pool: ServerPool, url: str) -> None:
        """Interrupt until nothing is left: a request that SGLang has received, and not yet handed
        to its scheduler, is not met by an abort, and would be played to its end."""
        while True:
            await self._interrupt(url)
            with suppress(TimeoutError):
                async with asyncio.timeout(ABORT_EVERY_S):
                    await pool.drained(url)
                return

    async def _interrupt(self, url: str) -> None:
        timeout = aiohttp.ClientTimeout(total=ABORT_TIMEOUT_S)
        body = {"abort_all": True}
        # Else they end by themselves, or the server is gone.
        with suppress(aiohttp.ClientError, TimeoutError, OSError):
            (await self.session.post(f"{url}/abort_request", json=body, timeout=timeout)).release()

    def _report_ends(self) -> None:
        for url, (policy, began_s) in list(self._began_s.items()):
            if url in self.pools[policy].ready:
                del self._began_s[url]
                seconds = self.clock() - began_s
                self.on_event("info", f"{url} serves {policy} now, after {seconds:.1f} s")
