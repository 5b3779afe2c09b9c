"""The paper's and the release's numbers, reached through whole games (facts/vision_zero.md 2)."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from launch.pairs import open_pairs
from render_pool.config import RenderConfig
from render_pool.pairs.pixels import decoded
from render_pool.pool import RenderPool
from rewards.spy import clue_rewards
from roles.vision_zero.config import VOTER, VisionZeroConfig
from tests.roles.vision_zero.spy_fakes import (
    CIVILIAN,
    Answer,
    FakePair,
    ballot,
    boxed,
    column,
    counted,
    game_with_spy,
    play_all,
    polls,
    replica_of,
    seats,
    votes_part,
)

PAPER = VisionZeroConfig(preset="vz_paper")


def paper_votes(*contents: str) -> Answer:
    """Of the four civilians, by their order."""
    return lambda asked, _: boxed(contents[asked.number % 4])


def test_in_the_paper_each_civilian_votes_once_and_the_spy_never() -> None:
    for spy in (1, 3, 5):
        table = seats(paper_votes("1", "1", "1", "1"), game_with_spy(spy, PAPER))
        play_all(PAPER, table, pair=FakePair(view="blank"))
        asked = table.of_role(VOTER)
        assert [a.seat for a in asked] == [seat for seat in range(1, 6) if seat != spy]
        assert {a.n for a in asked} == {1}
        assert all(a.images == (CIVILIAN,) and len(a.rows) == 10 for a in asked)
        assert not any("thought-" in a.text for a in asked)
        assert Counter(g.stream for g in table.groups) == {"civilian": 1, "spy": 1, VOTER: 1}
        assert len(table.stream(VOTER)[0].rollouts) == 4
        assert len(table.stream("civilian")[0].rollouts) == 8


@pytest.mark.parametrize(
    ("votes", "rewards", "abstention"),
    [
        (("5", "5", "5", "5"), [0.1, 0.1, 0.1, 0.1, -0.4], 0.0),  # example 8
        (("5", "5", "1", "N/A"), [-0.03125, 0.06875, 0.06875, 0.06875, -0.175], 0.25),  # 9
    ],
)
def test_the_paper_s_numbers(votes: Any, rewards: list[float], abstention: float) -> None:
    table = seats(paper_votes(*votes), game_with_spy(5, PAPER))
    memory = play_all(PAPER, table)
    for turn in (0, 1):
        assert votes_part(table, 5, turn) == pytest.approx(rewards)
    # The mean has moved by .05 of it: A_spy = .95 r, A_civilian = r - .05 mean.
    mean = -rewards[4] / 4
    assert column(table, 2, 5) == pytest.approx(
        [r - 0.05 * mean for r in rewards[:4]] + [0.95 * rewards[4]]
    )
    (voters,) = table.stream(VOTER)
    worth = {"5": 1.0, "N/A": -0.5}
    assert voters.rewards == pytest.approx([worth.get(vote, -1.0) for vote in votes])
    assert voters.advantages is None
    memory.tick({})
    assert memory.numbers()["abstention"] == pytest.approx(0.05 * abstention), (
        "from 0, not debiased"
    )
    assert memory.numbers()["accuracy"] == pytest.approx(0.05)


def test_in_the_paper_what_is_unreadable_is_wrong_and_no_more() -> None:
    table = seats(paper_votes("5", "1 or 5", "7", "x"), game_with_spy(5, PAPER))
    play_all(PAPER, table)
    assert table.stream(VOTER)[0].rewards == pytest.approx([1, -1, -1, -1])
    silent = seats(paper_votes("N/A"), game_with_spy(5, PAPER), clue=lambda *_: "nothing")
    silent.answers = {**silent.answers, VOTER: lambda *_: boxed("N/A")}
    play_all(PAPER, silent)
    assert {r for g in silent.groups if g.stream != VOTER for r in g.rewards} == {0.0}


def test_the_paper_s_spy_sees_a_blank_picture() -> None:
    async def first(cfg: VisionZeroConfig) -> Any:
        small = cfg.pairs.model_copy(update={"source": "grid", "prefetch": 0})
        async with (
            RenderPool(RenderConfig(workers=1, side=96)) as renderer,
            open_pairs(small, renderer) as pairs,
        ):
            return [await pairs.pair(number) for number in range(3)]

    for pair in asyncio.run(first(PAPER)):
        assert pair.view == "blank"
        assert len(decoded(pair.spy).getcolors() or ()) == 1
        assert decoded(pair.civilian).getcolors(1) is None
        assert decoded(pair.spy).size == decoded(pair.civilian).size


@pytest.mark.parametrize(
    ("preset", "is_shown"), [("vz_async", False), ("vz_paper", True), ("vz_code", True)]
)
def test_only_ours_refuses_talk_of_the_game(preset: str, is_shown: bool) -> None:
    cfg = VisionZeroConfig(preset=preset)
    others = [f"clue{number}" for number in range(1, cfg.num_players * cfg.num_rounds)]
    turns = replica_of(cfg, 2, clues=["I am a civilian", *others]).turns
    assert [isinstance(turn.clue, str) for turn in turns] == [is_shown, *(True for _ in others)]


CODE = VisionZeroConfig(preset="vz_code")


@pytest.mark.parametrize(
    ("votes", "rewards"),
    [
        (ballot(0, 8), [0.2667, -0.8, 0.2667, 0.2667]),
        (ballot(0, 0, 8), [0.1778, 0.2667, -0.6222, 0.1778]),
        (ballot(2, 5, na=1), [0.0111, -0.4333, 0.2111, 0.2111]),
        (ballot(na=8), [0, 0, 0, 0]),
        (ballot(2, 2, 2, 2), [0, 0, 0, 0]),
        ([*ballot(0, 5), "garbage", "12", ""], [0.1667, -0.5, 0.1667, 0.1667]),
        (ballot(1, 2), [-0.0111, -0.1667, 0.0889, 0.0889]),
    ],
    ids=[f"example {n}" for n in range(1, 8)],
)
def test_the_released_clue_rewards(votes: list[str], rewards: list[float]) -> None:
    cfg = CODE.model_copy(update={"num_votes": len(votes)})
    table = seats(polls(votes), game_with_spy(2, cfg))
    play_all(cfg, table)
    for turn in (0, 1):
        assert votes_part(table, 4, turn) == pytest.approx(rewards, abs=5.1e-5)
    shown = clue_rewards([float(c) for c in counted(votes, 4)], 2, beta=0.1, lam=0.1)
    assert votes_part(table, 4) == pytest.approx(list(shown))


def test_the_release_keeps_its_means_in_single_precision() -> None:
    """V6: b is -0.08000000119 after one table, where the paper's numbers give .05 of -.8."""
    paper = VisionZeroConfig(preset="vz_paper", num_players=4, voters="judge")
    for cfg, mean in ((CODE, -0.08000000119209290), (paper, -0.04)):
        table = seats(polls(ballot(0, 8)), game_with_spy(2, cfg))
        ((spy, _),) = play_all(cfg, table).state()["baselines"]["means"].values()
        assert spy == [pytest.approx(mean, abs=1e-15), 1]


WHY = "Clue 2 names a cube that is not there. "
VERDICTS = [
    (WHY + r"\boxed{2}", 2.49),
    (WHY + r"\boxed{N/A}", -0.30),
    (WHY + r"\boxed{3}", -0.90),
    (r"\boxed{2}", 1.89),
    (r"\boxed{N/A}", -0.90),
    (r"\boxed{3}", -1.50),
    (WHY + r"\boxed{garbage}", -0.90),
    (WHY + r"\boxed{12}", -0.90),
    (WHY + r"\boxed{n.a.}", -0.90),
    (WHY + r"\boxed{N/A (unsure)}", -0.90),
    (WHY + r"\boxed{\text{Player } 2}", -0.90),
    (WHY + "no box", -1.50),
    (WHY + r"\boxed{Player 2 or 3}", 2.49),
    (r"Options are \boxed{1}; final \boxed{2}", -0.90),
    ("\\boxed{2}\nThe cube moved, so it is clear.", 2.49),  # V1
    (WHY + r"\boxed{}", -1.50),  # V2
    ("<think>" + WHY + "</think><answer>2</answer>", 2.49),
]


def test_the_released_vote_rewards() -> None:
    cfg = CODE.model_copy(update={"num_votes": len(VERDICTS)})
    table = seats(lambda asked, i: VERDICTS[i][0], game_with_spy(2, cfg))
    play_all(cfg, table)
    (group,) = table.stream(VOTER)
    assert group.rewards == pytest.approx([reward for _, reward in VERDICTS])
    assert all(set(terms) == {"format", "decision", "shaping"} for terms in group.terms)


@pytest.mark.parametrize(
    ("votes", "advantages"),
    [
        ("RRRRRRRW", [0.378] * 7 + [-2.646]),
        ("RWWWWWWW", [2.646] + [-0.378] * 7),
        ("RRRRNNWW", [0.991] * 4 + [-0.798] * 2 + [-1.183] * 2),
        ("NNNNNNNW", [0.378] * 7 + [-2.646]),
        ("RRRRRRRR", [0.0] * 8),
    ],
)
def test_the_released_votes_are_normalised_as_released(votes: str, advantages: list[float]) -> None:
    said = {"R": "2", "N": "N/A", "W": "1"}
    table = seats(polls([said[vote] for vote in votes]), game_with_spy(2, CODE))
    play_all(CODE, table)
    (group,) = table.stream(VOTER)
    assert group.advantages == pytest.approx(advantages, abs=5.1e-4)


def test_released_clues_are_never_none_and_cost_nothing() -> None:
    replies = {1: "no box at all", 2: r"\boxed{}", 3: r"\boxed{a} \boxed{b}", 4: r"\boxed{a}"}
    cfg = CODE
    table = seats(polls(ballot(8)), game_with_spy(2, cfg), clue=lambda a, _: replies[a.seat or 0])
    memory = play_all(cfg, table)
    (judged,) = table.of_role(VOTER)
    assert [row["clue"] for row in judged.rows] == ["No valid clue provided.", "", "a", "a"] * 2
    clues = table.spy_game["replicas"][0]["clues"]
    assert not any("invalid" in clue for clue in clues)
    (civilians,) = table.stream("civilian")
    assert {terms["invalid"] for terms in civilians.terms} == {0.0}
    # Nothing in the release stops the training of clues like these.
    opened = []
    for _ in range(6):
        opened.append(sorted(memory.open_streams()))
        memory.tick({})
    assert opened == [["voter"], ["civilian", "spy"]] * 3
