"""The notes of games, as the buffer keeps them: JSON, with the pictures taken out."""

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from engine.metrics import finite
from engine.monitor.observed import TIMELINE
from engine.wire import content_hash

_GAMES = "SELECT id, state, reason, started_s, ended_s, notes FROM games "


def first_and_last(db: sqlite3.Connection, number: int) -> list[dict[str, Any]]:
    """The first and the last `number` games that have notes: {game, state, ..., notes}. A game
    that was cut off has its timeline, but nothing to show."""
    found = {
        row[0]: row
        for order in ("ASC", "DESC")
        for row in db.execute(
            f"{_GAMES} WHERE json_remove(notes, '$.{TIMELINE}') != '{{}}' "
            f"ORDER BY id {order} LIMIT ?",
            (number,),
        )
    }
    return [_game(row) for _, row in sorted(found.items())]


def newest(
    db: sqlite3.Connection, most: int, *, oldest_first: bool = False
) -> Iterator[dict[str, Any]]:
    """The last `most` games that have notes, read one by one."""
    rows = db.execute(
        "SELECT id FROM games WHERE notes IS NOT NULL ORDER BY id DESC LIMIT ?", (most,)
    ).fetchall()
    for (id_,) in reversed(rows) if oldest_first else rows:
        if (game := one(db, id_)) is not None:
            yield game


def one(db: sqlite3.Connection, number: int) -> dict[str, Any] | None:
    """A game that has notes."""
    row = db.execute(f"{_GAMES} WHERE id = ? AND notes IS NOT NULL", (number,)).fetchone()
    return None if row is None else _game(row)


def evenly(db: sqlite3.Connection, most: int) -> Iterator[dict[str, Any]]:
    """At most `most` finished games with notes, every k-th one back from the newest, oldest first.

    They are read one by one: the notes of a long run do not fit in memory.
    """
    ids = [row[0] for row in db.execute("SELECT id FROM games WHERE state = 'finished'")]
    ids = sorted(ids)[:: -max(1, math.ceil(len(ids) / most))]
    for id_ in reversed(ids):
        if (game := one(db, id_)) is not None:
            yield game


def to_json(notes: Mapping[str, Any]) -> tuple[str, dict[str, bytes]]:
    """Notes as JSON in which each PNG is {"png": content hash}, and the PNGs by that hash. Numbers
    that JSON does not know become null. Raises TypeError for what has no form in JSON."""
    pictures: dict[str, bytes] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            name = content_hash(value)
            pictures[name] = value
            return {"png": name}
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"{type(value).__name__} has no form in JSON")

    # The library asks for what it does not know: nobody else has to walk through thousands of rows.
    try:
        text = orjson.dumps(dict(notes), default=plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # half of a surrogate pair, say, or what has no form at all
        text = json.dumps(finite(notes), default=plain)
    return text, pictures


def from_json(text: str, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """The inverse of `to_json`, as far as JSON can tell (lists for tuples)."""

    def whole(value: dict[str, Any]) -> Any:
        return pictures.get(str(value["png"]), value) if value.keys() == {"png"} else value

    found: dict[str, Any] = json.loads(text, object_hook=whole)
    return found


def _game(row: tuple[Any, ...]) -> dict[str, Any]:
    keys = ("game", "state", "reason", "started_s", "ended_s")
    return {**dict(zip(keys, row[:5], strict=True)), "notes": json.loads(row[5])}
