"""What the dashboard's gallery reads, and the timelines from the command line."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import metrics
from engine.buffer import Buffer
from engine.monitor.observed import TIMELINE, Timeline
from engine.rundir import RunDir
from launch import trace
from launch.gallery import game_html
from launch.library import Library, Wanted, reasons_of, rewards_of
from roles.mm_zero.config import STREAMS
from tests.engine.make_groups import make_group, make_rollout


def a_game(**changes: Any) -> dict[str, Any]:
    proposals = [
        {"invalid": "missing_tag: content_type", "reward": -1.0, "text": "?"},
        {
            "reward": 0.5,
            "proposal": {"caption": "a red square"},
            "drawings": [
                {"reward": 0.0, "invalid": "not_svg"},
                {"reward": 1.5, "drop": "too_easy", "hard": {"rewards": [1.0, 0.25]}},
            ],
        },
    ]
    notes = {"topic": "colors", "proposals": proposals}
    return {"game": 1, "state": "finished", "reason": None, "notes": notes, **changes}


def test_reasons_and_rewards_of_a_game() -> None:
    assert reasons_of(a_game(reason="deadline")) == {
        "deadline", "missing_tag", "not_svg", "too_easy",
    }  # fmt: skip
    assert rewards_of(a_game()) == {
        "proposer": [-1.0, 0.5], "coder": [0.0, 1.5], "solver": [1.0, 0.25],
    }  # fmt: skip


@pytest.mark.parametrize(
    "query, passes",
    [
        ({}, True),
        ({"role": "coder"}, True),
        ({"role": "coder", "min_reward": "1.4"}, True),
        ({"role": "proposer", "min_reward": "1.4"}, False),
        ({"min_reward": "1.4"}, True),
        ({"max_reward": "-1.5"}, False),
        ({"role": "solver", "min_reward": "0.2", "max_reward": "0.3"}, True),
        ({"reason": "too_easy"}, True),
        ({"reason": "too_hard"}, False),
        ({"topic": "COL"}, True),
        ({"topic": "shapes"}, False),
    ],
)
def test_a_filter_lets_pass_what_it_says(query: dict[str, str], passes: bool) -> None:
    assert Wanted.of(query, STREAMS).passes(a_game()) is passes


@given(
    st.dictionaries(st.sampled_from(["role", "reason", "topic", "limit", "min_reward"]), st.text())
)
def test_any_query_is_a_filter_or_a_clear_error(query: dict[str, str]) -> None:
    wanted, problem = None, ""
    try:
        wanted = Wanted.of(query, STREAMS)
    except ValueError as error:
        problem = str(error)
    if wanted is None:
        assert problem.partition(":")[0] in query
    else:
        assert 1 <= wanted.limit <= 50
        assert not math.isnan(wanted.min_reward)


@pytest.mark.parametrize(
    "notes", [{}, {"proposals": None}, {"proposals": "?"}, {"proposals": [None, 3, {}]}]
)
def test_notes_of_another_form_hurt_nothing(notes: dict[str, Any]) -> None:
    game = a_game(notes=notes)
    assert isinstance(rewards_of(game), dict)
    assert reasons_of(game) == set()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.create()
    buffer = Buffer.open(run.database)
    for number in (1, 2):
        game = buffer.start_game("fake")
        assert game == number
        buffer.submit(make_group(game=game))
        timeline = Timeline()
        timeline.sampled("solver", [make_rollout()])
        buffer.end_game(game, notes={TIMELINE: timeline.note, "topic": "<b>", "proposals": []})
    buffer.close()
    return run


def test_a_trace_is_written_for_the_games_that_are_asked_for(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace.main([str(run.path), "--game", "2"]) == 0
    path = Path(capsys.readouterr().out.strip())
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {2}
    assert trace.main([str(run.path), "-o", str(run.path / "all.json")]) == 0
    events = json.loads((run.path / "all.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events} == {1, 2}


def test_a_trace_of_what_is_not_there_says_so(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace.main([str(run.path), "--game", "9"]) == 2
    assert "--game 9" in capsys.readouterr().err
    assert trace.main([str(tmp_path)]) == 2
    assert "no run here" in capsys.readouterr().err


def test_the_library_reads_beside_a_run_that_writes(run: RunDir) -> None:
    library = Library(run, STREAMS)
    assert "game 2" in library.gallery({})
    assert "<b>" not in library.gallery({})
    writer = Buffer.open(run.database)
    with writer.transaction():
        assert "game 1" in library.game(1)
    writer.close()
    with pytest.raises(KeyError):
        library.game(3)
    with pytest.raises(KeyError):
        library.image("00")


def test_a_timeline_is_made_without_reading_all_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    buffer = Buffer.open(run.database)
    assert buffer.reserve_version("solver", 0, 1) == 1
    game = buffer.start_game("fake")
    buffer.submit(make_group(game=game))
    buffer.end_game(game, notes={"topic": "x"})
    assert buffer.lease(
        "solver", 1, 1, games={"solver": [game]}, steps={"solver": 0}, max_age={"solver": 4}
    )
    assert buffer.trained("solver", 1, 1, 3) == 1
    buffer.close()
    now_s = time.time()
    rows = [{"t": now_s - 9e4 + n, "kind": "step", "policy": "solver", "step": n} for n in range(9)]
    rows += [{"t": now_s - 8e4 + n, "kind": "engine", "filling": "x" * 500} for n in range(5000)]
    rows += [{"t": now_s + 7, "kind": "step", "policy": "solver", "step": 3, "skipped": False}]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(metrics, "MAX_READ", 200_000)  # of 2.7 MB
    events = Library(run, STREAMS).trace(game)["traceEvents"]
    (trained,) = [event for event in events if event["name"] == "trained, step 3"]
    assert trained["ts"] + trained["dur"] == pytest.approx((now_s + 7) * 1e6, abs=1e3)


def test_a_game_that_kept_only_its_timeline_says_so() -> None:
    game = {"game": 3, "state": "finished", "reason": None, "notes": {TIMELINE: {"samples": []}}}
    page = game_html(game, lambda name: None)
    assert "nothing but its timeline" in page
    assert "{}" not in page
