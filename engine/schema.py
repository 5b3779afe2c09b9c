"""The tables of the buffer's SQLite file, and the way to open it."""

import sqlite3
from pathlib import Path

from engine.errors import ConfigError

SCHEMA_VERSION = 3
_TABLES = """
CREATE TABLE games (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  recipe TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('in_flight', 'finished', 'dropped')),
  reason TEXT CHECK ((reason IS NOT NULL) = (state = 'dropped')),
  started_s REAL NOT NULL,
  ended_s REAL,
  notes TEXT
);
CREATE INDEX games_by_state ON games (state, reason);
CREATE TABLE groups (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  stream TEXT NOT NULL,
  policy TEXT NOT NULL,
  game INTEGER NOT NULL REFERENCES games (id),
  state TEXT NOT NULL CHECK (state IN ('ready', 'leased', 'trained', 'dropped')),
  reason TEXT CHECK ((reason IS NOT NULL) = (state = 'dropped')),
  request INTEGER, attempt INTEGER,      -- of the lease
  step INTEGER,                          -- that trained it
  age INTEGER, judge_age INTEGER,        -- at the lease, in steps
  versions TEXT NOT NULL,                -- JSON: {policy: [version, ...]}, all that had a hand
  created_s REAL NOT NULL
);
CREATE TABLE payloads (                  -- of the groups that something may still train
  group_id INTEGER PRIMARY KEY, payload BLOB NOT NULL
);                                       -- apart: SQLite writes a row anew when its state changes
CREATE INDEX groups_by_state ON groups (stream, state, reason);
CREATE INDEX groups_by_lease ON groups (policy, request);
CREATE INDEX groups_by_game ON groups (game, stream, state);
CREATE INDEX groups_by_age ON groups (state, stream, age, judge_age);
CREATE TABLE images (hash TEXT PRIMARY KEY, png BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE group_images (
  hash TEXT NOT NULL, group_id INTEGER NOT NULL, PRIMARY KEY (hash, group_id)
) WITHOUT ROWID;
CREATE INDEX group_images_by_group ON group_images (group_id);
CREATE TABLE game_images (
  hash TEXT NOT NULL, game INTEGER NOT NULL, PRIMARY KEY (hash, game)
) WITHOUT ROWID;
CREATE TABLE requests (
  policy TEXT, request INTEGER, attempt INTEGER, PRIMARY KEY (policy, request, attempt)
) WITHOUT ROWID;
CREATE TABLE versions (
  policy TEXT, version INTEGER, step INTEGER, attempt INTEGER, PRIMARY KEY (policy, version)
) WITHOUT ROWID;
CREATE TABLE restores (
  policy TEXT, attempt INTEGER, step INTEGER, PRIMARY KEY (policy, attempt)
) WITHOUT ROWID;
CREATE TABLE recipe_states (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  recipe TEXT NOT NULL,
  steps TEXT NOT NULL,                   -- JSON: {policy: step} when it was kept
  state TEXT NOT NULL                    -- JSON
);
CREATE INDEX recipe_states_by_recipe ON recipe_states (recipe, id);
CREATE TABLE counters (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open or create the file: autocommit, write-ahead log. Raises ConfigError.

    `read_only`: the file must exist; a live run may go on writing to it.
    """
    try:
        uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        num_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found == 0 and num_tables == 0:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif found != SCHEMA_VERSION:
            connection.close()
            raise ConfigError(
                f"{path}: schema {found}, but this version reads {SCHEMA_VERSION}; "
                "start a new run, or use the release that made this one"
            )
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: not a usable buffer ({error}); start a new run") from error
    return connection
