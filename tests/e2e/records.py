"""What a run leaves behind, read and judged without the code that wrote it."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from engine.rundir import RunDir

POLICIES = ("proposer", "coder", "solver")


def summary_of(run: RunDir) -> dict[str, Any]:
    found = json.loads(run.summary.read_text())
    assert isinstance(found, dict)
    return found


def metrics_of(run: RunDir) -> list[dict[str, Any]]:
    """The whole lines of a file that may still be written to."""
    if not run.metrics.exists():
        return []
    *lines, _ = run.metrics.read_text().split("\n")
    return [json.loads(line) for line in lines if line]


def steps_of(run: RunDir) -> list[dict[str, Any]]:
    """The records of optimiser steps, oldest first."""
    return [record for record in metrics_of(run) if record["kind"] == "step"]


def events_of(run: RunDir) -> list[str]:
    return [record["text"] for record in metrics_of(run) if record["kind"] == "event"]


def rows(run: RunDir, query: str) -> list[tuple[Any, ...]]:
    """Rows of the run's database; none where it does not exist yet."""
    if not run.database.exists():
        return []
    with closing(sqlite3.connect(f"file:{run.database}?mode=ro", uri=True, timeout=5.0)) as db:
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # its tables are being made


def attempts_of(run: RunDir) -> int:
    found = rows(run, "SELECT value FROM counters WHERE name = 'attempts'")
    return int(found[0][0]) if found else 0


def checkpoints_of(run: RunDir, policy: str) -> list[Path]:
    """Oldest first."""
    return sorted(run.checkpoints(policy).glob("step-*"))


def check_conservation(summary: Mapping[str, Any]) -> None:
    """Games and groups balance, recomputed from the numbers."""
    games = summary["games"]
    ended = games["finished"] + sum(games["dropped"].values())
    assert games["started"] == ended + games["in_flight"] > 0
    assert set(summary["groups"]) == set(POLICIES)
    for stream, groups in summary["groups"].items():
        gone = groups["trained"] + sum(groups["dropped"].values())
        assert groups["submitted"] == gone + groups["ready"] + groups["leased"], stream
    assert summary["violations"] == []


def check_books(run: RunDir, summary: Mapping[str, Any]) -> None:
    """The summary's counts are those of the database's rows."""
    games = Counter(dict(rows(run, "SELECT state, count(*) FROM games GROUP BY state")))
    assert summary["games"]["started"] == games.total()
    assert summary["games"]["finished"] == games["finished"]
    for stream in POLICIES:
        states = Counter(
            dict(
                rows(
                    run,
                    f"SELECT state, count(*) FROM groups WHERE stream = '{stream}' GROUP BY state",
                )
            )
        )
        counted = summary["groups"][stream]
        assert counted["submitted"] == states.total()
        for state in ("trained", "ready", "leased"):
            assert counted[state] == states[state], (stream, state)


def check_lineage(run: RunDir, num_steps: int) -> None:
    """Each policy made each step once in the lineage of its final weights, from its own groups.

    The groups of a step were leased by one request of one attempt. The last record of a step is
    the one that the final weights contain, and counts as many groups as the database has for that
    step. (Not so for a step that was restored: its engine may have died before it wrote that down,
    and the restore then knows from the checkpoint that its groups are trained.)
    """
    last = {(record["policy"], record["step"]): record["num_groups"] for record in steps_of(run)}
    restored = set(rows(run, "SELECT policy, step FROM restores"))
    found = rows(
        run,
        "SELECT policy, step, count(*), count(DISTINCT request), count(DISTINCT attempt) "
        "FROM groups WHERE state = 'trained' GROUP BY policy, step",
    )
    every = {(policy, step) for policy in POLICIES for step in range(1, num_steps + 1)}
    assert {(policy, step) for policy, step, *_ in found} == every
    for policy, step, groups, *leases in found:
        assert leases == [1, 1], (policy, step)
        if (policy, step) not in restored:
            assert groups == last[policy, step], (policy, step)


def check_versions(run: RunDir) -> None:
    """Versions are unique and grow, over restarts too; within an attempt steps grow with them."""
    for policy in POLICIES:
        found = rows(
            run,
            "SELECT version, step, attempt FROM versions "
            f"WHERE policy = '{policy}' ORDER BY version",
        )
        versions = [version for version, _, _ in found]
        assert versions == sorted(set(versions))
        assert versions
        attempts = [attempt for _, _, attempt in found]
        assert attempts == sorted(attempts), f"{policy}: a version came back"
        for one in set(attempts):
            steps = [step for _, step, attempt in found if attempt == one]
            assert steps == sorted(steps), f"{policy}: steps went back within attempt {one}"
