"""What a person hears who stopped a run: whether its last steps are in checkpoints."""

from pathlib import Path

from engine.metrics import MetricLog
from engine.rundir import RunDir
from launch.saved import unsaved


def stopped(folder: Path, steps: dict[str, list[int]], saved: dict[str, list[int]]) -> RunDir:
    run = RunDir(folder / "stopped")
    run.create()
    with MetricLog(run.metrics) as log:
        log.write("engine", {})
        for policy, own in steps.items():
            for step in own:
                log.write("step", {"policy": policy, "step": step})
    for policy, own in saved.items():
        for step in own:
            (run.checkpoints(policy) / f"step-{step:08d}").mkdir(parents=True)
    return run


def test_what_is_in_no_checkpoint_is_named(tmp_path: Path) -> None:
    run = stopped(tmp_path, {"coder": [1, 2, 3], "solver": [1, 2]}, {"coder": [1, 2, 3]})
    assert unsaved(run) == {"solver": (0, 2)}
    for name in ("step-00000001", ".building-step-00000002", "step-00000002.old"):
        (run.checkpoints("solver") / name).mkdir(parents=True)
    assert unsaved(run) == {"solver": (1, 2)}


def test_what_a_restart_took_back_is_not_missed(tmp_path: Path) -> None:
    run = stopped(tmp_path, {"coder": [1, 2, 3, 2]}, {"coder": [1, 2]})
    assert unsaved(run) == {}


def test_a_run_without_steps_has_lost_none(tmp_path: Path) -> None:
    assert unsaved(RunDir(tmp_path / "nothing")) == {}
    assert unsaved(stopped(tmp_path, {}, {"coder": [4]})) == {}
