"""The seven content types of a proposal, and the keywords that tell them apart."""

import re
from collections.abc import Mapping

CONTENT_TYPES = ("data_chart", "diagram", "geometry", "timeline", "map", "table", "other")
"""What the paper's proposer may declare."""

# fmt: off
KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "diagram": ("flowchart", "flow chart", "network diagram", "org chart", "state diagram",
                "circuit diagram", "block diagram"),
    "data_chart": ("bar chart", "line chart", "pie chart", "area chart", "radar chart",
                   "bubble chart", "scatter", "histogram", "stacked", "heatmap", "treemap"),
    "geometry": ("angle", "triangle", "circle", "radius", "coordinate", "geometry",
                 "perpendicular", "chord", "polygon", "rectangle"),
    "timeline": ("timeline", "schedule", "gantt"),
    "map": ("map", "region", "geographic", "country"),
    "table": ("table", "grid"),
}
# fmt: on
"""In the order in which they are looked for: the first type with a keyword in the caption."""

_KEYWORD = {
    kind: re.compile(rf"\b(?:{'|'.join(words)})s?\b", re.IGNORECASE)
    for kind, words in KEYWORDS.items()
}


def declared_type(tag: str) -> str:
    """The content type that a proposal declares, folded; what is unknown is "other"."""
    name = "_".join(tag.lower().split())
    name = "data_chart" if name == "datachart" else name
    return name if name in CONTENT_TYPES else "other"


def content_type(tag: str, caption: str) -> str:
    """The declared type or, where that is "other", the first one whose keyword the caption has.

    A keyword is a whole word here; the released code takes any substring, by which "rectangle"
    has an "angle" and a "heatmap" a "map".
    """
    if (declared := declared_type(tag)) != "other":
        return declared
    found = (kind for kind, pattern in _KEYWORD.items() if pattern.search(caption))
    return next(found, "other")
