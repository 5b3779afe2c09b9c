"""The spy game with a policy for each role, and an older voter beside: a layout, through the real
command."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.rundir import RunDir
from tests.e2e.command import ROOT, WITHOUT_MEASURING, run
from tests.e2e.records import rows, summary_of

pytestmark = pytest.mark.slow

CONFIG = ROOT / "launch/configs/vision_zero.yaml"
ROLES = ("civilian", "spy", "voter")
STEPS = 3


def test_each_role_has_its_own_policy(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    command = arguments(
        f"run.steps={STEPS}",
        "run.checkpoint_every=2",
        "streams.games_per_step=2",
        "layout.policies={civilian: civilian, spy: spy, voter: voter}",
        "layout.learners.0.policies=[civilian, spy, voter]",
        "layout.servers.0.policies=[civilian, spy, voter, frozen_voter]",
        "recipe.frozen_every=2",
        "recipe.frozen_share=1",
        "recipe.gate.switch=cycle",
        "recipe.gate.cycle=2",
        "recipe.gate.max_unreadable=1",
        "recipe.gate.min_distinct=0",
        *WITHOUT_MEASURING,
    )
    ended = run([command[0], command[1], str(CONFIG), *command[2:]], tmp_path / "output")
    assert ended.status == 0, ended
    folder = RunDir(tmp_path / "runs" / "own")
    summary = summary_of(folder)
    assert summary["violations"] == []
    assert summary["steps"] == dict.fromkeys(ROLES, STEPS)

    trained = rows(
        folder, "SELECT DISTINCT stream, policy, step FROM groups WHERE state = 'trained'"
    )
    assert {(stream, policy) for stream, policy, _ in trained} == {(role, role) for role in ROLES}
    for role in ROLES:
        assert {step for stream, _, step in trained if stream == role} == {1, 2, 3}
        assert folder.checkpoints(role).exists()
    # Everyone's weights are judged by the others', never by the older voter's.
    versions = rows(folder, "SELECT DISTINCT versions FROM groups WHERE state = 'trained'")
    assert versions
    assert not [text for (text,) in versions if "frozen_voter" in text]
    assert summary["tokens"]["frozen_voter"]["generated"] > 0
    assert summary["tokens"]["frozen_voter"]["trained"] == 0
    assert "an older voter, on replica 1" in folder.report.read_text()
