"""Does a run stay as it is? Memory, open files and rate of the embedded default over an hour.

    python launch/bench.py soak --minutes 60

Plays the quickstart without an end (and stops it like Ctrl-C), and reads the resident memory and
the open files of each of its processes every few seconds, how many games have ended, and how many
tokens were generated. Printed, from the end of the warm-up (`--warm-up` minutes, before the others:
so long windows and caches of a bounded size take to fill) on: level and slope per hour of each,
with an interval of 95 % from the means of blocks (neighbouring readings are no independent ones).
Flat: the interval holds 0, or the growth in an hour is under 1 % of the level. Of open files it is
the most in each block: how many there are at a moment follows the requests under way, and a leak
lifts them all. The weights stay as they are (`_LR`). Games take the longer the more is said in
them, so beside their rate stands that of tokens.
"""

import argparse
import json
import math
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from engine.rundir import RunDir
from launch.benches.process_tree import usage_of_tree

_ROOT = Path(__file__).resolve().parents[2]
_EVERY_S = 5.0
_NUM_BLOCKS = 12
_T95 = {10: 2.228}
"""Student's t of 12 blocks less the 2 numbers of a line."""
_LR = 1e-12
"""Steps are made as ever, and teach nothing: else replies grow in the course of thousands of steps,
and with them games, caches and the memory of servers."""
SMALL = 0.01
_KINDS = {
    "launch.engine": "engine",
    "render_pool": "render worker",
    "embedded": "rollout server",
    "torchrun": "torchrun",
    "torch.distributed.run": "torchrun",
    "grading": "grader",
}


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through readings over time."""

    level: float
    """Mean of the blocks."""
    per_hour: float
    low: float
    high: float
    """Of `per_hour`, 95 %."""

    @property
    def is_flat(self) -> bool:
        return self.low <= 0 <= self.high or abs(self.per_hour) < SMALL * abs(self.level)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py soak`."""
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=45.0, help="minutes before them")
    parser.add_argument("--config", type=Path, default=Path("launch/configs/quickstart.yaml"))
    parser.add_argument("--out", type=Path, help="keep the readings here, a JSON line each")


def run(options: argparse.Namespace) -> None:
    """Play, read, and print the trends."""
    if options.minutes < 3:
        raise SystemExit(f"--minutes {options.minutes:g}: too few readings; want 3 or more")
    rows: list[Reading] = []
    with tempfile.TemporaryDirectory() as name, (options.out or Path(os.devnull)).open("w") as out:

        def keep(row: Reading) -> None:
            rows.append(row)
            out.write(json.dumps(row) + "\n")
            out.flush()

        _play(options, Path(name), keep)
    print(table(rows, warm_up_s=60 * options.warm_up))


Reading = Mapping[str, float]
"""{"t": seconds, "games": ended so far, "tokens": generated so far, "memory/KIND": bytes,
"files/KIND": number}."""


def _play(options: argparse.Namespace, root: Path, keep: Callable[[Reading], None]) -> None:
    run_dir = RunDir(root / "soak")
    process = subprocess.Popen(
        [
            sys.executable, "launch/async_selfplay.py", str(options.config), f"run.root={root}",
            "run.name=soak", "run.steps=1000000", "monitor.port=0", "eval.heldout_items=0",
            "eval.majority_items=0", "eval.dev_items=0", f"learner.lr={_LR}",
        ],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    end_s = time.monotonic() + 60 * (options.warm_up + options.minutes)
    try:
        while time.monotonic() < end_s:
            if process.poll() is not None:
                raise SystemExit(f"soak: the run ended by itself, status {process.returncode}")
            if (progress := _progress(run_dir)) is not None:
                keep(progress | reading(process.pid))
            time.sleep(_EVERY_S)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def reading(pid: int) -> dict[str, float]:
    """Of now; processes of one kind together."""
    found = {"t": time.monotonic()}
    for usage in usage_of_tree(pid):
        kind = kind_of(usage.command)
        for name, value in (("memory", usage.memory), ("files", usage.descriptors)):
            key = f"{name}/{kind}"
            found[key] = found.get(key, 0.0) + value
    return found


def kind_of(command: str) -> str:
    """What a process of a run is, by its command line."""
    return next((kind for part, kind in _KINDS.items() if part in command), "ranks")


def _progress(run_dir: RunDir) -> dict[str, float] | None:
    """Games that ended, and tokens; None: there is no run yet."""
    if not run_dir.database.exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{run_dir.database}?mode=ro", uri=True)) as db:
            ((games,),) = db.execute("SELECT count(*) FROM games WHERE state != 'in_flight'")
            counters = "SELECT total(value) FROM counters WHERE name LIKE 'generated/%'"
            ((tokens,),) = db.execute(counters)
    except sqlite3.OperationalError:  # its tables are being made
        return None
    return {"games": float(games), "tokens": tokens}


def table(rows: Sequence[Reading], *, warm_up_s: float) -> str:
    """Markdown, a line for each kind of process and number."""
    kept = [row for row in rows if row["t"] >= rows[0]["t"] + warm_up_s]
    hours = (kept[-1]["t"] - kept[0]["t"]) / 3600
    lines = [
        f"{hours * 60:.0f} minutes after the warm-up, {len(kept)} readings, {os.cpu_count()} cores",
        "",
        "| | level | per hour | 95 % | flat |",
        "|---|---|---|---|---|",
    ]
    units = {"memory": ("MB", 1e6), "files": ("", 1.0)}
    for key in sorted({key for row in kept for key in row if "/" in key}):
        name, _, kind = key.partition("/")
        unit, scale = units[name]
        points = [(row["t"], row[key] / scale) for row in kept if key in row]
        if len(points) >= 2 * _NUM_BLOCKS:
            found = trend(points, max if name == "files" else statistics.fmean)
            lines.append(_row(f"{name} of {kind}, {unit}".rstrip(", "), found))
    lines.append(_row("games per minute", trend(rates(kept, "games", 60.0))))
    lines.append(_row("tokens per second", trend(rates(kept, "tokens", 1.0))))
    return "\n".join(lines)


def rates(rows: Sequence[Reading], name: str, per_s: float) -> list[tuple[float, float]]:
    """(time, growth in so many seconds) between a reading and the next."""
    return [
        ((a["t"] + b["t"]) / 2, per_s * (b[name] - a[name]) / (b["t"] - a["t"]))
        for a, b in pairwise(rows)
    ]


def trend(
    points: Sequence[tuple[float, float]],
    of: Callable[[Sequence[float]], float] = statistics.fmean,
) -> Trend:
    """Least squares through the means of 12 blocks of (seconds, value), or what else `of` makes of
    their values; the slope per hour."""
    size = len(points) / _NUM_BLOCKS
    blocks = [points[int(i * size) : int((i + 1) * size)] for i in range(_NUM_BLOCKS)]
    xs = [statistics.fmean(t for t, _ in block) / 3600 for block in blocks]
    ys = [of([value for _, value in block]) for block in blocks]
    slope, start = statistics.linear_regression(xs, ys)
    mean_x = statistics.fmean(xs)
    spread = sum((x - mean_x) ** 2 for x in xs)
    rest = sum((y - start - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    half = _T95[_NUM_BLOCKS - 2] * math.sqrt(rest / (_NUM_BLOCKS - 2) / spread)
    return Trend(statistics.fmean(ys), slope, slope - half, slope + half)


def _row(name: str, found: Trend) -> str:
    interval = f"{found.low:+.2f} .. {found.high:+.2f}"
    flat = "yes" if found.is_flat else "**no**"
    return f"| {name} | {found.level:.1f} | {found.per_hour:+.2f} | {interval} | {flat} |"
