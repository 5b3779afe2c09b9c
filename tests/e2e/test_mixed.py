"""Both recipes at once, played and trained by one policy, through the real command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.metrics import read_metrics
from engine.rundir import RunDir
from launch.config import load_root, streams_of
from tests.e2e.command import ROOT, run
from tests.e2e.records import rows, summary_of

pytestmark = pytest.mark.slow

CONFIG = ROOT / "launch/configs/mixed.yaml"
STEPS = 7
"""A batch that was leased before a switch is trained after it: two steps of each stage are lost."""


def test_two_games_train_one_policy_and_the_gate_takes_turns(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    command = arguments(
        f"run.steps={STEPS}",
        "recipe.recipes.1.gate.switch=cycle",
        "recipe.recipes.1.gate.cycle=1",
        "recipe.recipes.1.gate.max_unreadable=1",
        "recipe.recipes.1.gate.min_distinct=0",
        "eval.heldout_items=6",
        "eval.majority_items=0",
        "eval.dev_items=0",
    )
    ended = run([command[0], command[1], str(CONFIG), *command[2:]], tmp_path / "output")
    assert ended.status == 0, ended
    assert "Traceback" not in ended.text
    folder = RunDir(tmp_path / "runs" / "own")
    summary = summary_of(folder)
    assert summary["violations"] == []
    assert summary["steps"] == {"shared": STEPS}

    streams = streams_of(load_root(CONFIG))
    assert set(streams.values()) == {"shared"}
    assert set(summary["groups"]) == set(streams)
    for stream, groups in summary["groups"].items():
        gone = groups["trained"] + sum(groups["dropped"].values())
        assert groups["submitted"] == gone + groups["ready"] + groups["leased"] > 0, stream
    played = dict(rows(folder, "SELECT recipe, count(*) FROM games GROUP BY recipe"))
    assert set(played) == {"mm_zero", "vision_zero"}

    # A batch holds votes or clues; and the other game's streams at all times.
    trained: dict[int, set[str]] = {}
    for stream, step in rows(
        folder, "SELECT DISTINCT stream, step FROM groups WHERE state = 'trained'"
    ):
        trained.setdefault(step, set()).add(stream)
    assert set(trained) == set(range(1, STEPS + 1))
    for own in trained.values():
        assert not ({"voter"} <= own and {"civilian", "spy"} & own), "one stage at a time"
        assert own & {"proposer", "coder", "solver"}
    seen = set().union(*trained.values())
    assert {"voter", "civilian", "spy"} <= seen
    closed = [summary["groups"][s]["dropped"].get("gate_closed", 0) for s in ("voter", "civilian")]
    assert all(closed), "what a closed gate refused has a name"
    states = rows(folder, "SELECT steps, state FROM recipe_states ORDER BY id")
    assert {json.loads(steps)["shared"] for steps, _ in states} >= set(range(1, STEPS + 1))
    stages = [json.loads(state)["gate"]["stage"] for _, state in states]
    assert set(stages) == {"clue", "decision"}
    told = [row["text"] for row in read_metrics(folder.metrics) if row["kind"] == "event"]
    assert any(text.startswith("vision_zero: clue stage") for text in told)

    measured = summary["heldout"]["delta"]
    assert {"solver_easy_t1", "vote_base_t1", "clue_civilian_true"} <= set(measured)
    report = folder.report.read_text()
    assert "the spy: player" in report
    assert "voter" in report
