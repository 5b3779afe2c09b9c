"""The released code's preset, judged by a pinned solver, through the real command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from engine.rundir import RunDir
from tests.e2e.command import WITHOUT_MEASURING, run
from tests.e2e.records import check_conservation, rows, summary_of

pytestmark = pytest.mark.slow

STEPS, PIN_EVERY = 4, 2


def test_the_released_rules_and_a_pinned_judge_play_to_the_end(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    ended = run(
        arguments(
            f"run.steps={STEPS}",
            "recipe.preset=mm_zero_code",
            "recipe.judge=pinned",
            f"recipe.pin_every={PIN_EVERY}",
            "layout.servers.0.policies=[proposer,coder,solver,judge]",
            *WITHOUT_MEASURING,
        ),
        tmp_path / "output",
    )
    assert ended.status == 0, ended
    assert "Traceback" not in ended.text
    folder = RunDir(tmp_path / "runs" / "own")
    config = yaml.safe_load(folder.config.read_text())["recipe"]
    assert (config["rules"], config["parser"], config["show_hard_answer"]) == (
        *("release", "release"),
        True,
    )
    summary = summary_of(folder)
    check_conservation(summary)
    assert summary["violations"] == []
    assert set(summary["steps"].values()) == {STEPS}

    # The judge was pinned at the start and whenever `PIN_EVERY` steps were made, but the last.
    pins = rows(folder, "SELECT step FROM versions WHERE policy = 'judge' ORDER BY version")
    assert pins == [(step,) for step in range(0, STEPS, PIN_EVERY)]
    hands = rows(folder, "SELECT stream, versions FROM groups")
    by_stream = {stream: set(json.loads(versions)) for stream, versions in hands}
    assert by_stream["solver"] == {"solver", "judge"}
    assert "judge" in {name for _, versions in hands for name in json.loads(versions)}
    assert not any(
        "solver" in json.loads(versions) for stream, versions in hands if stream != "solver"
    )

    funnel = summary["funnel"]
    for stream, row in funnel.items():
        assert row["sampled"] >= row["usable"] > 0, stream
        assert row["groups"] >= row["kept"] >= row["trained"] > 0, stream
    report = folder.report.read_text()
    for said in ("Funnel", "What the diversity terms did", "always_renders", "repeated_text"):
        assert said in report
