"""Benchmarks beside a real run: on its servers, or on one of their own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.rundir import RunDir
from tests.e2e.command import ROOT, WITHOUT_MEASURING, run
from tests.e2e.conftest import QUICK_STEPS, QuickRun
from tests.e2e.records import check_books, check_conservation, events_of, metrics_of, summary_of

pytestmark = pytest.mark.slow

FIXTURES = ROOT / "tests/evals/fixtures"
OWN_SERVER = "layout.servers=[{rank: 1, policies: [proposer, coder, solver, evaluated]}]"


def checked_points(run_dir: RunDir, last: int, *names: str) -> list[dict[str, Any]]:
    """The points of a run, from the base to its last step."""
    points = [row for row in metrics_of(run_dir) if row["kind"] == "benchmarks"]
    assert not [text for text in events_of(run_dir) if text.startswith("benchmarks")]
    steps = [point["step"] for point in points]
    assert (steps[0], steps[-1]) == (0, last)
    assert steps == sorted(set(steps))
    for point in points:
        assert point["missing"] == 0
        assert point["scores"].keys() == set(names)
        assert point["step"] <= point["to_step"] <= last
        report = run_dir.evals / f"step-{point['step']:08d}" / "official" / "report.html"
        assert report.exists(), "each with all its rows, to be read"
    page = run_dir.report.read_text()
    assert "Benchmarks during the run" in page
    assert "ChartQA" in page
    return points


def test_a_run_is_evaluated_on_the_servers_that_play(quick_run: QuickRun) -> None:
    checked_points(quick_run.dir, QUICK_STEPS, "chartqa")


def test_a_run_is_evaluated_on_a_server_of_its_own(
    tmp_path: Path, arguments: Callable[..., list[str]]
) -> None:
    ended = run(
        arguments(
            *("run.steps=3", "evals.benchmarks=[chartqa, mmsi]", f"evals.data={FIXTURES}"),
            *("evals.limit=4", "run.checkpoint_every=100", "evals.every=100"),
            *("evals.max_new_tokens=8", "evals.servers=own", OWN_SERVER),
            *WITHOUT_MEASURING,
        ),
        tmp_path / "output",
    )
    assert ended.status == 0, ended.text
    folder = RunDir(tmp_path / "runs" / "own")
    points = checked_points(folder, 3, "chartqa", "mmsi")
    assert [(point["step"], point["to_step"]) for point in points][-1] == (3, 3)
    summary = summary_of(folder)
    check_conservation(summary)
    check_books(folder, summary)
