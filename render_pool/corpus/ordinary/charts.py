"""Charts of the endless corpus: each function draws one anew, `w` by `h` units, as a body."""

import itertools
import math
import random

from render_pool.corpus.ordinary.markup import PALETTES, WORDS, heading, number, phrase, points, tag

_MARGIN = 44.0


def bars(rng: random.Random, w: float, h: float) -> str:
    """One or two series of bars over an axis with labels."""
    colors = rng.choice(PALETTES)
    num, series = rng.randint(6, 12), rng.choice((1, 1, 2))
    step = (w - 2 * _MARGIN) / num
    drawn, labels = [], []
    for i in range(num):
        x = _MARGIN + i * step
        for s in range(series):
            tall = rng.uniform(0.05, 0.95) * (h - 2 * _MARGIN)
            wide = 0.8 * step / series
            drawn.append(
                tag("rect", x=x + step * 0.1 + s * wide, y=h - _MARGIN - tall, width=wide,
                    height=tall, fill=colors[s if series > 1 else i % 8])
            )  # fmt: skip
        labels.append(tag("text", rng.choice(WORDS)[:5], x=x + step / 2, y=h - _MARGIN + 14))
    bars = tag("g", *drawn, stroke=rng.choice(("none", "white", "#333")))
    return heading(rng, w) + _axes(rng, w, h) + bars + _small(*labels)


def lines(rng: random.Random, w: float, h: float) -> str:
    """Two or three series as polylines or smooth paths, with dots and a legend."""
    colors = rng.choice(PALETTES)
    num = rng.randint(7, 11)
    drawn = []
    for s in range(rng.randint(2, 3)):
        level = rng.uniform(0.3, 0.7)
        track = []
        for i in range(num):
            level = min(0.95, max(0.05, level + rng.uniform(-0.15, 0.15)))
            x = _MARGIN + i * (w - 2 * _MARGIN) / (num - 1)
            track.append((x, h - _MARGIN - level * (h - 2 * _MARGIN)))
        if rng.random() < 0.4:
            drawn.append(tag("path", d=_smooth(track), stroke=colors[s], fill="none"))
        else:
            drawn.append(tag("polyline", points=points(track), stroke=colors[s], fill="none"))
        drawn.append(tag("g", *(tag("circle", cx=x, cy=y, r=3) for x, y in track), fill=colors[s]))
    dashes = rng.choice(("none", "none", "6 3", "2,2"))
    plot = tag("g", *drawn, stroke_width=rng.choice((1, 2, 2.5)), stroke_dasharray=dashes)
    return heading(rng, w) + _axes(rng, w, h) + plot + _legend(rng, w, colors[:3])


def pie(rng: random.Random, w: float, h: float) -> str:
    """A pie or a ring of slices, each with a percentage, and a legend."""
    colors = rng.choice(PALETTES)
    cx, cy, r = w * 0.42, h * 0.55, min(w * 0.36, h * 0.4)
    hole = rng.choice((0.0, 0.0, r * 0.55))
    shares = [rng.uniform(0.5, 3) for _ in range(rng.randint(5, 8))]
    angle, slices, ticks, labels = -math.pi / 2, [], [], []
    for i, share in enumerate(shares):
        end = angle + 2 * math.pi * share / sum(shares)
        slices.append(tag("path", d=_slice(cx, cy, r, hole, angle, end), fill=colors[i % 8]))
        middle = (angle + end) / 2
        text = f"{100 * share / sum(shares):.0f}%"
        x, y = cx + 0.75 * r * math.cos(middle), cy + 0.75 * r * math.sin(middle)
        labels.append(tag("text", text, x=x, y=y + 4, fill="white"))
        x, y = cx + 1.03 * r * math.cos(middle), cy + 1.03 * r * math.sin(middle)
        ticks.append(tag("line", x1=x, y1=y, x2=x + 0.08 * (x - cx), y2=y + 0.08 * (y - cy)))
        angle = end
    ring = tag("g", *slices, stroke="white", stroke_width=rng.choice((1, 2)))
    ring += tag("g", *ticks, stroke="#555")
    return heading(rng, w) + ring + _small(*labels) + _legend(rng, w, colors[: len(shares)])


def scatter(rng: random.Random, w: float, h: float) -> str:
    """Clouds of dots in a few colours, with a trend line."""
    colors = rng.choice(PALETTES)
    clouds = []
    for s in range(rng.randint(2, 3)):
        x0, y0 = rng.uniform(0.3, 0.7) * w, rng.uniform(0.35, 0.65) * h
        dots = [
            tag("circle", cx=min(w - 50, max(50, rng.gauss(x0, w / 9))),
                cy=min(h - 50, max(50, rng.gauss(y0, h / 9))), r=rng.choice((3, 4, 5)))
            for _ in range(rng.randint(8, 17))
        ]  # fmt: skip
        clouds.append(tag("g", *dots, fill=colors[s], fill_opacity=rng.choice((0.5, 0.7, 0.9))))
    trend = tag(
        "line", x1=_MARGIN, y1=rng.uniform(0.5, 0.8) * h, x2=w - _MARGIN,
        y2=rng.uniform(0.2, 0.5) * h, stroke="#c00", stroke_dasharray="5,5",
    )  # fmt: skip
    return heading(rng, w) + _axes(rng, w, h) + "".join(clouds) + trend


def heat(rng: random.Random, w: float, h: float) -> str:
    """A grid of cells in shades of one colour, rows and columns named."""
    rows, columns = rng.randint(3, 5), rng.randint(6, 8)
    left, top = 60.0, 40.0
    wide, tall = (w - left - 10) / columns, (h - top - 24) / rows
    red, green = rng.randrange(200), rng.randrange(200)
    cells, names = [], []
    for row in range(rows):
        y = top + row * tall
        names.append(tag("text", rng.choice(WORDS), x=left - 6, y=y + tall / 2 + 4))
        for column in range(columns):
            shade = rng.random()
            color = f"rgb({red + int(shade * (255 - red))},{green + int(shade * 50)},200)"
            x = left + column * wide
            cells.append(tag("rect", x=x, y=y, width=wide, height=tall, fill=color))
    grid = tag("g", *cells, stroke="#fff")
    rows_named = tag("g", *names, font_size="11", font_family="sans-serif", text_anchor="end")
    columns_named = _small(
        *(tag("text", chr(65 + c), x=left + (c + 0.5) * wide, y=h - 8) for c in range(columns))
    )
    return heading(rng, w) + grid + rows_named + columns_named


def _axes(rng: random.Random, w: float, h: float) -> str:
    """Axes, grid lines and numbers along the left side, and what they measure."""
    top = rng.choice((10, 50, 100, 500))
    grid, numbers = [], []
    for i in range(6):
        y = h - _MARGIN - i * (h - 2 * _MARGIN) / 5
        grid.append(tag("line", x1=_MARGIN, y1=y, x2=w - _MARGIN, y2=y))
        numbers.append(tag("text", f"{top * i // 5}", x=_MARGIN - 6, y=y + 4))
    name = tag("text", phrase(rng, 1), transform=f"rotate(-90) translate({number(-h / 2)},12)")
    frame = f"M{number(_MARGIN)} {number(_MARGIN)}V{number(h - _MARGIN)}H{number(w - _MARGIN)}"
    return (
        tag("g", *grid, stroke=rng.choice(("#ddd", "#e0e0e0", "lightgray")))
        + tag("path", d=frame, fill="none", stroke=rng.choice(("black", "#333")))
        + tag("g", *numbers, font_size="11", font_family="sans-serif", text_anchor="end")
        + _small(name)
    )


def _legend(rng: random.Random, w: float, colors: tuple[str, ...]) -> str:
    rows = [
        tag("rect", y=18 * i, width=12, height=12, fill=color, rx="2")
        + tag("text", rng.choice(WORDS), x=18, y=18 * i + 10)
        for i, color in enumerate(colors)
    ]
    place = f"translate({number(w - 82)},{rng.choice((36, 40, 48))})"
    return tag("g", *rows, transform=place, font_size="11", font_family="sans-serif")


def _small(*labels: str) -> str:
    return tag("g", *labels, font_size="11", font_family="sans-serif", text_anchor="middle")


def _slice(cx: float, cy: float, r: float, hole: float, start: float, end: float) -> str:
    def at(radius: float, angle: float) -> str:
        return f"{cx + radius * math.cos(angle):.2f} {cy + radius * math.sin(angle):.2f}"

    large = int(end - start > math.pi)
    arc = f"A{number(r)} {number(r)} 0 {large} 1 {at(r, end)}"
    if hole == 0:
        return f"M{number(cx)} {number(cy)}L{at(r, start)}{arc}Z"
    back = f"A{number(hole)} {number(hole)} 0 {large} 0 {at(hole, start)}"
    return f"M{at(r, start)}{arc}L{at(hole, end)}{back}Z"


def _smooth(track: list[tuple[float, float]]) -> str:
    """A cubic curve through the points, flat at each."""
    d = f"M{number(track[0][0])},{number(track[0][1])}"
    for (x0, y0), (x1, y1) in itertools.pairwise(track):
        middle = number((x0 + x1) / 2)
        d += f"C{middle},{number(y0)} {middle},{number(y1)} {number(x1)},{number(y1)}"
    return d
