"""The 2 x 2 of models and prompts, as it is told."""

import json
from pathlib import Path

import pytest

from evals.report.crossing import crossed_of, write_crossed
from evals.report.results import BenchmarkResult
from tests.evals.answers import answered, result
from tests.evals.report.test_writing import EVIL, checked


def run(right: int, rows: int = 10) -> list[BenchmarkResult]:
    records = [answered(f"q{n}", "red" if n < right else "blue") for n in range(rows)]
    return [result(records)]


def test_effects_are_differences_of_the_cells(tmp_path: Path) -> None:
    found = crossed_of([run(2), run(4), run(5), run(9)])
    text = write_crossed(found, tmp_path, EVIL)
    (one,) = found.values()
    assert list(one.cells.values()) == pytest.approx([0.2, 0.4, 0.5, 0.9])
    assert one.ability.estimate == pytest.approx((0.3 + 0.5) / 2)
    assert one.format.estimate == pytest.approx((0.2 + 0.4) / 2)
    assert one.interaction.estimate == pytest.approx(0.5 - 0.3)
    for told in ("+40.0", "+30.0", "+20.0"):
        assert told in text
        assert told in checked(tmp_path / "crossed.html")
        assert told in (tmp_path / "crossed.md").read_text()
    assert json.loads((tmp_path / "crossed.json").read_text())["Small"]["rows"] == 10


def test_what_one_of_the_four_lacks_is_left_out(tmp_path: Path) -> None:
    found = crossed_of([run(2), run(4), run(5, rows=6), run(9)])
    assert found["Small"].rows == 6
    assert crossed_of([run(2), run(4), [], run(9)]) == {}
    write_crossed({}, tmp_path, "nothing")
    assert json.loads((tmp_path / "crossed.json").read_text()) == {}
