"""Panels of lines over whole numbers, as one SVG file that stands alone."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from launch.charts import nice_ticks

WIDTH, HEIGHT = 340, 210
"""Of a panel, pixels."""
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 30, 34
COLUMNS = 2
LEGEND = 24
_APART = 5.0
"""Pixels between the lines at one number, so that equal values stay visible."""

_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #667085; }
.title { font-weight: 600; fill: #1d2433; }
.paper { fill: #fff; } .grid { stroke: #e3e7ee; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.seed { fill-opacity: .45; stroke: none; }
.c0 { stroke: #c23b4b; fill: #c23b4b; } .c1 { stroke: #e07b2c; fill: #e07b2c; }
.c2 { stroke: #2f6fde; fill: #2f6fde; } .c3 { stroke: #2a9d6f; fill: #2a9d6f; }
.c0.line, .c1.line, .c2.line, .c3.line { fill: none; }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    measure: str
    lines: Mapping[str, Mapping[int, Sequence[float]]]
    """{name: {x: one value per seed}}."""
    title: str = ""
    """What sets it apart from other panels of the measure."""


def chart(panels: Iterable[Panel], x_label: str) -> str:
    """All panels in rows of two; a line joins the means, a dot is a seed.

    What stands on the x axis is spaced evenly. Panels of one measure share their scale.
    """
    drawn = list(panels)
    names = list(dict.fromkeys(name for panel in drawn for name in panel.lines))
    rows = -(-len(drawn) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT + LEGEND
    body = [_legend(names)]
    for number, panel in enumerate(drawn):
        peers = [peer for peer in drawn if peer.measure == panel.measure]
        values = [v for p in peers for line in p.lines.values() for vs in line.values() for v in vs]
        ticks = nice_ticks(min(values), max(values))
        x, y = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT + LEGEND
        body.append(f'<g transform="translate({x} {y})">{_panel(panel, names, ticks, x_label)}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}"><style>{_STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>{"".join(body)}</svg>\n'
    )


def _panel(panel: Panel, names: Sequence[str], ticks: Sequence[float], x_label: str) -> str:
    xs = sorted({x for line in panel.lines.values() for x in line})
    slot = (WIDTH - LEFT - RIGHT) / len(xs)

    def to_x(x: int, number: int) -> float:
        return LEFT + (xs.index(x) + 0.5) * slot + (number - (len(names) - 1) / 2) * _APART

    def to_y(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    title = f"{panel.measure}, {panel.title}" if panel.title else panel.measure
    parts = [_text(LEFT, TOP - 12, title, "title")]
    for tick in ticks:
        y = to_y(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(LEFT - 6, y + 4, f"{tick:.4g}", "tick", "end"))
    for index, x in enumerate(xs):
        at = LEFT + (index + 0.5) * slot
        parts.append(_text(at, HEIGHT - BOTTOM + 16, str(x), "tick", "middle"))
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 4, x_label, "tick", "middle"))
    for number, name in enumerate(names):
        line = panel.lines.get(name, {})
        dots = [(to_x(x, number), to_y(value)) for x in sorted(line) for value in line[x]]
        means = [(to_x(x, number), to_y(statistics.fmean(line[x]))) for x in sorted(line)]
        path = " ".join(f"{at:.1f},{y:.1f}" for at, y in means)
        parts.append(f'<polyline class="c{number} line" points="{path}"/>')
        parts += [
            f'<circle class="c{number} seed" cx="{at:.1f}" cy="{y:.1f}" r="3"/>' for at, y in dots
        ]
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    parts = []
    for number, name in enumerate(names):
        x = LEFT + number * 110
        parts.append(f'<line class="c{number} line" x1="{x}" x2="{x + 18}" y1="14" y2="14"/>')
        parts.append(_text(x + 24, 18, name, "title"))
    return "".join(parts)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
    )
