"""Structured concurrency: many awaits as one, and a signal that no waiter can miss."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TypeVar

from engine.errors import GameDropped

T = TypeVar("T")
R = TypeVar("R")


async def concurrently(function: Callable[[T], Awaitable[R]], items: Iterable[T]) -> tuple[R, ...]:
    """Await `function(item)` for all items at once; results in the order of the items.

    The first failure cancels the siblings, waits for them, and is raised by itself
    (not inside an ExceptionGroup). A cancellation that comes meanwhile is not forgotten for it.
    """
    current = asyncio.current_task()
    assert current is not None
    before = current.cancelling()

    async def call(item: T) -> R:
        return await function(item)

    tasks: list[asyncio.Task[R]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(item)) for item in items]
            if tasks:
                # Who fails while the group itself waits would leave us cancelled once for ever
                # (Python 3.11).
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except BaseExceptionGroup as failures:
        if current.cancelling() > before:
            raise asyncio.CancelledError from None
        raise first_of(failures) from None
    return tuple(task.result() for task in tasks)


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong, by itself: the first error that ends more than a game, else the first."""
    errors = list(_leaves(failures))
    return next((error for error in errors if not isinstance(error, GameDropped)), errors[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


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
