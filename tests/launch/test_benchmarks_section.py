"""The report's curves of benchmarks: what a restart threw away is no part of them."""

from types import SimpleNamespace
from typing import Any

from launch.sections.benchmarks import benchmarks


def point(step: int, estimate: float, *, to_step: int | None = None) -> dict[str, Any]:
    score = {"title": "Chart<QA>", "rows": 9, "estimate": estimate, "low": 0.0, "high": 1.0}
    return {
        "step": step,
        "to_step": step if to_step is None else to_step,
        "policy": "solver",
        "scores": {"chartqa": score},
        "overall": {},
        "missing": 0,
    }


def section(*points: dict[str, Any]) -> str:
    run: Any = SimpleNamespace(of_kind=lambda kind: list(points) if kind == "benchmarks" else [])
    return benchmarks(run)


def test_points_beyond_a_restart_are_left_out() -> None:
    page = section(point(0, 0.125), point(20, 0.25), point(40, 0.375), point(30, 0.5, to_step=33))
    assert "Chart&lt;QA&gt;" in page
    assert "steps 30 to 33" in page
    for shown, there in (("12.5", True), ("25.0", True), ("37.5", False), ("50.0", True)):
        assert (shown in page) is there, shown


def test_nothing_evaluated_is_no_section() -> None:
    assert section() == ""
