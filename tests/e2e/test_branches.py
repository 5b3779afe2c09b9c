"""Two branches of the engine play with servers of their own, through the real command; one is
killed."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from engine.rundir import RunDir
from tests.e2e.command import WITHOUT_MEASURING, descendants, left_of, recorded, run, started
from tests.e2e.network import free_ports
from tests.e2e.records import (
    POLICIES,
    attempts_of,
    check_books,
    check_conservation,
    check_lineage,
    check_versions,
    rows,
    steps_of,
    summary_of,
)

pytestmark = pytest.mark.slow

STEPS = 12
BRANCH = "launch.branch"
FINISHED = "SELECT notes FROM games WHERE state = 'finished'"
SERVED = "policies: [proposer, coder, solver], kind: embedded"
BRANCHES = "layout.branches=[{rank: 1, servers: [1]}, {rank: 2, servers: [2]}]"


def test_branches_play_and_one_is_killed(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder = RunDir(tmp_path / "runs" / "own")
    port = free_ports(2 * len(POLICIES))  # else the second attempt may have one of the first's
    servers = ((1, port), (2, port + len(POLICIES)))
    hosts = ", ".join(f"{{rank: {rank}, port: {first}, {SERVED}}}" for rank, first in servers)
    command = arguments(
        f"run.steps={STEPS}",
        "run.checkpoint_every=2",
        f"layout.servers=[{hosts}]",
        BRANCHES,
        *WITHOUT_MEASURING,
    )
    with started(command, tmp_path / "output") as it:
        it.until(lambda: len(steps_of(folder)) >= 5, "a few steps")
        branch = recorded(folder, BRANCH)
        assert branch is not None
        branch.kill()
        it.until(lambda: attempts_of(folder) == 2, "another attempt")
        family = descendants(it.process.pid)
        ended = it.wait()
    assert ended.status == 0, ended
    assert not left_of(family), "nobody is left behind"

    summary = summary_of(folder)
    assert summary["violations"] == []
    assert summary["steps"] == dict.fromkeys(POLICIES, STEPS)
    for policy in POLICIES:
        assert summary["tokens"][policy]["generated"] > 0
    assert summary["parts"]["renderer"]["workers"] == 3, "those of the engine and its two branches"
    shares = {n: s for n, s in summary["busy_fraction"].items() if n.startswith("engine")}
    assert len(shares) == 3, "the head and its two branches"
    assert all(0 < share <= 1 for share in shares.values())
    check_books(folder, summary)
    check_conservation(summary)
    check_lineage(folder, STEPS)
    check_versions(folder)

    notes = [json.loads(text) for (text,) in rows(folder, FINISHED)]
    for note in notes:
        assert len(note["proposals"]) == 4
        assert all(("proposal" in one) != ("invalid" in one) for one in note["proposals"])
    assert any("caption" in str(note) for note in notes)
    asked = together(note["timeline"]["servers"] for note in notes)
    assert sorted(map(len, asked)) == [len(POLICIES)] * 2, "no game asked the servers of both"


def together(urls: Iterable[list[str]]) -> list[set[str]]:
    """The urls, those that some game asked together in one set."""
    found: list[set[str]] = []
    for asked in map(set, urls):
        touched = [one for one in found if one & asked]
        found = [one for one in found if not one & asked] + [asked.union(*touched)]
    return found


def test_games_that_share_a_memory_have_no_branches(
    arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    config = str(Path(__file__).resolve().parents[2] / "launch/configs/vision_zero.yaml")
    command = arguments("layout.branches=[{rank: 1, servers: [1]}]")
    ended = run([command[0], command[1], config, *command[2:]], tmp_path / "output")
    assert ended.status != 0
    assert "layout.branches: the games of vision_zero are played by one process" in ended.text
