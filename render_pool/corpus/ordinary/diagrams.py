"""Diagrams, tables, text and icons of the endless corpus, drawn anew by each call."""

import math
import random

from render_pool.corpus.ordinary.markup import (
    FONTS,
    PALETTES,
    WORDS,
    heading,
    number,
    phrase,
    points,
    tag,
)

_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
    'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z"/></marker></defs>'
)


def flow(rng: random.Random, w: float, h: float) -> str:
    """Boxes, diamonds and ovals in a grid, joined by arrows with words on them."""
    colors = rng.choice(PALETTES)
    columns, rows = (3, rng.randint(3, 4))
    dx, dy = w / columns, (h - 40) / rows
    boxes, arrows = [], []
    for i in range(columns * rows):
        cx, cy = dx * (i % columns + 0.5), 40 + dy * (i // columns + 0.5)
        a, b = dx * 0.36, dy * 0.28
        shape = rng.choice(("rect", "rect", "diamond", "oval"))
        if shape == "rect":
            boxes.append(tag("rect", x=cx - a, y=cy - b, width=2 * a, height=2 * b, rx=6))
        elif shape == "diamond":
            corners = [(cx, cy - b), (cx + a, cy), (cx, cy + b), (cx - a, cy)]
            boxes.append(tag("polygon", points=points(corners), fill=rng.choice(colors)))
        else:
            boxes.append(tag("ellipse", cx=cx, cy=cy, rx=a, ry=b))
        boxes.append(tag("text", rng.choice(WORDS), x=cx, y=cy + 4, fill="#111", stroke="none"))
        if i % columns < columns - 1:
            arrows.append(tag("line", x1=cx + a, y1=cy, x2=cx + dx - a - 2, y2=cy))
        if i // columns < rows - 1 and rng.random() < 0.7:
            arrows.append(tag("path", d=f"M{number(cx)} {number(cy + b)}v{number(dy - 2 * b - 2)}"))
    nodes = tag("g", *boxes, fill="#fafafa", stroke=colors[0], font_size="12", text_anchor="middle")
    return (
        _ARROW
        + heading(rng, w)
        + tag("g", *arrows, stroke="#555", stroke_width="1.5", marker_end="url(#arrow)")
        + nodes
    )


def tree(rng: random.Random, w: float, h: float) -> str:
    """A tree of depth four: letters in circles, edges as lines or curves with arrowheads."""
    colors = rng.choice(PALETTES)
    levels = [1, 2, rng.randint(3, 4), rng.randint(6, 8)]
    curved = rng.random() < 0.5
    rows = [
        [(w * (i + 0.5) / num, 60 + (h - 90) * depth / 3) for i in range(num)]
        for depth, num in enumerate(levels)
    ]
    edges, nodes = [], []
    for depth, row in enumerate(rows):
        for i, (x, y) in enumerate(row):
            nodes.append(
                tag("circle", cx=x, cy=y, r=14, fill=colors[depth])
                + tag("text", rng.choice("ABCDEFGHKLMNPQRSTUVWXYZ"), x=x, y=y + 4)
            )
            if depth:
                above = rows[depth - 1]
                px, py = above[i * len(above) // len(row)]
                mid = number((y + py) / 2)
                bend = f"C{number(px)},{mid} {number(x)},{mid} " if curved else "L"
                d = f"M{number(px)},{number(py + 14)}{bend}{number(x)},{number(y - 15)}"
                edges.append(tag("path", d=d))
    return (
        _ARROW
        + heading(rng, w)
        + tag("g", *edges, fill="none", stroke="#777", marker_end="url(#arrow)")
        + tag("g", *nodes, font_family="sans-serif", font_size="12", text_anchor="middle",
              fill="white")
    )  # fmt: skip


def table(rng: random.Random, w: float, h: float) -> str:
    """Rows and columns of words and numbers, with stripes, by CSS classes."""
    rows, columns = rng.randint(6, 9), rng.randint(4, 5)
    wide, tall = (w - 20) / columns, (h - 50) / rows
    color = rng.choice(rng.choice(PALETTES))
    style = (
        f".head{{fill:{color}}}.odd{{fill:#f4f4f4}}.even{{fill:#fff}}"
        f"text{{font:12px {rng.choice(FONTS)}}}.t{{fill:#fff;font-weight:bold}}"
    )
    written = []
    for row in range(rows):
        y = 40 + row * tall
        kind = "head" if row == 0 else ("odd", "even")[row % 2]
        written.append(tag("rect", x=10, y=y, width=w - 20, height=tall, class_=kind))
        for column in range(columns):
            cell = rng.choice(WORDS) if row == 0 or column == 0 else f"{rng.uniform(0, 999):.1f}"
            place = {"x": 16 + column * wide, "y": y + tall / 2 + 4}
            written.append(tag("text", cell, **place, **({"class_": "t"} if row == 0 else {})))
    written.append(
        tag("rect", x=10, y=40, width=w - 20, height=rows * tall, fill="none", stroke="#999")
    )
    return tag("style", style) + heading(rng, w) + "".join(written)


def geometry(rng: random.Random, w: float, h: float) -> str:
    """Triangles, circles, angles and lengths with the letters and numbers of a textbook."""
    colors = rng.choice(PALETTES)
    figures, labels = [], []
    for i in range(rng.randint(4, 6)):
        cx, cy = w * (i % 3 + 0.5) / 3, 40 + (h - 60) * (i // 3 + 0.5) / 2
        size = min(w / 7, h / 6) * rng.uniform(0.7, 1)
        num, turn = rng.choice((3, 3, 4, 5, 6)), rng.uniform(0, math.tau)
        corners = [
            (cx + size * math.cos(turn + math.tau * k / num),
             cy + size * math.sin(turn + math.tau * k / num))
            for k in range(num)
        ]  # fmt: skip
        figures.append(tag("polygon", points=points(corners), fill=colors[i], fill_opacity="0.25"))
        figures.append(tag("circle", cx=cx, cy=cy, r=size, stroke_dasharray="4 2"))
        figures.append(tag("line", x1=cx, y1=cy, x2=corners[0][0], y2=corners[0][1]))
        for k, (x, y) in enumerate(corners):
            labels.append(tag("text", "ABCDEF"[k], x=cx + (x - cx) * 1.2, y=cy + (y - cy) * 1.2))
        angle = f"{rng.randint(20, 160)}\N{DEGREE SIGN}"
        labels.append(tag("text", f"r = {size / 10:.1f}", x=cx, y=cy + 14, font_style="italic"))
        labels.append(tag("text", angle, x=cx, y=cy - 4))
    return (
        heading(rng, w)
        + tag("g", *figures, fill="none", stroke=colors[7], stroke_width=rng.choice((1, 1.5, 2)))
        + tag("g", *labels, font_size="11", font_family="serif", text_anchor="middle")
    )


def paragraph(rng: random.Random, w: float, h: float) -> str:
    """A poster: a paragraph in lines of tspans, each on a band, with emphasis and bullets."""
    num = rng.randint(8, 10)
    step = (h - 60) / num
    size = min(rng.choice((12, 13, 14, 16)), 0.7 * step)
    light = rng.choice(("#eef", "#efe", "#fee", "#f4f4f4"))
    lines, bands = [], []
    for i in range(num):
        words = rng.choices(WORDS, k=max(3, min(6, int(w / size / 6))))
        if rng.random() < 0.7:
            at = rng.randrange(len(words))
            words[at] = tag("tspan", words[at], font_weight="bold", fill=rng.choice(PALETTES[2]))
        place = {"y": 60} if i == 0 else {"dy": step}
        lines.append(tag("tspan", " ".join(words), x=34, **place))
        y = 60 + i * step - size / 3
        bands.append(tag("rect", x=12, y=y - 0.45 * step, width=w - 24, height=0.9 * step, rx=4))
        bands.append(tag("circle", cx=22, cy=y, r=3, fill=rng.choice(PALETTES[2])))
    rule = tag("line", x1=20, y1=38, x2=w - 20, y2=38, stroke="#888")
    text = tag("text", *lines, font_size=size, font_family=rng.choice(FONTS), fill="#222")
    return heading(rng, w) + rule + tag("g", *bands, fill=light) + text


def icons(rng: random.Random, w: float, h: float) -> str:
    """Symbols used many times, under gradients, clips, masks, patterns and opacity."""
    colors = rng.choice(PALETTES)
    side, step = 48.0, 70
    scale = round(math.sqrt(w * (h - 40) / rng.randint(14, 19)) / step, 2)
    grid = [
        (x, y)
        for y in range(0, int((h - 44) / scale - side), step)
        for x in range(12, int(w / scale - side), step)
    ]
    uses = []
    for x, y in grid:
        paint = rng.choice((rng.choice(colors), "url(#shine)", "url(#ball)", "url(#dots)"))
        extra = rng.choice(
            ({}, {}, {"opacity": "0.6"}, {"transform": f"rotate({rng.randint(-30, 30)} {x} {y})"},
             {"clip_path": "url(#top)"}, {"mask": "url(#fade)"})
        )  # fmt: skip
        if "clip_path" in extra or "mask" in extra:
            shape = tag("rect", width=side, height=side, rx=8, fill=paint)
            uses.append(tag("g", tag("g", shape, **extra), transform=f"translate({x},{y})"))
        else:
            shape = rng.choice(("#star", "#bell", "#home", "#disk"))
            uses.append(tag("use", href=shape, x=x, y=y, fill=paint, **extra))
    place = f"translate(0,44) scale({scale})"
    shown = tag("g", *uses, transform=place, stroke="#444")
    return _icon_defs(rng, colors) + heading(rng, w) + shown


def _icon_defs(rng: random.Random, colors: tuple[str, ...]) -> str:
    stops = tag("stop", offset="0", stop_color=rng.choice(colors)) + tag(
        "stop", offset="100%", stop_color=rng.choice(colors)
    )
    spikes = [
        (24 + (22, 10)[k % 2] * math.sin(k * math.pi / 5),
         24 - (22, 10)[k % 2] * math.cos(k * math.pi / 5))
        for k in range(10)
    ]  # fmt: skip
    return tag(
        "defs",
        tag("linearGradient", stops, id="shine", x2="0", y2="1"),
        tag("radialGradient", stops, id="ball", cx="35%", cy="35%", r="70%"),
        '<pattern id="dots" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" fill="#eee"/><circle cx="4" cy="4" r="2.5" '
        f'fill="{rng.choice(colors)}"/></pattern>',
        '<clipPath id="top"><circle cx="24" cy="24" r="20"/></clipPath>',
        '<mask id="fade"><rect width="48" height="48" fill="#999"/>'
        '<circle cx="24" cy="24" r="16" fill="#fff"/></mask>',
        tag("symbol", tag("polygon", points=points(spikes)), id="star"),
        tag("g", tag("path", d="M8 36h32l-5-8V18a11 11 0 0 0-22 0v10z"), id="bell"),
        tag("g", tag("path", d="M4 24L24 6l20 18v18H30V30H18v12H4z"), id="home"),
        tag("circle", id="disk", cx=24, cy=24, r=20),
    )


def timeline(rng: random.Random, w: float, h: float) -> str:
    """Spans of time as bars in lanes, with months above and a line for today."""
    colors = rng.choice(PALETTES)
    lanes = rng.randint(7, 11)
    tall = (h - 70) / lanes
    months = rng.randint(6, 10)
    step = (w - 100) / months
    written = [
        tag("text", "JFMAMJJASOND"[m], x=90 + step * (m + 0.5), y=50)
        + tag("line", x1=90 + step * m, y1=56, x2=90 + step * m, y2=h - 8)
        for m in range(months)
    ]
    for lane in range(lanes):
        y = 60 + lane * tall
        start, span = rng.uniform(0, 0.6), rng.uniform(0.1, 0.4)
        written.append(
            tag("rect", x=90 + (w - 100) * start, y=y, width=(w - 100) * span, height=tall * 0.7,
                rx=3, fill=colors[lane % 8], stroke="none")
            + tag("text", phrase(rng, 1), x=8, y=y + tall * 0.6)
        )  # fmt: skip
    today = 90 + (w - 100) * rng.random()
    written.append(tag("path", d=f"M{number(today)} 56V{number(h - 8)}", stroke="red"))
    return heading(rng, w) + tag("g", *written, stroke="#ccc", font_size="12", font_family="Arial")
