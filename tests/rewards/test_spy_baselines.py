"""What clue rewards are compared with: worked examples of Vision-Zero, closed forms."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.spy import clue_rewards
from rewards.spy_baselines import (
    Baselines,
    baseline_key,
    leave_one_out,
    scale,
    subtract_then_update,
    update_then_subtract,
)

COUNTS = [(0, 8, 0, 0), (0, 8, 0, 0), (0, 0, 8, 0), (0, 0, 0, 0)]
"""Votes of four tables, the spy at seat 2: found, found, a civilian was taken for it, all N/A."""
KEY = baseline_key("objects", "edited", 4)


def tables(counts: list[tuple[int, ...]]) -> list[tuple[float, ...]]:
    return [clue_rewards(votes, 2, beta=0.1, lam=0.1) for votes in counts]


REWARDS = st.lists(
    st.lists(st.integers(0, 8), min_size=4, max_size=4).map(
        lambda votes: clue_rewards(votes, 2, beta=0.1, lam=0.1)
    ),
    min_size=1,
    max_size=12,
)


def test_the_released_run() -> None:
    advantages = [
        [0.24, -0.72, 0.24, 0.24],
        [0.216, -0.648, 0.216, 0.216],
        [0.14107, 0.3768, -0.65893, 0.14107],
        [-0.03304, 0.09912, -0.03304, -0.03304],
    ]
    means = [(-0.08, 0.02667), (-0.152, 0.05067), (-0.11013, 0.03671), (-0.09912, 0.03304)]
    state = Baselines()
    for rewards, expected, (spy, civilian) in zip(tables(COUNTS), advantages, means, strict=True):
        state, found = update_then_subtract(state, KEY, rewards, 2, decay=0.9)
        assert list(found) == pytest.approx(expected, abs=5.1e-6)
        assert state.means[KEY].spy.value == pytest.approx(spy, abs=5.1e-6)
        assert state.means[KEY].civilian.value == pytest.approx(civilian, abs=5.1e-6)


def test_the_paper_s_decay() -> None:
    state = Baselines()
    spies, means = [], []
    for rewards in tables(COUNTS[:3]):
        state, found = update_then_subtract(state, KEY, rewards, 2, decay=0.95)
        spies.append(found[1])
        means.append(state.means[KEY].spy.value)
    assert spies == pytest.approx([-0.76, -0.722, 0.32743], abs=5e-6)
    assert means == pytest.approx([-0.04, -0.078, -0.06077], abs=5e-6)


def test_the_released_trainer_rounds_to_float32() -> None:
    (rewards,) = tables(COUNTS[:1])
    rounded, _ = update_then_subtract(Baselines(), KEY, rewards, 2, decay=0.9, in_float32=True)
    exact, _ = update_then_subtract(Baselines(), KEY, rewards, 2, decay=0.9)
    assert rounded.means[KEY].spy.value == pytest.approx(-0.08000000119, abs=1e-11)
    assert exact.means[KEY].spy.value == pytest.approx(-0.08, abs=1e-15)


@given(REWARDS, st.floats(0, 0.99))
def test_at_one_table_size_the_spy_s_mean_mirrors_the_civilians(
    rewards: list[tuple[float, ...]], decay: float
) -> None:
    state = Baselines()
    for table in rewards:
        state, advantages = update_then_subtract(state, KEY, table, 2, decay=decay)
        assert sum(advantages) == pytest.approx(0, abs=1e-12)
    means = state.means[KEY]
    assert means.spy.value == pytest.approx(-3 * means.civilian.value, abs=1e-12)


def test_with_tables_of_two_sizes_it_does_not() -> None:
    """V6: one mean for all sizes is no longer zero-sum; which is why a key has the size."""
    state = Baselines()
    for votes in ((0, 8, 0, 0), (0, 8, 0, 0, 0)):
        table = clue_rewards(votes, 2, beta=0.1, lam=0.1)
        state, _ = update_then_subtract(state, "all", table, 2, decay=0.9)
    means = state.means["all"]
    assert abs(means.spy.value + 3 * means.civilian.value) > 0.01
    assert abs(means.spy.value + 4 * means.civilian.value) > 0.01


@given(REWARDS, st.floats(0.1, 0.99))
def test_updating_first_shrinks_the_spy_s_advantage(
    rewards: list[tuple[float, ...]], decay: float
) -> None:
    """A = decay (r - b), where b is the mean before this table."""
    state = Baselines()
    for table in rewards:
        before = state.means[KEY].spy.value if KEY in state.means else 0.0
        state, advantages = update_then_subtract(state, KEY, table, 2, decay=decay)
        assert advantages[1] == pytest.approx(decay * (table[1] - before), abs=1e-12)


def test_the_first_table_is_compared_with_nothing_the_next_ones_with_their_mean() -> None:
    same = tables(COUNTS[:1])[0]
    state, first = subtract_then_update(Baselines(), KEY, same, 2, decay=0.9996)
    assert first == same
    for _ in range(3):
        state, later = subtract_then_update(state, KEY, same, 2, decay=0.9996)
        assert later[1] == pytest.approx(0.0, abs=1e-9)
        assert sum(later) == pytest.approx(0.0, abs=1e-9)


@given(REWARDS, st.floats(0, 0.99))
def test_a_debiased_mean_is_a_weighted_mean(rewards: list[tuple[float, ...]], decay: float) -> None:
    state = Baselines()
    for table in rewards:
        state, _ = subtract_then_update(state, KEY, table, 2, decay=decay)
    weights = [decay**age for age in range(len(rewards))][::-1]
    expected = math.fsum(
        weight * table[1] for weight, table in zip(weights, rewards, strict=True)
    ) / math.fsum(weights)
    assert state.means[KEY].spy.debiased(decay) == pytest.approx(expected, abs=1e-12)


def test_keys_keep_their_means_apart() -> None:
    keys = {
        baseline_key("objects", "edited", 4),
        baseline_key("objects", "blank", 4),
        baseline_key("bars", "edited", 4),
        baseline_key("objects", "edited", 5),
        baseline_key("objects", "edited", 4, 1),
        baseline_key("objects", "edited", 4, 1, 2),
        baseline_key("objects", "edited", 4, None, 2),
    }
    assert len(keys) == 7
    rewards = tables(COUNTS[:1])[0]
    state = Baselines()
    for key in keys:
        state, advantages = subtract_then_update(state, key, rewards, 2)
        assert advantages == rewards, "no other key's mean was taken off"


def test_a_state_is_never_changed() -> None:
    start, _ = subtract_then_update(Baselines(), KEY, tables(COUNTS[:1])[0], 2)
    before = start.to_json()
    subtract_then_update(start, KEY, tables(COUNTS)[2], 2)
    scale(start, "spy", [1.0])
    assert start.to_json() == before
    assert Baselines() == Baselines({}, {})


@given(REWARDS)
def test_json_keeps_a_state_exactly(rewards: list[tuple[float, ...]]) -> None:
    state = Baselines()
    for table in rewards:
        state, advantages = subtract_then_update(state, KEY, table, 2)
        state, _ = scale(state, "civilian", advantages)
    again = Baselines.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state


def test_leave_one_out_example() -> None:
    found = leave_one_out([(1.0, 0.0), (0.0, 0.0), (0.5, 3.0)])
    assert found == ((0.75, -1.5), (-0.75, -1.5), (0.0, 3.0))


@given(st.integers(2, 5).flatmap(lambda k: st.lists(REWARDS.map(lambda r: r[0]), min_size=k)))
def test_leave_one_out_is_zero_sum_both_ways(rewards: list[tuple[float, ...]]) -> None:
    found = leave_one_out(rewards)
    assert [sum(row) for row in found] == pytest.approx([0.0] * len(found), abs=1e-12)
    columns = [sum(column) for column in zip(*found, strict=True)]
    assert columns == pytest.approx([0.0] * 4, abs=1e-12)


def test_a_harder_pair_changes_nothing_among_its_replicas() -> None:
    easy = [(0.1, -0.3, 0.2), (0.2, -0.1, -0.1)]
    hard = [tuple(v + d for v, d in zip(row, (0.5, -0.7, 0.2), strict=True)) for row in easy]
    for one, other in zip(leave_one_out(easy), leave_one_out(hard), strict=True):
        assert one == pytest.approx(other)


@pytest.mark.parametrize("rewards", [[], [(0.1, 0.2)], [(0.1,), (0.1, 0.2)]])
def test_replicas_are_two_or_more_of_one_size(rewards: list[tuple[float, ...]]) -> None:
    with pytest.raises(ValueError):
        leave_one_out(rewards)


def test_scale_is_the_root_mean_square_of_all_so_far() -> None:
    state, first = scale(Baselines(), "spy", [0.3, -0.4], decay=0.5)
    assert first == pytest.approx(math.sqrt(0.125))
    state, second = scale(state, "spy", [1.0], decay=0.5)
    assert second == pytest.approx(math.sqrt((0.5 * 0.125 + 1.0) / 1.5))
    assert scale(state, "civilian", [0.2])[1] == pytest.approx(0.2), "another role's is its own"
    assert scale(state, "spy", [], decay=0.5)[1] == pytest.approx(second), "nothing to learn from"


def test_scale_has_a_floor() -> None:
    assert scale(Baselines(), "spy", [0.01, -0.01])[1] == 0.05
    assert scale(Baselines(), "spy", [0.0] * 4)[1] == 0.05
    assert scale(Baselines(), "spy", [])[1] == 0.05
