"""Fair turns: rotation between owners, order within one, no slot lost or made by a cancellation.

Everything runs on a real loop without sleeping: `settle` lets what is ready run until nothing is.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render_pool.turns import Turns

_STEPS = 12
"""Rounds of the loop after which everything that is ready has run: a turn passes through fewer."""


async def settle() -> None:
    for _ in range(_STEPS):
        await asyncio.sleep(0)


class Hall:
    """Callers of `Turns`, and what became of them."""

    def __init__(self, slots: int, room: int = 1000) -> None:
        self.slots = slots
        self.turns = Turns(slots, room)
        self.served: list[tuple[Hashable, int]] = []
        """(owner, number of its request) in the order in which they got their turns."""
        self.holding: set[asyncio.Task[None]] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self._asked: Counter[Hashable] = Counter()
        self._ends: dict[asyncio.Task[None], asyncio.Event] = {}

    def ask(self, owner: Hashable, times: int = 1) -> None:
        for _ in range(times):
            self._asked[owner] += 1
            task = asyncio.create_task(self._visit(owner, self._asked[owner]))
            self.tasks.append(task)
            self._ends[task] = asyncio.Event()

    async def finish(self, task: asyncio.Task[None]) -> None:
        self._ends[task].set()
        await settle()

    async def run(self) -> list[tuple[Hashable, int]]:
        """Finish whoever holds a turn, one by one, until nobody does."""
        await settle()
        while self.holding:
            await self.finish(next(iter(self.holding)))
        return self.served

    async def _visit(self, owner: Hashable, number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        await self.turns.take(owner)
        try:
            self.served.append((owner, number))
            self.holding.add(task)
            assert len(self.holding) <= self.slots, "more turns than slots"
            await self._ends[task].wait()
        finally:
            self.holding.discard(task)
            self.turns.give()


def on_a_loop(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene())


def test_one_request_of_another_owner_is_not_behind_a_hundred() -> None:
    async def scene() -> None:
        hall = Hall(slots=1)
        hall.ask("A", 100)
        await settle()
        hall.ask("B")
        served = await hall.run()
        assert len(served) == 101
        assert served.index(("B", 1)) in (1, 2)

    on_a_loop(scene)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_owners_rotate_and_each_ones_requests_stay_in_order(slots: int) -> None:
    async def scene() -> None:
        hall = Hall(slots)
        for owner, times in (("A", 40), ("B", 10), (None, 20), (("C", 3), 10)):
            hall.ask(owner, times)
            await settle()
        served = await hall.run()
        for owner in ("A", "B", None, ("C", 3)):
            numbers = [number for who, number in served if who == owner]
            assert numbers == sorted(numbers)
        # While all four wait, any four turns in a row go to all four.
        shared = [who for who, _ in served[slots : slots + 36]]
        for start in range(len(shared) - 3):
            assert len(set(shared[start : start + 4])) == 4, shared
        assert Counter(who for who, _ in served) == {"A": 40, "B": 10, None: 20, ("C", 3): 10}

    on_a_loop(scene)


def test_an_owner_that_comes_back_goes_to_the_end() -> None:
    async def scene() -> None:
        hall = Hall(slots=1)
        for owner in "ABC":
            hall.ask(owner, 2)
        await settle()
        await hall.finish(next(iter(hall.holding)))
        hall.ask("D")
        served = [who for who, _ in await hall.run()]
        assert served == ["A", "A", "B", "C", "D", "B", "C"]

    on_a_loop(scene)


def test_nobody_waits_while_a_slot_is_free() -> None:
    async def scene() -> None:
        hall = Hall(slots=3)
        hall.ask("A", 2)
        await settle()
        assert len(hall.holding) == 2
        assert hall.turns.num_waiting == 0
        hall.ask("B", 3)
        await settle()
        assert len(hall.holding) == 3
        assert hall.turns.num_waiting == 2
        await hall.run()
        assert hall.turns.num_waiting == 0

    on_a_loop(scene)


def test_the_room_is_bounded_and_those_outside_come_in_order() -> None:
    async def scene() -> None:
        hall = Hall(slots=1, room=2)
        hall.ask("A", 6)
        await settle()
        hall.ask("B", 2)
        await settle()
        # One holds a turn, two are in the room; outside, the order is that of arrival.
        assert hall.turns.num_waiting == 7
        served = await hall.run()
        assert [number for who, number in served if who == "A"] == [1, 2, 3, 4, 5, 6]
        assert served.index(("B", 1)) in (5, 6)

    on_a_loop(scene)


def test_a_turn_that_comes_together_with_a_cancellation_goes_to_the_next() -> None:
    """The waiter is cancelled after its turn was set, and before it could run."""

    async def scene() -> None:
        turns = Turns(1, 10)
        await turns.take("A")
        late, next_one = (asyncio.create_task(turns.take(owner)) for owner in "BC")
        await settle()
        turns.give()
        late.cancel()
        await settle()
        assert late.cancelled()
        assert next_one.done()
        turns.give()
        await asyncio.wait_for(turns.take("D"), 1)
        assert turns.num_waiting == 0

    on_a_loop(scene)


@pytest.mark.parametrize("num_steps", range(8))
def test_a_cancellation_at_any_moment_of_taking_loses_no_slot(num_steps: int) -> None:
    async def scene() -> None:
        hall = Hall(slots=1, room=1)
        hall.ask("A", 4)
        await settle()
        hall._ends[hall.tasks[0]].set()
        for _ in range(num_steps):
            await asyncio.sleep(0)
        hall.tasks[1].cancel()
        hall.tasks[2].cancel()
        await hall.run()
        assert hall.tasks[3].done()
        assert not hall.tasks[3].cancelled()
        await slots_are_all_there(hall)

    on_a_loop(scene)


async def slots_are_all_there(hall: Hall) -> None:
    """Everybody is gone: exactly `slots` callers get a turn at once, no more and no fewer."""
    assert hall.turns.num_waiting == 0
    assert not hall.holding
    hall.ask("last", hall.slots + 3)
    await settle()
    assert len(hall.holding) == hall.slots
    await hall.run()


actions = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("ABC"), st.integers(1, 4)),
        st.tuples(st.just("finish"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("cancel"), st.integers(0, 99), st.just(0)),
        st.tuples(st.just("steps"), st.integers(1, 4), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1, 2, 5, 1000]), actions)
def test_no_interleaving_loses_or_makes_a_slot(
    slots: int, room: int, script: list[tuple[str, Any, int]]
) -> None:
    async def scene() -> None:
        hall = Hall(slots, room)
        for action, which, times in script:
            if action == "ask":
                hall.ask(which, times)
            elif action == "finish" and hall.holding:
                holding = sorted(hall.holding, key=hall.tasks.index)
                hall._ends[holding[which % len(holding)]].set()
            elif action == "cancel" and hall.tasks:
                hall.tasks[which % len(hall.tasks)].cancel()
            elif action == "steps":
                for _ in range(which):
                    await asyncio.sleep(0)
            assert len(hall.holding) <= slots
        await settle()
        await hall.run()
        for task in hall.tasks:
            assert task.done()
            assert task.cancelled() or task.exception() is None
        for owner in "ABC":
            numbers = [number for who, number in hall.served if who == owner]
            # With more slots, two who got their turns in the same moment may run in either order.
            assert slots > 1 or numbers == sorted(numbers)
        await slots_are_all_there(hall)

    on_a_loop(scene)
