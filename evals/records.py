"""What is kept of an evaluation: a journal of lines that survives a kill, and the records of rows.

`responses.jsonl` is the durable truth: each answer of the model, once, as it came, by the hash of
everything that made it. `records.jsonl` follows from it: rows with their extraction, scores, flags
and the judge's replies, written anew whenever the evaluation is run.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, EngineError

Record = dict[str, Any]
"""One sample of one row, JSON: see `evals.scoring.record_of`."""


def key_of(**parts: Any) -> str:
    """The hash of everything that makes an answer what it is."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class Journal:
    """Lines {key, ...} that are only ever appended; the first of each key counts. One writer.

    A line is with the kernel when `append` returns, so a killed process loses none.

    A torn last line, which a crash may leave, is cut off; a damaged one in the middle is left where
    it is and ignored. Raises ConfigError where another process is writing.
    """

    def __init__(self, path: Path, *, option: str = "--out") -> None:
        """`option`: of the command line, which says where the journal lies."""
        self.path = path
        self.damaged = 0
        """Lines that could not be read."""
        self._lines: dict[str, Record] = {}
        self._syncing = threading.Lock()
        self._lost: OSError | None = None
        """What the system said when it lost something."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise ConfigError(
                f"{path} is being written by another evaluation; end it, or choose another {option}"
            ) from None
        self._read()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, key: str) -> Record | None:
        """The line with this key; None where there is none."""
        return self._lines.get(key)

    def append(self, key: str, line: Mapping[str, Any]) -> Record:
        """Keep `line` under `key`; what is kept, which is older where the key was there."""
        kept = self._lines.get(key)
        if kept is not None:
            return kept
        record = {"key": key, **line}
        _write_all(self._file, json.dumps(record).encode() + b"\n")
        self._lines[key] = record
        return record

    def sync(self) -> None:
        """What was appended outlives the machine's death, too. Blocking: for a thread. Raises
        EngineError where something does not, which the system says only once."""
        with self._syncing:
            try:
                os.fdatasync(self._file)
            except OSError as error:
                self._lost = self._lost or error
            if self._lost is not None:
                raise EngineError(f"{self.path}: answers cannot be kept: {self._lost}")

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _read(self) -> None:
        end = 0
        with self.path.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                try:
                    record = json.loads(line)
                    self._lines.setdefault(record["key"], record)
                except (ValueError, RecursionError, KeyError, TypeError):
                    self.damaged += 1
        os.ftruncate(self._file, end)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file by these JSON lines, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with temporary.open("w") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_lines(path: Path) -> list[Record]:
    """The records of `write_lines`. Raises ConfigError where it is no such file."""
    try:
        with path.open() as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
