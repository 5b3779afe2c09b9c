"""The arithmetic of `bench.py schedule` and `bench.py soak`, and what they read from /proc."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.benches.process_tree import cpu_s_of_tree, usage_of_tree
from launch.benches.schedule import MEASURES, VARIANTS, Plan, _at, read, report
from launch.benches.soak import kind_of, rates, table, trend
from launch.config import load_root
from tests.e2e.command import ROOT


def plan(variant: str, seed: int) -> Plan:
    return Plan(variant, seed, steps=10, phase_steps=5, items=50)


def record(wall_s: float, **changes: Any) -> dict[str, Any]:
    return {
        "wall_s": wall_s, "cold_start_s": 6.0, "cpu_s": 100.0, "groups": 40, "games": 30,
        "generated": 500, "trained": 100, "heldout": dict.fromkeys(MEASURES, 0.5), **changes,
    }  # fmt: skip


def test_ratios_are_taken_within_a_seed() -> None:
    found = {
        plan("sequential", 0): record(200.0),
        plan("streaming", 0): record(100.0, generated=200),
        plan("sequential", 1): record(30.0),
        plan("streaming", 1): record(10.0, generated=300),
    }
    rows = {line.split(" | ")[0].strip("| "): line for line in report(found).splitlines()}
    assert " 2.50 ± 0.71 " in rows["sequential"], "2 and 3, not 230 / 110"
    assert " 1.00 ± 0.00 " in rows["streaming"]
    assert " 5.00 ± 0.00 " in rows["sequential"], "generated / trained"
    assert " 2.50 ± 0.71 " in rows["streaming"]
    assert "one cold start of all processes: 6.0 ± 0.0 s" in report(found)


def test_processor_seconds_between_two_readings_are_in_proportion() -> None:
    used = [(10.0, 1.0), (20.0, 3.0), (30.0, 4.0)]
    assert [_at(used, t) for t in (5.0, 10.0, 15.0, 28.0, 99.0)] == [1.0, 1.0, 2.0, 3.8, 4.0]


def test_a_line_that_a_kill_cut_off_is_no_run(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert read(out) == {}
    out.write_text(
        '{"plan": {"variant": "shared", "seed": 1, "steps": 10, "phase_steps": 5, "items": 50}, '
        '"wall_s": 3}\n{"plan": {"vari'
    )
    assert read(out) == {plan("shared", 1): {"wall_s": 3}}


def test_phases_that_the_end_would_cut_short_are_no_comparison() -> None:
    command = [sys.executable, "launch/bench.py", "schedule", "--steps", "5", "--phase-steps", "2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode != 0
    assert "--steps 5 is no multiple of --phase-steps 2" in ended.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_a_config(variant: str) -> None:
    config = load_root(ROOT / "launch/configs/quickstart.yaml", VARIANTS[variant])
    assert config.streams.age_bound == (4 if variant == "streaming" else 0)
    is_fair = variant != "release"
    assert len(config.layout.servers) == (2 if is_fair else 1)


def readings(
    memory_per_hour: float, rng: random.Random, files_per_hour: float = 0.0
) -> list[dict[str, float]]:
    found, games = [], 0.0
    for number in range(600):
        t = 6.0 * number
        games += 15 + rng.uniform(-5, 5)
        noise = rng.uniform(-2e6, 2e6)
        # As many connections as there are requests: fewer at first, and never more than 30.
        under_way = min(30, rng.choice((20, 25, 30)) + number // 100)
        found.append(
            {
                "t": t, "games": games, "tokens": 500 * games,
                "files/engine": under_way + files_per_hour * t / 3600,
                "memory/engine": 100e6 + noise + memory_per_hour * t / 3600,
            }
        )  # fmt: skip
    return found


def test_a_leak_is_told_from_noise() -> None:
    rng = random.Random(0)
    flat = table(readings(0.0, rng), warm_up_s=720.0)
    assert flat.count("| yes |") == 4, flat
    leaks = table(readings(5e6, rng), warm_up_s=720.0)
    (memory,) = [line for line in leaks.splitlines() if line.startswith("| memory of engine, MB")]
    assert memory.endswith("| **no** |")
    lost = table(readings(0.0, rng, files_per_hour=2.0), warm_up_s=720.0)
    (files,) = [line for line in lost.splitlines() if line.startswith("| files of engine")]
    assert files.endswith("| **no** |")


def test_a_trend_is_a_line_through_blocks() -> None:
    points = [(36.0 * i, 7.0 + 0.02 * i) for i in range(120)]  # 2 per 100 readings, an hour
    found = trend(points)
    assert found.per_hour == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0)
    assert not found.is_flat


def test_rates_are_of_what_grew_between_two_readings() -> None:
    rows = [{"t": 0.0, "games": 0.0}, {"t": 30.0, "games": 10.0}, {"t": 60.0, "games": 10.0}]
    assert rates(rows, "games", 60.0) == [(15.0, 20.0), (45.0, 0.0)]


def test_a_tree_counts_its_children() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'print(1, flush=True); input()'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print('ready', flush=True)\n"
        "input()\n"
        "child.communicate(b'x')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        parent.stdout.readline()
        tree = usage_of_tree(parent.pid)
        assert len(tree) == 2
        assert tree[0].pid == parent.pid
        assert all(usage.memory > 2**20 for usage in tree)
        assert all(usage.descriptors >= 3 for usage in tree)
        total = cpu_s_of_tree(parent.pid)
        assert total == pytest.approx(sum(usage.cpu_s for usage in tree), abs=0.05)
        parent.stdin.write(b"x\n")
        parent.stdin.flush()
    assert usage_of_tree(parent.pid) == [], "it has ended"
    assert usage_of_tree(os.getpid())[0].cpu_s > 0


def test_processes_are_called_by_their_work() -> None:
    assert kind_of("python -m launch.engine runs/x ipc:///tmp/x") == "engine"
    assert kind_of("python -m engine.servers.embedded --model") == "rollout server"
    assert kind_of("python launch/async_selfplay.py x.yaml") == "ranks"
