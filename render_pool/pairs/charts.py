"""Charts: bars, lines and pies of a few named values. An edit swaps two of them.

The two differ by at least 15 % of the axis (of the whole, in a pie), so that the swap can be seen;
names, axis and colours stay. No value is printed. (The paper has charts redrawn with two values
swapped; these need no data.)
"""

import math
import random
import re
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from render_pool.pairs.family import document

Kind = Literal["bars", "lines", "pies"]

CANVAS = 448
FEWEST, MOST = 4, 6
LEAST_SWAP = 0.15
"""Of the axis: two values that differ by less are not swapped."""

_THINGS = (
    ("Fruit sold", ("Apples", "Bananas", "Cherries", "Grapes", "Lemons", "Pears", "Plums")),
    ("Drinks sold", ("Tea", "Coffee", "Juice", "Milk", "Water", "Cola")),
    ("Pets in town", ("Cats", "Dogs", "Birds", "Fish", "Rabbits", "Mice")),
    ("Visitors by city", ("Oslo", "Lima", "Cairo", "Paris", "Tokyo", "Delhi", "Quito")),
    ("Hours by subject", ("Maths", "Art", "Music", "History", "Physics", "Sports")),
)
_TIMES = (
    ("Rain by month", ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct")),
    ("Guests by day", ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")),
)
_PAINTS = ("#2456c8", "#d8232a", "#2c9a3a", "#8b3fb5", "#f58a1f", "#179aab", "#7a4b2a")
_TOPS = (50, 100, 200, 500)
_STEPS = 50
"""Values are multiples of this part of the axis."""
_LEFT, _RIGHT, _ABOVE, _BELOW = 56, 432, 56, 396
"""Edges of the plot, units."""
_LEAST_SLICE = 6
"""Per cent."""
_SEEN = 0.04
"""Of the axis: what differs by less is not told apart by eye."""
_MISREAD = 0.1
"""Of the axis: a number that is farther off than this is wrong; between `_SEEN` and this, who
knows."""


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    names: tuple[str, ...]
    values: tuple[int, ...]
    """All different. Of a pie: per cent, and together 100."""
    top: int
    """Where the axis ends that begins at 0; 100 for a pie."""
    paint: int
    """Which colour is the first."""


@dataclass(frozen=True, slots=True)
class Charts:
    """The family of charts of one kind (`render_pool.pairs.family.Family`)."""

    kind: Kind

    @property
    def name(self) -> str:
        return self.kind

    @property
    def hint(self) -> str:
        return "two values of the chart are swapped"

    def original(self, rng: random.Random) -> Chart:
        number = rng.randint(FEWEST, MOST)
        kinds = {"bars": _THINGS + _TIMES, "lines": _TIMES, "pies": _THINGS}
        title, known = rng.choice(kinds[self.kind])
        if known in [names for _, names in _TIMES]:
            first = rng.randint(0, len(known) - number)
            names = known[first : first + number]
        else:
            names = tuple(rng.sample(known, number))
        top = 100 if self.kind == "pies" else rng.choice(_TOPS)
        values = _shares(number, rng) if self.kind == "pies" else _heights(number, top, rng)
        return Chart(title, names, values, top, rng.randrange(len(_PAINTS)))

    def edit(self, scene: Chart, rng: random.Random) -> Chart | None:
        swaps = [
            (i, j)
            for i, j in combinations(range(len(scene.values)), 2)
            if abs(scene.values[i] - scene.values[j]) >= LEAST_SWAP * scene.top
        ]
        if not swaps:
            return None
        i, j = rng.choice(swaps)
        values = list(scene.values)
        values[i], values[j] = values[j], values[i]
        return replace(scene, values=tuple(values))

    def svg(self, scene: Chart | None, side: int) -> str:
        if scene is None:
            return document("", CANVAS, side)
        draw = {"bars": _bars, "lines": _lines, "pies": _pie}[self.kind]
        title = f'<text x="224" y="34" font-size="22" text-anchor="middle">{scene.title}</text>'
        inside = f'<g font-family="sans-serif" fill="#222">{title}{draw(scene)}</g>'
        return document(inside, CANVAS, side)

    def is_true(self, scene: Chart, claim: str) -> bool | None:
        """Reads three sentences: "Pears is the highest", "Pears is higher than Plums", "Pears is
        about 40", in these and some other words. What is too close to see is not decided."""
        if "%" in claim and self.kind != "pies":
            return None
        words = _WORD.findall(claim.lower())
        value_of = dict(zip(map(str.lower, scene.names), scene.values, strict=True))
        named = [value_of[word] for word in words if word in value_of]
        said = [word for word in words if word not in value_of and word not in _FILLERS]
        near = _SEEN * scene.top
        if len(named) == 1 and len(said) == 1:
            if sign := _EXTREMES.get(said[0]):
                others = list(scene.values)
                others.remove(named[0])
                return _beyond(min(sign * (named[0] - other) for other in others), near)
            if said[0][0].isdigit():
                off = abs(float(said[0]) - named[0])
                return True if off <= near else False if off > _MISREAD * scene.top else None
        if len(named) == 2 and len(said) == 2 and said[1] == "than" and said[0] in _COMPARISONS:
            names = [place for place, word in enumerate(words) if word in value_of]
            if names[0] < words.index(said[0]) < words.index("than") < names[1]:
                return _beyond(_COMPARISONS[said[0]] * (named[0] - named[1]), near)
        return None


_WORD = re.compile(r"[^\W\d]+|-?[0-9]+(?:\.[0-9]+)?")
_FILLERS = frozenset({
    "the", "a", "an", "is", "are", "has", "have", "of", "for", "bar", "slice", "point", "value",
    "share", "in", "this", "chart", "about", "around", "roughly", "nearly", "at", "s",
})  # fmt: skip
_MORE = {"higher": 1, "larger": 1, "greater": 1, "bigger": 1, "taller": 1, "more": 1}
_LESS = {"lower": -1, "smaller": -1, "shorter": -1, "less": -1, "fewer": -1}
_COMPARISONS = _MORE | _LESS
_EXTREMES = {
    "highest": 1, "largest": 1, "greatest": 1, "biggest": 1, "tallest": 1, "most": 1,
    "lowest": -1, "smallest": -1, "shortest": -1, "least": -1, "fewest": -1,
}  # fmt: skip


def _beyond(difference: float, near: float) -> bool | None:
    return None if abs(difference) < near else difference > 0


def _heights(number: int, top: int, rng: random.Random) -> tuple[int, ...]:
    """Different values between a tenth and all of the axis."""
    steps = rng.sample(range(_STEPS // 10, _STEPS + 1), number)
    return tuple(step * top // _STEPS for step in steps)


def _shares(number: int, rng: random.Random) -> tuple[int, ...]:
    """Different whole percentages, none below `_LEAST_SLICE`, uniform among these."""
    spare = 100 - number * _LEAST_SLICE
    while True:
        cuts = sorted(rng.sample(range(1, spare + number), number - 1))
        ends = zip([0, *cuts], [*cuts, spare + number], strict=True)
        shares = tuple(end - start - 1 + _LEAST_SLICE for start, end in ends)
        if len(set(shares)) == number:
            return shares


# drawing


def _bars(chart: Chart) -> str:
    width = (_RIGHT - _LEFT) / len(chart.values)
    paint = _PAINTS[chart.paint]
    bars = "".join(
        f'<rect x="{x - 0.35 * width:.1f}" y="{y:.1f}" width="{0.7 * width:.1f}" '
        f'height="{_BELOW - y:.1f}" fill="{paint}"/>'
        for x, y in _points(chart)
    )
    return _axes(chart) + bars


def _lines(chart: Chart) -> str:
    points, paint = _points(chart), _PAINTS[chart.paint]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8"/>' for x, y in points)
    line = f'<polyline points="{corners}" fill="none" stroke="{paint}" stroke-width="5"/>'
    return f'{_axes(chart)}{line}<g fill="{paint}">{marks}</g>'


def _points(chart: Chart) -> list[tuple[float, float]]:
    width = (_RIGHT - _LEFT) / len(chart.values)
    return [
        (_LEFT + (i + 0.5) * width, _BELOW - (_BELOW - _ABOVE) * value / chart.top)
        for i, value in enumerate(chart.values)
    ]


def _axes(chart: Chart) -> str:
    rules, numbers = [], []
    for i in range(6):
        y = _BELOW - (_BELOW - _ABOVE) * i / 5
        rules.append(f"M{_LEFT} {y:g}H{_RIGHT}")
        number = chart.top * i // 5
        numbers.append(f'<text x="{_LEFT - 8}" y="{y + 5:g}" text-anchor="end">{number}</text>')
    names = [
        f'<text x="{x:.1f}" y="{_BELOW + 22}" text-anchor="middle">{name}</text>'
        for name, (x, _) in zip(chart.names, _points(chart), strict=True)
    ]
    return f'<path d="{"".join(rules)}" stroke="#ccc"/><g font-size="14">' + (
        "".join(numbers + names) + "</g>"
    )


def _pie(chart: Chart) -> str:
    """Clockwise from above, each slice named outside."""
    x, y, r, label_r = 224, 240, 136, 152
    parts, start = [], 0
    for i, (name, share) in enumerate(zip(chart.names, chart.values, strict=True)):
        (x0, y0), (x1, y1), (u, v) = (
            (x + radius * math.sin(math.tau * at / 100), y - radius * math.cos(math.tau * at / 100))
            for radius, at in ((r, start), (r, start + share), (label_r, start + share / 2))
        )
        paint = _PAINTS[(chart.paint + i) % len(_PAINTS)]
        arc = f"A{r} {r} 0 {int(share > 50)} 1 {x1:.1f} {y1:.1f}"
        anchor = "middle" if abs(u - x) < 40 else "start" if u > x else "end"
        parts.append(
            f'<path d="M{x} {y}L{x0:.1f} {y0:.1f}{arc}Z" fill="{paint}" stroke="#fff" '
            f'stroke-width="2"/><text x="{u:.1f}" y="{v + 5:.1f}" font-size="14" '
            f'text-anchor="{anchor}">{name}</text>'
        )
        start += share
    return "".join(parts)
