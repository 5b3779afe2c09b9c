"""What games of a run share, and that nobody waits while it is looked through."""

import asyncio
import json
import threading
from typing import Any

import pytest

from rewards.diversity import MAX_WORDS, Card, Repetition, distance
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.memory import Memory, card_of
from roles.mm_zero.parsing import Proposal


def card(caption: str, kind: str = "map") -> Card:
    return Card(kind, caption, f"easy of {caption}", f"hard of {caption}")


def test_the_loop_goes_on_while_proposals_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(MMZeroConfig())
    loop_ran = threading.Event()
    seen: list[bool] = []

    def judge(_: object) -> tuple[Repetition, ...]:
        seen.append(loop_ran.wait(300))
        return ()

    async def main() -> None:
        monkeypatch.setattr(memory, "_judge", judge)
        task = asyncio.create_task(memory.repetition("t", []))
        await asyncio.sleep(0)
        loop_ran.set()
        await task

    asyncio.run(main())
    assert seen == [True]


def test_games_at_once_are_judged_one_after_the_other() -> None:
    memory = Memory(MMZeroConfig())
    same = [card("one two three four five six")]

    async def main() -> list[float]:
        found = await asyncio.gather(*(memory.repetition("t", same) for _ in range(6)))
        return sorted(penalty.text for (penalty,) in found)

    # Of equal ones the first to come is not charged, all others are.
    assert asyncio.run(main()) == [-0.5] * 5 + [0.0]


def test_the_release_judges_a_game_by_itself() -> None:
    memory = Memory(MMZeroConfig(preset="mm_zero_code"))
    pair = [card("one two three four five six"), card("one two three four five six", "table")]

    async def main() -> list[list[float]]:
        return [[p.text for p in await memory.repetition("t", pair)] for _ in range(2)]

    assert asyncio.run(main()) == [[-0.5, -0.5]] * 2


def test_of_an_endless_text_the_beginning_counts() -> None:
    common = " ".join(f"w{i}" for i in range(MAX_WORDS))
    assert distance(f"{common} {'a ' * 100_000}", f"{common} b") == 0.0
    assert distance(common, "other words") == 1.0


def test_the_curriculum_is_told_what_was_played() -> None:
    memory = Memory(MMZeroConfig(topics=("a",), curriculum=True))
    asked = []
    for game in range(12):
        topic = memory.topic(game)
        asked.append(topic)
        asyncio.run(memory.repetition(topic, [card(f"c{game}", "data_chart")] * 2))
    assert sum("data chart" in topic for topic in asked) <= 2
    assert len(set(asked)) == 6


def proposal(number: int) -> Proposal:
    words = " ".join(f"w{number}{i}" for i in range(8))
    kind = ("map", "table", "data_chart")[number % 3]
    return Proposal(kind, words, f"easy {words}", "1", f"hard {words}", "2")


@pytest.mark.parametrize("preset", ["default", "mm_zero_code"])
def test_a_new_attempt_knows_what_the_last_one_knew(preset: str) -> None:
    cfg = MMZeroConfig(
        topics=("a", "b"), curriculum=True, **({} if preset == "default" else {"preset": preset})
    )

    async def played(memory: Memory, game: int, proposals: list[Proposal]) -> Any:
        topic = memory.topic(game)
        return topic, await memory.repetition(topic, [card_of(one, cfg) for one in proposals])

    async def scene() -> None:
        memory, notes = Memory(cfg), list[dict[str, Any]]()
        for game in range(30):
            proposals = [proposal(game), proposal(game % 4)]
            topic, _ = await played(memory, game, proposals)
            entries = [{"proposal": one.as_dict()} for one in proposals] + [{"invalid": "broken"}]
            notes.append({"topic": topic, "proposals": json.loads(json.dumps(entries))})
        again, empty = Memory(cfg), Memory(cfg)
        again.recall([{"spy_game": {}}, *notes])
        differs = False
        for game in range(30, 50):
            proposals = [proposal(game), proposal(game - 2)]
            expected = await played(memory, game, proposals)
            assert await played(again, game, proposals) == expected
            differs |= await played(empty, game, proposals) != expected
        assert differs

    asyncio.run(scene())
