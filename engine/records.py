"""What can be read of a run's games and groups: by the engine, whose buffer writes them, and beside
it or later by whoever opens the file to read (reports, the dashboard's gallery, traces).
"""

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from engine import accounts, schema
from engine.notes import evenly, first_and_last, newest, one
from engine.versions import Restore, Version, VersionLedger


class Records:
    """Games, groups, versions and counters of one run. Open them with `Records.open`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._db = connection
        self.ledger = VersionLedger(
            (
                Version(*row)
                for row in self._rows("SELECT * FROM versions ORDER BY policy, version")
            ),
            (Restore(*row) for row in self._rows("SELECT * FROM restores ORDER BY attempt")),
        )

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file to read; a run may go on writing to it. Raises ConfigError where it can't
        be used."""
        return cls(schema.connect(path, read_only=True), path)

    def close(self) -> None:
        self._db.close()

    def gallery(self, number: int) -> list[dict[str, Any]]:
        """The first and the last `number` games that have notes: {game, state, ..., notes}."""
        return first_and_last(self._db, number)

    def games_evenly(self, most: int) -> Iterator[dict[str, Any]]:
        """At most `most` finished games with notes, evenly spread over the run, one by one."""
        return evenly(self._db, most)

    def newest_games(self, most: int, *, oldest_first: bool = False) -> Iterator[dict[str, Any]]:
        """The last `most` games with notes, the newest of them first or last, one by one."""
        return newest(self._db, most, oldest_first=oldest_first)

    def game_life(self, number: int) -> dict[str, Any] | None:
        """A game with notes, and its groups: [{stream, policy, state, reason, step, age,
        created_s}]; None where there is no such game."""
        game = one(self._db, number)
        if game is None:
            return None
        keys = ("stream", "policy", "state", "reason", "step", "age", "created_s")
        rows = self._rows(
            f"SELECT {', '.join(keys)} FROM groups WHERE game = ? ORDER BY id", (number,)
        )
        return game | {"groups": [dict(zip(keys, row, strict=True)) for row in rows]}

    def games_ended(self, since_s: float, until_s: float) -> int:
        """How many games finished between two unix times."""
        query = "SELECT count(*) FROM games WHERE state = 'finished' AND ended_s BETWEEN ? AND ?"
        return int(self._rows(query, (since_s, until_s))[0][0])

    def reasons(self) -> list[str]:
        """Why games and groups were dropped, each reason once."""
        rows = self._rows(
            "SELECT reason FROM games WHERE reason IS NOT NULL "
            "UNION SELECT reason FROM groups WHERE reason IS NOT NULL"
        )
        return sorted(str(reason) for (reason,) in rows)

    def image(self, name: str) -> bytes | None:
        """PNG bytes by content hash; None where nothing needs it any more."""
        rows = self._rows("SELECT png FROM images WHERE hash = ?", (name,))
        return rows[0][0] if rows else None

    def counters(self) -> dict[str, float]:
        """Numbers that live over restarts: `generated/<policy>`, `wall_s`, any name."""
        return dict(self._rows("SELECT name, value FROM counters"))

    def counts(self) -> dict[str, Any]:
        """{"games": {...}, "groups": {stream: {...}}}, in the words of `summary.json`."""
        return accounts.counts(self._now(), self.counters())

    def funnel(self) -> dict[str, dict[str, int]]:
        """{stream: {sampled, usable (rollouts), groups, kept, trained}}, in order of the loss."""
        return accounts.funnel(self._now(), self.counters())

    def ages(self) -> dict[str, dict[int, int]]:
        """{stream: {age at the lease: groups}} of what was trained."""
        return accounts.ages(self._now())

    def undone(self) -> dict[str, dict[int, int]]:
        """{stream: {age: groups}} of what was trained, and undone by a restart."""
        return accounts.undone(self.counters())

    def judge_ages(self) -> dict[int, int]:
        """{largest age of another policy in its rewards: groups} of what was trained."""
        return dict(
            self._rows(
                "SELECT judge_age, count(*) FROM groups WHERE state = 'trained' GROUP BY judge_age"
            )
        )

    def made(self) -> dict[str, int]:
        """{policy: the last step of its weights that is known here}, of those with steps; what a
        restart has undone is none."""
        query = "SELECT policy, max(step) FROM groups WHERE state = 'trained' GROUP BY policy"
        return dict(self._rows(query))

    def _now(self) -> accounts.States:
        return accounts.read_states(self._db)

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._db.execute(query, values).fetchall()
