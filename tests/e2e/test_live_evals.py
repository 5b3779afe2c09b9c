"""Benchmarks beside a real run: on its servers, or on one of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.rundir import RunDir
from tests.e2e.command import ROOT, WITHOUT_MEASURING, run
from tests.e2e.records import check_books, check_conservation, events_of, metrics_of, summary_of

pytestmark = pytest.mark.slow

FIXTURES = ROOT / "tests/evals/fixtures"
OWN_SERVER = "layout.servers=[{rank: 1, policies: [proposer, coder, solver, evaluated]}]"


@pytest.mark.parametrize("servers, layout", [("rollout", ()), ("own", (OWN_SERVER,))])
def test_the_curves_of_a_run(
    tmp_path: Path, arguments: Callable[..., list[str]], servers: str, layout: tuple[str, ...]
) -> None:
    ended = run(
        arguments(
            *("run.steps=4", "evals.benchmarks=[chartqa, mmsi]", f"evals.data={FIXTURES}"),
            *("evals.limit=5", "run.checkpoint_every=100"),
            *("evals.every=2", "evals.max_new_tokens=8", f"evals.servers={servers}"),
            *layout,
            *WITHOUT_MEASURING,
        ),
        tmp_path / "output",
    )
    assert ended.status == 0, ended.text
    folder = RunDir(tmp_path / "runs" / "own")
    points = [row for row in metrics_of(folder) if row["kind"] == "benchmarks"]
    assert (points[0]["step"], points[-1]["step"]) == (0, 4), points
    for point in points:
        assert point["missing"] == 0
        assert point["scores"].keys() == {"chartqa", "mmsi"}
        assert point["to_step"] == point["step"] or servers == "rollout"
    for point in points:  # each with all its rows, to be read
        report = folder.evals / f"step-{point['step']:08d}" / "official" / "report.html"
        assert report.exists()
    assert not [text for text in events_of(folder) if "benchmarks of step" in text]
    page = folder.report.read_text()
    assert "Benchmarks during the run" in page
    assert "ChartQA" in page
    summary = summary_of(folder)
    check_conservation(summary)
    check_books(folder, summary)
