"""What watching costs the engine: shares of its processor time, of a real run.

    python launch/bench.py monitor

Plays the quickstart (`--steps`) while browsers that read all events come (`--clients`) and go
again, window after window, and takes a profile of the engine's process, apart for both kinds of
windows. Printed: the share of its processor time in monitoring code (all of it: snapshots, records,
alarms and the truth that they compare games with, timelines, the terminal, the page's server) while
nobody watches, and what clients add: per second of all other work, the processor seconds with
clients over those without.

The profile does not see what clients make the event loop itself do. So beside it stand the
processor seconds per game of both kinds, over each other: all is in them; but games differ, so that
they can't tell a few percent.
Starting and writing the report at the end are not counted, nor the moments in which clients come,
nor looking for garbage (Python does it for whoever allocates when it is due).
"""

import argparse
import asyncio
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from engine.records import Records
from engine.rundir import RunDir
from launch.profiling import GARBAGE, by_mark, read_profile

_ROOT = Path(__file__).resolve().parents[2]
_MONITORING = (
    "engine/monitor/",
    "launch/watching.py",
    "launch/snapshots.py",
    "launch/probing.py",
    "launch/tally.py",
    "launch/library.py",
    "roles/mm_zero/curves.py",
    "evals/games.py",
)
_THROUGH = "engine/monitor/observed.py"
"""Its frames stand around all that a game awaits: they count only where they are the innermost."""
_SERVING = ("engine/monitor/stream.py", "aiohttp/web_")
_AT_THE_END = "launch/watching.py:finish"
_KINDS = {False: "without", True: "with"}
_MAX_SHARE, _MAX_RATIO = 0.01, 1.02
_SETTLE_S = 30.0
_CONNECT_S = 2.0
"""In which clients come, and get what was before: once for each, however long it stays."""
_START_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py monitor`."""
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--window-s", type=float, default=15.0)
    parser.add_argument("--parts", type=int, default=0, help="functions of monitoring to print")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_dir = RunDir(folder / "runs" / "watched")
        profile = folder / "profile"
        process = subprocess.Popen(
            [
                sys.executable, "launch/async_selfplay.py", "launch/configs/quickstart.yaml",
                f"run.root={folder / 'runs'}", "run.name=watched", f"run.steps={options.steps}",
                "monitor.port=0", "eval.heldout_items=0", "eval.majority_items=0",
                "eval.dev_items=0",
            ],
            cwd=_ROOT,
            env={**os.environ, "STREAMZERO_ENGINE_PROFILE": str(profile)},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            windows = asyncio.run(_watch(run_dir, process, options))
            process.wait()
        finally:
            process.terminate()
        parts = by_mark(read_profile(profile))
    profiles = {kind: _sum(parts.get(i, {}) for i in windows.marks[kind]) for kind in _KINDS}
    _print(windows, profiles, options)
    for kind, label in _KINDS.items():
        for part, share in by_function(profiles[kind], options.parts):
            print(f"    {label:<8} {share:.4f}  {part}")


@dataclass(slots=True)
class Windows:
    """By kind: with clients, or without."""

    per_game_s: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    """Processor seconds of the engine."""
    marks: dict[bool, list[int]] = field(default_factory=lambda: {True: [], False: []})
    """Of the profile."""


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for stack, number in part.items():
            total[stack] = total.get(stack, 0) + number
    return total


def shares(profile: Mapping[str, int]) -> dict[str, float]:
    """{"monitoring", "serving"}: shares of the time but that of looking for garbage; serving is
    part of monitoring."""
    found = {"monitoring": 0, "serving": 0}
    total = 0
    for stack, number in profile.items():
        if is_apart(stack):
            continue
        total += number
        frames = stack.split(";")
        if is_monitoring(frames):
            found["monitoring"] += number
            found["serving"] += number * any(_is_any(frame, _SERVING) for frame in frames)
    return {name: number / max(1, total) for name, number in found.items()}


def by_function(profile: Mapping[str, int], number: int) -> list[tuple[str, float]]:
    """The functions through which most of the time of monitoring is entered, and their shares."""
    sums: dict[str, int] = {}
    for stack, time_ in profile.items():
        frames = stack.split(";")
        if is_apart(stack) or not is_monitoring(frames):
            continue
        own = [frame for frame in frames if _is_any(frame, _MONITORING)]
        entry = " > ".join(frame.rpartition("/")[2] for frame in own[:3]) or "serving"
        sums[entry] = sums.get(entry, 0) + time_
    total = max(1, sum(n for stack, n in profile.items() if not is_apart(stack)))
    most = sorted(sums.items(), key=lambda item: -item[1])[:number]
    return [(entry, time_ / total) for entry, time_ in most]


def is_apart(stack: str) -> bool:
    """No part of play, or one that is everybody's."""
    return _AT_THE_END in stack or stack == GARBAGE


def is_monitoring(frames: Sequence[str]) -> bool:
    """Whether a stack is time of watching, all of it: outermost frame first."""
    own = [i for i, frame in enumerate(frames) if _is_any(frame, _MONITORING)]
    is_serving = any(_is_any(frame, _SERVING) for frame in frames)
    return is_serving or bool(own and not _passes_through(frames, own[-1]))


def _is_any(frame: str, parts: tuple[str, ...]) -> bool:
    return any(part in frame for part in parts)


def _passes_through(frames: Sequence[str], innermost: int) -> bool:
    """A game's request, under way inside of what watches it."""
    return _THROUGH in frames[innermost] and innermost < len(frames) - 1


async def _watch(
    run_dir: RunDir, process: "subprocess.Popen[bytes]", options: argparse.Namespace
) -> Windows:
    deadline = time.monotonic() + _START_S
    while not run_dir.dashboard.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the run did not begin")
        await asyncio.sleep(0.2)
    url = f"http://127.0.0.1:{json.loads(run_dir.dashboard.read_text())['port']}/"
    engine = _engine_of(run_dir)
    found = Windows()
    await asyncio.sleep(_SETTLE_S)
    has_clients, mark = False, 0
    while process.poll() is None:
        clients = [asyncio.create_task(_read(url)) for _ in range(options.clients * has_clients)]
        await asyncio.sleep(_CONNECT_S)
        before = _reading(run_dir, engine)
        await asyncio.sleep(options.window_s)
        after = _reading(run_dir, engine)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        if before and after and after[1] > before[1]:
            per_game_s = (after[0] - before[0]) / (after[1] - before[1])
            found.per_game_s[has_clients].append(per_game_s)
            found.marks[has_clients].append(mark + 1)
        mark += 2
        has_clients = not has_clients
    return found


async def _read(url: str) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}events") as r:
        while await r.content.readany():
            pass


def _reading(run_dir: RunDir, engine: int) -> tuple[float, int] | None:
    """(processor seconds, games finished) of the engine; None: it is gone. A mark in its profile.
    The games are those in the buffer: what the engine tells of them is older while somebody watches
    than when somebody comes."""
    try:
        os.kill(engine, signal.SIGUSR2)
        seconds = processor_s(engine)
    except OSError:
        return None
    records = Records.open(run_dir.database)
    try:
        return seconds, records.counts()["games"]["finished"]
    finally:
        records.close()


def processor_s(pid: int) -> float:
    """Of a process, user and system. Raises OSError where it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _engine_of(run_dir: RunDir) -> int:
    for entry in run_dir.pids.glob("[0-9]*"):
        if b"launch.engine" in Path(f"/proc/{entry.name}/cmdline").read_bytes():
            return int(entry.name)
    raise SystemExit("the run has no engine")


def _print(
    windows: Windows, profiles: Mapping[bool, Mapping[str, int]], options: argparse.Namespace
) -> None:
    if not all(len(values) > 1 for values in windows.per_game_s.values()):
        print("fewer than two whole windows of each kind: give more --steps")
        return
    if not all(profiles.values()):
        raise SystemExit("the profile has nothing of a kind of windows: did the engine restart?")
    found = {kind: shares(profile) for kind, profile in profiles.items()}
    share = found[False]["monitoring"]
    print(f"monitoring / engine, nobody watches  {share:.4f}  {_met(share, _MAX_SHARE)}")
    ratio = more_work(found[False], found[True])
    print(
        f"{options.clients} clients / none, by the profile   {ratio:.4f}  {_met(ratio, _MAX_RATIO)}"
    )
    print(f"  by code that serves them alone      {1 / (1 - found[True]['serving']):.4f}")
    ratio, margin = ratio_of_means(windows.per_game_s[True], windows.per_game_s[False])
    print(f"  by processor seconds per game       {ratio:.3f} +- {margin:.3f}")
    for kind, label in _KINDS.items():
        values = " ".join(f"{value:.3f}" for value in windows.per_game_s[kind])
        print(f"    {label:<8} {values}")


def more_work(alone: Mapping[str, float], watched: Mapping[str, float]) -> float:
    """How many times as much work a unit of other work comes with, by `shares` of both."""
    others = [1 - found["monitoring"] for found in (alone, watched)]
    return others[0] / others[1]


def ratio_of_means(over: Sequence[float], under: Sequence[float]) -> tuple[float, float]:
    """With two standard errors, from the spread of both."""
    means = [statistics.mean(values) for values in (over, under)]
    errors = [
        statistics.stdev(values) / mean / math.sqrt(len(values))
        for values, mean in zip((over, under), means, strict=True)
    ]
    ratio = means[0] / means[1]
    return ratio, 2 * ratio * math.hypot(*errors)


def _met(value: float, most: float) -> str:
    return f"(aim <= {most:g}: {'met' if value <= most else 'MISSED'})"
