"""What it costs a renderer to read an element's attributes, and which of them are passed on."""

from render_pool import geometry
from render_pool.outline import Element
from render_pool.stylesheet import REFERRING, declarations

NOT_INHERITED = frozenset({"class", "clip-path", "filter", "href", "id", "mask", "opacity"}) | {
    "style",
    "transform",
    "viewBox",
}
"""Attributes whose cost is an element's own."""
NOT_PASSED_ON = NOT_INHERITED - {"class"} | {"height", "overflow", "width", "x", "y"}
"""Those that children don't have of their parents."""
_SEARCHED_NAMES = REFERRING | {
    *("clip", "color", "flood-color", "font", "gradientTransform", "href", "lighting-color"),
    *("patternTransform", "stop-color", "transform", "transform-origin"),
}
"""Read by patterns that may start anywhere in them."""

# Steps
_NUMBER = 0.06
"""A number of path data, points or a dash pattern."""
_SEARCHED = 5e-5
"""The square of the length of an attribute that patterns search which may start anywhere."""


def reading(name: str, value: str) -> float:
    """Steps to read a long attribute, for each element that has or inherits it."""
    if name in ("d", "points", "stroke-dasharray"):
        minus = value.count("-")
        num_numbers = minus * (5.0 if minus > len(value) / 4 else 1.0)
        num_numbers += value.count(" ") + value.count(",") + value.count(".") / 2
        if name == "d" and num_numbers > 300 and geometry.has_arcs_and_curves(value):
            return num_numbers  # an arc refines the curves of its whole path
        return num_numbers * _NUMBER + len(value) ** 2 * 1.5e-7  # repetitions copy the rest
    if name == "href" and value.startswith("data:"):
        return len(value) / 2000
    if name == "style":
        longest = max(len(part) for _, part in declarations(value))
        return longest**2 * _SEARCHED if longest > 40 else 0.0
    if name in _SEARCHED_NAMES:
        return len(value) ** 2 * _SEARCHED
    return len(value) / 2000


def inherits(element: Element, name: str) -> bool:
    """Whether the element takes its paint from its parent."""
    value = element.attributes.get(name)
    if value is not None and value != "inherit":
        return False
    style = element.attributes.get("style")
    return (
        style is None
        or name not in style
        or all(value.strip() == "inherit" for key, value in declarations(style) if key == name)
    )
