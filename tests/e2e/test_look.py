"""The game that roles/README.md shows how to write, trained through the real command."""

import sys
from pathlib import Path

import pytest

from engine.rundir import RunDir
from launch.library import Library
from tests.e2e.command import run
from tests.e2e.records import rows, summary_of
from tests.roles.look import follow_the_guide

pytestmark = pytest.mark.slow

STEPS = 3


def test_a_reader_of_the_guide_trains_both_roles_and_sees_the_games(tmp_path: Path) -> None:
    root = follow_the_guide(tmp_path / "copy")
    script = root / "launch/async_selfplay.py"
    ended = run(
        [sys.executable, str(script), "cpu.yaml", f"run.steps={STEPS}", "monitor.dashboard=false"],
        tmp_path / "output",
        root=root,
    )
    assert ended.status == 0, ended
    assert "Traceback" not in ended.text
    folder = RunDir(root / "runs/look")
    summary = summary_of(folder)
    assert summary["steps"] == {"asker": STEPS, "looker": STEPS}
    assert summary["violations"] == []
    for stream, groups in summary["groups"].items():
        gone = groups["trained"] + sum(groups["dropped"].values())
        assert groups["submitted"] == gone + groups["ready"] + groups["leased"], stream
        assert groups["trained"] > 0, stream
    assert {recipe for (recipe,) in rows(folder, "SELECT recipe FROM games")} == {"look"}

    report = folder.report.read_text()
    for words in ("asked", "readable", "answered", "boxed", "votes", "data:image/png"):
        assert words in report, words
    library = Library(folder, ("asker", "looker"))
    newest = library.gallery({"role": "looker", "min_reward": "0.1"})
    assert 'class="game"' in newest
    assert "<img" in newest
