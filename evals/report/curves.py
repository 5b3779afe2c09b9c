"""Scores over the versions of a run: the means and each benchmark, with their intervals, as SVG."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from evals.intervals import Interval
from evals.report import html
from evals.report.summary import Summary
from evals.report.tables import Table, between, overall_name, percent

Curve = Sequence[tuple[int, Interval]]
"""(version, score), versions rising; the first one is the base."""

_WIDTH, _HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 10, 24
_STEPS = (0.5, 1, 2, 5, 10, 20, 25, 50)
"""Between lines of the grid, in percent."""


def write_curves(summaries: Mapping[int, Summary], folder: Path, title: str) -> Path:
    """Write curves.html and curves.json of the versions of a run; the page's path."""
    ordered = [summaries[version] for version in sorted(summaries)]
    versions = dict(zip(sorted(summaries), ordered, strict=True))
    curves = curves_of(versions)
    folder.mkdir(parents=True, exist_ok=True)
    told = {name: [[v, asdict(score)] for v, score in curve] for name, curve in curves.items()}
    (folder / "curves.json").write_text(json.dumps(told, indent=1) + "\n")
    names = _titles(versions)
    charts = "".join(chart(names[name], curve) for name, curve in curves.items())
    said = [f"version {v}: {line}" for v, one in versions.items() for line in one.warnings()]
    body = (
        f"<h1>{html.text(title)}</h1>"
        '<p class="dim">Percent over optimizer steps, with intervals of 95 %. The dashed line is '
        f'the base.</p><div class="charts">{charts}</div>'
        f"<h2>Numbers</h2>{html.table(_table(curves, names, list(versions)))}"
        f"{html.folded(f'{len(said)} warnings', html.warnings(said)) if said else ''}"
    )
    path = folder / "curves.html"
    html.write_page(path, html.page(title, body))
    return path


def curves_of(summaries: Mapping[int, Summary]) -> dict[str, Curve]:
    """{"macro", "micro", entries, benchmarks: curve}, versions in their order.

    A mean is there only where all benchmarks of the run are in it: another set is another mean.
    """
    curves: dict[str, list[tuple[int, Interval]]] = {}
    most = {name for summary in summaries.values() for name in summary.scored()}
    for version, summary in sorted(summaries.items()):
        if set(summary.scored()) == most:
            for name, mean in summary.overall.items():
                curves.setdefault(name, []).append((version, mean))
    for version, summary in sorted(summaries.items()):
        for name, own in summary.measures.items():
            if (score := own.score()) is not None:
                curves.setdefault(name, []).append((version, score))
    return dict(curves)


def _titles(summaries: Mapping[int, Summary]) -> dict[str, str]:
    titles: dict[str, str] = {}
    for summary in summaries.values():
        names = {name: overall_name(name, len(summary.scored())) for name in summary.overall}
        titles |= names | {result.name: result.benchmark.title for result in summary.results}
    return titles


def _table(curves: Mapping[str, Curve], names: Mapping[str, str], versions: Sequence[int]) -> Table:
    rows = []
    for name, curve in curves.items():
        found = dict(curve)
        cells = [
            f"{percent(found[v].estimate)} {between(found[v])}" if v in found else ""
            for v in versions
        ]
        rows.append([names[name], *cells])
    return Table("by version", ["", *map(str, versions)], rows)


def chart(title: str, curve: Curve) -> str:
    """One line with its band; empty where there is no point."""
    if not curve:
        return ""
    ticks = _ticks(min(s.low for _, s in curve), max(s.high for _, s in curve))
    first, last = curve[0][0], curve[-1][0]

    def x(version: int) -> float:
        share = (version - first) / (last - first) if last > first else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(score: float) -> float:
        share = (100 * score - ticks[0]) / (ticks[-1] - ticks[0])
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    band = [(v, s.high) for v, s in curve] + [(v, s.low) for v, s in reversed(curve)]
    base = y(curve[0][1].estimate)
    body = [
        *[_grid(tick, y(tick / 100)) for tick in ticks],
        f'<polygon class="band" points="{_points((x(v), y(s)) for v, s in band)}"/>',
        f'<line class="base" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base:.1f}" y2="{base:.1f}"/>',
        f'<polyline class="line" points="{_points((x(v), y(s.estimate)) for v, s in curve)}"/>',
        *[
            f'<circle class="dot" cx="{x(v):.1f}" cy="{y(s.estimate):.1f}" r="3"><title>'
            f"{v}: {percent(s.estimate)} {between(s)}</title></circle>"
            for v, s in curve
        ],
        *[_version(v, x(v), anchor) for v, anchor in _ends(first, last)],
    ]
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(body)}</svg></figure>"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Lines of the grid around [low, high], in percent: round numbers, two at least."""
    low, high = 100 * low, 100 * max(high, low + 0.01)
    step = next((step for step in _STEPS if (high - low) / step <= 5), _STEPS[-1])
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, last + 1)]


def _ends(first: int, last: int) -> list[tuple[int, str]]:
    return [(first, "start"), (last, "end")] if last > first else [(first, "middle")]


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _grid(tick: float, y: float) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" text-anchor="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>'
    )


def _version(version: int, x: float, anchor: str) -> str:
    return (
        f'<text class="tick" text-anchor="{anchor}" x="{x:.1f}" y="{_HEIGHT - 8}">'
        f"step {version}</text>"
    )
