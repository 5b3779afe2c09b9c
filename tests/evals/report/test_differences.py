"""What differs between two evaluations beside the model."""

from dataclasses import replace
from typing import Any

import pytest

from evals.report.differences import differences
from evals.report.results import BenchmarkResult
from evals.report.summary import summarise
from tests.evals.answers import answered, result
from tests.evals.small_benchmark import JUDGED, SMALL

JUDGE = {"model": "qwen", "template": "the server's"}


def evaluated(*, judged: bool = False, judge: Any = None, **changes: Any) -> BenchmarkResult:
    """`changes`: of the settings."""
    benchmark = JUDGED if judged else SMALL
    record = answered("a", "red", benchmark=benchmark, judged=1.0 if judged else None)
    settings = {"settings": {"samples": 1, "seed": 0} | changes, "judge": judge}
    return result([record], benchmark=benchmark, settings=settings)


@pytest.mark.parametrize(
    "before, after, said",
    [
        ({"temperature": 0.0}, {"temperature": 0.7}, "temperature (before 0.0, after 0.7)"),
        ({}, {"temperature": 0.7}, "temperature (before 0.0, after 0.7)"),
        ({"top_p": 0.9}, {}, "top_p (before 0.9, after 1.0)"),
        ({}, {"max_new_tokens": 9}, "max_new_tokens (before 8, after 9)"),
        ({}, {"samples": 4}, "number of samples (before 1, after 4)"),
        ({}, {"seed": 1}, "seed (before 0, after 1)"),
        (
            {"judged": True, "judge": JUDGE},
            {"judged": True, "judge": JUDGE | {"model": "other"}},
            "judge (before qwen, after other)",
        ),
        (
            {"judged": True, "judge": JUDGE | {"loaded": "/1"}},
            {"judged": True, "judge": JUDGE | {"loaded": "/2"}},
            "judge (before /1 as qwen, after /2 as qwen)",
        ),
    ],
)
def test_a_difference_is_named_with_both_sides(
    before: dict[str, Any], after: dict[str, Any], said: str
) -> None:
    (line,) = differences([evaluated(**before)], [evaluated(**after)])
    assert f"another {said}" in line
    assert line.endswith(": Small")


@pytest.mark.parametrize(
    "before, after",
    [
        ({}, {}),
        ({}, {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 8}),  # what the benchmark says
        ({}, {"concurrency": 3}),
        ({"judge": JUDGE}, {"judge": JUDGE | {"model": "other"}}),  # whose score does not count
        # An older result says less of its judge.
        ({"judged": True, "judge": JUDGE}, {"judged": True, "judge": JUDGE | {"loaded": "/1"}}),
    ],
)
def test_what_changes_no_score_is_no_difference(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert differences([evaluated(**before)], [evaluated(**after)]) == []


def test_other_data_are_named() -> None:
    other = replace(evaluated(), fingerprint="e" * 64, revision="abc")
    (line,) = differences([evaluated()], [other])
    assert "data fingerprint (before ffffffffffff of revision local, after eeeeeeeeeeee" in line


def test_benchmarks_of_one_difference_share_a_line_and_those_of_one_side_are_left_out() -> None:
    both = [replace(SMALL, name=name, title=name) for name in ("one", "two")]
    before = [replace(evaluated(), benchmark=one) for one in both]
    after = [replace(evaluated(seed=1), benchmark=one) for one in both] + [evaluated(seed=1)]
    (line,) = differences(before, after)
    assert line.endswith(": one, two")


def test_the_report_warns_of_it() -> None:
    after = replace(evaluated(temperature=0.7), model="new")
    said = summarise([after], [evaluated()]).warnings()
    assert any("another temperature" in line for line in said)
    assert not any("another" in line for line in summarise([after], [after]).warnings())
