"""Whether servers are there at all, while requests of ours wait for them.

A server that is stopped, or behind a network that swallows what is sent, closes nothing: whoever
waits for its answer waits for ever. So each server that has requests is asked `/ready` beside
them; any answer, also 503, is a sign of life, since updates and long queues may delay an answer as
long as they like. Asking costs nothing where nothing waits.

Who waits, who wakes: a block of `watched` runs until it ends by itself; the one task that asks its
server interrupts all blocks of that server.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

_ASKS = 4
"""Questions in a row without an answer. Several, since one may be due to ourselves: a process that
was stopped for a while finds its own time limits passed."""
_INFO_TIMEOUT_S = 5.0


class Silent(Exception):
    """The server answers nothing at all."""


class Liveness:
    """Asks the servers that have requests. Belongs to one event loop."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        stall_s: float,
        on_limit: Callable[[str, int], None],
    ) -> None:
        """`stall_s`: wall seconds of silence; `on_limit` is told once (url, how many requests
        the server runs at a time), where the server says so."""
        self._session = session
        self._stall_s = stall_s
        self._on_limit = on_limit
        self._blocks: dict[str, set[asyncio.Timeout]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._limited: set[str] = set()

    @asynccontextmanager
    async def watched(self, url: str) -> AsyncIterator[None]:
        """Raises Silent in place of what the block does once `url` has been silent for long."""
        try:
            async with asyncio.timeout(None) as block:
                self._enter(url, block)
                try:
                    yield
                finally:
                    self._leave(url, block)
        except TimeoutError:
            if not block.expired():
                raise
            raise Silent(f"no answer, to anything, for {self._stall_s:g} s") from None

    def _enter(self, url: str, block: asyncio.Timeout) -> None:
        self._blocks.setdefault(url, set()).add(block)
        if url not in self._tasks:
            self._tasks[url] = asyncio.create_task(self._ask(url), name=f"liveness of {url}")

    def _leave(self, url: str, block: asyncio.Timeout) -> None:
        self._blocks[url].discard(block)
        if not self._blocks[url]:
            del self._blocks[url]
            self._tasks.pop(url).cancel()

    async def _ask(self, url: str) -> None:
        """Until nobody waits for the server any more."""
        if url not in self._limited:
            await self._read_limit(url)
        clock = asyncio.get_running_loop().time
        every_s = self._stall_s / _ASKS
        misses = 0
        next_s = clock() + every_s  # most requests are over before that
        while True:
            await asyncio.sleep(next_s - clock())
            next_s = clock() + every_s
            misses = 0 if await self._answers(url, every_s) else misses + 1
            if misses == _ASKS:
                misses = 0
                for block in self._blocks[url]:
                    block.reschedule(clock())

    async def _answers(self, url: str, timeout_s: float) -> bool:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.get(f"{url}/ready", timeout=timeout):
                return True
        except (aiohttp.ClientError, OSError):  # TimeoutError is one
            return False

    async def _read_limit(self, url: str) -> None:
        """Tell how many requests the server runs at once, where it says so."""
        timeout = aiohttp.ClientTimeout(total=min(_INFO_TIMEOUT_S, self._stall_s))
        try:
            async with self._session.get(f"{url}/server_info", timeout=timeout) as response:
                limit = (await response.json(content_type=None))["max_running_requests"]
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
            return
        self._limited.add(url)
        if type(limit) is int and limit > 0:
            self._on_limit(url, limit)
