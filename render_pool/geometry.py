"""Rough sizes of shapes, as far as the cost of drawing them depends on it.

Lengths are in the document's own units; `view` is the (width, height) that its root shows.
Transforms are not looked at: what they do to a shape is left to the limits of the worker.
"""

import math
import re

from render_pool.outline import Element

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_ARC = re.compile(r"[aA]([^a-df-zA-DF-Z]*)")
_AFTER_CLOSE = re.compile(r"[zZ][\s,]*[^\s,achlmqstvzACHLMQSTVZ]")
_SCALES = re.compile(r"(?:scale|matrix)\s{0,9}\(([^()]*)")
_EXTREME = re.compile(r"\d{6}|[eE]|\.0{6}")
_MANY = 400
"""Numbers of a line from which on it is worth a look whether it crosses itself."""
_UNKNOWN = 0.05
"""Share of the page that a path is taken to cover."""


def numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text)]


def total(text: str) -> float:
    """Sum of the numbers of a list; 0 where there are none."""
    return math.fsum(min(abs(number), 1e9) for number in numbers(text[:1000]))


def length(element: Element, name: str, reference: float) -> float:
    """An attribute's length, without regard for units but per cent; 0 where it is none."""
    text = element.attributes.get(name)
    if not text:
        return 0.0
    try:
        return min(abs(float(text)), 1e9)
    except ValueError:
        found = _NUMBER.match(text.strip()[:40])
    if found is None:
        return 0.0
    value = abs(float(found[0]))
    return min(value / 100 * reference if text.rstrip().endswith("%") else value, 1e9)


def share(element: Element, view: tuple[float, float]) -> float:
    """Share of the page that a shape covers, at most 1."""
    width, height = view
    if element.tag in ("rect", "image"):
        area = length(element, "width", width) * length(element, "height", height)
    elif element.tag == "circle":
        area = math.pi * length(element, "r", width) ** 2
    elif element.tag == "ellipse":
        area = math.pi * length(element, "rx", width) * length(element, "ry", height)
    elif element.tag in ("path", "polygon", "polyline", "text"):
        return _UNKNOWN
    else:
        return 0.0
    return min(1.0, area / (width * height))


def perimeter(element: Element, view: tuple[float, float]) -> float:
    """Length of a shape's outline, from above; never more than cairo's coordinates allow."""
    width, height = view
    if element.tag == "rect":
        sides = length(element, "width", width) + length(element, "height", height)
        found = 2 * sides
    elif element.tag == "circle":
        found = 2 * math.pi * length(element, "r", width)
    elif element.tag == "ellipse":
        found = 4 * (length(element, "rx", width) + length(element, "ry", height))
    elif element.tag == "line":
        found = sum(length(element, name, width) for name in ("x1", "y1", "x2", "y2"))
    else:
        found = min(vertices(element) * max(view) / 3, _length_of(element))
    return min(found, 2e4 * max(view))


def vertices(element: Element) -> float:
    """Places of a shape at which a marker may be drawn."""
    if element.tag == "line":
        return 2
    if element.tag not in ("path", "polyline", "polygon"):
        return 0
    text = _data(element)
    per_vertex = 1 if len(text) > 1 and not _HORIZONTAL.isdisjoint(text) else 2
    return 1 + len(_NUMBER.findall(text)) / per_vertex


def crossings(element: Element, view: tuple[float, float]) -> float:
    """How often a long line is expected to cross itself, were it laid at random: L^2 / (pi A)."""
    text = _data(element)
    if len(text) < 2 * _MANY:
        return 0.0
    stretch = _length_of(element)
    width, height = view
    return stretch * stretch / (math.pi * width * height) if stretch > 4 * max(view) else 0.0


def magnification(transform: str) -> float:
    """How much larger a transform makes things at most; less than one where it makes them small."""
    found = 1.0
    for arguments in _SCALES.findall(transform):
        found *= max((abs(number) for number in numbers(arguments)[:4]), default=1.0)
    return found


def em(font_size: str) -> float:
    """How much larger the letters inside are, where the size is relative to those outside."""
    text = font_size.strip()
    values = numbers(text[:40]) if text.endswith(("em", "ex", "ch")) else []
    return abs(values[0]) if values else 1.0


def has_arcs_and_curves(d: str) -> bool:
    letters = set(d)
    return bool(letters & set("aA")) and bool(letters & set("cCsSqQtT"))


def endless(d: str, reach: float) -> str | None:
    """Why path data would keep the renderer for ever; None where it would not.

    Numbers after a `z` are read again and again. Arcs are divided into pieces by their size, which
    grows to what they have to reach, and by the ratio of their radii: neither may be beyond
    `reach`, many times the page. Tiny *coordinates* are common and harmless.
    """
    if ("z" in d or "Z" in d) and _AFTER_CLOSE.search(d):
        return "numbers after z"
    if ("a" in d or "A" in d) and _EXTREME.search(d):
        if any(abs(number) > reach for number in numbers(d)):
            return "an arc without end"
        for arc in _ARC.findall(d):
            radii = [abs(r) for i, r in enumerate(numbers(arc)) if i % 7 < 2 and r]
            if radii and min(radii) < 1e-9:
                return "an arc without a radius"
    return None


_HORIZONTAL = frozenset("hHvV")


def _data(element: Element) -> str:
    return element.attributes.get("d") or element.attributes.get("points") or ""


def _length_of(element: Element) -> float:
    """Length of a line through the points of path data: from one to the next where they are
    absolute, and of each where they are relative."""
    text = _data(element)
    values = numbers(text)
    if sum(map(str.islower, text)) > sum(map(str.isupper, text)):
        return math.fsum(min(abs(value), 1e7) for value in values)
    return math.fsum(
        min(abs(one - other), 1e7) for one, other in zip(values[2:], values, strict=False)
    )
