"""The small parts behind the views: who waits where, what limits, curves, timelines."""

import asyncio
import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.monitor.bottleneck import bottleneck
from engine.monitor.curves import MAX_NEW, MAX_UNDRAWN, Chart, Curves, Point, draw
from engine.monitor.observed import TIMELINE, Timeline
from engine.monitor.shared import Shared
from engine.monitor.snapshot import PolicyView, Station, StreamView
from engine.monitor.traces import chrome_trace, step_times
from engine.monitor.waiting import Reading, Waiting
from engine.types import Invalid, Picture, Segment
from tests.engine.fakes import make_rollout


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0.01, 10)), min_size=1, max_size=20))
def test_waiting_is_the_sum_of_what_each_request_waited(spans: list[tuple[float, float]]) -> None:
    """(start, length) of requests that overlap as they like."""
    clock = Clock()
    waiting = Waiting(clock)
    moments = sorted(
        [(start, 1, k) for k, (start, _) in enumerate(spans)]
        + [(start + length, 0, k) for k, (start, length) in enumerate(spans)]
    )
    for at, begins, _ in moments:
        clock.now = at
        queue = waiting.at("renderer")
        (queue.enter if begins else queue.leave)()
    queue = waiting.at("renderer")
    assert (queue.now, queue.answered) == (0, len(spans))
    assert queue.waited_s == pytest.approx(sum(length for _, length in spans))


def test_a_request_that_still_waits_counts() -> None:
    clock = Clock()
    waiting = Waiting(clock)
    queue = waiting.at("a")
    queue.enter()
    clock.now = 3.0
    assert queue.waited_s == 3.0
    queue.leave()
    assert (queue.now, queue.answered, waiting.at("b").waited_s) == (0, 1, 0.0)
    assert waiting.at("a") is queue


def test_queues_that_others_keep_are_added() -> None:
    clock = Clock()
    waiting, other = Waiting(clock), Waiting(clock)
    for queue in (waiting.at("a"), other.at("a"), other.at("a")):
        queue.enter()
    clock.now = 2.0
    other.at("a").leave()
    for _ in range(2):  # what it says replaces what it said
        for station, told in other.tell().items():
            waiting.hear("other", station, **told)
    assert waiting.reading("a") == Reading(now=2, answered=1, waited_s=6.0)
    assert waiting.reading("b") == Reading(now=0, answered=0, waited_s=0.0)


def stations(**shares: float) -> dict[str, Station]:
    return {
        name: Station(kind="renderer" if name == "renderer" else "servers", units=1, wait_share=s)
        for name, s in shares.items()
    }


def policies(starved: float | None, step: int = 5) -> dict[str, PolicyView]:
    return {"a": PolicyView(step=step, total_steps=10, starved=starved)}


@pytest.mark.parametrize(
    "starved, part", [(0.0, "learner"), (0.19, "learner"), (0.5, "renderer"), (1.0, "renderer")]
)
def test_learners_limit_where_they_never_wait(starved: float, part: str) -> None:
    found = bottleneck(
        policies(starved), stations(a=0.3, renderer=0.7), {"a": StreamView()}, phase="self-play"
    )
    assert found.part == part
    assert "bottleneck" in found.sentence
    assert found.advice


def test_two_that_are_close_are_both_named() -> None:
    found = bottleneck(policies(0.9), stations(a=0.55, b=0.45), {}, phase="self-play")
    assert found.part == "a"
    assert "the servers of b" in found.sentence.lower()
    found = bottleneck(policies(0.9), stations(a=0.8, b=0.2), {}, phase="self-play")
    assert "servers of b" not in found.sentence


@pytest.mark.parametrize(
    "given_, phase, paused, word",
    [
        (policies(0.0), "measuring the base", False, "measuring the base"),
        (policies(0.0), "self-play", True, "Paused"),
        (policies(None), "self-play", False, "early"),
        (policies(0.0, step=10), "self-play", False, "early"),
    ],
)
def test_where_nothing_limits_it_says_why(
    given_: dict[str, PolicyView], phase: str, paused: bool, word: str
) -> None:
    found = bottleneck(given_, stations(a=1.0), {}, phase=phase, is_paused=paused)
    assert found.part == ""
    assert word in found.sentence


# curves

CHART = Chart("c", "learning", "C")


def plain(record: Any, first_s: float) -> list[Point]:
    return [Point(CHART, "s", record["x"], record["y"])]


@given(st.integers(1, 5000))
def test_a_series_is_bounded_and_keeps_its_range(number: int) -> None:
    curves = Curves(plain, max_points=50)
    for x in range(number):
        curves.add({"t": 0.0, "x": x, "y": 2.0 * x})
    points = curves.all()[0]["series"]["s"]
    assert 1 <= len(points) <= 51
    xs = [x for x, _ in points]
    assert xs == sorted(set(xs))
    assert all(y == 2 * x for x, y in points)
    assert xs[-1] > 0.9 * (number - 1) - 50


def test_new_points_are_given_once_and_undone_ones_ask_for_all() -> None:
    curves = Curves(plain)
    for x in (1, 2, 3):
        curves.add({"t": 0.0, "x": x, "y": 1.0})
    new = curves.take_new()
    assert new is not None
    assert new[0]["series"] == {"s": [[1, 1.0], [2, 1.0], [3, 1.0]]}
    assert curves.take_new() == []
    curves.add({"t": 0.0, "x": 2, "y": 5.0})  # a restart went back
    assert curves.take_new() is None
    assert curves.all()[0]["series"]["s"] == [(1, 1.0), (2, 5.0)]
    curves.add({"t": 0.0, "x": 3, "y": math.nan})
    assert curves.take_new() == []


def test_what_nobody_takes_is_bounded_and_a_record_that_cannot_be_drawn_is_left_out() -> None:
    curves = Curves(plain, max_points=10 * MAX_NEW)
    for x in range(MAX_NEW + MAX_UNDRAWN):
        curves.add({"t": 0.0, "x": x, "y": 1.0})
    assert curves.take_new() is None, "look at all"
    assert len(curves.all()[0]["series"]["s"]) == MAX_NEW + MAX_UNDRAWN
    curves.add({"t": 0.0, "x": 10**6})
    curves.add({"t": 0.0, "x": 10**6, "y": 2.0})
    with pytest.raises(KeyError):
        curves.take_new()
    new = curves.take_new()
    assert new is not None
    assert new[0]["series"] == {"s": [[10**6, 2.0]]}


def test_every_kind_of_record_is_drawn_or_passed_over() -> None:
    curves = Curves(draw)
    records: list[dict[str, Any]] = [
        {"kind": "step", "policy": "a", "step": 1, "skipped": False, "reward": 0.5,
         "age_mean": 1.0, "metrics": {"entropy": 0.3, "grad_norm": None, "other": 1.0}},
        {"kind": "step", "policy": "a", "step": 1, "skipped": True, "reward": 9.0, "metrics": {}},
        {"kind": "engine", "policies": {"a": {"generated_per_s": 5.0, "trained_per_s": 1.0}},
         "busy": {"learner": 0.5}},
        {"kind": "groups", "games": 7, "streams": {"a": {"kept": 0.5, "term/x": 0.1}},
         "play": {"Gap": {"gap": 0.1}}},
        {"kind": "groups", "streams": {}},
        {"kind": "dev", "step": 2, "means": {"m": 0.2, "n": None}},
        {"kind": "heldout", "when": "heldout-before", "means": {"m": 0.2}, "seconds": 1.0},
        {"kind": "heldout", "when": "heldout-after", "step": 9, "means": {"m": 0.4, "n": 0.1},
         "ci95": {"m": [0.3, 0.5], "n": [None, None]}, "seconds": 1.0},
        {"kind": "heldout", "when": "heldout-after", "means": {"m": 0.9}},
        {"kind": "benchmarks", "policy": "a", "step": 2,
         "scores": {"b": {"title": "B", "estimate": 0.4, "low": 0.3, "high": 0.6},
                    "c": {"title": "C", "estimate": 0.4}}},
        {"kind": "event", "level": "info", "text": "hello"},
        {"kind": "from the future"},
    ]  # fmt: skip
    for second, record in enumerate(records):
        curves.add({"t": 100.0 + 60 * second, **record})
    found = {chart["id"]: chart["series"] for chart in curves.all()}
    assert found["reward"] == {"a": [(1, 0.5)]}
    assert found["entropy"] == {"a": [(1, 0.3)]}
    assert found["tokens"] == {"a": [(2.0, 5.0)]}
    assert found["play/Gap"] == {"gap": [(7, 0.1)]}
    assert found["terms/a"] == {"x": [(3.0, 0.1)]}
    assert found["dev"] == {"m": [(2, 0.2)]}
    assert found["heldout"] == {"m": [(0, 0.2), (9, 0.4, 0.3, 0.5)], "n": [(9, 0.1)]}
    assert found["benchmarks"] == {"B": [(2, 0.4, 0.3, 0.6)], "C": [(2, 0.4)]}
    new = curves.take_new()
    assert new is not None
    told = {chart["id"]: chart["series"] for chart in new}
    assert told["heldout"]["m"] == [[0, 0.2], [9, 0.4, 0.3, 0.5]]
    assert "grad_norm" not in found


# answers that are shared


def test_an_answer_is_made_once_for_all_who_ask_while_it_is_made_or_new() -> None:
    clock, made = Clock(), 0

    async def scene() -> None:
        nonlocal made
        go_on = asyncio.Event()

        async def make() -> int:
            nonlocal made
            made += 1
            await go_on.wait()
            clock.now += 0.1
            return made

        shared = Shared(make, 1.0, clock)
        asked = [asyncio.create_task(shared()) for _ in range(5)]
        await asyncio.sleep(0)
        asked[0].cancel()  # who goes away takes nothing from the others
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*asked[1:]) == [1, 1, 1, 1]
        clock.now += 2.0
        assert await shared() == 2, "what took long once may only have been kept waiting"
        clock.now += 4.0
        assert await shared() == 2, "what takes long is kept for longer"
        clock.now += 2.0
        assert await shared() == 3

    asyncio.run(asyncio.wait_for(scene(), 10))
    assert made == 3


def test_a_failure_is_told_to_who_asked_and_not_kept() -> None:
    answers = iter([ValueError("no"), 7])

    async def make() -> int:
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    async def scene() -> None:
        shared = Shared(make, 1.0, Clock())
        with pytest.raises(ValueError, match="no"):
            await shared()
        assert await shared() == 7

    asyncio.run(asyncio.wait_for(scene(), 10))


# timelines


def test_a_timeline_tells_every_rollout_and_picture_in_the_order_of_their_ends() -> None:
    timeline = Timeline()
    begun = timeline.started_s
    early = make_rollout(started_s=begun + 1, finished_s=begun + 2.5, server="http://a")
    late = make_rollout(
        started_s=begun + 2,
        finished_s=begun + 4,
        server="http://b",
        segments=(Segment(0, 3), Segment(1, 4)),
    )
    timeline.sampled("coder", [early])
    timeline.rendered(begun, Invalid("timeout"))
    timeline.sampled("solver", [late, early])
    timeline.rendered(begun, Picture(b"", 1, 1))
    note = timeline.note
    assert note["servers"] == ["http://a", "http://b"]
    near = [
        ("coder", 1000, 1500, 2, 1, 0),
        ("solver", 2000, 2000, 2, 4, 1),
        ("solver", 1000, 1500, 2, 1, 0),
    ]
    for told, row in zip(note["samples"], near, strict=True):
        assert told[0] == row[0]
        assert told[1:] == pytest.approx(row[1:], abs=1)  # milliseconds, cut off
    assert [outcome for *_, outcome in note["pictures"]] == ["timeout", "picture"]
    assert json.loads(json.dumps(timeline.note)) == json.loads(json.dumps(note))


def test_a_trace_has_every_part_of_a_game_and_rows_without_overlap() -> None:
    timeline = Timeline()
    begun = timeline.started_s
    timeline.sampled(
        "solver",
        [
            make_rollout(started_s=begun + 1, finished_s=begun + 3, server="http://a"),
            make_rollout(started_s=begun + 2, finished_s=begun + 4, server="http://b"),
            make_rollout(started_s=begun + 3.5, finished_s=begun + 5, server="http://a"),
        ],
    )
    timeline.rendered(begun, Invalid("timeout"))
    group = {"stream": "solver", "policy": "solver", "state": "trained", "reason": None,
             "step": 4, "age": 1, "created_s": begun + 5}  # fmt: skip
    game = {
        "game": 9, "state": "finished", "reason": None, "started_s": begun, "ended_s": begun + 6,
        "notes": {TIMELINE: timeline.note},
        "groups": [group, {**group, "state": "dropped", "reason": "too_easy", "step": None}],
    }  # fmt: skip
    steps = step_times(
        [
            {"kind": "step", "policy": "solver", "step": 4, "t": begun + 7},
            {"kind": "step", "policy": "solver", "step": 4, "t": begun + 8},  # made again
            {"kind": "step", "policy": "solver", "step": 5, "t": 0.0, "skipped": True},
        ]
    )
    events = chrome_trace([game], steps)["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    for lane in {span["tid"] for span in spans}:
        own = sorted((s["ts"], s["ts"] + s["dur"]) for s in spans if s["tid"] == lane)
        assert all(end <= start for (_, end), (start, _) in pairwise(own))
    names = [span["name"] for span in spans]
    assert names == ["admitted", "solver", "solver", "solver", "timeout", "trained, step 4"]
    trained = spans[-1]
    assert trained["ts"] + trained["dur"] == pytest.approx((begun + 8) * 1e6, abs=2)
    assert [event["name"] for event in events if event["ph"] == "i"] == ["dropped: too_easy"]
    assert {span["args"].get("server") for span in spans[1:4]} == {"http://a", "http://b"}
