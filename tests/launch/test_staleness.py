"""The study of stale data: that ages are as forced, that runs repeat, and its arithmetic."""

import argparse
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from engine.learner.trainer import PolicyTrainer, StepReport
from engine.types import Group
from launch.benches import forced_age, staleness
from launch.benches.staleness import Outcome, Plan, largest_fall
from launch.panels import Panel, chart

SMALL = forced_age.Scale(
    steps=3, scenes_per_step=2, eval_every=2, heldout_scenes=2, heldout_samples=1
)


def options(out: Path, **changes: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    staleness.add_arguments(parser)
    parsed = parser.parse_args([])
    return argparse.Namespace(**{**vars(parsed), "out": out, **changes})


def outcome(final: float = 0.9, fall: float = 0.0) -> Outcome:
    return Outcome(final, 0.95, fall, 0.99, 0.8, 0.01, 1.0, 3.0)


@pytest.mark.parametrize("variant", staleness.VARIANTS)
def test_every_variant_is_an_objective(variant: str) -> None:
    Plan(1e-4, 0, variant, 0, 1).learner()


# -- the runs --------------------------------------------------------------------------------------


def run_small(age: int) -> dict[str, Any]:
    learner = Plan(1e-4, age, "decoupled", 0, SMALL.steps).learner()
    record = forced_age.run(learner, age=age, seed=0, scale=SMALL)
    del record["cpu_s"]
    return record


def test_a_run_repeats_to_the_bit() -> None:
    first = run_small(age=1)
    assert [step for step, _ in first["curve"]] == [0, 2, 3]
    assert len(first["steps"]) == SMALL.steps
    assert run_small(age=1) == first


@pytest.mark.parametrize("age", [0, 2])
def test_data_are_of_the_weights_of_so_many_steps_ago(
    age: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the claim of the rollouts, and by the log-probs: fresh data have ratios of 1."""
    versions: list[int] = []
    ratios: list[float] = []
    real_step = PolicyTrainer.step

    def step(trainer: PolicyTrainer, groups: list[Group]) -> StepReport:
        versions.extend({v for g in groups for r in g.rollouts for v in r.versions})
        report = real_step(trainer, groups)
        ratios.append(report.metrics["ratio_max"])
        return report

    monkeypatch.setattr(PolicyTrainer, "step", step)
    run_small(age)
    assert versions == [max(0, number - age) for number in range(SMALL.steps)]
    stale = [number > version for number, version in enumerate(versions)]
    assert [abs(ratio - 1) > 1e-3 for ratio in ratios] == stale


def test_no_training_picture_is_held_out() -> None:
    heldout = {asked.png for asked in forced_age.heldout_questions(40)}
    training = [
        {asked.png for asked in itertools.islice(forced_age.training_questions(seed), 80)}
        for seed in (0, 1)
    ]
    assert len(heldout) == len(training[0]) == len(training[1]) == 40
    assert not heldout & (training[0] | training[1])
    assert not training[0] & training[1]


# -- what is asked for, and what is there ----------------------------------------------------------


def test_fresh_data_are_run_once_for_all_variants(tmp_path: Path) -> None:
    plans = staleness.plans(options(tmp_path / "x", ages=[0, 2], lrs=[1e-5], seeds=[0, 1], steps=7))
    assert [(plan.seed, plan.age, plan.variant) for plan in plans] == [
        (seed, age, variant)
        for seed in (0, 1)
        for age, variant in [(0, "none"), (2, "none"), (2, "grpo"), (2, "decoupled")]
    ]
    assert {plan.steps for plan in plans} == {7}


def test_finished_runs_are_skipped_and_a_line_cut_off_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs.jsonl"
    asked = options(out, ages=[2], lrs=[1e-5], seeds=[0], variants=["none", "decoupled"])
    done, cut = staleness.plans(asked)
    step = {"ess": 0.5, "masked_fraction": 0.25, "grad_norm": 2.0}

    def line(plan: Plan) -> str:
        record = {"plan": asdict(plan), "curve": [[0, 0.5], [9, 0.75]], "steps": [step]}
        return json.dumps(record) + "\n"

    made: list[Plan] = []

    def make(missing: list[Plan], path: Path) -> None:
        made.extend(missing)
        path.write_text(line(done) + line(cut))

    monkeypatch.setattr(staleness, "make", make)
    out.write_text(line(done) + line(cut)[:40])
    staleness.run(asked)
    staleness.run(asked)
    assert made == [cut]
    assert "| 1e-05 | 2 | decoupled | 0.750 |" in capsys.readouterr().out


# -- its arithmetic --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, fall",
    [([0.5], 0.0), ([0.5, 0.6, 0.9], 0.0), ([0.5, 0.9, 0.6, 0.95, 0.8], 0.3), ([0.9, 0.1], 0.8)],
)
def test_a_fall_is_measured_from_the_highest_before_it(values: list[float], fall: float) -> None:
    assert largest_fall(values) == pytest.approx(fall)


def test_an_outcome_is_of_all_steps_that_trained() -> None:
    trained = [
        {"ess": 1.0, "masked_fraction": 0.0, "grad_norm": 1.0},
        {"ess": 0.5, "masked_fraction": 0.5, "grad_norm": 4.0},
    ]
    skipped = {"reward": 1.0, "skipped": 1.0}
    record = {"curve": [[0, 0.5], [1, 0.9], [2, 0.7]], "steps": [*trained, skipped]}
    found = Outcome.of(record)
    assert found == Outcome(0.7, 0.9, pytest.approx(0.2), 0.75, 0.5, 0.25, 2.5, 4.0)


def test_the_table_has_mean_and_deviation_over_seeds_and_counts_collapses() -> None:
    outcomes = {
        Plan(1e-5, 8, "none", 0, 9): outcome(0.8, fall=0.3),
        Plan(1e-5, 8, "none", 1, 9): outcome(0.9, fall=0.1),
        Plan(1e-5, 8, "decoupled", 0, 9): outcome(0.95),
    }
    rows = staleness.table(outcomes).splitlines()[2:]
    assert rows[0].startswith("| 1e-05 | 8 | none | 0.850 +- 0.071 | 0.950 +- 0.000 | 0.200")
    assert "| 1 of 2 | 0.990 (0.800) | 1.0% | 1.00 (3.0) |" in rows[0]
    assert "| decoupled | 0.950 | 0.950 | 0.000 | 0 of 1 |" in rows[1]


def test_each_rate_has_its_panels_and_all_variants_begin_at_the_fresh_run() -> None:
    outcomes = {
        Plan(lr, age, variant, 0, 9): outcome(0.8 + age / 100)
        for lr in (3e-4, 1e-5)
        for age, variant in [(0, "none"), (8, "none"), (8, "decoupled")]
    }
    panels = list(staleness.panels(outcomes))
    assert [(panel.measure.split()[0], panel.title[-6:]) for panel in panels] == [
        ("final", " 1e-05"),
        ("final", "0.0003"),
        ("largest", " 1e-05"),
        ("largest", "0.0003"),
    ]
    assert panels[0].lines == {
        "none": {0: [0.8], 8: [pytest.approx(0.88)]},
        "grpo": {},  # was not run
        "decoupled": {0: [0.8], 8: [pytest.approx(0.88)]},
    }


def test_the_chart_stands_alone_and_shows_every_seed() -> None:
    lines = {"a<b": {0: [0.5, 0.7], 32: [0.2, 0.4]}, "c": {0: [0.5, 0.7]}}
    drawn = chart([Panel("final", lines, "rate 1")] * 3, "age of the data, steps")
    root = ElementTree.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f".//{space}circle")
    assert len(circles) == 3 * 6
    heights = [float(circle.get("cy", "")) for circle in circles[:4]]
    assert heights[1] < heights[0] < heights[3] < heights[2]  # of 0.5, 0.7, 0.2, 0.4
    assert len(root.findall(f".//{space}polyline")) == 3 * 2
    assert {"a<b", "c", "32"} <= {text.text for text in root.iter(f"{space}text")}
