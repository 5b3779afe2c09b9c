"""Pixels to a picture: what is too little to see, and PNG."""

import struct
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from engine.types import Invalid
from render_pool.reasons import invalid

VISIBLE = 8
"""Of 255: where no channel varies by more, nothing can be seen."""
SPECK = 0.06
"""Share of the longer side: what fits within it is a speck."""
TRACE = 0.0003
"""Share of the pixels: less than this is a trace, wherever it lies."""

_ENOUGH = 0.02
_LEVEL = 1
_UP = 2


@dataclass(frozen=True, slots=True)
class Pixels:
    """A rendered picture as raw RGB, eight bits each, row by row."""

    rgb: bytes
    width: int
    height: int
    boxes: str = ""
    """Characters that no font has, and that were drawn as boxes."""


class Canvas(NamedTuple):
    """What a backend drew."""

    pixels: np.ndarray
    """uint8 [height, width, 4]: blue, green, red, and 255."""
    owner: Any = None
    """Whoever's memory it is: it lives as long as the canvas."""


def nothing_to_see(pixels: np.ndarray) -> Invalid | None:
    """Why there is nothing to see in `pixels` (uint8 [height, width, 4]); None where there is.

    The ground is the colour of most corners. Of the rest it is asked whether it can be told
    from the ground at all, how much there is of it, and how far it reaches.
    """
    whole = pixels.view(np.uint32)[:, :, 0]
    corners = [int(whole[row, column]) for row in (0, -1) for column in (0, -1)]
    ink = whole != max(corners, key=corners.count)
    share = float(np.count_nonzero(ink)) / ink.size
    if share > _ENOUGH and _varies(pixels[::4, ::4]):
        return None
    if not _varies(pixels):
        return invalid("blank")
    reach = max(_reach(ink.any(axis=0)), _reach(ink.any(axis=1)))
    if reach < SPECK * max(ink.shape) or share < TRACE:
        return invalid("near_blank", f"{share:.2%} of the pixels")
    return None


def _varies(pixels: np.ndarray) -> bool:
    return any(int(np.ptp(pixels[:, :, channel])) > VISIBLE for channel in range(3))


def _reach(line: np.ndarray) -> int:
    """Places from the first to the last that is set."""
    places = np.flatnonzero(line)
    return int(places[-1] - places[0] + 1) if len(places) else 0


def page(pixels: np.ndarray, width: int, height: int) -> Image.Image:
    """`pixels` (uint8 [height, width, 4], blue first) as RGB, padded with white to a page."""
    rows, columns = pixels.shape[:2]
    picture = Image.frombuffer("RGB", (columns, rows), pixels, "raw", "BGRX", 0, 1)
    if (width, height) == (columns, rows):
        return picture
    padded = Image.new("RGB", (width, height), "white")
    padded.paste(picture, (0, 0))
    return padded


def encode_png(picture: Image.Image) -> bytes:
    """PNG of an RGB picture, the same bytes for the same pixels.

    Every row is filtered by the one above it, and compressed at the lowest level: charts and
    diagrams get as small as with the filters that other encoders search for, in less than half
    of their time, which would be half of the time that a picture takes.
    """
    width, height = picture.size
    pixels = np.asarray(picture).reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = struct.pack("!IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(rows.data, _LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))
