"""The durable truth about games and groups: one SQLite file per run.

A group's row goes `ready -> leased(policy, request, attempt) -> trained(step)`, or ends as
`dropped` with a reason, at once (filters, zero variance, a closed stream) or later. After a
restore, rows that the restored weights do not contain return to `ready`: a group is in the
lineage of the final weights at most once. Pictures are stored once, by content hash.

What durable means: every call is one transaction in SQLite's write-ahead log, so whatever has
returned survives `kill -9` of the whole process group (the log is in the page cache, which
belongs to the system, and a torn last transaction is rolled back). `synchronous=NORMAL` does not
wait for the disk, so a *power loss* may take the newest transactions, never the file. The two
facts on which other durable things rest do wait for the disk: a reserved version (before its
first byte is sent) and `sync`, called once a checkpoint is complete, before what only older ones
need is freed; an fsync of the log makes everything before it durable as well.

Calls are synchronous and take well under a millisecond for small groups; they are made from one
thread, the engine's event loop. One process owns the file: the run directory's lock sees to it.
"""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from engine import accounts, schema
from engine.admission import ReadyGame
from engine.errors import EngineError
from engine.notes import to_json
from engine.records import Records
from engine.types import Group
from engine.versions import Restore
from engine.wire import decode_group, encode_group, pack, unpack

_What = Literal["games", "groups", "ages"]
_KEPT_STATES = 3000
"""States of a recipe: one is kept at each step of each of its policies, and checkpoints are hardly
older than a thousand steps of three."""


@dataclass(frozen=True, slots=True)
class Leased:
    """A group of a batch."""

    id: int
    age: int
    """Of its oldest token, in steps of its own policy, when it was leased."""
    judge_age: int
    """The largest age over the other policies that had a hand in its rewards; 0: none had."""
    header: Mapping[str, Any]
    """Of the group, as `engine.wire` encodes it: it goes on to the learner as it was stored."""
    images: Mapping[str, bytes]
    """PNG by content hash."""

    @property
    def rewards(self) -> list[float]:
        """By rollout."""
        return list(self.header["rewards"])

    @property
    def versions(self) -> set[int]:
        """That sampled tokens of its rollouts."""
        return {version for row in self.header["rollouts"] for _, version in row["segments"]}

    @property
    def group(self) -> Group:
        """Decoded anew each time. Raises TransportError where it is damaged."""
        return decode_group(self.header, self.images)


class Buffer(Records):
    """The records of one run, to read and to write. Open it with `Buffer.open`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        super().__init__(connection, path)
        self._depth = 0
        self._states: accounts.States | None = None
        """Kept up to date by what happens often; None: to be read again, as after all else."""
        self._moves: list[tuple[Counter[Any], Any, Any, int]] = []
        """(of which, from, to, how many): what the open transaction changes in them."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the file. Raises ConfigError where it can't be used."""
        return cls(schema.connect(path), path)

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Make the calls inside one transaction; `durable` waits for the disk.

        An exception rolls all of it back. Transactions inside join the outer one.
        """
        if self._depth:
            yield
            return
        if durable:
            self._db.execute("PRAGMA synchronous = FULL")
        self._depth += 1
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
            for numbers, before, after, number in self._moves:
                if before is not None:
                    numbers[before] -= number
                numbers[after] += number
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise EngineError(f"{self.path}: {error}") from error
            raise
        finally:
            self._depth -= 1
            self._moves.clear()
            if durable:
                self._db.execute("PRAGMA synchronous = NORMAL")

    def sync(self) -> None:
        """Wait until everything written so far is on the disk (also for power loss)."""
        with self.transaction(durable=True):
            self._add("syncs", 1)

    def start_game(self, recipe: str) -> int:
        """A new game in flight; its number is never reused, over restarts too."""
        with self.transaction():
            self._add("games_started", 1)
            row = self._db.execute(
                "INSERT INTO games (recipe, state, started_s) VALUES (?, 'in_flight', ?)",
                (recipe, time.time()),
            )
            self._moved("games", None, ("in_flight", None))
            return _inserted(row)

    def end_game(
        self, game: int, *, dropped: str | None = None, notes: Mapping[str, Any] | None = None
    ) -> None:
        """The game finished, or was dropped for a reason. It keeps the groups it submitted.

        `notes` is JSON data for the gallery; bytes in it are PNG and stored by hash. Raises
        ValueError where the game is not in flight.
        """
        with self.transaction():
            text, images = to_json(notes) if notes else (None, {})
            state = "finished" if dropped is None else "dropped"
            ended = self._db.execute(
                "UPDATE games SET state = ?, reason = ?, ended_s = ?, notes = ? "
                "WHERE id = ? AND state = 'in_flight'",
                (state, dropped, time.time(), text, game),
            )
            if ended.rowcount != 1:
                raise ValueError(f"game {game} is not in flight")
            self._moved("games", ("in_flight", None), (state, dropped))
            self._store_images(images)
            self._many("INSERT INTO game_images VALUES (?, ?)", ((h, game) for h in images))

    def submit(self, group: Group, *, drop: str | None = None) -> bool:
        """Store a group; True: it is ready. Its game must be in flight.

        It ends as dropped at once for the reason `drop` (the engine's), `extra["drop"]` (a filter
        of the recipe), `zero_variance` where no advantage would differ from zero, or
        `unknown_version` where nobody could tell how old it is.
        """
        versions = _all_versions(group)
        reason = drop or group.extra.get("drop")
        if reason is None and not group.has_signal:
            reason = "zero_variance"
        if reason is None and not self._knows(group.policy, versions):
            reason = "unknown_version"
        state = "ready" if reason is None else "dropped"
        header, images = encode_group(group) if reason is None else ({}, {})
        with self.transaction():
            if not self._rows(
                "SELECT 1 FROM games WHERE id = ? AND state = 'in_flight'", (group.game,)
            ):
                raise ValueError(f"{group.stream}: game {group.game} is not in flight")
            self.add_all(accounts.on_submit(group))
            row = self._db.execute(
                "INSERT INTO groups (stream, policy, game, state, reason, versions, created_s) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    group.stream,
                    group.policy,
                    group.game,
                    state,
                    reason,
                    json.dumps(versions),
                    time.time(),
                ),
            )
            self._moved("groups", None, (group.stream, state, reason))
            if reason is None:
                self._db.execute(
                    "INSERT INTO payloads VALUES (?, ?)", (_inserted(row), pack(header))
                )
                self._store_images(images)
                self._many(
                    "INSERT INTO group_images VALUES (?, ?)",
                    ((name, _inserted(row)) for name in images),
                )
        return reason is None

    def drop_ready(self, stream: str, reason: str) -> int:
        """Drop all ready groups of a stream that closed; their number."""
        with self.transaction():
            ids = self._ids("WHERE stream = ? AND state = 'ready'", (stream,))
            self._drop(ids, reason)
        return len(ids)

    def lease(
        self,
        policy: str,
        request: int,
        attempt: int,
        *,
        games: Mapping[str, Iterable[int]],
        steps: Mapping[str, int],
        max_age: Mapping[str, int],
        max_judge_age: int | None = None,
    ) -> list[Leased]:
        """The batch of a learner's request: the ready groups of `games` ({stream: games}).

        Idempotent by (policy, request, attempt): a repeat gives the groups of the first answer,
        whatever the other arguments are. `steps` is the current step of every policy. Groups
        older than `max_age[stream]` end as dropped[too_old]: the hard bound.
        """
        with self.transaction():
            if (again := self.leased(policy, request, attempt)) is not None:
                return again
            self._db.execute("INSERT INTO requests VALUES (?, ?, ?)", (policy, request, attempt))
            for stream, numbers in games.items():
                for game in numbers:
                    rows = self._rows(
                        "SELECT id, versions FROM groups "
                        "WHERE game = ? AND stream = ? AND policy = ? AND state = 'ready'",
                        (game, stream, policy),
                    )
                    for id_, versions in rows:
                        age, judge_age = self._ages(policy, json.loads(versions), steps)
                        if age > max_age[stream]:
                            self._drop([id_], "too_old")
                        elif max_judge_age is not None and judge_age > max_judge_age:
                            self._drop([id_], "judges_too_old")
                        else:
                            self._db.execute(
                                "UPDATE groups SET state = 'leased', request = ?, attempt = ?, "
                                "age = ?, judge_age = ? WHERE id = ?",
                                (request, attempt, age, judge_age, id_),
                            )
                            ready, leased = (stream, "ready", None), (stream, "leased", None)
                            self._moved("groups", ready, leased)
            return self.leased(policy, request, attempt) or []

    def leased(self, policy: str, request: int, attempt: int) -> list[Leased] | None:
        """What this request was answered; None: it was not."""
        key = (policy, request, attempt)
        if not self._rows(
            "SELECT 1 FROM requests WHERE policy = ? AND request = ? AND attempt = ?", key
        ):
            return None
        rows = self._rows(
            "SELECT id, age, judge_age, payload FROM groups LEFT JOIN payloads ON group_id = id "
            "WHERE policy = ? AND request = ? AND attempt = ? AND state IN ('leased', 'trained') "
            "ORDER BY id",
            key,
        )
        return [Leased(id_, age, judge, *self._stored(id_, data)) for id_, age, judge, data in rows]

    def trained(self, policy: str, request: int, attempt: int, step: int) -> int:
        """The request's batch became part of weights of `step`; the number of its groups."""
        batch = "WHERE policy = ? AND request = ? AND attempt = ? AND state = 'leased'"
        key = (policy, request, attempt)
        with self.transaction():
            for stream, age, number in self._rows(
                f"SELECT stream, age, count(*) FROM groups {batch} GROUP BY stream, age", key
            ):
                leased, trained = (stream, "leased", None), (stream, "trained", None)
                self._moved("groups", leased, trained, number)
                self._moved("ages", None, (stream, age), number)
            done = self._db.execute(
                f"UPDATE groups SET state = 'trained', step = ? {batch}", (step, *key)
            )
        return done.rowcount

    def bad_batch(
        self, policy: str, request: int, attempt: int, *, reason: str = "bad_batch"
    ) -> int:
        """The learner refused the batch: its groups end as dropped[reason]; their number."""
        with self.transaction():
            ids = self._ids(
                "WHERE policy = ? AND request = ? AND attempt = ? AND state = 'leased'",
                (policy, request, attempt),
            )
            self._drop(ids, reason)
        return len(ids)

    def forget(self, policy: str, request: int) -> None:
        """Free the payloads of groups trained by requests up to `request`.

        For the request of the oldest checkpoint kept: no restore can make them ready again.
        """
        with self.transaction():
            self._clear(
                self._ids(
                    "WHERE policy = ? AND request <= ? AND state = 'trained' "
                    "AND EXISTS (SELECT 1 FROM payloads WHERE group_id = id)",
                    (policy, request),
                )
            )

    def begin_attempt(self) -> int:
        """A new life of the run: its number (1, 2, ...). Games in flight are lost with the old."""
        with self.transaction(durable=True):
            self._states = None
            self._add("attempts", 1)
            self._db.execute(
                "UPDATE games SET state = 'dropped', reason = 'lost_in_crash', ended_s = ? "
                "WHERE state = 'in_flight'",
                (time.time(),),
            )
            return int(self.counters()["attempts"])

    def reserve_version(self, policy: str, step: int, attempt: int) -> int:
        """The version for weights of `step`, on the disk before this returns; the same each time
        within an attempt."""
        row = self.ledger.reserve(policy, step, attempt)
        with self.transaction(durable=True):
            self._db.execute(
                "INSERT OR IGNORE INTO versions VALUES (?, ?, ?, ?)",
                (row.policy, row.version, row.step, row.attempt),
            )
        return row.version

    def restore(self, policy: str, *, step: int, request: int, attempt: int) -> int:
        """`policy` begins `attempt` with a checkpoint of `step`, which contains the answers to
        all requests up to `request`. Returns the number of groups that are ready again.

        A lease that the checkpoint contains is trained, even if nobody lived to say so; all
        later ones are undone. Repeating the call changes nothing.
        """
        with self.transaction(durable=True):
            self._states = None
            before = self.ages()
            self._db.execute(
                "UPDATE groups SET state = 'trained', step = ? "
                "WHERE policy = ? AND state = 'leased' AND request <= ?",
                (step, policy, request),
            )
            # From behind the checkpoints that were kept (all corrupt): nothing to train with.
            self._drop(
                self._ids(
                    "WHERE policy = ? AND request > ? AND state = 'trained' "
                    "AND NOT EXISTS (SELECT 1 FROM payloads WHERE group_id = id)",
                    (policy, request),
                ),
                "payload_freed",
            )
            undone = self._db.execute(
                "UPDATE groups SET state = 'ready', request = NULL, attempt = NULL, step = NULL, "
                "age = NULL, judge_age = NULL "
                "WHERE policy = ? AND state IN ('leased', 'trained') AND request > ?",
                (policy, request),
            )
            for name, number in accounts.fallen(before, self.ages()):
                self._add(f"undone/{name}", number)
            fresh = self._db.execute(
                "INSERT OR IGNORE INTO restores VALUES (?, ?, ?)", (policy, attempt, step)
            )
        if fresh.rowcount:
            self.ledger.record_restore(Restore(policy, attempt, step))
        return undone.rowcount

    def ready_games(self, steps: Mapping[str, int]) -> list[ReadyGame]:
        """Games that ended and still have ready groups: what `Admission` resumes with."""
        found: dict[tuple[int, str], tuple[int, int]] = {}
        for game, stream, policy, versions in self._rows(
            "SELECT game, stream, policy, versions FROM groups WHERE state = 'ready' ORDER BY game"
        ):
            age, _ = self._ages(policy, json.loads(versions), steps)
            number, oldest = found.get((game, stream), (0, 0))
            found[game, stream] = (number + 1, max(oldest, age))
        return [ReadyGame(*key, *value) for key, value in found.items()]

    def keep_recipe_state(self, recipe: str, steps: Mapping[str, int], state: Any) -> None:
        """Keep what a recipe remembers over its games, JSON data, as of `steps` of its policies, in
        place of what was kept of the same steps before. The last `_KEPT_STATES` are kept."""
        key = (recipe, json.dumps(steps, sort_keys=True))
        with self.transaction():
            # Games that brought nothing make no step: any number of states would be of one.
            self._db.execute(
                "DELETE FROM recipe_states WHERE id = "
                "(SELECT id FROM recipe_states WHERE recipe = ? ORDER BY id DESC LIMIT 1) "
                "AND steps = ?",
                key,
            )
            self._db.execute(
                "INSERT INTO recipe_states (recipe, steps, state) VALUES (?, ?, ?)",
                (*key, json.dumps(state)),
            )
            self._db.execute(
                "DELETE FROM recipe_states WHERE recipe = ?1 AND id <= "
                "(SELECT id FROM recipe_states WHERE recipe = ?1 ORDER BY id DESC "
                "LIMIT 1 OFFSET ?2)",
                (recipe, _KEPT_STATES),
            )

    def recipe_state(
        self, recipe: str, steps: Mapping[str, int]
    ) -> tuple[Any, dict[str, Any]] | None:
        """The newest state kept that lies not beyond `steps`, of the same policies, and for each
        policy the newest that is not beyond its own; None: there is none. Those that lie beyond
        are deleted: not all of their steps still exist."""
        own: dict[str, Any] = {}
        with self.transaction():
            for id_, kept, state in self._rows(
                "SELECT id, steps, state FROM recipe_states WHERE recipe = ? ORDER BY id DESC",
                (recipe,),
            ):
                past = json.loads(kept)
                if past.keys() == steps.keys():
                    reached = [policy for policy in past if past[policy] <= steps[policy]]
                    for policy in reached:
                        own.setdefault(policy, json.loads(state))
                    if len(reached) == len(past):
                        return json.loads(state), own
                self._db.execute("DELETE FROM recipe_states WHERE id = ?", (id_,))
        return None

    def add_all(self, amounts: Mapping[str, float]) -> None:
        """Add to counters that live over restarts: `generated/<policy>`, `wall_s`, any name."""
        with self.transaction():
            for name, amount in amounts.items():
                self._add(name, amount)

    def _now(self) -> accounts.States:
        if self._depth:  # what is read may be undone
            return super()._now()
        if self._states is None:
            self._states = super()._now()
        return self._states

    def _moved(self, what: _What, before: Any, after: Any, number: int = 1) -> None:
        """So many games or groups change their state; nothing where that is to be read anyway."""
        if self._states is not None:
            numbers: Counter[Any] = getattr(self._states, what)
            self._moves.append((numbers, before, after, number))

    def _many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        self._db.executemany(statement, rows)

    def _ids(self, where: str, values: Sequence[Any]) -> list[int]:
        return [row[0] for row in self._rows(f"SELECT id FROM groups {where}", values)]

    def _add(self, name: str, amount: float) -> None:
        self._db.execute(
            "INSERT INTO counters VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (name, amount),
        )

    def _store_images(self, images: Mapping[str, bytes]) -> None:
        self._many("INSERT OR IGNORE INTO images VALUES (?, ?)", images.items())

    def _drop(self, ids: Sequence[int], reason: str) -> None:
        for id_ in ids:
            [row] = self._rows("SELECT stream, state, reason FROM groups WHERE id = ?", (id_,))
            self._moved("groups", row, (row[0], "dropped", reason))
        self._many(
            "UPDATE groups SET state = 'dropped', reason = ? WHERE id = ?",
            ((reason, id_) for id_ in ids),
        )
        self._clear(ids)

    def _clear(self, ids: Sequence[int]) -> None:
        """Free the payloads of rows, and the pictures that no other row or game needs."""
        for id_ in ids:
            names = self._rows("SELECT hash FROM group_images WHERE group_id = ?", (id_,))
            self._db.execute("DELETE FROM payloads WHERE group_id = ?", (id_,))
            self._db.execute("DELETE FROM group_images WHERE group_id = ?", (id_,))
            self._many(
                "DELETE FROM images WHERE hash = ?1 "
                "AND NOT EXISTS (SELECT 1 FROM group_images WHERE hash = ?1) "
                "AND NOT EXISTS (SELECT 1 FROM game_images WHERE hash = ?1)",
                names,
            )

    def _stored(self, id_: int, payload: bytes | None) -> tuple[dict[str, Any], dict[str, bytes]]:
        """(header, pictures) of a row, as they were submitted."""
        if payload is None:
            raise EngineError(f"{self.path}: group {id_} has no payload any more")
        images = dict(
            self._rows(
                "SELECT hash, png FROM images WHERE hash IN "
                "(SELECT hash FROM group_images WHERE group_id = ?)",
                (id_,),
            )
        )
        return unpack(payload), images

    def _knows(self, policy: str, versions: Mapping[str, Sequence[int]]) -> bool:
        """Whether all were reserved. Another policy without any version counts as frozen."""
        return all(
            self.ledger.knows(name, version)
            for name, numbers in versions.items()
            if name == policy or self.ledger.newest(name)
            for version in numbers
        )

    def _ages(
        self, policy: str, versions: Mapping[str, Sequence[int]], steps: Mapping[str, int]
    ) -> tuple[int, int]:
        """(own age, largest judge age). Weights of a policy without a step here count as frozen."""
        ages = {
            name: max(self.ledger.age(name, version, steps[name]) for version in numbers)
            for name, numbers in versions.items()
            if name in steps
        }
        judges = (age for name, age in ages.items() if name != policy)
        return ages[policy], max(judges, default=0)


def _inserted(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _all_versions(group: Group) -> dict[str, list[int]]:
    """{policy: versions} whose ages bound those of all tokens: a group's own, and its judges'."""
    versions = {policy: set(span) for policy, span in group.versions.items()}
    for rollout in group.rollouts:
        versions.setdefault(rollout.policy, set()).update(rollout.versions)
    return {policy: sorted(numbers) for policy, numbers in versions.items()}
