"""Games at once, and games that are lost (facts/vision_zero.md 8.8, point 12)."""

import asyncio
import hashlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import GameDropped
from roles.vision_zero.config import VOTER, VisionZeroConfig
from roles.vision_zero.memory import Memory
from roles.vision_zero.recipe import play
from tests.roles.vision_zero.spy_fakes import (
    Answer,
    Asked,
    FakePair,
    Seats,
    ballot,
    boxed,
    config,
    credit,
    play_all,
    polls,
    seats,
)


def sure(text: str, *marks: object) -> int:
    """A number that depends on nothing else."""
    return int.from_bytes(hashlib.sha256(f"{text}{marks}".encode()).digest()[:4], "big")


def a_game(game: int, cfg: VisionZeroConfig, latency: random.Random | None) -> Seats:
    """Replies by what is asked alone, so that a game goes the same whenever it is played; each
    replica has clues of its own because a request's `number` in its role does not count."""
    waits: list[int] = []

    def wait(asked: Asked) -> int:
        waits.append(latency.randrange(1, 12) if latency else 1)
        return waits[-1]

    def clue(asked: Asked, _: int) -> str:
        number = sure(asked.text, game, asked.seat)
        return "nothing" if number % 7 == 0 else boxed(f"c{number}")

    def vote(asked: Asked, i: int) -> str:
        return boxed(["1", "2", "2", "3", "4", "N/A", "?"][sure(asked.text, game, i) % 7])

    return Seats({"civilian": clue, "spy": clue, VOTER: vote}, game, wait)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["rae", "rae_post", "replica"]), st.booleans())
def test_games_at_once_leave_what_the_same_order_one_by_one_leaves(
    seed: int, baseline: str, by_round: bool
) -> None:
    """Point 12 of the facts' list: only the order in which games end matters."""
    turns = "round_delta" if by_round else "terminal"
    cfg = config(
        replicas=2,
        num_votes=3,
        probe_share=0.3,
        clue_credit={"baseline": baseline, "turns": turns, "decay": 0.7},
    )
    together = Memory(cfg)
    latency = random.Random(seed)
    tables = {game: a_game(game, cfg, latency) for game in range(6)}
    ended: list[int] = []

    async def one(game: int) -> None:
        await play(FakePair(), tables[game].table, cfg, together)
        ended.append(game)

    async def all_at_once() -> None:
        await asyncio.gather(*map(one, tables))

    asyncio.run(all_at_once())
    assert sorted(ended) == list(range(6))
    alone = {game: a_game(game, cfg, None) for game in ended}
    memory = play_all(cfg, *alone.values())
    assert memory.state() == together.state()
    for game, table in alone.items():
        assert table.notes == tables[game].notes
        assert [g.rewards for g in table.groups if g.stream != VOTER] == [
            g.rewards for g in tables[game].groups if g.stream != VOTER
        ]
    assert (memory.tick({}), memory.numbers()) == (together.tick({}), together.numbers())


def test_another_order_leaves_something_else() -> None:
    """So that the test above could fail."""
    cfg = config(num_votes=3, clue_credit={"baseline": "rae", "decay": 0.7})
    states = [
        play_all(cfg, *(a_game(game, cfg, None) for game in games)).state()
        for games in (range(5), reversed(range(5)))
    ]
    assert states[0] != states[1]


class Lost(Exception):
    pass


@pytest.mark.parametrize("voters", ["judge", "civilians"])
@pytest.mark.parametrize("error", [GameDropped("retries"), Lost()])
def test_a_lost_request_ends_the_game_and_is_nobody_s_fault(error: Exception, voters: str) -> None:
    cfg = config(replicas=2, num_votes=3, voters=voters, clue_credit=credit("rae"))
    whole = seats(polls(ballot(0, 3)), 0)
    play_all(cfg, whole)
    for number in range(len(whole.asked)):
        memory = Memory(cfg)
        before = json.dumps(memory.state())
        table = seats(polls(ballot(0, 3)), 0)

        def failing(answer: Answer, table: Seats = table, number: int = number) -> Answer:

            def reply(asked: Asked, i: int) -> str:
                if table.asked.index(asked) == number:
                    raise error
                return answer(asked, i)

            return reply

        table.answers = {role: failing(answer) for role, answer in table.answers.items()}

        async def lose(table: Seats = table, memory: Memory = memory) -> int:
            with pytest.raises(type(error)) as caught:
                await play(FakePair(), table.table, cfg, memory)
            assert caught.value is error, "by itself, in no group"
            asked = len(table.asked)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(table.asked) == asked, "the other replica was stopped"
            return asked

        asyncio.run(lose())
        assert {group.stream for group in table.groups} <= {VOTER}, "no clue is scored"
        for group in table.groups:
            assert all(terms["format"] == 0.0 for terms in group.terms)
        assert table.notes == {}
        assert json.dumps(memory.state()) == before, "neither baselines nor the gate hear of it"
