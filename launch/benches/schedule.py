"""Streaming against the papers' phases: wall-clock of the same training, and whence the gain.

    python launch/bench.py schedule --steps 60 --seeds 0 1 2

Each variant is a real run of the embedded default with the same model, rewards, games per step and
steps; between two variants one thing changes:

    release      the paper's phases, one job at a time: one server, one learner
    sequential   the same on a fair machine: every core in every phase (two servers)
    shared       every rollout works for all roles that it can; everything still waits for all
    streaming    nothing waits: the default

Time is from the first game to the last step, so no process start-up is in it; what one start takes
is told apart. Variants are interleaved, seed by seed. `ideal`: the processor seconds that streaming
used, on all cores all the time. Held-out measures come after the time, of the same items. A run is
one JSON line of `--out`, and is not made again.
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.metrics import read_metrics
from engine.rundir import RunDir
from launch.benches.process_tree import cpu_s_of_tree

_ROOT = Path(__file__).resolve().parents[2]
_POLICIES = "[proposer, coder, solver]"
_CORES = os.cpu_count() or 1
_POLL_S = 0.5


def _layout(learners: int, servers: int) -> tuple[str, ...]:
    ranks = list(range(learners))
    hosts = ", ".join(
        f"{{rank: {learners + i}, policies: {_POLICIES}, kind: embedded}}" for i in range(servers)
    )
    return (
        f"layout.learners=[{{ranks: {ranks}, policies: {_POLICIES}}}]",
        f"layout.servers=[{hosts}]",
    )


VARIANTS: Mapping[str, tuple[str, ...]] = {
    "release": (*_layout(1, 1), "streams.schedule=sequential"),
    "sequential": (*_layout(1, 2), "streams.schedule=sequential"),
    "shared": (*_layout(1, 2), "streams.max_age=0"),
    "streaming": _layout(1, 2),
}
EXTRA: Mapping[str, tuple[str, ...]] = {
    "sequential, 2 learner ranks": (*_layout(2, 2), "streams.schedule=sequential"),
    "streaming, 1 server": _layout(1, 1),
    "one step off": (*_layout(1, 2), "streams.max_age=1"),
}
"""Other layouts and schedules, on request (`--variants`)."""
_ALL = {**VARIANTS, **EXTRA}
MEASURES = ("solver_easy_t1", "solver_hard_t1", "coder_faithful", "proposer_valid")

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Plan:
    """One run."""

    variant: str
    seed: int
    steps: int
    phase_steps: int
    items: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py schedule`."""
    parser.add_argument("--steps", type=int, default=60, help="of each policy")
    parser.add_argument("--phase-steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=_ALL, default=list(VARIANTS))
    parser.add_argument("--heldout-items", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/schedule.jsonl"))


def run(options: argparse.Namespace) -> None:
    """Make the runs that are missing, then print what all of them say."""
    if options.steps % options.phase_steps:
        raise SystemExit(
            f"schedule: --steps {options.steps} is no multiple of --phase-steps "
            f"{options.phase_steps}: a whole phase's data would be gathered for the last, cut one"
        )
    wanted = [
        Plan(variant, seed, options.steps, options.phase_steps, options.heldout_items)
        for seed in options.seeds
        for variant in options.variants
    ]
    found = read(options.out)
    missing = [plan for plan in wanted if plan not in found]
    if missing:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        _make(missing, options.out)
        found = read(options.out)
    print(report({plan: found[plan] for plan in wanted}))


def read(out: Path) -> dict[Plan, Record]:
    """The finished runs of a file, if there is one. A line that a kill cut off is no run."""
    found: dict[Plan, Record] = {}
    for line in out.read_text().splitlines() if out.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[Plan(**record.pop("plan"))] = record
    return found


# one run


def _make(missing: Sequence[Plan], out: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bases = {items: _measure_base(folder, items) for items in {p.items for p in missing}}
        for number, plan in enumerate(missing, start=1):
            record = _run(folder / str(number), plan, bases[plan.items])
            with out.open("a") as file:
                file.write(json.dumps({"plan": asdict(plan), **record}) + "\n")
            told = f"{number}/{len(missing)} {plan.variant}, seed {plan.seed}"
            print(f"{told}: {record['wall_s']:.0f} s", file=sys.stderr, flush=True)


def _measure_base(folder: Path, items: int) -> Path | None:
    """The base's held-out measurement: the runs have it already, so that none plays during it."""
    if not items:
        return None
    overrides = ("run.steps=1", f"eval.heldout_items={items}")
    process = _start(folder, "base", overrides)
    if process.wait() != 0:
        raise SystemExit("schedule: the run that measures the base failed")
    return folder / "base" / "heldout-before.json"


def _start(root: Path, name: str, overrides: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [
            sys.executable, "launch/async_selfplay.py", "launch/configs/quickstart.yaml",
            f"run.root={root}", f"run.name={name}", "run.checkpoint_every=1000",
            "monitor.dashboard=false", "eval.majority_items=0", "eval.dev_items=0", *overrides,
        ],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def _run(root: Path, plan: Plan, base: Path | None) -> Record:
    run_dir = RunDir(root / "run")
    run_dir.path.mkdir(parents=True)
    if base is not None:
        shutil.copy(base, run_dir.path / "heldout-before.json")
    started_s = time.time()
    process = _start(
        root,
        "run",
        (
            f"run.seed={plan.seed}", f"run.steps={plan.steps}",
            f"streams.phase_steps={plan.phase_steps}", f"eval.heldout_items={plan.items}",
            *_ALL[plan.variant],
        ),
    )  # fmt: skip
    used: list[tuple[float, float]] = []
    try:
        while process.poll() is None:
            used.append((time.time(), cpu_s_of_tree(process.pid)))
            time.sleep(_POLL_S)
    finally:
        process.terminate()
    if process.returncode != 0:
        raise SystemExit(f"schedule: {plan} ended with status {process.returncode}")
    return _record(run_dir, started_s, used)


def _record(run_dir: RunDir, started_s: float, used: Sequence[tuple[float, float]]) -> Record:
    steps = [row for row in read_metrics(run_dir.metrics) if row["kind"] == "step"]
    with closing(sqlite3.connect(f"file:{run_dir.database}?mode=ro", uri=True)) as db:
        ((first_s,),) = db.execute("SELECT min(started_s) FROM games")
    last_s = max(row["t"] for row in steps)
    summary = json.loads(run_dir.summary.read_text())
    tokens = summary["tokens"].values()
    after = summary["heldout"]["after"]
    return {
        "wall_s": last_s - first_s,
        "cold_start_s": first_s - started_s,
        "cpu_s": _at(used, last_s) - _at(used, first_s),
        "groups": sum(stream["trained"] for stream in summary["groups"].values()),
        "games": summary["games"]["started"],
        "generated": sum(policy["generated"] for policy in tokens),
        "trained": sum(policy["trained"] for policy in tokens),
        "busy": summary["busy_fraction"],
        "heldout": {name: after[name] for name in MEASURES if name in after},
    }


def _at(used: Sequence[tuple[float, float]], time_s: float) -> float:
    """Processor seconds by then, between two readings in proportion."""
    before = [row for row in used if row[0] <= time_s] or list(used[:1])
    later = [row for row in used if row[0] > time_s] or list(used[-1:])
    (t0, c0), (t1, c1) = before[-1], later[0]
    return c0 if t1 <= t0 else c0 + (c1 - c0) * (time_s - t0) / (t1 - t0)


# what they say


def report(found: Mapping[Plan, Record]) -> str:
    """Markdown: means over the seeds, and ratios within a seed to streaming."""
    by_variant: dict[str, dict[int, Record]] = {}
    for plan, record in found.items():
        by_variant.setdefault(plan.variant, {})[plan.seed] = record
    streaming = by_variant.get("streaming", {})
    lines = [
        "| schedule | wall s | / streaming | cores busy | trained groups "
        "| generated / trained tokens | " + " | ".join(MEASURES) + " |",
        "|---" * (6 + len(MEASURES)) + "|",
    ]
    for variant, seeds in by_variant.items():
        rows = list(seeds.values())
        ratios = [r["wall_s"] / streaming[s]["wall_s"] for s, r in seeds.items() if s in streaming]
        cells = [
            variant,
            _spread([row["wall_s"] for row in rows], 0),
            _spread(ratios, 2),
            _spread([row["cpu_s"] / row["wall_s"] / _CORES for row in rows], 2),
            _spread([row["groups"] for row in rows], 0),
            _spread([row["generated"] / row["trained"] for row in rows], 2),
            *(_spread([r["heldout"][m] for r in rows if m in r["heldout"]], 3) for m in MEASURES),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if streaming:
        ideal = [row["cpu_s"] / _CORES for row in streaming.values()]
        over = [i / row["wall_s"] for i, row in zip(ideal, streaming.values(), strict=True)]
        cells = [
            f"ideal: streaming's work, {_CORES} cores always busy",
            _spread(ideal, 0),
            _spread(over, 2),
            *[""] * (3 + len(MEASURES)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    cold = [row["cold_start_s"] for row in found.values()]
    starts = f"one cold start of all processes: {_spread(cold, 1)} s; the release makes one a phase"
    return "\n".join([*lines, "", starts])


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
