"""What the clues of whole games earn, by hand, and what the gate hears (facts/vision_zero.md 8)."""

import asyncio
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.vision_zero.config import VOTER, VisionZeroConfig
from roles.vision_zero.memory import Memory
from roles.vision_zero.recipe import STREAMS, is_among, play, spy_seat
from tests.roles.vision_zero.spy_fakes import (
    TABLES,
    Asked,
    FakePair,
    advantages_of,
    ballot,
    boxed,
    column,
    config,
    counted,
    credit,
    game_with_spy,
    play_all,
    polls,
    seats,
    tables_of,
    votes_part,
)


def test_replicas_are_compared_seat_by_seat() -> None:
    """Example 1 against example 2 of the facts, on shares: eight for the spy, eight for seat 3."""
    cfg = config(replicas=2, clue_credit=credit("replica"))
    table = seats(polls(ballot(0, 8), ballot(0, 0, 8)), game_with_spy(2, cfg))
    play_all(cfg, table)
    replicas = table.spy_game["replicas"]
    assert [r["polls"][0]["received"] for r in replicas] == [[0, 8, 0, 0], [0, 0, 8, 0]]
    # [+.2667, -.8, +.2667, +.2667] and [+.1778, +.2667, -.6222, +.1778], and their differences
    earned = [[4 / 15, -0.8, 4 / 15, 4 / 15], [8 / 45, 4 / 15, -28 / 45, 8 / 45]]
    ahead = [4 / 45, -16 / 15, 8 / 9, 4 / 45]
    for replica, rewards, sign in zip(replicas, earned, (1, -1), strict=True):
        rows = replica["clues"]
        assert [row["reward"] for row in rows] == pytest.approx(rewards * 2)
        assert [row["advantage"] for row in rows] == pytest.approx([sign * a for a in ahead] * 2)
        assert [p["found"] for p in replica["polls"]] == [sign == 1]


def test_either_side_is_scaled_by_its_own_root_mean_square() -> None:
    cfg = config(replicas=2, clue_credit={"baseline": "replica"})
    table = seats(polls(ballot(0, 8), ballot(0, 0, 8)), game_with_spy(2, cfg))
    play_all(cfg, table)
    # Of the spy: 16/15 everywhere. Of the civilians: sqrt((2 (4/45)^2 + (8/9)^2) / 3).
    rms = math.sqrt((2 * (4 / 45) ** 2 + (8 / 9) ** 2) / 3)
    ahead = [4 / 45 / rms, -1.0, 8 / 9 / rms, 4 / 45 / rms]
    first, second = table.spy_game["replicas"]
    assert [row["advantage"] for row in first["clues"]] == pytest.approx(ahead * 2)
    assert [row["advantage"] for row in second["clues"]] == pytest.approx([-a for a in ahead] * 2)


@pytest.mark.parametrize("replicas", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("turns", ["terminal", "round_delta"])
def test_replicas_that_went_alike_teach_nothing(replicas: int, turns: str) -> None:
    """Exactly nothing: a rounding error is a signal to the engine."""
    credited = {"baseline": "replica", "turns": turns}
    for votes in (ballot(1, 5, 1), ballot(0, 2, 1), ballot(na=3), ballot(1, 1, 3, 2, invalid=4)):
        cfg = config(replicas=replicas, num_votes=len(votes), clue_credit=credited)
        table = seats(polls(votes), game_with_spy(2, cfg))
        play_all(cfg, table)
        assert not any(group.has_signal for group in table.groups if group.stream != VOTER)


def test_rae_subtracts_what_was_known_before_without_the_pull_of_its_start() -> None:
    """decay .5: means of the spy -.8, -.8, then (-.3 + .1333) / .875; of civilians a third."""
    cfg = config(clue_credit=credit("rae", decay=0.5))
    found = advantages_of(cfg, TABLES)
    assert found[0] == pytest.approx([4 / 15, -0.8, 4 / 15, 4 / 15])
    assert found[1] == pytest.approx([0, 0, 0, 0], abs=1e-12)
    assert found[2] == pytest.approx([-4 / 45, 16 / 15, -8 / 9, -4 / 45])
    mean = (-0.3 + 2 / 15) / 0.875
    assert found[3] == pytest.approx([mean / 3, -mean, mean / 3, mean / 3])


RELEASED = [
    [0.24, -0.72, 0.24, 0.24],
    [0.216, -0.648, 0.216, 0.216],
    [0.14107, 0.3768, -0.65893, 0.14107],
    [-0.03304, 0.09912, -0.03304, -0.03304],
]


def test_rae_as_released_and_as_printed() -> None:
    code = VisionZeroConfig(preset="vz_code")
    for found, expected in zip(advantages_of(code, TABLES), RELEASED, strict=True):
        assert found == pytest.approx(expected, abs=5.1e-6)
    paper = VisionZeroConfig(preset="vz_paper", num_players=4, voters="judge")
    spies = [found[1] for found in advantages_of(paper, TABLES[:3])]
    assert spies == pytest.approx([-0.76, -0.722, 0.32743], abs=5.1e-6)


def test_kinds_of_pictures_and_what_the_spy_sees_have_baselines_of_their_own() -> None:
    cfg = config(clue_credit=credit("rae"))
    memory = Memory(cfg)
    game = game_with_spy(2, cfg)
    pairs = [FakePair(), FakePair(view="blank"), FakePair(domain="bars"), FakePair()]
    firsts = []
    for pair in pairs:
        table = seats(polls(ballot(0, 8)), game)
        asyncio.run(play(pair, table.table, cfg, memory))
        firsts.append(column(table, 2, 4)[1])
    assert firsts == pytest.approx([-0.8, -0.8, -0.8, 0.0])


def test_round_deltas_of_the_facts() -> None:
    """Shares [.25, .25, .25, .125], then [.125, .75, 0, 0]; the spy is seat 2 (facts 8.4)."""
    cfg = config(clue_credit=credit(turns="round_delta"))
    table = seats(polls(ballot(2, 2, 2, 1, na=1), ballot(1, 6, na=1)), game_with_spy(2, cfg))
    play_all(cfg, table)
    first = [-0.0222, -0.0333, -0.0222, 0.0778]
    second = [0.1444, -0.5333, 0.2444, 0.1444]
    for turn, expected in enumerate((first, second)):
        assert votes_part(table, 4, turn) == pytest.approx(expected, abs=5.1e-5)
        assert column(table, 2, 4, turn) == pytest.approx(expected, abs=5.1e-5)
    both = [a + b for a, b in zip(votes_part(table, 4, 0), votes_part(table, 4, 1), strict=True)]
    assert both == pytest.approx([0.1222, -0.5667, 0.2222, 0.2222], abs=5.1e-5)


def exact_rewards(counts: Sequence[int], spy: int, voters: int) -> list[Fraction]:
    """The paper's Eq. 1 on vote shares, beta = lambda = .8, in exact numbers."""
    shares = [Fraction(count, voters) for count in counts]
    civilians = [share for seat, share in enumerate(shares, 1) if seat != spy]
    mean = sum(civilians) / len(civilians)
    suspicion = shares[spy - 1] - mean
    beta = Fraction(4, 5)
    return [
        -beta * suspicion
        if seat == spy
        else beta * suspicion / len(civilians) - beta * (share - mean)
        for seat, share in enumerate(shares, 1)
    ]


@st.composite
def ballots(draw: st.DrawFn) -> tuple[int, int, list[list[str]]]:
    """(players, the spy's seat, contents of the boxes of each round's eight votes)."""
    num = draw(st.integers(3, 5))
    content = st.sampled_from([*map(str, range(1, num + 1)), "N/A", "1 or 2", "99"])
    rounds = draw(st.integers(1, 3))
    votes = [draw(st.lists(content, min_size=8, max_size=8)) for _ in range(rounds)]
    return num, draw(st.integers(1, num)), votes


@settings(max_examples=60, deadline=None)
@given(ballots())
def test_round_deltas_telescope_to_what_the_last_vote_says(drawn: Any) -> None:
    num, spy, votes = drawn
    cfg = config(num_players=num, num_rounds=len(votes), clue_credit=credit(turns="round_delta"))
    table = seats(polls(*votes), game_with_spy(spy, cfg))
    play_all(cfg, table)
    by_round = [votes_part(table, num, turn) for turn in range(len(votes))]
    assert all(sum(row) == pytest.approx(0, abs=1e-12) for row in by_round)
    total = [sum(earned) for earned in zip(*by_round, strict=True)]
    expected = exact_rewards(counted(votes[-1], num), spy, 8)
    assert total == pytest.approx([float(value) for value in expected], abs=1e-12)
    first = exact_rewards(counted(votes[0], num), spy, 8)
    assert by_round[0] == pytest.approx([float(value) for value in first], abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(ballots(), st.integers(2, 3))
def test_the_votes_part_of_a_whole_game_is_zero_sum(drawn: Any, replicas: int) -> None:
    num, spy, votes = drawn
    cfg = config(
        num_players=num, num_rounds=len(votes), replicas=replicas, clue_credit=credit("replica")
    )
    table = seats(polls(*votes), game_with_spy(spy, cfg))
    play_all(cfg, table)
    (civilians,), (spies,) = table.stream("civilian"), table.stream("spy")
    terms = [row["votes"] for group in (civilians, spies) for row in group.terms]
    assert math.fsum(terms) == pytest.approx(0, abs=1e-9)
    assert civilians.advantages is not None
    assert spies.advantages is not None
    assert math.fsum(civilians.advantages + spies.advantages) == pytest.approx(0, abs=1e-9)


def test_no_clue_is_charged_outside_of_the_zero_sum_part() -> None:
    cfg = config(num_rounds=1, replicas=2, clue_credit={"baseline": "replica", "invalid": 0.25})

    def clue(asked: Asked, _: int) -> str:
        return "I say nothing." if asked.seat == 4 else boxed(f"c{asked.role}{asked.number}")

    table = seats(polls(ballot(0, 8), ballot(0, 0, 8)), game_with_spy(2, cfg), clue=clue)
    play_all(cfg, table)
    rms = math.sqrt((2 * (4 / 45) ** 2 + (8 / 9) ** 2) / 3)
    first = table.spy_game["replicas"][0]["clues"]
    assert [row["advantage"] for row in first] == pytest.approx(
        [4 / 45 / rms, -1.0, 8 / 9 / rms, 4 / 45 / rms - 0.25]
    ), "the penalty is not scaled"
    assert first[3]["reward"] == pytest.approx(4 / 15 - 0.25)
    assert first[3]["invalid"] == "no_box"
    assert "clue" not in first[3]
    (civilians,) = table.stream("civilian")
    assert [terms["invalid"] for terms in civilians.terms] == [0, 0, -0.25, 0, 0, -0.25]
    assert civilians.terms[2]["votes"] == pytest.approx(4 / 15)
    assert civilians.extra["usable"] == 4
    (judged, _) = table.of_role(VOTER)
    assert judged.rows[3]["clue"] == "(no clue)"


def test_whoever_repeats_a_clue_has_given_none() -> None:
    table = seats(polls(ballot(8)), game_with_spy(2, config()), clue=lambda *_: boxed("A red cube"))
    play_all(config(), table)
    reasons = [row.get("invalid") for row in table.spy_game["replicas"][0]["clues"]]
    assert reasons == [None] + ["repeated"] * 7


# probes and the gate


def test_probes_train_nobody_and_alone_feed_the_gate() -> None:
    cfg = config(probe_share=0.3, gate={"debias": True, "decay": 0.5})
    games = range(40)
    probes = [game for game in games if is_among(game, 0.3)]
    assert len(probes) == pytest.approx(12, abs=1)
    tables = [
        seats(polls(ballot(*[8 if s == spy_seat(game, 4) else 0 for s in (1, 2, 3, 4)])), game)
        if game in probes
        else seats(polls(ballot(na=8)), game)
        for game in games
    ]
    memory = play_all(cfg, *tables)
    for table in tables:
        drops = {group.extra["drop"] for group in table.groups}
        assert drops == ({"probe"} if table.game in probes else {None})
        assert {group.stream for group in table.groups} == set(STREAMS)
    assert memory.tick({}) is None
    assert memory.numbers() == pytest.approx(
        {"accuracy": 1.0, "abstention": 0.0, "trains clues": 0.0}
    )


def test_without_probes_the_gate_judges_by_all_games() -> None:
    """Of four games one found the spy, one abstained whole, one is a tie, one suspects another:
    accuracy 1/4; abstention (0 + 1 + 2/8 + 0) / 4."""
    cfg = config()
    votes = [ballot(0, 8), ballot(na=8), ballot(3, 3, na=2), ballot(8)]
    memory = play_all(cfg, *tables_of(cfg, votes))
    memory.tick({})
    assert memory.numbers() == pytest.approx(
        {"accuracy": 0.25, "abstention": 1.25 / 4, "trains clues": 0.0}
    )


def test_the_gate_hears_of_a_game_the_mean_of_its_replicas_last_votes() -> None:
    cfg = config(replicas=2, clue_credit=credit(turns="round_delta"))
    # In lock step: polls after round 1 (both found), then after round 2 (one, a quarter N/A).
    rounds = [ballot(0, 8), ballot(0, 8), ballot(0, 8), ballot(3, 1, na=4)]
    memory = play_all(cfg, seats(polls(*rounds), game_with_spy(2, cfg)))
    memory.tick({})
    assert memory.numbers() == pytest.approx(
        {"accuracy": 0.5, "abstention": 0.25, "trains clues": 0.0}
    )
