"""A server moves to another policy in a real run, which goes on."""

import re
import signal
from pathlib import Path

import pytest

from engine.rundir import RunDir
from tests.e2e.command import WITHOUT_MEASURING, selfplay, started
from tests.e2e.records import (
    check_books,
    check_conservation,
    check_versions,
    events_of,
    steps_of,
    summary_of,
)

_LOADS = re.compile(r" moves from \w+ \((\d+) tokens [^)]*\) to \w+ \((\d+)\)")


@pytest.mark.slow
def test_a_server_follows_the_demand(tmp_path: Path) -> None:
    """The coder has a server too many, and the solver, with most of the tokens, one too few."""
    command = selfplay(
        "run.name=elastic", f"run.root={tmp_path}", "run.steps=1000",
        "layout.servers=[{rank: 1, policies: [proposer, coder, solver]}, "
        "{rank: 2, policies: [coder]}]",
        "elastic.enabled=true", "elastic.patience_s=0.5", "elastic.smoothing_s=0.5",
        # At the start all wait for proposals: a move that follows them is followed by others.
        "elastic.cooldown_s=0.5",
        *WITHOUT_MEASURING,
    )  # fmt: skip
    folder = RunDir(tmp_path / "elastic")

    def has_moved() -> bool:
        return any(" serves solver now" in text for text in events_of(folder))

    with started(command, tmp_path / "output") as it:
        it.until(has_moved, "a server that serves the solver now")
        steps = len(steps_of(folder))
        it.until(lambda: len(steps_of(folder)) > steps + 3, "steps after that")
        it.process.send_signal(signal.SIGINT)
        ended = it.wait()
    assert ended.status == 130, ended
    loads = [found for text in events_of(folder) if (found := _LOADS.search(text))]
    assert loads
    assert all(float(more) > float(less) for less, more in (found.groups() for found in loads))
    summary = summary_of(folder)
    check_conservation(summary)
    check_books(folder, summary)
    check_versions(folder)
