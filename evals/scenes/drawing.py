"""A scene as SVG, and what scene an SVG text shows.

`scene_of_svg` decides from the shapes, positions and colours in the text, never by a model or a
renderer. It knows only what can't be misread: an unknown element or attribute (a transform, a
gradient, text, a style) makes the drawing Invalid. Input is hostile: expat streams it in linear
time, and anything that could declare an entity is refused before parsing.
"""

import math
import re
from xml.parsers import expat

from engine.types import Invalid
from evals.scenes.scene import CELLS, FEWEST, MOST, Scene, Shape

SIDE = 96
CELL = 32
HALF = {"big": 12, "small": 7}
"""Half the width of a shape, pixels."""

_HEX = {
    "#ff0000": "red", "#f00": "red", "#0000ff": "blue", "#00f": "blue",
    "#008000": "green", "#ffff00": "yellow", "#ff0": "yellow",
}  # fmt: skip
_NAMES = frozenset(_HEX.values())
_LONGEST = 20_000
_MOST_ELEMENTS = 64
_SLACK = 3.0
"""Pixels by which a position or a half-width may be off and still mean what it should."""

_NUMBER = r"[+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
_NUMBERS = re.compile(_NUMBER)
_PATH_TOKEN = re.compile(rf"([MmLlHhVvZz])|({_NUMBER})|[\s,]+")
_SHAPE_ATTRIBUTES = {
    "circle": ("cx", "cy", "r"),
    "rect": ("x", "y", "width", "height"),
    "polygon": ("points",),
    "path": ("d",),
}

Point = tuple[float, float]


def to_svg(scene: Scene) -> str:
    """The picture of `scene`, 96x96, nothing behind the shapes."""
    return f'<svg viewBox="0 0 {SIDE} {SIDE}">' + "".join(map(_element, scene)) + "</svg>"


def _element(shape: Shape) -> str:
    cx, cy = cell_center(shape.cell)
    half = HALF[shape.size]
    side, fill = 2 * half, f'fill="{shape.color}"/>'
    if shape.kind == "circle":
        return f'<circle cx="{cx}" cy="{cy}" r="{half}" {fill}'
    if shape.kind == "square":
        return f'<rect x="{cx - half}" y="{cy - half}" width="{side}" height="{side}" {fill}'
    return f'<path d="M{cx} {cy - half}l{half} {side}h-{side}z" {fill}'


def cell_center(cell: int) -> tuple[int, int]:
    """(x, y) of the middle of a cell, pixels."""
    return CELL * (cell % 3) + CELL // 2, CELL * (cell // 3) + CELL // 2


def scene_of_svg(svg: str) -> Scene | Invalid:
    """The scene drawn by `svg`, or Invalid("malformed" | "unsupported" | "not_a_scene")."""
    if len(svg) > _LONGEST or "<!" in svg or "<?" in svg:
        return Invalid("unsupported", "too long, or a declaration")
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(svg.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        return Invalid("malformed", str(error))
    except _Refused as refused:
        return Invalid("unsupported", str(refused))
    shapes = reader.shapes
    if not FEWEST <= len(shapes) <= MOST or len({s.cell for s in shapes}) != len(shapes):
        return Invalid("not_a_scene", f"{len(shapes)} shapes, or two in one cell")
    return tuple(sorted(shapes))


class _Refused(Exception):
    """This drawing uses something whose effect is not modelled here."""


class _Reader:
    """Collects the shapes of one document; knows whether it is inside of the root."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self._elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > _MOST_ELEMENTS:
            raise _Refused("too many elements")
        if self._elements == 1:
            _check_root(name, attributes)
        elif name in _SHAPE_ATTRIBUTES:
            if not (self._elements == 2 and _is_white_background(name, attributes)):
                self.shapes.append(_shape(name, attributes))
        else:
            raise _Refused(f"<{name[:20]}>")

    def text(self, data: str) -> None:
        if data.strip():
            raise _Refused("text")


def _check_root(name: str, attributes: dict[str, str]) -> None:
    if name != "svg" or not set(attributes) <= {"viewBox", "width", "height", "xmlns"}:
        raise _Refused("the root is not a plain <svg>")
    box = [float(n) for n in _NUMBERS.findall(attributes.get("viewBox", f"0 0 {SIDE} {SIDE}")[:80])]
    sizes = [attributes[key] for key in ("width", "height") if key in attributes]
    if "viewBox" not in attributes and len(sizes) < 2:
        raise _Refused("no size")
    if box != [0, 0, SIDE, SIDE] or any(size.removesuffix("px") != str(SIDE) for size in sizes):
        raise _Refused("not 96x96")


def _is_white_background(name: str, attributes: dict[str, str]) -> bool:
    side = str(SIDE)
    full = attributes.get("width") in (side, "100%") and attributes.get("height") in (side, "100%")
    at_origin = attributes.get("x", "0") == "0" and attributes.get("y", "0") == "0"
    return name == "rect" and full and at_origin and attributes.get("fill") in ("white", "#ffffff")


def _shape(name: str, attributes: dict[str, str]) -> Shape:
    geometry = _SHAPE_ATTRIBUTES[name]
    if set(attributes) != {*geometry, "fill"}:
        raise _Refused(f"attributes of <{name}>")
    fill = attributes["fill"].lower()
    color = fill if fill in _NAMES else _HEX.get(fill)
    if color is None:
        raise _Refused(f"color {fill[:20]}")
    if name in ("polygon", "path"):
        kind, (left, top, right, bottom) = "triangle", _triangle(name, attributes[geometry[0]])
    elif name == "circle":
        cx, cy, r = (_number(attributes[key]) for key in geometry)
        kind, (left, top, right, bottom) = "circle", (cx - r, cy - r, cx + r, cy + r)
    else:
        x, y, width, height = (_number(attributes[key]) for key in geometry)
        kind, (left, top, right, bottom) = "square", (x, y, x + width, y + height)
    return Shape(_cell(left, top, right, bottom), color, kind, _size(left, top, right, bottom))


def _cell(left: float, top: float, right: float, bottom: float) -> int:
    for cell in range(len(CELLS)):
        cx, cy = cell_center(cell)
        if math.hypot((left + right) / 2 - cx, (top + bottom) / 2 - cy) <= _SLACK:
            return cell
    raise _Refused("a shape between the cells")


def _size(left: float, top: float, right: float, bottom: float) -> str:
    for size, half in HALF.items():
        if abs(right - left - 2 * half) < 2 * _SLACK - 1 > abs(bottom - top - 2 * half):
            return size
    raise _Refused("neither big nor small")


def _triangle(name: str, text: str) -> tuple[float, float, float, float]:
    """Bounding box of an upright triangle: one vertex above, in the middle, two below."""
    points = _polygon(text[:200]) if name == "polygon" else _path(text[:200])
    if len(points) != 3:
        raise _Refused("not three corners")
    apex, *base = sorted(points, key=lambda point: point[1])
    (left, y0), (right, y1) = sorted(base)
    if abs(y0 - y1) > _SLACK or abs(apex[0] - (left + right) / 2) > _SLACK:
        raise _Refused("not an upright triangle")
    return left, apex[1], right, max(y0, y1)


def _polygon(text: str) -> list[Point]:
    numbers = [_number(word) for word in text.replace(",", " ").split()]
    if len(numbers) % 2:
        raise _Refused("points")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _path(text: str) -> list[Point]:
    """Corners of one closed path of straight lines, absolute or relative."""
    tokens: list[str] = []
    end = 0
    while match := _PATH_TOKEN.match(text, end):
        end = match.end()
        if match.group(0).strip(", \t\n\r"):
            tokens.append(match.group(0))
    if end != len(text) or not tokens or tokens[0] not in "Mm" or tokens[-1] not in "Zz":
        raise _Refused("path")
    points: list[Point] = []
    x = y = 0.0
    command, position = "", 0
    while position < len(tokens) - 1:
        if tokens[position].isalpha():
            command = tokens[position]
            position += 1
        count = 1 if command in "HhVv" else 2
        values = [_number(word) for word in tokens[position : position + count]]
        if len(values) < count or command in "Zz" or (command in "Mm" and points):
            raise _Refused("path")
        position += count
        base_x, base_y = (x, y) if command.islower() else (0.0, 0.0)
        if command in "Hh":
            x = base_x + values[0]
        elif command in "Vv":
            y = base_y + values[0]
        else:
            x, y = base_x + values[0], base_y + values[1]
        points.append((x, y))
    return points[:-1] if len(points) == 4 and points[0] == points[-1] else points


def _number(text: str) -> float:
    if not _NUMBERS.fullmatch(text.strip()):
        raise _Refused(f"number {text[:20]!r}")
    return float(text)
