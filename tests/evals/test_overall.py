"""Means over benchmarks, with their joint bootstrap."""

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from evals.benchmark import Aggregate, Scored, Unit
from evals.intervals import percentiles, unseen
from evals.overall import Counted, draw, draw_all, entries, overall


def counted(values: Sequence[float], *, cluster: str = "q") -> Counted:
    scored = [Scored(id=str(n), fields={}, score=value) for n, value in enumerate(values)]
    units = [Unit(f"{cluster}{row.id}", row.score) for row in scored]
    return Counted([Aggregate("accuracy", units)], scored)


def test_the_three_forms_of_mmmu_pro_are_one_entry() -> None:
    names = ["mmsi", "mmmu_pro_standard4", "chartqa", "mmmu_pro_vision"]
    assert entries(names) == {
        "mmsi": ["mmsi"],
        "mmmu_pro": ["mmmu_pro_standard4", "mmmu_pro_vision"],
        "chartqa": ["chartqa"],
    }


def test_macro_and_micro_by_hand() -> None:
    tables = {
        "mmmu_pro_standard4": counted([1.0, 1.0]),
        "mmmu_pro_standard10": counted([0.0, 1.0]),
        "mmmu_pro_vision": counted([0.0, 0.0]),
        "chartqa": counted([1.0, 0.0, 0.0, 0.0]),
    }
    drawn = {name: one[0] for name, one in draw_all({n: [t] for n, t in tables.items()}).items()}
    values = overall(drawn).values
    assert values["mmmu_pro"] == 0.5
    assert values["macro"] == pytest.approx((0.5 + 0.25) / 2)
    assert values["micro"] == pytest.approx(4 / 10)


def test_macro_interval_is_that_of_independent_means() -> None:
    rng = random.Random(0)
    tables = {name: counted([float(rng.random() < 0.5) for _ in range(400)]) for name in ("a", "b")}
    drawn = {name: one[0] for name, one in draw_all({n: [t] for n, t in tables.items()}).items()}
    found = overall(drawn).intervals()
    assert found["macro"].se == pytest.approx(0.5 / math.sqrt(800), rel=0.05)
    assert found["micro"].se == pytest.approx(0.5 / math.sqrt(800), rel=0.05)


def test_forms_of_one_question_are_drawn_together() -> None:
    """Alike in both forms: the mean is as unsure as one form; apart it would be 1 / sqrt(2)."""
    rng = random.Random(0)
    values = [float(rng.random() < 0.5) for _ in range(400)]
    same = {name: [counted(values)] for name in ("mmmu_pro_standard4", "mmmu_pro_vision")}
    drawn = {name: one[0] for name, one in draw_all(same).items()}
    assert overall(drawn).intervals()["macro"].se == pytest.approx(0.025, rel=0.05)


def test_a_headline_of_other_aggregates() -> None:
    rows = [Unit("s1", 1.0), Unit("s1", 0.0), Unit("s2", 1.0), Unit("s2", 1.0)]
    scored = [Scored(id=str(n), fields={}, score=unit.value) for n, unit in enumerate(rows)]
    figures = [Unit("s1", 0.0), Unit("s2", 1.0)]
    table = Counted(
        [
            Aggregate("mean", of=["all", "figures"]),
            Aggregate("all", rows),
            Aggregate("figures", figures),
            Aggregate("unused", rows),
        ],
        scored,
    )
    assert [aggregate.name for aggregate in table.needed()] == ["mean", "all", "figures"]
    assert table.rows() == rows
    (drawn,) = draw([table], resamples=4000)
    assert drawn.headline == pytest.approx((0.75 + 0.5) / 2)
    # Two sets: (1, 1), (1, 2), (2, 1), (2, 2), equally likely.
    assert sorted(set(np.round(drawn.headlines, 6))) == [0.25, 0.625, 1.0]
    assert (drawn.headlines == 0.625).mean() == pytest.approx(0.5, abs=0.03)


def test_rows_without_an_aggregate_of_all_stand_alone() -> None:
    scored = [Scored(id=str(n), fields={}, score=1.0) for n in range(3)]
    table = Counted([Aggregate("some", [Unit("a", 1.0)])], scored)
    assert [unit.cluster for unit in table.rows()] == ["0", "1", "2"]


def test_a_mean_of_nothing_but_wrong_answers_is_not_certain() -> None:
    """Independent benchmarks err apart: less than each alone, and never by nothing."""
    found = draw_all({name: [counted([0.0] * 40)] for name in ("chartqa", "mmmu", "mmsi")})
    intervals = overall({name: one[0] for name, one in found.items()}).intervals()
    for mean in ("macro", "micro"):
        assert intervals[mean].low == 0.0
        assert intervals[mean].high == pytest.approx(unseen(40) / 3**0.5)


def test_one_blind_benchmark_widens_the_mean() -> None:
    """What is not known of it does not vanish beside one of which more is known."""
    sides = {"mmsi": counted([0.0] * 5), "chartqa": counted([1.0] * 12 + [0.0] * 8)}
    found = draw_all({name: [one] for name, one in sides.items()})
    both = overall({name: one[0] for name, one in found.items()}).intervals()["macro"]
    alone = percentiles(0.6, found["chartqa"][0].headlines, unseen=0.0)
    half = math.hypot(alone.high - 0.6, unseen(5)) / 2
    assert both.high == pytest.approx(0.3 + half, abs=1e-6)


def test_a_headline_of_which_a_part_counts_nothing_is_none() -> None:
    parts = [Aggregate("mean", of=["all", "groups"]), Aggregate("all", [Unit("a", 1.0)])]
    scored = [Scored(id="a", fields={}, score=1.0)]
    assert counted([1.0]).has_headline()
    assert not Counted([*parts, Aggregate("groups", left_out=1)], scored).has_headline()
    assert Counted([*parts, Aggregate("groups", [Unit("a", 1.0)])], scored).has_headline()
