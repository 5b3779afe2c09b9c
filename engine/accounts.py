"""What became of a run's games and groups, summed over the buffer's tables.

States are counted where they stand, so a restore moves them; what a group was when it was
submitted is counted once, durably: `submitted/<stream>`, `sampled/`, `usable/` and `kept/`.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.types import Group

GameState = tuple[str, str | None]
"""(state, reason)"""
GroupState = tuple[str, str, str | None]
"""(stream, state, reason)"""


def on_submit(group: Group) -> dict[str, int]:
    """What a submitted group adds to the durable counters.

    Of its rollouts, `extra["usable"]` had the form that their role asks for (the recipe's word;
    without it all did). It is kept where neither a filter of the recipe nor zero variance took
    it; that the engine has no use for it, as when its policy has finished, takes nothing back.
    """
    num_rollouts = len(group.rollouts)
    return {
        f"submitted/{group.stream}": 1,
        f"sampled/{group.stream}": num_rollouts,
        f"usable/{group.stream}": int(group.extra.get("usable", num_rollouts)),
        f"kept/{group.stream}": int(group.extra.get("drop") is None and group.has_signal),
    }


@dataclass(slots=True)
class States:
    """How many games and groups are in each state now. A number may be 0."""

    games: Counter[GameState] = field(default_factory=Counter)
    groups: Counter[GroupState] = field(default_factory=Counter)
    ages: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Of what was trained, by (stream, age at the lease)."""


def read_states(db: sqlite3.Connection) -> States:
    """By looks at the whole tables: the longer a run is, the longer it takes."""
    states = States()
    for *game, number in db.execute(
        "SELECT state, reason, count(*) FROM games GROUP BY state, reason"
    ):
        states.games[game[0], game[1]] = number
    for stream, state, reason, number in db.execute(
        "SELECT stream, state, reason, count(*) FROM groups GROUP BY stream, state, reason"
    ):
        states.groups[stream, state, reason] = number
    for stream, age, number in db.execute(
        "SELECT stream, age, count(*) FROM groups WHERE state = 'trained' GROUP BY stream, age"
    ):
        states.ages[stream, age] = number
    return states


def counts(states: States, counters: Mapping[str, float]) -> dict[str, Any]:
    """{"games": {...}, "groups": {stream: {...}}}, in the words of `summary.json`."""
    games: dict[str, Any] = {"started": int(counters.get("games_started", 0))}
    games |= {"finished": 0, "dropped": {}, "in_flight": 0}
    for (state, reason), number in _sorted(states.games):
        _count(games, state, reason, number)
    groups: dict[str, dict[str, Any]] = {
        stream: {"submitted": number, "trained": 0, "dropped": {}, "ready": 0, "leased": 0}
        for stream, number in _by_stream(counters, "submitted").items()
    }
    for (stream, state, reason), number in _sorted(states.groups):
        _count(groups[stream], state, reason, number)
    return {"games": games, "groups": groups}


def funnel(states: States, counters: Mapping[str, float]) -> dict[str, dict[str, int]]:
    """{stream: {sampled, usable, groups, kept, trained}}: rollouts twice, then groups.

    Each number is at most the one before it of its kind, and a group is there with its rollouts.
    """
    known = {name: _by_stream(counters, name) for name in ("sampled", "usable", "kept")}
    return {
        stream: {
            "sampled": known["sampled"].get(stream, 0),
            "usable": known["usable"].get(stream, 0),
            "groups": groups,
            "kept": known["kept"].get(stream, 0),
            "trained": states.groups[stream, "trained", None],
        }
        for stream, groups in _by_stream(counters, "submitted").items()
    }


def ages(states: States) -> dict[str, dict[int, int]]:
    """{stream: {age at the lease: groups}} of what was trained."""
    histogram: dict[str, dict[int, int]] = {}
    for (stream, age), number in _sorted(states.ages):
        histogram.setdefault(stream, {})[age] = number
    return histogram


def fallen(
    before: Mapping[str, Mapping[int, int]], after: Mapping[str, Mapping[int, int]]
) -> Iterator[tuple[str, int]]:
    """("stream/age", groups fewer than before)."""
    for stream, numbers in before.items():
        for age, number in numbers.items():
            if (lost := number - after.get(stream, {}).get(age, 0)) > 0:
                yield f"{stream}/{age}", lost


def undone(counters: Mapping[str, float]) -> dict[str, dict[int, int]]:
    """{stream: {age: groups}} of the counters `undone/<stream>/<age>`."""
    found: dict[str, dict[int, int]] = {}
    for name, number in _by_stream(counters, "undone").items():
        stream, _, age = name.rpartition("/")
        found.setdefault(stream, {})[int(age)] = number
    return found


def _sorted(numbers: Mapping[Any, int]) -> list[tuple[Any, int]]:
    """Those that are not 0, in the order of their keys; None first."""
    found = [item for item in numbers.items() if item[1]]
    return sorted(found, key=lambda item: [(part is not None, part) for part in item[0]])


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
