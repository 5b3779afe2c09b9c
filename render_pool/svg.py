"""From a model's text to a document that is worth drawing: extraction and cheap checks.

Everything here is linear in the text and runs in the caller's process. What it lets through can
still be slow or heavy to draw; the worker's deadline and memory limit are the net below it.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args
from xml.parsers import expat

from engine.types import Invalid

Reason = Literal[
    "no_svg",
    "too_large",
    "forbidden",
    "malformed",
    "bad_size",
    "timeout",
    "memory",
    "crashed",
    "blank",
]
"""Why there is no picture. `memory`, `timeout` and `crashed` come from the worker's limits."""
REASONS: tuple[Reason, ...] = get_args(Reason)

MAX_ELEMENTS = 3000
MAX_DEPTH = 64
MAX_ASPECT = 20.0
TILE = 32
"""Sides of a picture are multiples of this many pixels."""

_TAG = re.compile(r"<svg(?=[\s/>])[^<>]*>|</svg\s*>")
_FENCE = re.compile(r"```[ \t]*(?:svg|xml|html)?[ \t]*\r?\n", re.IGNORECASE)
_IMPORT = re.compile(rb"@import", re.IGNORECASE)
_LENGTH = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]{1,3})?)(px|pt|pc|mm|cm|in|em|ex|)")
_NUMBERS = re.compile(r"[\s,]+")
_XML_BASE = "http://www.w3.org/XML/1998/namespace base"


@dataclass(frozen=True, slots=True)
class Drawing:
    """An SVG document that passed the checks, and the size at which it is to be drawn."""

    svg: bytes
    width: int
    """Pixels, before padding."""
    height: int

    @property
    def padded(self) -> tuple[int, int]:
        """(width, height) of the picture: the drawing padded to multiples of `TILE`."""
        return -(-self.width // TILE) * TILE, -(-self.height // TILE) * TILE


def invalid(reason: Reason, detail: str = "") -> Invalid:
    """An `Invalid` with a reason of the closed set."""
    return Invalid(reason, detail)


def prepare(text: str, *, side: int, max_bytes: int) -> Drawing | Invalid:
    """Find the SVG in `text`, check it, and decide its size in pixels: longest side `side`."""
    found = extract(text)
    if isinstance(found, Invalid):
        return found
    if len(found) > max_bytes:
        return invalid("too_large", f"{len(found)} characters > {max_bytes} bytes")
    try:
        svg = found.encode()
    except UnicodeEncodeError:
        return invalid("malformed", "lone surrogate")
    if len(svg) > max_bytes:
        return invalid("too_large", f"{len(svg)} > {max_bytes} bytes")
    if _IMPORT.search(svg):
        return invalid("forbidden", "@import")
    root = _outline(svg)
    return root if isinstance(root, Invalid) else _sized(svg, root, side)


def extract(text: str) -> str | Invalid:
    """The first complete `<svg ...> ... </svg>` of `text`, a fenced one before a bare one.

    A fence need not be closed. A prolog (and with it every DOCTYPE and entity) is left behind.
    """
    for fence in _FENCE.finditer(text):
        start = fence.end()
        end = text.find("```", start)
        inside = text[start : end if end >= 0 else len(text)]
        if "<svg" in inside:
            return _first_svg(inside)
        if end < 0:
            break
    return _first_svg(text)


def _first_svg(text: str) -> str | Invalid:
    start, depth = -1, 0
    for tag in _TAG.finditer(text):
        closing = tag.group().startswith("</")
        if start < 0 and closing:
            continue
        if start < 0:
            start = tag.start()
        if not tag.group().endswith("/>"):
            depth += -1 if closing else 1
        if depth == 0:
            return text[start : tag.end()]
    if start < 0:
        return invalid("no_svg")
    return invalid("malformed", "no </svg>")


class _Refused(Exception):
    """Leaves expat from inside a callback."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.value = invalid(reason, detail)


class _Outline:
    """What expat's callbacks keep: the root's attributes, and counts against the limits."""

    def __init__(self) -> None:
        self.root: dict[str, str] = {}
        self.num_elements = 0
        self.depth = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self.num_elements == 0:
            self.root = attributes
        self.num_elements += 1
        self.depth += 1
        if self.num_elements > MAX_ELEMENTS:
            raise _Refused("too_large", f"more than {MAX_ELEMENTS} elements")
        if self.depth > MAX_DEPTH:
            raise _Refused("too_large", f"deeper than {MAX_DEPTH} elements")
        for key, value in attributes.items():
            # Namespaced names come as "uri local": any prefix may be bound to xlink.
            is_reference = key.rpartition(" ")[2] == "href" and not value.startswith("#")
            if is_reference or key == _XML_BASE:
                raise _Refused("forbidden", f"reference outside of the document: {value[:40]!r}")

    def end(self, name: str) -> None:
        self.depth -= 1


def _outline(svg: bytes) -> dict[str, str] | Invalid:
    """One expat pass: the root's attributes, or why the document is refused."""
    outline = _Outline()
    parser = expat.ParserCreate("UTF-8", " ")
    parser.StartElementHandler = outline.start
    parser.EndElementHandler = outline.end
    try:
        parser.Parse(svg, True)
    except _Refused as refused:
        return refused.value
    except (expat.ExpatError, ValueError) as error:
        return invalid("malformed", str(error)[:80])
    return outline.root


def _sized(svg: bytes, root: dict[str, str], side: int) -> Drawing | Invalid:
    """Width and height in pixels from the root's own lengths, else from its viewBox."""
    width, height = _length(root.get("width")), _length(root.get("height"))
    if "viewBox" in root:
        box = _view_box(root["viewBox"])
        if box is None:
            return invalid("bad_size", f"viewBox {root['viewBox'][:40]!r}")
        if width is None or height is None:
            width, height = box
    if width is None or height is None:
        return invalid("bad_size", "neither width and height nor a viewBox")
    if not (0 < width <= 1e6 and 0 < height <= 1e6):
        return invalid("bad_size", f"{width:g} x {height:g}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        return invalid("bad_size", f"{width:g} x {height:g} is longer than {MAX_ASPECT:g}:1")
    scale = side / max(width, height)
    return Drawing(svg, max(1, round(width * scale)), max(1, round(height * scale)))


def _length(text: str | None) -> float | None:
    """An absolute length in pixels; None for what depends on a surrounding page ("100%")."""
    match = _LENGTH.fullmatch(text.strip()) if text is not None and len(text) < 64 else None
    if match is None:
        return None
    pixels = {"pt": 4 / 3, "pc": 16, "mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96, "em": 16, "ex": 8}
    return float(match[1]) * pixels.get(match[2], 1)


def _view_box(text: str) -> tuple[float, float] | None:
    """(width, height) of a viewBox, or None where it is not four usable numbers."""
    parts = _NUMBERS.split(text.strip()) if len(text) < 128 else []
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return None
    if len(numbers) != 4 or not all(math.isfinite(n) and abs(n) <= 1e6 for n in numbers):
        return None
    return (numbers[2], numbers[3]) if min(numbers[2:]) > 0 else None
