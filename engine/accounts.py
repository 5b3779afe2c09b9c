"""What became of a run's games and groups, summed over the buffer's tables.

States are counted where they stand, so a restore moves them; what a group was when it was
submitted is counted once, durably: `submitted/<stream>`, `sampled/`, `usable/` and `kept/`.
"""

import sqlite3
from collections.abc import Mapping
from typing import Any

from engine.types import Group


def on_submit(group: Group) -> dict[str, int]:
    """What a submitted group adds to the durable counters.

    Of its rollouts, `extra["usable"]` passed the gate of their role (the recipe's word; without
    it all did). It is kept where neither a filter of the recipe nor zero variance took it; that
    the engine has no use for it, as when its policy has finished, takes nothing back.
    """
    num_rollouts = len(group.rollouts)
    return {
        f"submitted/{group.stream}": 1,
        f"sampled/{group.stream}": num_rollouts,
        f"usable/{group.stream}": int(group.extra.get("usable", num_rollouts)),
        f"kept/{group.stream}": int(group.extra.get("drop") is None and group.has_signal),
    }


def counts(db: sqlite3.Connection, counters: Mapping[str, float]) -> dict[str, Any]:
    """{"games": {...}, "groups": {stream: {...}}}, in the words of `summary.json`."""
    games: dict[str, Any] = {"started": int(counters.get("games_started", 0))}
    games |= {"finished": 0, "dropped": {}, "in_flight": 0}
    for state, reason, number in db.execute(
        "SELECT state, reason, count(*) FROM games GROUP BY state, reason"
    ):
        _count(games, state, reason, number)
    groups: dict[str, dict[str, Any]] = {
        stream: {"submitted": number, "trained": 0, "dropped": {}, "ready": 0, "leased": 0}
        for stream, number in _by_stream(counters, "submitted").items()
    }
    for stream, state, reason, number in db.execute(
        "SELECT stream, state, reason, count(*) FROM groups GROUP BY stream, state, reason"
    ):
        _count(groups[stream], state, reason, number)
    return {"games": games, "groups": groups}


def funnel(db: sqlite3.Connection, counters: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """{stream: {sampled, usable, groups, kept, trained}}: rollouts twice, then groups.

    Each number is at most the one before it of its kind, and a group is there with its rollouts.
    """
    trained = dict(
        db.execute("SELECT stream, count(*) FROM groups WHERE state = 'trained' GROUP BY stream")
    )
    known = {name: _by_stream(counters, name) for name in ("sampled", "usable", "kept")}
    return {
        stream: {
            "sampled": known["sampled"].get(stream, 0),
            "usable": known["usable"].get(stream, 0),
            "groups": groups,
            "kept": known["kept"].get(stream, 0),
            "trained": trained.get(stream, 0),
        }
        for stream, groups in _by_stream(counters, "submitted").items()
    }


def _by_stream(counters: Mapping[str, float], kind: str) -> dict[str, int]:
    """{stream: value} of the counters `kind/<stream>`."""
    prefix = f"{kind}/"
    return {
        name.removeprefix(prefix): int(value)
        for name, value in counters.items()
        if name.startswith(prefix)
    }


def _count(account: dict[str, Any], state: str, reason: str | None, number: int) -> None:
    if state == "dropped":
        account["dropped"][reason] = number
    else:
        account[state] = number
