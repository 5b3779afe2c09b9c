"""The paper's schedule through the real command: phases, barriers, and what it costs."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.rundir import RunDir
from launch.config import load_root
from launch.engine import rules_of
from tests.e2e.blows import ENGINE
from tests.e2e.command import ROOT, WITHOUT_MEASURING, descendants, left_of, recorded, run, started
from tests.e2e.records import (
    check_books,
    check_conservation,
    check_versions,
    rows,
    steps_of,
    summary_of,
)

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

    check_phases(folder, STEPS, PHASE)
    barren = barren_batches(folder, STEPS)
    if not any(barren.values()):
        order = [row["policy"] for row in steps_of(folder) if not row["skipped"]]
        phases = STEPS // PHASE
        assert order == [role for _ in range(phases) for role in ROLES for _ in range(PHASE)]
    # The solver that judges the coder's drawings is frozen while the coder trains. (It judged none
    # of a group of which no drawing rendered.)
    judged = rows(
        folder,
        "SELECT DISTINCT step, json_extract(versions, '$.solver') FROM groups "
        "WHERE stream = 'coder' AND state = 'trained' "
        "AND json_extract(versions, '$.solver') IS NOT NULL ORDER BY step",
    )
    assert [step for step, _ in judged] == [1, 2, 3, 4], "one range of versions in each step"
    ranges = [json.loads(versions) for _, versions in judged]
    assert all(len(versions) == 1 for versions in ranges)
    if not any(barren.values()):
        assert ranges[0] == ranges[1] != ranges[2] == ranges[3]
    # By rollouts: three plays for one.
    generated = sum(summary["tokens"][role]["generated"] for role in ROLES)
    trained_tokens = sum(summary["tokens"][role]["trained"] for role in ROLES)
    assert generated > 2.5 * trained_tokens


@pytest.mark.slow
def test_a_stop_and_a_lost_engine_in_a_phase_cost_it_no_step(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Steps that a phase does not divide, Ctrl-C among the coder's, `kill -9` among the solver's,
    where policies go back to checkpoints of different times."""
    steps, phase = 7, 3
    command = arguments(
        f"run.steps={steps}",
        "run.checkpoint_every=2",
        "streams.schedule=sequential",
        f"streams.phase_steps={phase}",
        "streams.games_per_step=2",
        "recipe.num_proposals=2",
        *WITHOUT_MEASURING,
    )
    folder = RunDir(tmp_path / "runs" / "own")

    def has_stepped(role: str, since: int = 0) -> bool:
        newer = steps_of(folder)[since:]
        return any(row["policy"] == role and not row["skipped"] for row in newer)

    with started(command, tmp_path / "output") as front:
        front.until(lambda: has_stepped("coder"), "a step of the coder")
        front.process.send_signal(signal.SIGINT)
        assert front.wait().status == 130
    seen = len(steps_of(folder))
    with started([*command, "--resume"], tmp_path / "output") as front:
        front.until(lambda: has_stepped("solver", seen), "a step of the solver")
        engine = recorded(folder, ENGINE)
        assert engine is not None
        family = descendants(front.process.pid)
        engine.kill()
        ended = front.wait()
    assert ended.status == 0, ended
    assert not left_of(family), "no orphan"
    summary = summary_of(folder)
    check_conservation(summary)
    check_books(folder, summary)
    check_versions(folder)
    assert summary["attempts"] == 3
    assert summary["steps"] == dict.fromkeys(ROLES, steps)
    check_phases(folder, steps, phase)


def check_phases(folder: RunDir, steps: int, phase: int) -> None:
    """Whoever made a step had had no phase more than the others, and those in front one more."""
    barren = barren_batches(folder, steps)
    made: dict[str, int] = dict.fromkeys(ROLES, 0)
    for row in steps_of(folder):
        if row["skipped"]:
            continue
        role, made[row["policy"]] = row["policy"], int(row["step"])
        before = (made[role] - 1) // phase
        for place, other in enumerate(ROLES):
            owed = phase * (before + (place < ROLES.index(role))) - barren[other]
            assert made[other] >= min(steps, owed), (role, made, barren)


def barren_batches(folder: RunDir, steps: int) -> dict[str, int]:
    """By role, batches of which every group was dropped: each counts as a step of its phase."""
    ((state,),) = rows(folder, "SELECT state FROM recipe_states ORDER BY id DESC LIMIT 1")
    return {role: done - steps for role, done in json.loads(state).items()}


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
