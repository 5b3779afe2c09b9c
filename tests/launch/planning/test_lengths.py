"""Lengths of replies: their mean and variance, and the longest of many."""

from dataclasses import replace
from itertools import product
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.planning.assumptions import Assumptions
from launch.planning.lengths import NUMBER, lengths_of, longest
from launch.planning.work import RoleWork
from tests.launch.planning.cases import case_of

means = st.floats(1, 4096)
variances = st.floats(0, 20)


def variance(lengths: tuple[float, ...]) -> float:
    """Over the mean's square."""
    return fmean(one**2 for one in lengths) / fmean(lengths) ** 2 - 1


def role_of(cv2: float, **changes: float) -> RoleWork:
    """The solver, of answers of 300 tokens."""
    case = replace(case_of(tokens={"solver": 300}), assumed=replace(Assumptions(), length_cv2=cv2))
    return replace(case.work[2], **changes)


@given(means, variances)
def test_the_mean_is_kept_and_nothing_is_longer_than_a_reply_may_be(
    mean: float, cv2: float
) -> None:
    lengths = lengths_of(mean, cv2, 4096)
    assert len(lengths) == NUMBER
    assert fmean(lengths) == pytest.approx(mean)
    assert list(lengths) == sorted(lengths)
    assert lengths[0] >= 0
    assert lengths[-1] <= 4096


@pytest.mark.parametrize("cv2", [1e-6, 0.1, 1.0, 2.0, 5.0])
def test_the_variance_is_the_assumed_one_where_no_reply_is_cut(cv2: float) -> None:
    assert variance(lengths_of(300, cv2, 1e9)) == pytest.approx(cv2)


@given(means, variances, variances)
def test_more_is_assumed_and_less_is_cut(mean: float, one: float, other: float) -> None:
    less, more = sorted((one, other))
    found = variance(lengths_of(mean, less, 4096))
    assert found <= variance(lengths_of(mean, more, 4096)) + 1e-9
    assert found <= less + 1e-6
    # No lengths between 0 and the cap can vary more.
    assert found <= 4096 / mean - 1 + 1e-9


@given(means, variances, st.floats(1, 500), st.floats(0, 500))
def test_the_longest_of_more_replies_is_longer_and_no_longer_than_a_reply_may_be(
    mean: float, cv2: float, n: float, more: float
) -> None:
    lengths = lengths_of(mean, cv2, 4096)
    assert longest(lengths, 1) == pytest.approx(mean)
    assert longest(lengths, n) <= longest(lengths, n + more) * (1 + 1e-9)
    assert longest(lengths, n + more) <= 4096 * (1 + 1e-9)
    assert longest(lengths_of(mean, 0, 4096), n) == pytest.approx(mean)


def test_the_longest_is_the_mean_over_all_draws() -> None:
    lengths = lengths_of(300, 1, 4096)
    for n in (2, 3):
        assert longest(lengths, n) == pytest.approx(fmean(map(max, product(lengths, repeat=n))))


def test_what_a_running_reply_sees_by_hand() -> None:
    """A reply of L tokens runs for L steps, and sees L / 2 of its own in the mean of these."""
    role = role_of(1.0)
    running = sum(range(1000)) / 1000  # of one reply of 1,000 tokens, before each of its tokens
    assert running == pytest.approx(500, abs=1)
    assert role.context == pytest.approx(role.prompt + 300 * (1 + 1.0) / 2)
    assert role_of(0.0).context == pytest.approx(role.prompt + 150)
    seen = [role.prompt + before for one in role.lengths for before in range(round(one))]
    assert fmean(seen) == pytest.approx(role.context, rel=1e-3)
    assert fmean(one**2 for one in seen) == pytest.approx(role.squared_context, rel=1e-3)


def test_a_game_waits_for_the_slowest_of_its_chains() -> None:
    """Two chains of two turns, of all lengths; three replies beside each other."""
    apart = role_of(1.0, turns=2, together=1, chains=2)
    sums = [sum(pair) for pair in product(apart.lengths, repeat=2)]
    slowest = fmean(max(pair) for pair in product(sums, repeat=2))
    assert slowest <= apart.life <= 1.1 * slowest
    beside = role_of(1.0, turns=1, together=3, chains=1)
    assert beside.life == pytest.approx(longest(beside.lengths, 3))
    alone = role_of(1.0, turns=5, together=1, chains=1)
    assert alone.life == pytest.approx(5 * 300)
    assert role_of(0.0, turns=5, together=9, chains=4).life == pytest.approx(5 * 300)
