"""What a publication waits for is found again from how long it took."""

from pathlib import Path

import pytest

from engine.errors import ConfigError
from launch.simulation.calibration import calibrated, learned
from launch.simulation.run import simulate
from tests.launch.simulation.test_measured import write_run
from tests.launch.simulation.test_run import config, times

ANSWERS = 8.0


@pytest.mark.parametrize(
    "overrides, steps",
    [
        ([], 30),
        (["streams.schedule=sequential", "streams.phase_steps=11"], 33),
        (["streams.max_age=14"], 46),
    ],
    ids=["short window", "phases", "deep window"],
)
def test_the_answers_of_a_run_are_found_whatever_its_schedule(
    overrides: list[str], steps: int
) -> None:
    like_it = config("streams.games_per_step=1", *overrides)
    learner = {"step_s": 0.3, "publish_s": 0.05}
    each = dict.fromkeys(("proposer", "coder", "solver"), learner)
    costs = times(server={"step_s": 0.01, "row_s": 0.0002}, learners=each)
    known = costs.model_copy(
        update={
            "learners": {
                name: one.model_copy(update={"answers": ANSWERS})
                for name, one in costs.learners.items()
            }
        }
    )
    run = like_it.run.model_copy(update={"steps": steps})
    took_s = simulate(like_it.model_copy(update={"run": run}), known).publish_s
    found = calibrated(like_it, costs, took_s).learners["solver"].answers
    assert found == pytest.approx(ANSWERS, rel=0.25)


def test_a_calibration_that_gets_nowhere_names_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, own = write_run(tmp_path)

    def fail(*_: object) -> None:
        raise ValueError("too short to tell")

    monkeypatch.setattr("launch.simulation.calibration.simulate", fail)
    with pytest.raises(ConfigError, match=r"made: .*: too short to tell; or give --times FILE"):
        learned(run, own, 3)
