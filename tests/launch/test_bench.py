"""The benchmarks' own arithmetic; what they measure is for people to run."""

import asyncio
import base64
import subprocess
import sys
from pathlib import Path

import pytest

from launch.benches import reference
from launch.benches.render import Cost, Ratio, drive, ratios

BENCH = Path(__file__).resolve().parents[2] / "launch" / "bench.py"


def test_ratios_are_medians_of_ratios_within_a_round() -> None:
    costs = {
        "reference": [Cost(40, 0, 40), Cost(20, 0, 20), Cost(30, 0, 30)],
        "reference pool": [Cost(50, 10, 90), Cost(50, 10, 30), Cost(50, 10, 30)],
        "limit": [Cost(6, 0, 6)] * 3,
        "png 1": [Cost(9, 1, 10)] * 3,
        "png 2": [Cost(9, 1, 5), Cost(18, 2, 10), Cost(9, 1, 5)],
        "raw 1": [Cost(8, 1, 9)] * 3,
        "raw 2": [Cost(6, 2, 4)] * 3,
    }
    values = {ratio.name: round(ratio.value, 3) for ratio in ratios(costs)}
    assert values == {
        "reference / ours, PNG (worker + parent)": 3.0,  # of 4, 1 and 3
        "reference / ours, raw (worker + parent)": 3.75,
        "limit / ours, PNG (worker)": 0.667,
        "limit / ours, raw (worker)": 1.0,
        "two workers / one, PNG (worker)": 1.0,
        "two workers / one, raw (worker)": 0.75,
        "parent / worker, PNG, two workers": 0.111,
        "parent / worker, raw, two workers": 0.333,
        "reference / limit (no pool around cairosvg gains more)": 5.0,
        "reference pool / ours, PNG, two workers (wall)": 6.0,  # of 18, 3 and 6
        "reference pool / ours, PNG, two workers (all CPU)": 6.0,
    }


@pytest.mark.parametrize(
    "ratio, end",
    [
        (Ratio("a", 1.31, 1.3), "met"),
        (Ratio("a", 1.29, 1.3), "MISSED"),
        (Ratio("a", 0.1, 0.2, at_most=True), "met"),
        (Ratio("a", 0.3, 0.2, at_most=True), "MISSED"),
        (Ratio("a", 7.0), "7.00"),
    ],
)
def test_a_goal_stands_beside_its_number(ratio: Ratio, end: str) -> None:
    assert str(ratio).endswith(end)


def test_everything_is_driven_once_by_no_more_callers_than_asked_for() -> None:
    done: list[int] = []
    running = most = 0

    async def one(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(item)

    asyncio.run(drive(one, range(20), 4))
    assert sorted(done) == list(range(20))
    assert most == 4


def test_the_reference_makes_a_png_of_the_drawing_s_own_size() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><circle r="9"/></svg>'
    png, width, height = reference.body(svg)
    assert base64.b64decode(png).startswith(b"\x89PNG")
    assert (width, height) == (40, 30)


@pytest.mark.parametrize(
    "part, words",
    [("render", "reference pool"), ("server", "concurrency"), ("learner", "own forward")],
)
def test_help_says_what_is_measured(part: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH), part, "--help"], capture_output=True, text=True, check=True
    )
    assert words in done.stdout
