"""Paired bootstrap."""

import random

import pytest

from evals.statistics import difference, mean


def test_means_leave_out_what_is_missing() -> None:
    assert mean([1.0, None, 0.0]) == 0.5
    assert mean([None, None]) is None
    assert mean([]) is None


def test_a_constant_gain_has_no_width() -> None:
    before = [random.Random(i).random() for i in range(50)]
    gain = difference(before, [value + 0.1 for value in before])
    assert gain is not None
    assert gain.delta == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1)
    assert gain.high == pytest.approx(0.1)


def test_interval_is_that_of_the_normal_law_for_many_items() -> None:
    rng = random.Random(0)
    changes = [rng.gauss(0.2, 1.0) for _ in range(2000)]
    result = difference([0.0] * 2000, changes)
    assert result is not None
    half = 1.96 / 2000**0.5
    assert result.low == pytest.approx(result.delta - half, abs=0.1 * half)
    assert result.high == pytest.approx(result.delta + half, abs=0.1 * half)


def test_pairs_cancel_how_hard_an_item_is() -> None:
    rng = random.Random(0)
    before = [float(i % 2) for i in range(400)]
    after = [min(1.0, value + (rng.random() < 0.1)) for value in before]
    paired = difference(before, after)
    shuffled = difference(before, rng.sample(after, len(after)))
    assert paired is not None
    assert shuffled is not None
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_coverage_is_about_95_percent() -> None:
    rng = random.Random(1)
    hits = 0
    for trial in range(200):
        before = [float(rng.random() < 0.4) for _ in range(80)]
        after = [float(rng.random() < 0.6) for _ in range(80)]
        result = difference(before, after, seed=trial, resamples=500)
        assert result is not None
        hits += result.low <= 0.2 <= result.high
    assert 176 <= hits <= 200


def test_same_seed_same_interval() -> None:
    before, after = [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]
    assert difference(before, after, seed=3) == difference(before, after, seed=3)


def test_missing_values_on_one_side_only() -> None:
    result = difference([0.0, None, 0.0, None], [1.0, 1.0, None, None])
    assert result is not None
    assert (result.before, result.after, result.delta) == (0.0, 1.0, 1.0)
    assert (result.low, result.high) == (1.0, 1.0)
    assert difference([None], [1.0]) is None


def test_different_items_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same items"):
        difference([1.0], [1.0, 0.0])
