"""Outcomes as text and as a chart."""

import math
import re
from collections.abc import Mapping, Sequence
from html import escape

from launch.charts import HEIGHT, LEFT, WIDTH, line_chart
from launch.simulation.outcome import Outcome

Results = Mapping[tuple[int, str], Outcome]
"""{(GPUs, schedule): what came of it}; GPUs are ranks where there are none."""

_COLUMNS = (
    "GPUs", "schedule", "games/h", "groups/h", "steps/h", "servers", "learners", "render",
    "engine", "age", "oldest", "gen/train", "wasted",
)  # fmt: off
_LEGEND = 20
_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #667085; }
.title { font-weight: 600; fill: #1d2433; } .paper { fill: #fff; } .grid { stroke: #e3e7ee; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.c0 { stroke: #2f6fde; fill: #2f6fde; } .c1 { stroke: #e07b2c; fill: #e07b2c; }
.c2 { stroke: #c23b4b; fill: #c23b4b; } .c3 { stroke: #2a9d6f; fill: #2a9d6f; }
.c0.line, .c1.line, .c2.line, .c3.line { fill: none; }
"""


def table(results: Results) -> str:
    """One line each; shares are of the time."""
    rows = [_COLUMNS, *(_row(gpus, name, one) for (gpus, name), one in results.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(gpus: int, schedule: str, one: Outcome) -> tuple[str, ...]:
    return (
        str(gpus),
        schedule,
        f"{one.games_per_h:,.0f}",
        f"{one.groups_per_h:,.0f}",
        f"{one.steps_per_h:,.1f}",
        *(f"{one.busy_of(kind):.0%}" for kind in ("server", "learner", "render", "engine")),
        f"{one.mean_age:.2f}",
        str(one.max_age),
        f"{one.generated_per_trained:.2f}",
        f"{one.wasted:.1%}",
    )


def details(one: Outcome) -> str:
    """Every part, and the ages of every stream."""
    lines = [f"  {part:<28}{share:5.0%}" for part, share in one.busy.items()]
    for stream, ages in one.ages.items():
        total = sum(ages.values())
        shares = "  ".join(f"{age}: {ages[age] / total:.0%}" for age in sorted(ages))
        lines.append(f"  ages of {stream:<20}{shares}")
    return "\n".join(lines)


def chart(results: Results) -> str:
    """Games per GPU and hour over the number of GPUs, a line for each schedule: an SVG file. GPUs
    are spaced by their logarithm."""
    sizes = sorted({gpus for gpus, _ in results})
    names = list(dict.fromkeys(name for _, name in results))
    series = {
        name: [(math.log2(g / sizes[0]), results[g, name].games_per_h / g) for g in sizes]
        for name in names
    }
    title = f"Games per GPU and hour, {sizes[0]} to {sizes[-1]} GPUs"
    figure = line_chart(title, series, x_label=f"doublings of {sizes[0]} GPUs:")
    drawing = re.search(r"<svg [^>]*>(.*)</svg>", figure, re.DOTALL)
    assert drawing is not None, "there is a line for each schedule"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 2 * _LEGEND}" '
        f'width="{WIDTH}" height="{HEIGHT + 2 * _LEGEND}"><style>{_STYLE}</style>'
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT + 2 * _LEGEND}"/>'
        f'<text class="title" x="{LEFT}" y="16">{escape(title)}</text>{_legend(names)}'
        f'<g transform="translate(0 {2 * _LEGEND})">{drawing[1]}</g></svg>\n'
    )


def _legend(names: Sequence[str]) -> str:
    parts = []
    for number, name in enumerate(names):
        x = LEFT + number * 110
        parts.append(f'<line class="c{number} line" x1="{x}" x2="{x + 18}" y1="32" y2="32"/>')
        parts.append(f'<text x="{x + 24}" y="36">{escape(name)}</text>')
    return "".join(parts)
