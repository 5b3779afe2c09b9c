"""The dashboard of a real run, looked at in Chromium: its engine is killed, and it is drained."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from engine.rundir import RunDir
from tests.e2e.blows import ENGINE
from tests.e2e.command import WITHOUT_MEASURING, recorded, selfplay, started
from tests.e2e.records import attempts_of, check_books, rows, steps_of, summary_of

pytestmark = pytest.mark.slow


def test_it_shows_a_real_run_survives_its_engine_and_drains_it(tmp_path: Path, browse: Any) -> None:
    run = RunDir(tmp_path / "runs" / "seen")
    command = selfplay(
        f"run.root={tmp_path / 'runs'}", "run.name=seen", "run.steps=400",
        "run.checkpoint_every=2", "monitor.port=0", "monitor.control=true", *WITHOUT_MEASURING,
    )  # fmt: skip
    with started(command, tmp_path) as it:
        it.until(run.dashboard.exists, "the dashboard")
        watched = browse(_url(run))
        page = watched.page
        it.until(lambda: page.evaluate(_LIVE), "the page to be live")
        it.until(lambda: watched.number("#finished") > 3, "some games")
        watched.look("#gallery", "#games details.game img")
        it.until(lambda: page.evaluate(_SHOWN), "a rendered picture")
        it.until(lambda: len(steps_of(run)) >= 8, "steps, and checkpoints of some")
        assert page.inner_text("#bottleneck").strip()
        assert not watched.complaints

        engine = recorded(run, ENGINE)
        assert engine is not None
        engine.kill()
        it.until(lambda: attempts_of(run) == 2, "another attempt")
        before = games(run)
        it.until(lambda: page.evaluate(_LIVE), "the page to have found it")
        it.until(lambda: watched.number("#finished") > before, "games of the second attempt")

        _ask(run, "drain")
        ended = it.wait()
    assert ended.status == 0, ended
    assert "--resume" in ended.text
    summary = summary_of(run)
    check_books(run, summary)
    left = {stream: (row["ready"], row["leased"]) for stream, row in summary["groups"].items()}
    assert set(left.values()) == {(0, 0)}, left  # all that was played was trained
    assert summary["games"]["dropped"].keys() <= {"lost_in_crash"}


_LIVE = "document.querySelector('#connection').dataset.state === 'live'"
_SHOWN = "[...document.querySelectorAll('#games details[open] img')].some(i => i.naturalWidth > 9)"


def games(run: RunDir) -> int:
    """Finished, of all attempts."""
    ((number,),) = rows(run, "SELECT count(*) FROM games WHERE state = 'finished'")
    return int(number)


def _url(run: RunDir) -> str:
    return f"http://127.0.0.1:{json.loads(run.dashboard.read_text())['port']}/"


def _ask(run: RunDir, action: str) -> None:
    request = urllib.request.Request(
        f"{_url(run)}control/{action}",
        data=b"{}",
        headers={"Authorization": f"Bearer {run.dashboard_token.read_text()}"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        assert response.status == 200
