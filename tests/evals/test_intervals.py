"""Intervals against published numbers, closed forms, enumeration and simulated coverage."""

import itertools
import math
import random

import numpy as np
import pytest

from evals.benchmark import Aggregate, Unit
from evals.intervals import (
    aggregate_means,
    blind_spot,
    mean_interval,
    percentiles,
    ratios,
    resampled,
    student_t,
    unseen,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_published(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_stays_in_its_range_and_is_symmetric() -> None:
    for right in range(12):
        low, high = wilson(right, 11)
        assert 0 <= low <= right / 11 <= high <= 1
        assert (1 - high, 1 - low) == pytest.approx(wilson(11 - right, 11))
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize(
    ("freedom", "point"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (10, 2.22814), (100, 1.98397)],
)
def test_student_t_is_that_of_the_tables(freedom: int, point: float) -> None:
    assert student_t(freedom) == pytest.approx(point, rel=2e-3)


def test_rows_on_their_own_have_wilsons_interval() -> None:
    found = mean_interval([Unit(str(number), float(number < 81)) for number in range(263)])
    assert found is not None
    assert found.how == "wilson"
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_nothing_has_no_interval() -> None:
    assert mean_interval([]) is None


def test_clustered_standard_error_is_the_closed_form() -> None:
    """Two rows a picture, alike: the standard error of so many pictures, not of the rows."""
    rng = random.Random(0)
    marks = [float(rng.random() < 0.3) for _ in range(50)]
    found = mean_interval([Unit(str(n), mark) for n, mark in enumerate(marks) for _ in range(2)])
    assert found is not None
    share = sum(marks) / 50
    assert found.how == "clustered"
    assert found.se == pytest.approx(math.sqrt(share * (1 - share) / 49))


def test_clusters_of_unequal_size_by_hand() -> None:
    """Ratio 2/4; residual sums of the clusters are 0.5, 0.5 and -1; CR1 factor 3/2."""
    units = [Unit("a", 1.0), Unit("b", 1.0), Unit("c", 0.0), Unit("c", 0.0)]
    found = mean_interval(units)
    assert found is not None
    assert found.se == pytest.approx(math.sqrt(1.5 * (0.25 + 0.25 + 1.0)) / 4)


def test_clusters_all_alike_are_as_many_trials_as_clusters() -> None:
    found = mean_interval([Unit(str(number // 4), 1.0) for number in range(40)])
    assert found is not None
    assert found.high == 1.0
    assert 0.6 < found.low < wilson(10, 10)[0] + 1e-9


def test_one_cluster_says_nothing() -> None:
    found = mean_interval([Unit("same", 1.0), Unit("same", 0.0)])
    assert found is not None
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize(("share", "groups"), [(0.5, 60), (0.1, 60), (0.9, 25)])
def test_clustered_coverage_is_about_95_percent(share: float, groups: int) -> None:
    """Four rows a cluster, most of them alike; unclustered intervals would cover some 75 %."""
    rng = random.Random(3)
    hits, naive, trials = 0, 0, 600
    for _ in range(trials):
        units = []
        for group in range(groups):
            common = rng.random() < share
            for _ in range(4):
                own = rng.random() < share
                units.append(Unit(str(group), float(common if rng.random() < 0.8 else own)))
        found = mean_interval(units)
        assert found is not None
        hits += found.low <= share <= found.high
        low, high = wilson(sum(unit.value for unit in units), len(units))
        naive += low <= share <= high
    assert 0.925 <= hits / trials <= 0.98
    assert naive / trials < 0.85


def test_bootstrap_is_the_enumeration_of_all_resamples() -> None:
    """Three clusters have 27 equally likely resamples."""
    units = [Unit("a", 1.0), Unit("a", 0.0), Unit("b", 1.0), Unit("c", 0.0)]
    clusters = {"a": (1, 2), "b": (1, 1), "c": (0, 1)}
    exact = [
        sum(clusters[c][0] for c in drawn) / sum(clusters[c][1] for c in drawn)
        for drawn in itertools.product("abc", repeat=3)
    ]
    draws = ratios(*resampled([units], seed=1, resamples=40_000))[:, 0]
    assert draws.mean() == pytest.approx(np.mean(exact), abs=0.005)
    assert draws.std() == pytest.approx(np.std(exact), abs=0.005)
    for value in sorted(set(exact)):
        assert (np.abs(draws - value) < 1e-9).mean() == pytest.approx(
            np.mean(np.abs(np.array(exact) - value) < 1e-9), abs=0.01
        )


def test_clusters_are_drawn_for_all_columns_at_once() -> None:
    first = [Unit(str(number), float(number % 2)) for number in range(40)]
    second = [Unit(unit.cluster, 1 - unit.value) for unit in first]
    draws = ratios(*resampled([first, second], resamples=200))
    assert draws.sum(axis=1) == pytest.approx(np.ones(200))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    units = [Unit(str(number), float(number % 3 == 0)) for number in range(30)]
    whole = resampled([units], seed=5, resamples=100)[0]
    monkeypatch.setattr("evals.intervals._CHUNK", 100)
    assert resampled([units], seed=5, resamples=100)[0] == pytest.approx(whole)


def test_draws_without_a_unit_are_left_out() -> None:
    found = percentiles(0.5, np.array([0.0, math.nan, 1.0, math.nan]), unseen=0.0)
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize("clusters", [1, 2, 40, 1000])
def test_nothing_seen_is_not_certainty(clusters: int) -> None:
    """A share so large would show none in so many clusters one time in forty."""
    share = unseen(clusters)
    assert (1 - share) ** clusters == pytest.approx(0.025)
    found = percentiles(0.0, np.zeros(100), unseen=share)
    assert (found.low, found.high) == (0.0, pytest.approx(share))
    found = percentiles(0.0, np.zeros(100), unseen=share, lowest=-1.0)
    assert (found.low, found.high) == (pytest.approx(-share), pytest.approx(share))


def test_only_what_does_not_vary_is_a_blind_spot() -> None:
    assert blind_spot(np.array([0.25, 0.25, math.nan]), 8) == unseen(8)
    assert blind_spot(np.array([0.25, 0.5]), 8) == 0.0
    assert blind_spot(np.array([math.nan]), 8) == 0.0
    # In quadrature with what does vary, and never beyond the ends.
    found = percentiles(0.5, np.linspace(0.2, 0.8, 1001), unseen=0.4)
    assert (found.low, found.high) == pytest.approx((0.5 - math.hypot(0.285, 0.4), 0.991), abs=1e-3)
    assert percentiles(0.9, np.linspace(0.8, 1, 99), unseen=0.4).high == 1.0


def test_an_aggregate_may_be_the_mean_of_others() -> None:
    aggregates = [Aggregate("all", of=["x", "y"]), Aggregate("x", [Unit("1", 1.0)])]
    aggregates += [Aggregate("y", [Unit("1", 0.5)])]
    assert aggregate_means(aggregates, [math.nan, 1.0, 0.5])["all"] == 0.75


@pytest.mark.parametrize("of", [["all"], ["nobody"]])
def test_an_aggregate_of_itself_or_of_nobody_is_refused(of: list[str]) -> None:
    with pytest.raises(ValueError, match="is of itself, or is not there"):
        aggregate_means([Aggregate("all", of=of)], [math.nan])
