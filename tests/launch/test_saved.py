"""What a person hears who stopped a run: whether its last steps are in checkpoints."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from engine.buffer import Buffer
from engine.rundir import RunDir
from launch.saved import unsaved
from tests.engine.make_groups import make_group


def stopped(
    folder: Path,
    steps: Mapping[str, Sequence[int]],
    saved: Mapping[str, Sequence[int]],
    restored: Mapping[str, int] | None = None,
) -> RunDir:
    """A run that made `steps` of each policy and, where some were restored, crashed then."""
    run = RunDir(folder / "stopped")
    run.create()
    with closing(Buffer.open(run.database)) as buffer:
        attempt = buffer.begin_attempt()
        for policy, own in steps.items():
            buffer.restore(policy, step=0, request=0, attempt=attempt)
            for step in own:
                version = buffer.reserve_version(policy, step - 1, attempt)
                game = buffer.start_game("")
                buffer.submit(make_group(game, policy, versions=(version,)))
                buffer.lease(
                    policy, step, attempt, games={policy: [game]}, steps={policy: step - 1},
                    max_age={policy: 9},
                )  # fmt: skip
                buffer.trained(policy, step, attempt, step)
        if restored is not None:
            attempt = buffer.begin_attempt()
            for policy, step in restored.items():
                buffer.restore(policy, step=step, request=step, attempt=attempt)
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
    """The policy had no time to make its step again before the stop."""
    made, saved = {"coder": [1, 2, 3]}, {"coder": [1, 2]}
    assert unsaved(stopped(tmp_path / "a", made, saved)) == {"coder": (2, 3)}
    assert unsaved(stopped(tmp_path / "b", made, saved, restored={"coder": 2})) == {}


def test_a_run_without_steps_has_lost_none(tmp_path: Path) -> None:
    assert unsaved(RunDir(tmp_path / "nothing")) == {}
    assert unsaved(stopped(tmp_path, {}, {"coder": [4]})) == {}
