"""What watching costs the engine: shares of its processor time, of a real run.

    python launch/bench.py monitor

Plays the quickstart (`--steps`) while browsers that read all events come (`--clients`) and go
again, window after window, and takes a profile of the engine's process. Printed: the share of its
processor time in monitoring code (all of it: snapshots, records, alarms, timelines, the terminal,
the page's server), and processor seconds per game in the windows with clients over those without,
beside the share that the profile finds in code that serves them. Writing the report at the end is
not counted.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from engine.buffer import Buffer
from engine.rundir import RunDir
from launch.profiling import read_profile

_ROOT = Path(__file__).resolve().parents[2]
_MONITORING = (
    "engine/monitor/",
    "launch/watching.py",
    "launch/snapshots.py",
    "launch/probing.py",
    "launch/tally.py",
    "launch/library.py",
)
_THROUGH = "engine/monitor/observed.py"
"""Its frames stand around all that a game awaits: they count only where they are the innermost."""
_SERVING = ("engine/monitor/stream.py", "aiohttp/web_")
_GAME = ("evals/games.py", "roles/mm_zero/curves.py")
"""The truth of the embedded world's games, and the curves of this game: shown apart."""
_AT_THE_END = "launch/watching.py:finish"
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
        stacks = read_profile(profile)
    _print(windows, shares(stacks), options)
    for part, share in by_function(stacks, options.parts):
        print(f"    {share:.4f}  {part}")


def shares(profile: Mapping[str, int]) -> dict[str, float]:
    """{"monitoring", "serving", "game"}: shares of the time; serving is part of monitoring."""
    found = {"monitoring": 0, "serving": 0, "game": 0}
    total = 0
    for stack, number in profile.items():
        if _AT_THE_END in stack:
            continue
        total += number
        frames = stack.split(";")
        if any(_is_any(frame, _GAME) for frame in frames):
            found["game"] += number
        elif is_monitoring(frames):
            found["monitoring"] += number
            found["serving"] += number * any(_is_any(frame, _SERVING) for frame in frames)
    return {name: number / max(1, total) for name, number in found.items()}


def by_function(profile: Mapping[str, int], number: int) -> list[tuple[str, float]]:
    """The functions through which most of the time of monitoring is entered, and their shares."""
    sums: dict[str, int] = {}
    for stack, time_ in profile.items():
        frames = stack.split(";")
        if _AT_THE_END in stack or not is_monitoring(frames):
            continue
        own = [frame for frame in frames if _is_any(frame, _MONITORING)]
        entry = " > ".join(frame.rpartition("/")[2] for frame in own[:3]) or "serving"
        sums[entry] = sums.get(entry, 0) + time_
    total = max(1, sum(n for stack, n in profile.items() if _AT_THE_END not in stack))
    most = sorted(sums.items(), key=lambda item: -item[1])[:number]
    return [(entry, time_ / total) for entry, time_ in most]


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
) -> dict[bool, list[float]]:
    """{with clients: processor seconds of the engine per game, by window}."""
    deadline = time.monotonic() + _START_S
    while not run_dir.dashboard.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("the run did not begin")
        await asyncio.sleep(0.2)
    url = f"http://127.0.0.1:{json.loads(run_dir.dashboard.read_text())['port']}/"
    engine = _engine_of(run_dir)
    found: dict[bool, list[float]] = {False: [], True: []}
    await asyncio.sleep(_SETTLE_S)
    has_clients = False
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
            found[has_clients].append((after[0] - before[0]) / (after[1] - before[1]))
        has_clients = not has_clients
    return found


async def _read(url: str) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}events") as r:
        while await r.content.readany():
            pass


def _reading(run_dir: RunDir, engine: int) -> tuple[float, int] | None:
    """(processor seconds, games finished) of the engine; None: it is gone. The games are those in
    the buffer: what the engine tells of them is older while somebody watches than when somebody
    comes."""
    try:
        seconds = processor_s(engine)
    except OSError:
        return None
    buffer = Buffer.open(run_dir.database, read_only=True)
    try:
        return seconds, buffer.counts()["games"]["finished"]
    finally:
        buffer.close()


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
    windows: Mapping[bool, list[float]], found: Mapping[str, float], options: argparse.Namespace
) -> None:
    monitoring = found["monitoring"] - found["serving"]
    print(f"monitoring / engine, processor time   {monitoring:.4f}  {_met(monitoring, _MAX_SHARE)}")
    print(f"  and what is known of this game's truth  {found['game']:.4f}")
    if not (windows[True] and windows[False]):
        print("no whole window of each kind: give more --steps")
        return
    ratio = statistics.median(windows[True]) / statistics.median(windows[False])
    met = _met(ratio, _MAX_RATIO)
    print(f"{options.clients} clients / none, per game          {ratio:.3f}  {met}")
    for has_clients, label in ((True, "with"), (False, "without")):
        values = " ".join(f"{value:.3f}" for value in windows[has_clients])
        print(f"  processor seconds per game {label:<8} {values}")
    print(f"  share of the time that serves them    {found['serving']:.4f} (half of the time)")


def _met(value: float, most: float) -> str:
    return f"(aim <= {most:g}: {'met' if value <= most else 'MISSED'})"
