"""One run of the real command, from nothing to its summary."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer

from engine.config import digest
from launch.config import load_root
from tests.e2e.command import ROOT, TIMEOUT_S
from tests.e2e.conftest import QUICK_STEPS, QuickRun
from tests.e2e.records import (
    POLICIES,
    check_books,
    check_conservation,
    check_lineage,
    check_versions,
    checkpoints_of,
    events_of,
    metrics_of,
    rows,
    steps_of,
    summary_of,
)

pytestmark = pytest.mark.slow

MEASURES = {
    "solver_easy_t1",
    "solver_hard_t1",
    "solver_easy_greedy",
    "solver_hard_greedy",
    "coder_render",
    "coder_faithful",
    "proposer_valid",
    "proposer_diversity",
}


def test_it_ends_well_and_says_where_the_report_is(quick_run: QuickRun) -> None:
    assert quick_run.ended.status == 0, quick_run.ended
    assert "Traceback" not in quick_run.ended.text
    assert str(quick_run.dir.report) in quick_run.ended.stdout.replace("\n", "")
    assert quick_run.ended.stderr == ""


def test_the_summary_has_every_key(quick_run: QuickRun) -> None:
    summary = summary_of(quick_run.dir)
    assert set(summary) >= {
        *("games", "groups", "steps", "version", "tokens", "age", "judge_age", "attempts"),
        *("wall_s", "busy_fraction", "heldout", "seed", "config_sha256"),
    }
    assert set(summary["games"]) == {"started", "finished", "dropped", "in_flight"}
    for groups in summary["groups"].values():
        assert set(groups) == {"submitted", "trained", "dropped", "ready", "leased"}
    for key in ("steps", "version", "tokens", "groups", "age"):
        assert set(summary[key]) == set(POLICIES), key
    for age in summary["age"].values():
        assert set(age) == {"mean", "p95", "max", "max_age"}
    assert set(summary["judge_age"]) == {"mean", "max"}
    parts = {"learner", *(f"server/{policy}" for policy in POLICIES)}
    assert set(summary["busy_fraction"]) >= parts
    assert all(0 < summary["busy_fraction"][part] <= 1 for part in parts)


def test_the_books_balance(quick_run: QuickRun) -> None:
    summary = summary_of(quick_run.dir)
    check_conservation(summary)
    check_books(quick_run.dir, summary)
    check_lineage(quick_run.dir, QUICK_STEPS)
    check_versions(quick_run.dir)
    assert summary["games"]["in_flight"] == 0
    assert all(groups["leased"] == groups["ready"] == 0 for groups in summary["groups"].values())


def test_it_made_its_steps_with_fresh_groups(quick_run: QuickRun) -> None:
    summary = summary_of(quick_run.dir)
    config = load_root(quick_run.dir.config)
    assert summary["steps"] == dict.fromkeys(POLICIES, QUICK_STEPS)
    assert summary["attempts"] == 1
    assert summary["seed"] == config.run.seed
    assert summary["config_sha256"] == digest(config)
    assert 0 < summary["wall_s"] < TIMEOUT_S
    for policy in POLICIES:
        tokens, age = summary["tokens"][policy], summary["age"][policy]
        assert 0 < tokens["trained"] <= tokens["generated"]
        assert age["max_age"] == config.streams.max_age
        assert 0 <= age["mean"] <= age["max"] <= age["max_age"]
        assert age["p95"] <= age["max"]
        versions = rows(quick_run.dir, f"SELECT version FROM versions WHERE policy = '{policy}'")
        assert summary["version"][policy] == max(version for (version,) in versions)
        assert summary["version"][policy] >= QUICK_STEPS


def test_it_measured_before_and_after(quick_run: QuickRun) -> None:
    heldout = summary_of(quick_run.dir)["heldout"]
    for measure in MEASURES:
        before, after = heldout["before"][measure], heldout["after"][measure]
        low, high = heldout["ci95"][measure]
        assert math.isclose(heldout["delta"][measure], after - before, abs_tol=1e-9), measure
        assert -1 <= low <= high <= 1, measure
        assert all(0 <= value <= 1 for value in (before, after)), measure


def test_the_metrics_tell_the_run(quick_run: QuickRun) -> None:
    for line in quick_run.dir.metrics.read_text().splitlines():
        record = json.loads(line)
        assert record["t"] > 0
        kinds = {"step", "groups", "engine", "dev", "heldout", "benchmarks", "event", "costs"}
        assert record["kind"] in kinds
    steps = {(record["policy"], record["step"]) for record in steps_of(quick_run.dir)}
    assert steps == {(policy, step + 1) for policy in POLICIES for step in range(QUICK_STEPS)}
    assert [r["when"] for r in metrics_of(quick_run.dir) if r["kind"] == "heldout"] == [
        "heldout-before",
        "heldout-after",
    ]
    assert any(record["kind"] == "dev" for record in metrics_of(quick_run.dir))
    for policy in POLICIES:
        assert f"{policy}: checkpoint of step {QUICK_STEPS}" in events_of(quick_run.dir)


class Loads(HTMLParser):
    """Collects what a page would load, and its style sheets."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href", "xlink:href", "data", "poster", "action"):
                self.loaded.append(value or "")


def test_the_report_loads_nothing(quick_run: QuickRun) -> None:
    text = quick_run.dir.report.read_text()
    page = Loads()
    page.feed(text)
    assert {"html", "svg", "img", "table"} <= set(page.tags)
    assert [u for u in page.loaded if not u.startswith(("data:image/", "#"))] == []
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:|#)|\bfetch\(|XMLHttpRequest", text)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_checkpoint_is_a_normal_model(quick_run: QuickRun, policy: str) -> None:
    found = checkpoints_of(quick_run.dir, policy)
    assert [path.name for path in found] == ["step-00000002", "step-00000004"]
    base = _weights(ROOT / "launch" / "tiny_base_model")
    previous = base
    for path in found:
        weights = _weights(path)
        assert weights.keys() == base.keys()
        changed = [name for name in weights if not torch.equal(weights[name], previous[name])]
        assert changed, f"{path}: two steps changed nothing"
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())
        previous = weights


def _weights(path: Path) -> dict[str, torch.Tensor]:
    loaded: Any = AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True)
    model, info = loaded
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert len(AutoTokenizer.from_pretrained(path)) <= model.config.text_config.vocab_size
    return dict(model.state_dict())
