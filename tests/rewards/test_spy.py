"""Rewards of "who is the spy?": worked examples of Vision-Zero, and what holds for all votes."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.learner.objectives import group_advantages
from engine.types import Invalid
from rewards.spy import (
    Ballots,
    DecisionWeights,
    Vote,
    break_even,
    clue_rewards,
    count_votes,
    decision_reward,
    is_found,
    normalised,
    round_deltas,
)

NA = None
BAD = Invalid("unreadable")
PAPER = DecisionWeights(right=1.0, abstain=-0.5, wrong=-1.0, format=0.0)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Vote], int, int]:
    """(votes, seats, the spy's seat)."""
    num_players = draw(st.integers(3, 9))
    votes = st.one_of(st.integers(1, num_players), st.none(), st.just(BAD))
    return (
        draw(st.lists(votes, min_size=1, max_size=16)),
        num_players,
        draw(st.integers(1, num_players)),
    )


@pytest.mark.parametrize(
    ("name", "votes", "num_players", "spy", "expected"),
    [
        ("all for the spy", [2] * 8, 4, 2, [0.2667, -0.8, 0.2667, 0.2667]),
        ("all for a civilian", [3] * 8, 4, 2, [0.1778, 0.2667, -0.6222, 0.1778]),
        ("an N/A", [2] * 5 + [1, 1, NA], 4, 2, [0.0111, -0.4333, 0.2111, 0.2111]),
        ("all N/A", [NA] * 8, 4, 2, [0.0] * 4),
        ("evenly", [1, 2, 3, 4] * 2, 4, 2, [0.0] * 4),
        ("three invalid", [2] * 5 + [BAD] * 3, 4, 2, [0.1667, -0.5, 0.1667, 0.1667]),
        ("three voters", [2, 2, 1], 4, 2, [-0.0111, -0.1667, 0.0889, 0.0889]),
        ("paper's size", [5] * 4, 5, 5, [0.1, 0.1, 0.1, 0.1, -0.4]),
        ("paper's size, split", [5, 5, 1, NA], 5, 5, [-0.0313, 0.0688, 0.0688, 0.0688, -0.175]),
    ],
)
def test_clue_examples_on_counts(
    name: str, votes: list[Vote], num_players: int, spy: int, expected: list[float]
) -> None:
    counts = count_votes(votes, num_players).seats
    rewards = clue_rewards(counts, spy, beta=0.1, lam=0.1)
    assert rewards == pytest.approx(expected, abs=5.1e-5), name
    assert all(math.copysign(1.0, value) == 1.0 for value in rewards if value == 0), name


def test_figure_three_of_the_paper() -> None:
    rewards = clue_rewards([2, 0, 0, 1], 4, beta=1.0, lam=1.0)
    assert rewards == pytest.approx([-1.2222, 0.7778, 0.7778, -0.3333], abs=5e-5)


def test_shares_of_eight_voters_are_the_counts_of_the_paper() -> None:
    ballots = count_votes([2] * 5 + [1, NA, BAD], 4)
    by_count = clue_rewards(ballots.seats, 2, beta=0.1, lam=0.1)
    assert clue_rewards(ballots.shares, 2) == pytest.approx(by_count)


@pytest.mark.parametrize("received", [[], [1.0], [1.0, 2.0]])
def test_a_table_has_a_spy_and_a_civilian(received: list[float]) -> None:
    with pytest.raises(ValueError, match="table of"):
        clue_rewards(received, 3)


@given(tables(), st.floats(0, 2), st.floats(0, 2))
def test_rewards_sum_to_zero(table: tuple[list[Vote], int, int], beta: float, lam: float) -> None:
    votes, num_players, spy = table
    shares = count_votes(votes, num_players).shares
    assert sum(clue_rewards(shares, spy, beta=beta, lam=lam)) == pytest.approx(0, abs=1e-12)


@given(tables(), st.randoms(use_true_random=False))
def test_seats_are_names(table: tuple[list[Vote], int, int], rng: random.Random) -> None:
    """Who sits where makes no difference: renumbered seats get renumbered rewards."""
    votes, num_players, spy = table
    moved = list(range(1, num_players + 1))
    rng.shuffle(moved)
    renamed = [moved[vote - 1] if isinstance(vote, int) else vote for vote in votes]
    before = clue_rewards(count_votes(votes, num_players).shares, spy)
    after = clue_rewards(count_votes(renamed, num_players).shares, moved[spy - 1])
    assert [after[seat - 1] for seat in moved] == pytest.approx(list(before), abs=1e-12)


@given(tables(), st.integers(2, 5))
def test_shares_do_not_depend_on_how_many_vote(
    table: tuple[list[Vote], int, int], times: int
) -> None:
    votes, num_players, spy = table
    one, many = (count_votes(cast, num_players) for cast in (votes, votes * times))
    assert many.shares == pytest.approx(one.shares)
    assert many.abstention == pytest.approx(one.abstention)
    assert clue_rewards(many.shares, spy) == pytest.approx(clue_rewards(one.shares, spy))


@given(tables())
def test_every_vote_is_counted_once(table: tuple[list[Vote], int, int]) -> None:
    votes, num_players, _ = table
    ballots = count_votes(votes, num_players)
    assert ballots.total == len(votes)
    assert sum(ballots.shares) + ballots.abstention + ballots.invalid / len(votes) == pytest.approx(
        1
    )


def test_who_is_not_at_the_table_gets_no_votes() -> None:
    ballots = count_votes([0, -12, 5, 4, NA, BAD], 4)
    assert ballots == Ballots((0, 0, 0, 1), abstained=1, invalid=4)


def test_nobody_votes() -> None:
    ballots = count_votes([], 3)
    assert ballots.shares == (0.0, 0.0, 0.0)
    assert ballots.abstention == 0.0
    assert not is_found(ballots, 1)


ROUNDS = [[0.25, 0.25, 0.25, 0.125], [0.125, 0.75, 0.0, 0.0]]


def test_round_deltas_example() -> None:
    first, second = round_deltas(ROUNDS, 2)
    assert first == pytest.approx([-0.0222, -0.0333, -0.0222, 0.0778], abs=5e-5)
    assert second == pytest.approx([0.1444, -0.5333, 0.2444, 0.1444], abs=5e-5)
    assert clue_rewards(ROUNDS[-1], 2) == pytest.approx([0.1222, -0.5667, 0.2222, 0.2222], abs=5e-5)


@given(
    st.integers(3, 6).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=1, max_size=5),
            st.integers(1, n),
        )
    )
)
def test_rounds_telescope(case: tuple[list[list[float]], int]) -> None:
    by_round, spy = case
    deltas = round_deltas(by_round, spy)
    assert len(deltas) == len(by_round)
    assert all(sum(row) == pytest.approx(0, abs=1e-12) for row in deltas)
    total = [sum(column) for column in zip(*deltas, strict=True)]
    assert total == pytest.approx(list(clue_rewards(by_round[-1], spy)), abs=1e-12)


def test_no_rounds() -> None:
    assert round_deltas([], 1) == ()


@pytest.mark.parametrize(
    ("vote", "decision", "format"),
    [(2, 1.0, 0.0), (3, -1.0, 0.0), (NA, -0.2, 0.0), (BAD, -1.0, -0.2), (12, -1.0, 0.0)],
)
def test_what_a_vote_earns(vote: Vote, decision: float, format: float) -> None:
    earned = decision_reward(vote, 2)
    assert earned.terms == {"decision": decision, "format": format}
    assert earned.total == pytest.approx(decision + format)


def test_the_paper_pays_unreadable_votes_as_wrong_ones() -> None:
    assert decision_reward(BAD, 2, PAPER).total == decision_reward(1, 2, PAPER).total == -1.0
    assert decision_reward(NA, 2, PAPER).total == -0.5


def test_when_a_guess_pays() -> None:
    assert break_even(PAPER) == pytest.approx(0.25)
    assert break_even(DecisionWeights()) == pytest.approx(0.4)
    released = DecisionWeights(right=2.49, abstain=-0.30, wrong=-0.90)
    assert break_even(released) == pytest.approx(0.177, abs=5e-4)


@given(st.floats(-0.99, 0.99), st.floats(0, 1))
def test_above_the_break_even_a_guess_beats_abstaining(abstain: float, chance: float) -> None:
    weights = DecisionWeights(abstain=abstain)
    assert break_even(weights) == pytest.approx((abstain + 1) / 2)
    guess = chance * decision_reward(1, 1, weights).total
    guess += (1 - chance) * decision_reward(2, 1, weights).total
    edge = chance - break_even(weights)
    assert guess - abstain == pytest.approx(2 * edge, abs=1e-9)


@pytest.mark.parametrize(
    ("votes", "found"),
    [
        ([2], True),
        ([2, 2, 1], True),
        ([2, 1], False),
        ([2, NA], False),
        ([2, NA, NA], False),
        ([2, 2, 1, 3, NA], True),
        ([2, BAD, BAD, BAD], True),
        ([1, 1, 2], False),
        ([NA, BAD], False),
    ],
)
def test_the_spy_is_found_by_the_only_plurality(votes: list[Vote], found: bool) -> None:
    assert is_found(count_votes(votes, 4), 2) is found


REWARDS = st.lists(st.sampled_from([1.0, -0.2, -0.5, -1.0, -1.2]), max_size=12)


@given(REWARDS)
def test_normalised_as_the_learner_does(rewards: list[float]) -> None:
    theirs = group_advantages(rewards, divide_by_std=True, eps=1e-6).tolist()
    assert list(normalised(rewards)) == pytest.approx(theirs, abs=1e-6)


def test_normalised_by_the_population() -> None:
    """The paper's levels; RRRRNNWW."""
    rewards = [1.0] * 4 + [-0.5] * 2 + [-1.0] * 2
    expected = [0.98] * 4 + [-0.70] * 2 + [-1.26] * 2
    assert list(normalised(rewards, ddof=0)) == pytest.approx(expected, abs=5e-3)
    abstaining = [-0.5] * 7 + [-1.0]
    assert list(normalised(abstaining, ddof=0)) == pytest.approx([0.378] * 7 + [-2.646], abs=5e-4)
