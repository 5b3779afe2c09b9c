"""Structured concurrency: many awaits as one, and a signal that no waiter can miss."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def concurrently(function: Callable[[T], Awaitable[R]], items: Iterable[T]) -> tuple[R, ...]:
    """Await `function(item)` for all items at once; results in the order of the items.

    The first failure cancels the siblings, waits for them, and is raised by itself
    (not inside an ExceptionGroup).
    """

    async def call(item: T) -> R:
        return await function(item)

    tasks: list[asyncio.Task[R]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(item)) for item in items]
    except BaseExceptionGroup as failures:
        raise first_of(failures) from None
    return tuple(task.result() for task in tasks)


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception that is not a group: what went wrong, by itself."""
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Signal:
    """Wakes whoever waits for a change, and loses none: a waiter notes `count` *before* it looks
    at the state, and waits only while nothing has happened since."""

    def __init__(self) -> None:
        self.count = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        self.count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def beyond(self, seen: int) -> None:
        """Return as soon as `count` is not `seen` any more."""
        while self.count == seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
