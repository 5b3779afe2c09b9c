"""Which commit of a data set on the Hub is loaded: the newest the first time, and then the same.

The commits are kept in a file {data set: commit}, to be shared by whoever wants the same rows. A
benchmark's own `revision` comes before it.
"""

import fcntl
import json
import os
import threading
from pathlib import Path

from engine.errors import ConfigError

_WRITING = threading.Lock()
"""Between threads; a file's lock is between processes."""


def pinned(path: Path, dataset: str) -> str | None:
    """The commit that is kept for a data set. Raises ConfigError where the file is damaged."""
    return _read(path).get(dataset)


def pin(path: Path, dataset: str, commit: str) -> str:
    """Keep a commit, unless another one is kept already; the one that is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _WRITING, path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = _read(path)
        kept = known.setdefault(dataset, commit)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        temporary.replace(path)
    return kept


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; mend it, or remove it to load the newest") from None
    if not isinstance(known, dict) or not all(isinstance(one, str) for one in known.values()):
        raise ConfigError(f"{path}: no object of data sets and commits; mend or remove it")
    return known
