"""The conservation law of games and groups: nothing vanishes without a named reason."""

from collections.abc import Mapping
from typing import Any


def violations(counts: Mapping[str, Any]) -> list[str]:
    """Where `Buffer.counts` breaks the conservation law; empty: nowhere."""
    games = counts["games"]
    ended = games["finished"] + sum(games["dropped"].values()) + games["in_flight"]
    broken = []
    if games["started"] != ended:
        broken.append(f"games: {games['started']} started, {ended} accounted for")
    for stream, row in counts["groups"].items():
        known = row["trained"] + row["ready"] + row["leased"] + sum(row["dropped"].values())
        if row["submitted"] != known:
            broken.append(f"{stream}: {row['submitted']} groups submitted, {known} accounted for")
    return broken
