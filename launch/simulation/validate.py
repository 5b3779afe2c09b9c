"""Predictions against runs of the quickstart on this machine, which has to be quiet meanwhile.

Service times are taken from the first run alone. The other configurations are then predicted, run,
and compared. A run that is there already, from an earlier call, is not made again.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from engine.errors import EngineError
from engine.metrics import read_metrics
from engine.records import Records
from launch.config import RootConfig, load_root, policies_of
from launch.simulation.calibration import learned
from launch.simulation.measured import others_cores
from launch.simulation.run import simulate

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "launch" / "configs" / "quickstart.yaml"
PLAIN = ("eval.heldout_items=0", "eval.dev_items=0", "monitor.dashboard=false")
BASE = "base"
CASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        BASE: ("run.steps=60",),
        "max_age=0": ("run.steps=50", "streams.max_age=0"),
        "max_age=1": ("run.steps=50", "streams.max_age=1"),
        "render.workers=2": ("run.steps=50", "render.workers=2"),
        "two servers": (
            "run.steps=50",
            "layout.servers=[{rank: 1, policies: [proposer, coder, solver], kind: embedded}, "
            "{rank: 2, policies: [proposer, coder, solver], kind: embedded}]",
        ),
    }
)
WARM_UP = 8
"""Steps of every policy that count for nothing."""
MOST = 0.15
"""Difference up to which a prediction is right."""


@dataclass(frozen=True, slots=True)
class Compared:
    name: str
    predicted: float
    """Games per minute."""
    measured: float
    others: float
    """Cores that processes of others took meanwhile."""

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def validate(folder: Path, prefix: Sequence[str] = ()) -> int:
    """Print predictions and measurements; 1 where one is wrong. `prefix`: a command to run each
    run's with, such as a lock."""
    rows = []
    times = None
    for name, overrides in CASES.items():
        run = folder / name.replace(" ", "-").replace("=", "-")
        config = load_root(CONFIG, _overrides(run, overrides))
        _ensure(run, overrides, prefix)
        if times is None:
            times = learned(run, config, WARM_UP)
        outcome = simulate(config, times, warm_up=WARM_UP)
        others = others_cores(run, config, WARM_UP)
        rows.append(Compared(name, outcome.games_per_h / 60, games_per_min(run, config), others))
        print(shown(rows[-1]), flush=True)
    return int(any(abs(row.error) > MOST for row in rows))


def shown(row: Compared) -> str:
    return (
        f"{row.name:18} predicted {row.predicted:6.1f} games/min, measured {row.measured:6.1f}: "
        f"{row.error:+.1%} (others took {row.others:.2f} cores)"
    )


def games_per_min(run: Path, config: RootConfig, warm_up: int = WARM_UP) -> float:
    """Of a run, between the same steps as `simulate` takes."""
    steps = [r for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "step"]
    last = config.run.steps - config.streams.max_age - 1
    began, ended = [], []
    for policy in policies_of(config):
        own = [r for r in steps if r["policy"] == policy]
        began.append(next(r["t"] for r in own if r["step"] >= warm_up))
        ended.append(next(r["t"] for r in own if r["step"] > last))
    first_s, last_s = max(began), min(ended)
    records = Records.open(run / "run.db")
    try:
        number = records.games_ended(first_s, last_s)
    finally:
        records.close()
    return number / (last_s - first_s) * 60


def _overrides(run: Path, own: Sequence[str]) -> list[str]:
    return [*PLAIN, *own, f"run.name={run.name}", f"run.root={run.parent}"]


def _ensure(run: Path, own: Sequence[str], prefix: Sequence[str]) -> None:
    """Make the run where it has not been made. Raises EngineError where it fails."""
    if (run / "summary.json").exists():
        return
    command = [*prefix, sys.executable, str(ROOT / "launch" / "async_selfplay.py"), str(CONFIG)]
    command += _overrides(run, own)
    print(f"runs {shlex.join(command)}", flush=True)
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=False)
    if done.returncode or not (run / "summary.json").exists():
        raise EngineError(f"{run}: the run failed with status {done.returncode}; see its logs")
