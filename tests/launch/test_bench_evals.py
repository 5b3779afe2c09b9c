"""The bench of evaluations, in small: every way does all of the work, and kills cost nothing."""

import argparse
import asyncio

import pytest

from launch.benches.canned_server import duration_s
from launch.benches.evals import add_arguments, canned, make_rows, measure
from launch.benches.evals_killed import Survival, survive


def test_every_way_has_the_same_work() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(["--rows", "24", "--concurrency", "8"])
    with canned("--slots", "4", "--mean-s", "0.01") as url:
        found = asyncio.run(measure(options, url, 0))
    assert list(found) == ["ceiling", "ours", "batches"]
    assert all(0 < way["busy"] <= 1 and way["rate"] > 0 for way in found.values())


def test_an_answer_takes_the_time_that_its_seed_says() -> None:
    times = [duration_s(seed, 0.5) for seed in range(4000)]
    assert times == [duration_s(seed, 0.5) for seed in range(4000)]
    assert sum(times) / len(times) == pytest.approx(0.5, rel=0.05)
    assert max(times) > 4 * 0.5


def test_pictures_are_all_different() -> None:
    assert len({row.images["image"] for row in make_rows(20, 0)}) == 20


@pytest.mark.slow
def test_rows_are_scored_once_through_kills_and_failing_requests() -> None:
    with canned("--mean-s", "0.05", "--fail", "0.05", "--slots", "16") as url:
        found = survive(url, rows=600, kills=2)
    assert (found.scored, found.repeated) == (600, 0)
    assert found.failures > 0
    assert 0 < found.kills[0] < found.kills[1] < 600
    # Asked again: what failed, and what was under way when a kill came.
    assert found.asked <= 600 + found.failures + 2 * 64


@pytest.mark.parametrize(
    "scored, repeated, verdict", [(9, 0, "met"), (8, 0, "MISSED"), (9, 1, "MISSED")]
)
def test_a_verdict_stands_beside_the_counts(scored: int, repeated: int, verdict: str) -> None:
    found = Survival(
        rows=9, kills=(3, 6), scored=scored, asked=12, failures=2, repeated=repeated, wall_s=1.0
    )
    assert str(found).endswith(verdict)
    assert "killed at 3 and 6 answers" in str(found)
