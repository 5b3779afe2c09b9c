"""Scores over versions."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from evals.intervals import Interval
from evals.report.curves import chart, curves_of, write_curves
from evals.report.summary import Summary, summarise
from tests.evals.answers import answered, result
from tests.evals.report.test_writing import checked
from tests.evals.small_benchmark import SMALL


def version(right: int, *, benchmarks: int = 2) -> Summary:
    records = [answered(f"q{n}", "red" if n < right else "blue") for n in range(10)]
    names = ("one", "<two>")[:benchmarks]
    return summarise([result(records, benchmark=replace(SMALL, name=n, title=n)) for n in names])


def score(value: float) -> Interval:
    return Interval(value, value - 0.05, value + 0.05, 0.02, "wilson")


def test_curves_are_in_the_order_of_versions(tmp_path: Path) -> None:
    path = write_curves({20: version(9), 0: version(2), 10: version(5)}, tmp_path, "run <x>")
    page = checked(path)
    assert page.count("<svg") == 4  # macro, micro, one, two
    assert "run &lt;x&gt;" in page
    told = json.loads((tmp_path / "curves.json").read_text())
    assert [(step, s["estimate"]) for step, s in told["macro"]] == [(0, 0.2), (10, 0.5), (20, 0.9)]


def test_a_mean_of_fewer_benchmarks_is_no_point_of_the_curve() -> None:
    curves = curves_of({0: version(2), 10: version(5, benchmarks=1), 20: version(9)})
    assert [step for step, _ in curves["macro"]] == [0, 20]
    assert [step for step, _ in curves["one"]] == [0, 10, 20]


def test_points_and_bands_are_where_they_belong() -> None:
    svg = chart("x", [(0, score(0.2)), (5, score(0.3)), (10, score(0.4))])
    dots = re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', svg)
    xs, ys = ([float(dot[i]) for dot in dots] for i in (0, 1))
    assert xs == pytest.approx([40, 244, 448])
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert ys[0] > ys[1]  # higher scores are higher up
    band = re.search(r'class="band" points="([^"]+)"', svg)
    assert band is not None
    corners = [tuple(map(float, point.split(","))) for point in band[1].split()]
    assert len(corners) == 6
    assert corners[0][1] < ys[0] < corners[-1][1]


@pytest.mark.parametrize("curve", [[], [(3, score(0.5))], [(0, score(1.0)), (1, score(1.0))]])
def test_odd_curves_draw(curve: list[tuple[int, Interval]]) -> None:
    svg = chart("x", curve)
    assert bool(svg) == bool(curve)
    assert "nan" not in svg
