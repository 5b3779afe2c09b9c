"""Rows of a benchmark: from the Hugging Face Hub at its revision, or from a local folder.

    DIR/NAME.jsonl, DIR/NAME.parquet     or all *.parquet, else all *.jsonl, below DIR/NAME/

A local folder has the data set's own columns. Where files begin with the name of a split
("test-00000-of-00002.parquet") only the benchmark's split is read, and where subfolders are named
like its configs, only those and in their order. A picture is bytes, the Hub's {bytes, path} (bytes
as base64 in JSONL), or a path inside DIR/NAME or DIR; a list of pictures has the keys "column/0",
"column/1", ... Text is taken for a path in columns that the benchmark declares as `bytes`, and in
those named like pictures where there is such a file. The path stays a text of the row where it was
one, or where the benchmark declares the column as `(bytes, str)`.

A row that cannot be loaded is named, with the reason, and skipped: it never stops a run.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from evals.benchmark import Benchmark, Row
from evals.hub import check_access, rows_of
from evals.images import BadImage, check

HUB = "hub"
_MAX_TEXT = 500_000
"""Characters of all texts of a row."""
_MAX_LINE = 256 << 20
"""Bytes of a line of JSONL; pictures may be in it as base64."""
_PICTURE_COLUMN = re.compile(r"(decoded_)?images?(_?\d+)?|image_path")
_PICTURE_FILE = re.compile(r".+\.(png|jpe?g|webp|gif|bmp|tiff?)", re.IGNORECASE)


class BadRow(ValueError):
    """A row that can't be used; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The rows of one benchmark."""

    rows: tuple[Row, ...]
    """In an order that is random and always the same, so that any first N are a fair sample; what
    belongs together (`Benchmark.groups`) stands together."""
    refused: tuple[tuple[str, str], ...]
    """(row, why it was skipped)."""
    found: int
    """Rows in the source, before `limit`."""
    revision: str
    """Of the data set; "local" for a folder."""
    fingerprint: str
    """SHA-256 over what the rows hold, pictures included."""


def load(
    benchmark: Benchmark,
    source: str | Path,
    *,
    limit: int | None = None,
    revisions: Path | None = None,
) -> Loaded:
    """All rows of `benchmark` from a folder or, with "hub", from the Hub. Blocking: for a thread.

    `limit`: only so many, chosen by the hash of the row's id, or as many whole groups as fit (at
    least one); `revisions`: the file that pins the Hub's (`evals.revisions`). Raises ConfigError
    where there is nothing to read, or nothing to read it with.
    """
    if source == HUB:
        found, revision, root = *rows_of(benchmark, revisions), None
    else:
        root = Path(source)
        found, revision = _from_folder(benchmark, root), "local"
    rows: dict[str, Row] = {}
    refused: list[tuple[str, str]] = []
    sizes: Counter[str] = Counter()
    number = -1
    for number, record in enumerate(found):
        name = f"row {number}"
        try:
            row = _row(benchmark, record, number, root)
            name = row.id
            if name in rows:
                raise BadRow("another row has the same id")
            rows[name] = row
            sizes.update(benchmark.groups(row.fields))
        except (BadRow, BadImage) as error:
            refused.append((name, str(error)))
            if name not in rows:  # else it is there already
                sizes.update(_groups_lost(benchmark, record))
    ordered = sorted(rows.values(), key=lambda row: _lot(row.id))
    return Loaded(
        rows=_limited([_with_groups(benchmark, row, sizes) for row in ordered], limit),
        refused=tuple(refused),
        found=number + 1,
        revision=revision,
        fingerprint=_fingerprint(ordered),
    )


def check_source(
    benchmarks: Sequence[Benchmark], source: str | Path, *, revisions: Path | None = None
) -> None:
    """What can be known before anything is loaded: all files are there, or the Hub lets in for all.

    As in `load`. Raises ConfigError, naming all that is not. Blocking.
    """
    if source == HUB:
        check_access(benchmarks, revisions)
        return
    lacking: dict[str, None] = {}
    for benchmark in benchmarks:
        try:
            _found_files(benchmark, Path(source))
        except ConfigError as error:
            lacking[str(error)] = None
    if lacking:
        raise ConfigError("\n".join(lacking))


def _lot(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _groups_lost(benchmark: Benchmark, record: Any) -> Sequence[str]:
    """The groups of a row that can't be used; none where not even they can be read."""
    try:
        return benchmark.groups(record)
    except Exception:  # noqa: BLE001  a row of any shape
        return ()


def _with_groups(benchmark: Benchmark, row: Row, sizes: Mapping[str, int]) -> Row:
    return replace(row, groups={name: sizes[name] for name in benchmark.groups(row.fields)})


def _limited(rows: Sequence[Row], limit: int | None) -> tuple[Row, ...]:
    """The first rows: as many largest groups as fit, whole, and one at least."""
    ordered = sorted(rows, key=lambda row: _lot(_whole_of(row)))  # which keeps the order in each
    if limit is None:
        return tuple(ordered)
    taken: list[Row] = []
    for _, members in groupby(ordered, key=_whole_of):
        group = list(members)
        if len(taken) >= limit or (taken and len(taken) + len(group) > limit):
            break
        taken += group
    return tuple(taken)


def _whole_of(row: Row) -> str:
    """What is taken as a whole: the largest group of a row, or the row itself."""
    return next(iter(row.groups), row.id)


def _row(benchmark: Benchmark, record: Any, number: int, root: Path | None) -> Row:
    """One row, checked. Raises BadRow or BadImage."""
    if isinstance(record, BadRow):
        raise record
    if not isinstance(record, Mapping):
        raise BadRow(f"a row is a JSON object, not {type(record).__name__}")
    fields: dict[str, Any] = {}
    images: dict[str, bytes] = {}
    for column, value in record.items():
        pictures = _pictures(benchmark, column, value, root)
        if pictures is None or isinstance(value, str):  # a path is also a text of the data set
            fields[column] = value
        elif str in _types(benchmark, column) and (path := _path_of(value)):
            fields[column] = path
        images |= pictures or {}
    _check_columns(benchmark, fields, images)
    size = sum(_characters(value) for value in fields.values())
    if size > _MAX_TEXT:
        raise BadRow(f"{size} characters of text, more than {_MAX_TEXT}")
    for column, data in images.items():
        try:
            check(data)
        except BadImage as error:
            raise BadImage(f"column {column!r}: {error}") from None
    try:
        name = benchmark.row_id(fields, number)
    except Exception as error:  # noqa: BLE001  a row of the wrong shape
        raise BadRow(f"no id can be made ({type(error).__name__}: {error})") from None
    return Row(id=name, fields=fields, images=images, pictures=_hash_of(images.values()))


def _hash_of(images: Iterable[bytes]) -> str:
    """Of all pictures, in their order; "" without any."""
    each = b"".join(hashlib.sha256(data).digest() for data in images)
    return hashlib.sha256(each).hexdigest() if each else ""


def _path_of(value: Any) -> str | None:
    """The path of the Hub's {bytes, path}; None where it has none."""
    path = value.get("path") if isinstance(value, Mapping) else None
    return path if isinstance(path, str) and path else None


def _pictures(
    benchmark: Benchmark, column: str, value: Any, root: Path | None
) -> dict[str, bytes] | None:
    """{key: file} of a column of pictures; None where it is none. Raises BadRow."""
    is_declared = bytes in _types(benchmark, column)
    looks_like_one = is_declared or bool(_PICTURE_COLUMN.fullmatch(column))
    if isinstance(value, list):
        if not value or not _is_picture(value[0], looks_like_one):
            return None
        items = {f"{column}/{i}": item for i, item in enumerate(value)}
    elif _is_picture(value, looks_like_one):
        items = {column: value}
    else:
        return None
    places = () if root is None else (root / benchmark.name, root)
    found = {}
    for key, item in items.items():
        try:
            found[key] = _bytes(item, places)
        except BadRow as error:
            if is_declared or not isinstance(item, str):
                raise BadRow(f"column {key!r}: {error}") from None
    return found


def _is_picture(value: Any, looks_like_one: bool) -> bool:
    if isinstance(value, str):
        return looks_like_one and bool(_PICTURE_FILE.fullmatch(value))
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= {"bytes", "path"}
    return isinstance(value, bytes | bytearray)


def _bytes(item: Any, places: Sequence[Path]) -> bytes:
    """The file of one picture. Raises BadRow."""
    if isinstance(item, Mapping):
        item = item.get("path") if item.get("bytes") is None else item["bytes"]
        if isinstance(item, str) and not _PICTURE_FILE.fullmatch(item):
            return _from_base64(item)
    if isinstance(item, bytes | bytearray):
        return bytes(item)
    if not isinstance(item, str):
        raise BadRow(f"{type(item).__name__} is no picture")
    for place in places:
        path = (place / item).resolve()
        # `places` end with the folder that was named: nothing outside of it is read.
        if not path.is_relative_to(places[-1].resolve()):
            raise BadRow(f"{item[:200]!r} leads out of the folder")
        if path.is_file():
            return path.read_bytes()
    said = f"the picture {item[:200]!r} is missing"
    if not places:
        said += ": the data set has its path only; fetch it, and give its folder with --data DIR"
    raise BadRow(said)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise BadRow("bytes that are not base64") from None


def _check_columns(benchmark: Benchmark, fields: dict[str, Any], images: dict[str, bytes]) -> None:
    """Raises BadRow where a column is missing or of the wrong type. Numbers may be whole."""
    pictures = {key.partition("/")[0] for key in images}
    for column in benchmark.columns:
        types = _types(benchmark, column)
        if column in pictures:
            continue
        if column not in fields:
            raise BadRow(f"column {column!r} is missing")
        value = fields[column]
        if bytes in types and isinstance(value, str):
            raise BadRow(f"column {column!r}: {value[:200]!r} is text, and its picture is missing")
        allowed = (*types, int) if float in types else types
        if not isinstance(value, allowed):
            wanted = " or ".join(kind.__name__ for kind in types)
            raise BadRow(f"column {column!r}: {type(value).__name__} instead of {wanted}")


def _types(benchmark: Benchmark, column: str) -> tuple[type, ...]:
    types = benchmark.columns.get(column, ())
    return types if isinstance(types, tuple) else (types,)


def _characters(value: Any) -> int:
    """Characters of the texts in a column."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(key) + _characters(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sum(map(_characters, value))
    return 0


def _fingerprint(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.id, row.fields], sort_keys=True, default=str).encode())
        for key, data in row.images.items():
            digest.update(key.encode() + hashlib.sha256(data).digest())
    return digest.hexdigest()


def _from_folder(benchmark: Benchmark, root: Path) -> Iterator[Any]:
    return (row for file in _found_files(benchmark, root) for row in _rows_of(file))


def _found_files(benchmark: Benchmark, root: Path) -> list[Path]:
    """The files of rows. Raises ConfigError where there are none."""
    if not root.is_dir():
        raise ConfigError(f"--data: {root} is no folder")
    files = _files(benchmark, root)
    if not files:
        raise ConfigError(
            f"--data: no {benchmark.name}.jsonl, {benchmark.name}.parquet, nor such files below "
            f"{root / benchmark.name}/"
        )
    return files


def _files(benchmark: Benchmark, root: Path) -> list[Path]:
    """The files of rows, by the rules at the head of this module."""
    for suffix in (".parquet", ".jsonl"):
        if (single := root / f"{benchmark.name}{suffix}").is_file():
            return [single]
    folder = root / benchmark.name
    for suffix in ("parquet", "jsonl"):
        files = sorted(folder.rglob(f"*.{suffix}"))
        files = [f for f in files if f.name.startswith(f"{benchmark.split}-")] or files
        by_config = [
            f
            for config in benchmark.configs
            if config is not None
            for f in files
            if config in f.relative_to(folder).parts[:-1]
        ]
        if files:
            return by_config or files
    return []


def _rows_of(file: Path) -> Iterator[Any]:
    if file.suffix == ".jsonl":
        yield from _lines(file)
        return
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            f"{file} is read by pyarrow, which is not installed: pip install -e '.[evals]'"
        ) from None
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=64):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _lines(file: Path) -> Iterator[Any]:
    """Values of a file of JSON lines; a BadRow in place of one that can't be read."""
    with file.open("rb") as lines:
        while line := lines.readline(_MAX_LINE):
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                while (rest := lines.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield BadRow(f"a line of more than {_MAX_LINE} bytes")
            elif line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield BadRow(f"not JSON: {error}")
