"""What an evaluation says while it goes: plain lines where there is no terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

import launch.evaluating.progress as progress
from evals.data import Loaded
from evals.runner import Outcome
from launch.evaluating.progress import Shown, summary_line
from tests.evals.small_benchmark import SMALL


def outcome(**changes: Any) -> Outcome:
    loaded = Loaded(rows=(), refused=(), found=4, revision="local", fingerprint="f")
    return Outcome(benchmark=SMALL, loaded=loaded, rows=4, **changes)


def record(score: float | None, *flags: str) -> dict[str, Any]:
    return {"row": "q", "sample": 0, "score": score, "flags": list(flags)}


def shown() -> tuple[Shown, io.StringIO]:
    out = io.StringIO()
    return Shown(Console(file=out, width=200)), out


def test_a_benchmark_ends_with_one_line() -> None:
    screen, out = shown()
    with screen:
        screen.began(SMALL, 4, 1)
        for score in (1.0, 0.0, 1.0, 1.0):
            screen.scored(SMALL, record(score))
        screen.finished(outcome(records=[record(1.0)] * 4))
    assert out.getvalue() == "small: 75.0 [30.1, 95.4] over 4 answers\n"


def test_what_stands_in_the_way_is_said() -> None:
    records = [record(None, "unjudged", "truncated"), record(0.0, "truncated")]
    done = outcome(records=records, refused=[("q2", "why")], missing=[("q3", 0, "gone")], kept=1)
    assert summary_line(done, "0.0 [0.0, 79.3]") == (
        "small: 0.0 [0.0, 79.3] over 2 answers (2 truncated, 1 unjudged, 1 rows skipped, "
        "1 missing: the same command asks again, 1 from before)"
    )


def test_unscored_is_not_zero() -> None:
    screen, out = shown()
    with screen:
        screen.began(SMALL, 1, 1)
        screen.scored(SMALL, record(None, "unjudged"))
        screen.finished(outcome(records=[record(None, "unjudged")]))
    assert out.getvalue() == "small: no score over 1 answers (1 unjudged)\n"


def test_the_first_skipped_rows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, out = shown()
    with screen:
        screen.began(SMALL, 9, 1)
        for number in range(9):
            screen.skipped(SMALL, f"[q{number}]", "the picture is missing")
    lines = out.getvalue().splitlines()
    assert lines[0] == "small: skipped '[q0]': the picture is missing"
    assert len(lines) == 5


def test_without_a_terminal_a_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_S", 0.0)
    screen, out = shown()
    with screen:
        screen.began(SMALL, 2, 2)
        screen.scored(SMALL, record(1.0))
    assert out.getvalue().startswith("small: 1 of 4, 100.0 [20.7, 100.0], ")
