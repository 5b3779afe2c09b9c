"""One small run of the real command, that several tests look at and copy."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.rundir import RunDir
from tests.e2e.command import ROOT, Ended, run, selfplay

QUICK_STEPS = 4
QUICK_OVERRIDES = (
    f"run.steps={QUICK_STEPS}",
    "run.checkpoint_every=2",
    "eval.heldout_items=10",
    "eval.majority_items=2",
    "eval.dev_items=4",
    "eval.dev_every=2",
    "evals.benchmarks=[chartqa]",
    f"evals.data={ROOT / 'tests/evals/fixtures'}",
    "evals.limit=4",
    "evals.every=2",
    "evals.max_new_tokens=8",
)


@dataclass(frozen=True, slots=True)
class QuickRun:
    dir: RunDir
    ended: Ended


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> QuickRun:
    """A finished run. Read only: whoever changes it, changes a copy."""
    root = tmp_path_factory.mktemp("quick")
    overrides = ("run.name=quick", f"run.root={root / 'runs'}", *QUICK_OVERRIDES)
    ended = run(selfplay(*overrides), root / "output")
    return QuickRun(RunDir(root / "runs" / "quick"), ended)


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of a run of the test's own, in its own folder."""

    def line(*more: str) -> list[str]:
        return selfplay("run.name=own", f"run.root={tmp_path / 'runs'}", *more)

    return line
