"""When refusals at the start end an evaluation: where no answer can come any more."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from evals.endpoint import Refused
from evals.refusals import Refusals

ENDS = st.lists(st.sampled_from(["refused"] * 8 + ["answered", "missing"]), max_size=90)


async def ask_all(ends: Sequence[str], slots: int, asked: list[str]) -> None:
    """Questions that end so, at most `slots` of them at a time."""
    refusals, free = Refusals(), asyncio.Semaphore(slots)

    async def ask(end: str) -> None:
        asked.append(end)
        await asyncio.sleep(0)
        try:
            if end == "answered":
                refusals.answered()
            elif end == "refused":
                refusals.refused(Refused("400"))
        finally:
            refusals.leave()
            free.release()

    async with asyncio.timeout(300), asyncio.TaskGroup() as group:
        for end in ends:
            await free.acquire()
            await refusals.enter()
            group.create_task(ask(end))


@settings(deadline=None)
@given(ENDS, st.integers(1, 40))
def test_it_ends_only_where_many_were_refused_and_none_was_answered(
    ends: list[str], slots: int
) -> None:
    asked: list[str] = []
    is_ended = False
    try:
        asyncio.run(ask_all(ends, slots, asked))
    except* ConfigError:
        is_ended = True
    if is_ended:
        assert "answered" not in asked
        assert asked.count("refused") >= 20
    else:
        assert len(asked) == len(ends)


def test_the_twentieth_refusal_ends_it_where_nothing_is_under_way() -> None:
    async def go() -> None:
        refusals = Refusals()
        for _ in range(19):
            await refusals.enter()
            refusals.refused(Refused("400: no"))
            refusals.leave()
        await refusals.enter()
        with pytest.raises(ConfigError, match="refused the first 20 questions: 400: no"):
            refusals.refused(Refused("400: no"))

    asyncio.run(go())


def test_while_one_may_still_be_answered_nothing_more_is_asked() -> None:
    async def go() -> None:
        refusals = Refusals()
        for _ in range(21):
            await refusals.enter()
        for _ in range(20):
            refusals.refused(Refused("400"))
            refusals.leave()
        following = asyncio.create_task(refusals.enter())
        await asyncio.sleep(0)
        assert not following.done()
        refusals.answered()
        await asyncio.wait_for(following, 5)

    asyncio.run(go())
