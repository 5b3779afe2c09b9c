"""Many awaits as one: errors come as themselves, and no cancellation is forgotten."""

import asyncio

import pytest

from engine.errors import GameDropped, TransportError
from engine.tasks import concurrently


async def fail(error: Exception) -> None:
    raise error


def test_results_are_in_the_order_of_the_items() -> None:
    async def late(number: int) -> int:
        await asyncio.sleep(0.01 * (3 - number))
        return number

    assert asyncio.run(concurrently(late, range(3))) == (0, 1, 2)
    assert asyncio.run(concurrently(late, [])) == ()


def test_an_error_that_ends_the_run_is_not_hidden_by_a_dropped_game() -> None:
    errors = [GameDropped("retries", "no"), TransportError("401"), GameDropped("retries", "no")]
    with pytest.raises(TransportError, match="401"):
        asyncio.run(concurrently(fail, errors))
    with pytest.raises(GameDropped):
        asyncio.run(concurrently(fail, errors[:1]))


def test_who_is_cancelled_while_the_siblings_of_a_failure_end_is_cancelled() -> None:
    async def scene() -> None:
        is_ending, may_end = asyncio.Event(), asyncio.Event()

        async def one(is_failing: bool) -> None:
            if is_failing:
                raise GameDropped("retries", "no")
            try:
                await asyncio.Event().wait()
            finally:
                is_ending.set()
                await may_end.wait()

        game = asyncio.create_task(concurrently(one, (False, True)))  # type: ignore[arg-type]
        await is_ending.wait()
        game.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await game

    asyncio.run(scene())


def test_a_failure_leaves_nobody_cancelled() -> None:
    """Else a deadline around it would no longer be told from a cancellation."""

    async def one(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        raise GameDropped("retries", "no")

    async def scene() -> None:
        task = asyncio.current_task()
        assert task is not None
        for turns in ((0, 0), (0, 1), (3, 0), (5, 5)):
            with pytest.raises(GameDropped):
                await concurrently(one, turns)
            assert task.cancelling() == 0
        with pytest.raises(TimeoutError):
            await late()

    async def late() -> None:
        async with asyncio.timeout(0.01):
            with pytest.raises(GameDropped):
                await concurrently(one, (1, 2))
            await asyncio.Event().wait()

    asyncio.run(scene())
