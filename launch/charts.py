"""Charts as inline SVG: text in, text out, no dependency. Colours come from the page's CSS."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 460, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24
NUM_COLORS = 8
ROW = 22
"""Height of one interval."""


def line_chart(
    title: str, series: Mapping[str, Points], *, x_label: str = "step", smooth: int = 0
) -> str:
    """Lines over x. `smooth` > 1 draws each point faintly and the mean of so many points. A line's
    colour is that of its place in `series`, empty ones counted: charts of the same names agree."""
    colors = {name: number for number, name in enumerate(series)}
    series = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in series.items()
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x_low, x_high = min(xs), max(xs)
    ticks = nice_ticks(min(ys), max(ys))
    to_x = _scale(x_low, x_high, LEFT, WIDTH - RIGHT)
    to_y = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    body = [_y_axis(ticks, to_y), _x_labels(x_low, x_high, x_label)]
    for name, points in series.items():
        number = colors[name]
        if smooth > 1 and len(points) > smooth:
            body += [
                f'<circle class="c{number % NUM_COLORS} faint" cx="{to_x(x):.1f}" '
                f'cy="{to_y(y):.1f}" r="1.5"/>'
                for x, y in points
            ]
            points = rolling_mean(points, smooth)
        path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in points)
        body.append(f'<polyline class="c{number % NUM_COLORS} line" points="{path}"/>')
        x, y = points[-1]
        body.append(
            f'<circle class="c{number % NUM_COLORS}" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3">'
            f"<title>{_number(y)}</title></circle>"
        )
    return _figure(title, body, {name: colors[name] for name in series})


def bar_chart(title: str, series: Mapping[str, Mapping[int, float]], *, x_label: str) -> str:
    """Bars over whole numbers, the series side by side."""
    series = {name: bars for name, bars in series.items() if bars}
    if not series:
        return ""
    low = min(min(bars) for bars in series.values())
    high = max(max(bars) for bars in series.values())
    ticks = nice_ticks(0.0, max(max(bars.values()) for bars in series.values()))
    to_y = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    slot = (WIDTH - LEFT - RIGHT) / (high - low + 1)
    width = 0.8 * slot / len(series)
    body = [_y_axis(ticks, to_y)]
    for number, bars in enumerate(series.values()):
        for x, value in bars.items():
            left = LEFT + (x - low) * slot + 0.1 * slot + number * width
            body.append(
                f'<rect class="c{number % NUM_COLORS}" x="{left:.1f}" y="{to_y(value):.1f}" '
                f'width="{width:.1f}" height="{to_y(0.0) - to_y(value):.1f}">'
                f"<title>{x}: {_number(value)}</title></rect>"
            )
    every = max(1, (high - low + 1) // 12)
    body += [
        f'<text class="tick" text-anchor="middle" x="{LEFT + (x - low + 0.5) * slot:.1f}" '
        f'y="{HEIGHT - 8}">{x}</text>'
        for x in range(low, high + 1, every)
    ]
    body.append(_corner(x_label))
    return _figure(title, body, {name: number for number, name in enumerate(series)})


def interval_chart(title: str, rows: Mapping[str, tuple[float, float, float] | None]) -> str:
    """(low, estimate, high) of each name, one below the other, about 0; colours as in lines."""
    colors = {name: number for number, name in enumerate(rows)}
    known = {name: row for name, row in rows.items() if row is not None}
    if not known:
        return ""
    ends = [value for low, _, high in known.values() for value in (low, high)]
    ticks = nice_ticks(min(0.0, *ends), max(0.0, *ends))
    to_x = _scale(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT - 10)
    bottom = TOP + ROW * len(known)
    body = [
        f'<line class="{"base zero" if abs(tick) < 1e-12 else "grid"}" x1="{to_x(tick):.1f}" '
        f'x2="{to_x(tick):.1f}" y1="{TOP}" y2="{bottom}"/><text class="tick" '
        f'text-anchor="middle" x="{to_x(tick):.1f}" y="{bottom + 16}">{_number(tick)}</text>'
        for tick in ticks
    ]
    for number, (name, (low, middle, high)) in enumerate(known.items()):
        color, y = f"c{colors[name] % NUM_COLORS}", TOP + ROW * (number + 0.5)
        told = f"{name}: {middle:+.3f} [{low:+.3f}, {high:+.3f}]"
        body.append(
            f'<polyline class="{color} line" points="{to_x(low):.1f},{y} {to_x(high):.1f},{y}"/>'
            f'<circle class="{color}" cx="{to_x(middle):.1f}" cy="{y}" r="4">'
            f"<title>{escape(told)}</title></circle>"
        )
    return _figure(title, body, {name: colors[name] for name in known}, bottom + BOTTOM)


def fraction_bar(parts: Mapping[str, float]) -> str:
    """One bar split into shares; they need not sum to 1. Used inside a table's cell."""
    total = sum(parts.values()) or 1.0
    cells = "".join(
        f'<span class="b{number % NUM_COLORS}" style="width:{100 * value / total:.2f}%" '
        f'title="{escape(name)} {value / total:.0%}"></span>'
        for number, (name, value) in enumerate(parts.items())
    )
    return f'<div class="bar">{cells}</div>'


def share_bar(share: float) -> str:
    """A bar that is filled by a share of its length. Used inside a table's cell."""
    return (
        f'<div class="bar track"><span class="b0" style="width:{100 * share:.2f}%" '
        f'title="{share:.0%}"></span></div>'
    )


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers around [low, high], at least two of them."""
    if not high > low:
        low, high = low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    width = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= raw * 0.999)
    first, last = math.floor(low / width + 1e-9), math.ceil(high / width - 1e-9)
    return [number * width for number in range(first, last + 1)]


def rolling_mean(points: Points, window: int) -> list[tuple[float, float]]:
    """The mean of the last `window` values at each point (fewer at the start)."""
    means = []
    for end in range(1, len(points) + 1):
        values = [y for _, y in points[max(0, end - window) : end]]
        means.append((points[end - 1][0], sum(values) / len(values)))
    return means


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A linear map from [low, high] to pixels [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _y_axis(ticks: Sequence[float], to_y: Callable[[float], float]) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{to_y(t):.1f}" '
        f'y2="{to_y(t):.1f}"/><text class="tick" text-anchor="end" x="{LEFT - 6}" '
        f'y="{to_y(t) + 4:.1f}">{_number(t)}</text>'
        for t in ticks
    )


def _x_labels(low: float, high: float, label: str) -> str:
    middle = (low + high) / 2
    marks = ((LEFT, "start", low), ((LEFT + WIDTH - RIGHT) / 2, "middle", middle))
    texts = "".join(
        f'<text class="tick" text-anchor="{anchor}" x="{x:.1f}" y="{HEIGHT - 8}">'
        f"{_number(value)}</text>"
        for x, anchor, value in marks
    )
    return texts + _corner(f"{label} {_number(high)}")


def _corner(label: str) -> str:
    return (
        f'<text class="tick" text-anchor="end" x="{WIDTH - RIGHT}" y="{HEIGHT - 8}">'
        f"{escape(label)}</text>"
    )


def _figure(
    title: str, body: Sequence[str], colors: Mapping[str, int], height: float = HEIGHT
) -> str:
    legend = "".join(
        f'<span><i class="b{number % NUM_COLORS}"></i>{escape(name)}</span>'
        for name, number in colors.items()
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f'{"".join(body)}</svg><div class="legend">{legend}</div></figure>'
    )


def _number(value: float) -> str:
    return f"{value:.4g}" if value else "0"
