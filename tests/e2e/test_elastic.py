"""A server moves to another policy in a real run, which goes on."""

from pathlib import Path

import pytest

from engine.rundir import RunDir
from tests.e2e.command import WITHOUT_MEASURING, run, selfplay
from tests.e2e.records import check_books, check_conservation, check_versions, events_of, summary_of


@pytest.mark.slow
def test_a_server_follows_the_demand(tmp_path: Path) -> None:
    """The coder has a server too many, and the solver, with most of the tokens, one too few."""
    ended = run(
        selfplay(
            "run.name=elastic", f"run.root={tmp_path}", "run.steps=4",
            "layout.servers=[{rank: 1, policies: [proposer, coder, solver]}, "
            "{rank: 2, policies: [coder]}]",
            "elastic.enabled=true", "elastic.patience_s=0.5", "elastic.smoothing_s=0.5",
            *WITHOUT_MEASURING,
        ),
        tmp_path / "output",
    )  # fmt: skip
    assert ended.status == 0, ended.text
    folder = RunDir(tmp_path / "elastic")
    events = events_of(folder)
    moves = [text for text in events if " moves from coder " in text and " to solver " in text]
    assert len(moves) == 1, events
    url = moves[0].split()[0]
    assert any(text.startswith(f"{url} serves solver now") for text in events), events
    summary = summary_of(folder)
    check_conservation(summary)
    check_books(folder, summary)
    check_versions(folder)
