"""The paper's schedule through the real command: phases, barriers, and what it costs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.metrics import read_metrics
from engine.rundir import RunDir
from launch.config import load_root
from launch.engine import rules_of
from tests.e2e.command import ROOT, WITHOUT_MEASURING, run
from tests.e2e.records import rows, summary_of

ROLES = ("proposer", "coder", "solver")
STEPS, PHASE = 4, 2


@pytest.mark.slow
def test_roles_train_one_after_the_other_by_games_of_one_version(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = arguments(
        f"run.steps={STEPS}",
        "run.checkpoint_every=2",
        "streams.schedule=sequential",
        f"streams.phase_steps={PHASE}",
        "streams.games_per_step=2",
        *WITHOUT_MEASURING,
    )
    ended = run(command, tmp_path / "output")
    assert ended.status == 0, ended
    folder = RunDir(tmp_path / "runs" / "own")
    summary = summary_of(folder)
    assert summary["violations"] == []
    assert summary["steps"] == dict.fromkeys(ROLES, STEPS)
    assert all(summary["age"][role]["max"] == 0 for role in ROLES), "on-policy"
    for role in ROLES:
        groups = summary["groups"][role]
        assert "gate_closed" not in groups["dropped"], "nothing is made that its phase can't train"
        assert groups["trained"] > 0

    steps = [r for r in read_metrics(folder.metrics) if r["kind"] == "step" and not r["skipped"]]
    order = [row["policy"] for row in steps]
    assert order == [role for _ in range(STEPS // PHASE) for role in ROLES for _ in range(PHASE)]
    # The solver that judges the coder's drawings is frozen while the coder trains.
    judged = rows(
        folder,
        "SELECT DISTINCT step, json_extract(versions, '$.solver') FROM groups "
        "WHERE stream = 'coder' AND state = 'trained' ORDER BY step",
    )
    assert [step for step, _ in judged] == [1, 2, 3, 4], "one range of versions in each step"
    ranges = [json.loads(versions) for _, versions in judged]
    assert all(len(versions) == 1 for versions in ranges)
    assert ranges[0] == ranges[1] != ranges[2] == ranges[3]
    # By rollouts: three plays for one.
    generated = sum(summary["tokens"][role]["generated"] for role in ROLES)
    trained_tokens = sum(summary["tokens"][role]["trained"] for role in ROLES)
    assert generated > 2.5 * trained_tokens


def test_sequential_implies_age_zero_and_one_recipe() -> None:
    quick = load_root(
        ROOT / "launch/configs/quickstart.yaml",
        ["streams.schedule=sequential", "streams.max_age=4"],
    )
    assert {rule.max_age for rule in rules_of(quick).streams.values()} == {0}
    with pytest.raises(ConfigError, match=r"streams\.schedule: 'sequential' plays one recipe"):
        load_root(ROOT / "launch/configs/mixed.yaml", ["streams.schedule=sequential"])
    with pytest.raises(ConfigError, match=r"streams\.too_old: 'drop'"):
        load_root(
            ROOT / "launch/configs/quickstart.yaml",
            ["streams.schedule=sequential", "streams.too_old=drop"],
        )
