"""Pairs of pictures that a user brings: a folder of them, or a JSONL file.

    folder/<base>_original.png     the civilians' picture        (as the paper's own data lies)
    folder/<base>_modified.png     the spy's

    {"id": "7", "civ": "a.png", "spy": "b.png", "domain": "rooms", "hint_civ": "a lamp is gone"}

`spy: null` is a blank picture, and unless the line says else that is what the players are told. The
paths of a JSONL file are relative to its folder, and stay in it.

Everything is read once before a run begins: whatever can't be used is a ConfigError that names the
file and the fix, never a blank or a resized picture. What is then shown is the pixels alone, on
white where they were transparent: nothing else of a file (its metadata) can tell the two apart.
"""

import json
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps
from pydantic import BaseModel, Field, ValidationError

from engine.errors import ConfigError
from render_pool.pairs.pixels import changed_share

LEAST_SIDE, MOST_SIDE = 28, 4096
"""Pixels; 28 is one visual token of Qwen2.5-VL."""
MOST_PIXELS = 1 << 22
MOST_BYTES = 32 << 20
FORMATS = ("PNG", "JPEG", "WEBP")
HINT = "some details differ"
"""Where the user says nothing else."""
BLANK_HINT = "one picture is blank"
"""What differs, where the spy sees nothing."""

_ORIGINAL, _MODIFIED = "_original.png", "_modified.png"
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
"""What PIL raises on files that are not what they seem."""


@dataclass(frozen=True, slots=True)
class UserPair:
    """A pair that was looked at and can be used."""

    id: str
    domain: str
    civilian: Path
    spy: Path | None
    """None: a blank picture."""
    hint_civilian: str
    hint_spy: str


class _Row(BaseModel, frozen=True, extra="forbid", strict=True):
    """A line of the JSONL file."""

    id: str = Field(min_length=1, max_length=200)
    civ: str = Field(min_length=1)
    spy: str | None
    domain: str = Field("user", min_length=1, max_length=200)
    hint_civ: str | None = None
    hint_spy: str | None = None

    def hints(self) -> tuple[str, str]:
        """The civilians' and the spy's, with what goes without saying."""
        unsaid = BLANK_HINT if self.spy is None else HINT
        civilian, spy = self.hint_civ, self.hint_spy
        return unsaid if civilian is None else civilian, unsaid if spy is None else spy


def folder_pairs(folder: Path, *, domain: str = "user", hint: str = HINT) -> list[UserPair]:
    """The pairs of a folder by name; files named otherwise are left alone.

    Raises ConfigError, as said above.
    """
    if not folder.is_dir():
        raise ConfigError(f"pairs: {folder} is no folder: give the folder of the pictures")
    names = set(os.listdir(folder))
    bases = {
        name.removesuffix(end) for name in names for end in (_ORIGINAL, _MODIFIED)
        if name.endswith(end)
    }  # fmt: skip
    if not bases:
        raise ConfigError(
            f"pairs: {folder} holds no <name>{_ORIGINAL} with its <name>{_MODIFIED}: "
            "name the pictures so, or list them in a JSONL file"
        )
    pairs = []
    for base in sorted(bases):
        for end in (_ORIGINAL, _MODIFIED):
            if base + end not in names:
                raise ConfigError(f"pairs: {folder / (base + end)} is missing: add it")
        first, second = (_inside(folder, base + end, "") for end in (_ORIGINAL, _MODIFIED))
        pairs.append(UserPair(base or "pair", domain, first, second, hint, hint))
    return _checked(pairs)


def jsonl_pairs(path: Path) -> list[UserPair]:
    """The pairs of a JSONL file, line by line; empty lines are left out.

    Raises ConfigError, as said above.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"pairs: {path} can't be read ({error}): give a JSONL file") from None
    pairs: list[UserPair] = []
    where_is: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}: "
        row = _row(line, where)
        if row.id in where_is:
            raise ConfigError(f"pairs: {where}id {row.id!r} is taken (line {where_is[row.id]})")
        where_is[row.id] = str(number)
        first = _inside(path.parent, row.civ, where)
        second = None if row.spy is None else _inside(path.parent, row.spy, where)
        pairs.append(UserPair(row.id, row.domain, first, second, *row.hints()))
    if not pairs:
        raise ConfigError(f'pairs: {path} is empty: one {{"id", "civ", "spy"}} a line is needed')
    return _checked(pairs)


def read_picture(path: Path) -> Image.Image:
    """The opaque RGB picture of a file. Raises ConfigError where it can't be used."""
    try:
        if not path.is_file():
            raise ConfigError(f"pairs: {path} is no file: add it, or mend its name")
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(
                f"pairs: {path} has more than {MOST_BYTES >> 20} MiB: make it smaller"
            )
        with Image.open(path, formats=FORMATS) as picture:
            _check_size(path, *picture.size)
            rgba = ImageOps.exif_transpose(picture).convert("RGBA")
    except ConfigError:
        raise
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        kinds = ", ".join(FORMATS)
        raise ConfigError(
            f"pairs: {path} can't be decoded ({error}): it must be one of {kinds}"
        ) from None
    ground = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(ground, rgba).convert("RGB")


def read_pair(pair: UserPair) -> tuple[Image.Image, Image.Image | None]:
    """Both pictures. Raises ConfigError where one can't be used, or not with the other."""
    first = read_picture(pair.civilian)
    if pair.spy is None:
        return first, None
    second = read_picture(pair.spy)
    try:
        share = changed_share(first, second)
    except ValueError as error:
        raise ConfigError(f"pairs: {pair.civilian} and {pair.spy}: {error}") from None
    if not share:
        raise ConfigError(
            f"pairs: {pair.civilian} and {pair.spy} look the same: something must differ"
        )
    return first, second


def _check_size(path: Path, width: int, height: int) -> None:
    """Before anything is decoded."""
    sides = (width, height)
    if min(sides) < LEAST_SIDE or max(sides) > MOST_SIDE or width * height > MOST_PIXELS:
        raise ConfigError(
            f"pairs: {path} has {width}x{height} pixels: {LEAST_SIDE} to {MOST_SIDE} a side, and "
            f"{MOST_PIXELS} together, are allowed; resize both pictures of the pair"
        )


def _checked(pairs: list[UserPair]) -> list[UserPair]:
    for pair in pairs:
        read_pair(pair)
    return pairs


def _row(line: str, where: str) -> _Row:
    try:
        return _Row.model_validate(json.loads(line))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the line'}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(f"pairs: {where}{problems}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"pairs: {where}no JSON ({error}): one object a line") from None


def _inside(folder: Path, name: str, where: str) -> Path:
    """`folder / name`. Raises ConfigError where that leads out of the folder, by a link too."""
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a null in the name
        raise ConfigError(f"pairs: {where}{name!r} is no path ({error}): mend it") from None
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(
            f"pairs: {where}{name} lies outside of {folder}: pictures must lie in the folder"
        )
    return path
