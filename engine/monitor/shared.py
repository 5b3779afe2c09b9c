"""An answer that is made once for all who ask for it at about the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
MAX_PRICE = 0.02
"""Share of the time that making it may take, however often it is asked for."""


class Shared(Generic[T]):
    """What `make` gives. Who asks while it is made waits for that one; afterwards it is kept for
    `keep_s`, and longer where the last two both took long: what took long once may only have been
    kept waiting. A failure is not kept."""

    def __init__(
        self,
        make: Callable[[], Awaitable[T]],
        keep_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._keep_s = keep_s
        self._clock = clock
        self._task: asyncio.Task[T] | None = None
        self._until_s = 0.0
        self._took_s = 0.0

    async def __call__(self) -> T:
        is_old = self._task is None or (self._task.done() and self._clock() >= self._until_s)
        if self._task is None or is_old:
            self._task = asyncio.create_task(self._made())
        return await asyncio.shield(self._task)  # who goes away does not take it from the others

    async def _made(self) -> T:
        begun_s = self._clock()
        self._until_s = begun_s  # a failure
        made = await self._make()
        now_s = self._clock()
        took_s = now_s - begun_s
        self._until_s = now_s + max(self._keep_s, min(took_s, self._took_s) / MAX_PRICE)
        self._took_s = took_s
        return made
