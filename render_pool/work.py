"""Amounts of work, some of which depend on the paints and markers that an element inherits."""

from typing import NamedTuple


class Paint(NamedTuple):
    """Steps of a gradient or pattern."""

    each: float
    """Whenever something is painted with it."""
    page: float
    """To paint the whole page with it."""


class Work:
    """Steps of an element, of which some depend on the paints and markers that it inherits."""

    __slots__ = ("fills", "fills_area", "markers", "own", "strokes", "strokes_area")

    def __init__(self) -> None:
        self.own = 0.0
        self.fills = 0.0
        """Things that are painted with the inherited fill."""
        self.fills_area = 0.0
        """Pages that they cover together."""
        self.strokes = 0.0
        self.strokes_area = 0.0
        self.markers = 0.0
        """Places at which the inherited markers are drawn."""

    def copy(self) -> "Work":
        found = Work()
        found.add(self)
        return found

    def add(self, other: "Work") -> None:
        self.own += other.own
        self.fills += other.fills
        self.fills_area += other.fills_area
        self.strokes += other.strokes
        self.strokes_area += other.strokes_area
        self.markers += other.markers

    def give_fill(self, paint: Paint | None) -> None:
        """The inherited fill has become known; None: a plain colour."""
        if paint is not None and self.fills:
            self.own += self.fills * paint.each + self.fills_area * paint.page
        self.fills = self.fills_area = 0.0

    def give_stroke(self, paint: Paint | None) -> None:
        if paint is not None and self.strokes:
            self.own += self.strokes * paint.each + self.strokes_area * paint.page
        self.strokes = self.strokes_area = 0.0

    def give_markers(self, each: float) -> None:
        self.own += self.markers * each if self.markers else 0.0
        self.markers = 0.0
