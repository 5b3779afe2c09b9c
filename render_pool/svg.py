"""From an SVG source to a drawing: the checks before any library sees it, and its size in pixels.

    source --> outline (one pass) --> size --> steps (counted, not drawn) --> Drawing | Invalid

All of it is linear in the source. It runs in a worker; what it lets through can still be slow or
heavy to draw, and the worker's limits are the net below it.
"""

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from engine.types import Invalid
from render_pool import cost, geometry
from render_pool.embedded import embedded_png
from render_pool.outline import Element, Outline, outline
from render_pool.reasons import invalid

MAX_ASPECT = 100.0
MAX_STEPS = 5000
"""Far more than a picture is worth, and less than the processor time that one may take."""

MAX_RADIUS = 1e5
"""Times the page: cairo divides an arc into pieces according to its size."""

_PATH_PROPERTY = re.compile(r"(?:^|[;{\s/])d\s{0,9}:", re.IGNORECASE)
_UNITS = {"mm": 96 / 25.4, "cm": 96 / 2.54, "in": 96, "pt": 96 / 72, "pc": 16, "px": 1} | {
    "em": 16,
    "ex": 8,
    "ch": 8,
}


@dataclass(frozen=True, slots=True)
class Page:
    """What all pictures of a pool have in common."""

    side: int
    """Pixels of the longer side."""
    grid: int
    fit: Literal["pad", "scale"]


@dataclass(frozen=True, slots=True)
class Drawing:
    """An SVG source that passed the checks, and the size at which it is to be drawn."""

    svg: bytes
    width: int
    """Pixels of the drawing."""
    height: int
    letters: str
    """Characters of its texts, unless all are ASCII."""
    page_width: int
    """Pixels of the page: the drawing is in its upper left corner."""
    page_height: int


def prepare(svg: bytes, page: Page) -> Drawing | Invalid:
    """The checked drawing, or why there is none: too_large, forbidden, malformed, bad_size,
    too_costly."""
    document = outline(svg)
    if isinstance(document, Invalid):
        return document
    size = _size(document)
    if isinstance(size, Invalid):
        return size
    drawing = _sized(svg, size, page, _letters(svg, document))
    view = _view_box(document.root.attributes.get("viewBox", "")) or size
    if refused := _undrawable(document, view):
        return refused
    try:
        steps = cost.steps(document, view, drawing.width * drawing.height)
    except cost.TooCostly as error:
        return invalid("too_costly", str(error))
    if not steps <= MAX_STEPS:
        return invalid("too_costly", f"{steps:.3g} steps > {MAX_STEPS}")
    return drawing


def _size(document: Outline) -> tuple[float, float] | Invalid:
    """(width, height) of the root: its own lengths, and the viewBox's where one lacks."""
    root = document.root.attributes
    width, height = length(root.get("width")), length(root.get("height"))
    if "viewBox" in root:
        box = _view_box(root["viewBox"])
        if box is None:
            return invalid("bad_size", f"viewBox {root['viewBox'][:40]!r}")
        width, height = width or box[0], height or box[1]
    if not width or not height:
        return invalid("bad_size", "neither width and height nor a viewBox")
    if not (0 < width <= 1e6 and 0 < height <= 1e6):
        return invalid("bad_size", f"{width:g} x {height:g}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        return invalid("bad_size", f"{width:g} x {height:g} is longer than {MAX_ASPECT:g}:1")
    return width, height


def _letters(svg: bytes, document: Outline) -> str:
    if svg.isascii() and b"&#" not in svg:
        return ""
    texts = ("text", "tspan", "textPath", "a")
    return "".join(element.text for element in document.elements if element.tag in texts)


def _sized(svg: bytes, size: tuple[float, float], page: Page, letters: str) -> Drawing:
    """The drawing in pixels: its longer side is the page's."""
    scale = page.side / max(size)
    columns, rows = (max(1, round(side * scale)) for side in size)
    if page.fit == "scale":
        columns, rows = _nearest(columns, page.grid), _nearest(rows, page.grid)
    page_size = _above(columns, page.grid), _above(rows, page.grid)
    return Drawing(svg, columns, rows, letters, *page_size)


def _magnifies(page: Element, view: tuple[float, float]) -> bool:
    """Whether a nested page shows its content many times larger than a picture can need."""
    box = _view_box(page.attributes.get("viewBox", "")) or view
    return any(
        geometry.length(page, name, whole) > MAX_RADIUS * shown
        for name, whole, shown in zip(("width", "height"), view, box, strict=True)
    )


def _path_data(element: Element) -> Iterator[str]:
    """Path data of an element, by attribute, style or in a stylesheet."""
    if "d" in element.attributes:
        yield element.attributes["d"]
    style = element.text if element.tag == "style" else element.attributes.get("style", "")
    if _PATH_PROPERTY.search(style):
        yield from _PATH_PROPERTY.split(style)[1:]


def _is_drawable(href: str) -> bool:
    return not href.strip().startswith("data:") or embedded_png(href) is not None


def _undrawable(document: Outline, view: tuple[float, float]) -> Invalid | None:
    """Why a renderer should not see this: it would never come back, or it would ask for files."""
    for element in document.elements:
        for d in _path_data(element):
            if why := geometry.endless(d, MAX_RADIUS * max(view)):
                return invalid("malformed", why)
        if element.tag == "image" and not _is_drawable(element.attributes.get("href", "")):
            return invalid("forbidden", "an image that is no small PNG of its own")
        if geometry.length(element, "stroke-width", max(view)) > MAX_RADIUS * max(view):
            return invalid("too_costly", "a stroke without end")
        if element.tag == "svg" and element.parent >= 0 and _magnifies(element, view):
            return invalid("too_costly", "a nested page without end")
        if element.tag in ("circle", "ellipse"):
            radii = [geometry.length(element, name, max(view)) for name in ("r", "rx", "ry")]
            known = [radius for radius in radii if radius]
            if known and (
                max(known) > MAX_RADIUS * max(view) or max(known) > MAX_RADIUS * min(known)
            ):
                return invalid("too_costly", "a radius without end")
    return None


def _above(pixels: int, grid: int) -> int:
    return -(-pixels // grid) * grid


def _nearest(pixels: int, grid: int) -> int:
    return max(1, round(pixels / grid)) * grid


def length(text: str | None) -> float:
    """A length in pixels as cairosvg reads it; 0 for what depends on a page around it ("100%"),
    and for what is no length. Not finite, or negative, where the text says so."""
    if text is None or len(text) > 64:
        return 0.0
    with suppress(ValueError):
        return float(text)
    number, unit = text[:-2], text[-2:]
    try:
        return float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        return 0.0


def _view_box(text: str) -> tuple[float, float] | None:
    """(width, height) of a viewBox, or None where it is not four usable numbers."""
    parts = text.replace(",", " ").split() if len(text) < 256 else []
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return None
    if len(numbers) != 4 or not all(math.isfinite(n) and abs(n) <= 1e7 for n in numbers):
        return None
    return (numbers[2], numbers[3]) if min(numbers[2:]) > 1e-6 else None
