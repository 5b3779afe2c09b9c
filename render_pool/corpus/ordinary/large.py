"""Ordinary documents with much of one thing: too long to write by hand, too common to refuse."""

from math import cos, sin

from render_pool.corpus.ordinary.markup import WORDS

NS = 'xmlns="http://www.w3.org/2000/svg"'


def page(body: str, root: str = 'viewBox="0 0 120 80"') -> str:
    """A whole document around `body`."""
    return f"<svg {NS} {root}>{body}</svg>"


def _rects(columns: int, rows: int, size: str) -> str:
    return "".join(
        f'<rect x="{x * 2}" y="{y * 2}"{size}/>' for y in range(rows) for x in range(columns)
    )


def _squares() -> str:
    return "".join(
        f'<rect x="{x * 8 + 4}" y="4" width="6" height="6" rx="1" fill="#{x:x}{x:x}8"/>'
        for x in range(14)
    )


def _letters() -> str:
    return "".join(
        f'<text x="4" y="{6 + 5 * line}">{" ".join((WORDS * 3)[line : line + 14])[:75]}</text>'
        for line in range(20)
    )


def _wave(num: int) -> str:
    return " ".join(f"{x * 120 / num:.2f},{40 + 30 * sin(x / 40):.2f}" for x in range(num))


def _scribble() -> str:
    return "M0 40" + "".join(
        f"c{1 + sin(i):.1f} {5 * cos(i):.1f} {2 * cos(i):.1f} {-5 * sin(i):.1f} "
        f".2 {3 * sin(i * 7):.1f}"
        for i in range(880)
    )


def _classes(num: int) -> str:
    rules = "".join(f".cls-{i}{{fill:hsl({i},50%,50%);opacity:.{i % 9 + 1}}}" for i in range(num))
    rects = "".join(
        f'<rect class="cls-{i}" x="{i % 20 * 6}" y="{i // 20 * 12}" width="5" height="9"/>'
        for i in range(num)
    )
    return f"<style>{rules}</style>{rects}"


def _theme() -> str:
    """The style sheet of a diagram: dozens of rules, each behind the id of the figure."""
    kinds = (
        "node",
        "cluster",
        "edge",
        "label",
        "title",
        "note",
        "actor",
        "loop",
        "section",
        "task",
    )
    rules = "".join(
        f"#fig .{kind} {part}{{fill:#{i}{i}{i};stroke:#333;stroke-width:{i % 3}px}}"
        f"#fig .{kind}.active &gt; {part}, #fig .{kind} .{part}{{fill:#f90}}"
        for i, kind in enumerate(kinds)
        for part in ("rect", "circle", "text", "path")
    )
    nodes = "".join(
        f'<g class="{kind}{" active" * (i % 2)}" transform="translate({i % 4 * 28 + 4},'
        f'{i // 4 * 24 + 4})"><rect width="20" height="12"/><text y="20" font-size="6">{kind}'
        f'</text><path d="M0 6h20"/></g>'
        for i, kind in enumerate(kinds)
    )
    return f"<style>{rules}</style>{nodes}"


def _uses(num: int) -> str:
    glyphs = '<defs><path id="g0" d="M0 0h2v-3h-2z"/><path id="g1" d="M0 0L1-3 2 0z"/></defs>'
    return glyphs + "".join(
        f'<use xlink:href="#g{i % 2}" x="{i % 40 * 3}" y="{i // 40 * 4 + 4}"/>' for i in range(num)
    )


def _own_paint(num: int) -> str:
    """Each cell has a gradient and a clip path of its own, as chart exporters write them."""
    return "".join(
        f'<linearGradient id="l{i}"><stop stop-color="#{i % 9}0f"/><stop offset="1"/>'
        f'</linearGradient><clipPath id="c{i}"><rect x="{i % 10 * 12}" y="{i // 10 * 16}" '
        f'width="10" height="14" rx="2"/></clipPath><g clip-path="url(#c{i})"><rect '
        f'x="{i % 10 * 12}" y="{i // 10 * 16}" width="12" height="16" fill="url(#l{i})"/></g>'
        for i in range(num)
    )


def _marked() -> str:
    dots = " ".join(f"{2 * i},{40 + 30 * sin(i / 5):.1f}" for i in range(60))
    return (
        '<marker id="m" markerWidth="4" markerHeight="4" refX="2" refY="2"><circle cx="2" cy="2" '
        f'r="1.5" fill="red"/></marker><polyline points="{dots}" fill="none" stroke="#333" '
        'stroke-width=".5" marker-mid="url(#m)"/>'
    )


LARGE: dict[str, str] = {
    "80 nested groups": page(
        "<g>" * 40
        + '<g transform="translate(1,.5)">' * 40
        + '<circle cx="20" cy="20" r="15" fill="crimson"/>'
        + "</g>" * 80
    ),
    "2500 rects": page(
        f"<style>rect{{width:1.4px;height:1.4px;fill:#357}}</style>{_rects(50, 50, '')}",
        'viewBox="0 0 100 100"',
    ),
    "1300 plain rects": page(
        _rects(50, 26, ' width="1" height="1"'), 'width="400" height="208" viewBox="0 0 100 52"'
    ),
    "polyline of 3000 points": page(
        f'<polyline points="{_wave(3000)}" fill="none" stroke="teal"/>'
    ),
    "path of 3000 implicit lines": page(f'<path d="M{_wave(3000)}V80H0z" fill="#9cf"/>'),
    "path of 20 KB": page(f'<path d="{_scribble()}" fill="none" stroke="#602" stroke-width=".4"/>'),
    "1500 letters": page(f'<g font-size="4">{_letters()}</g>', 'viewBox="0 0 200 110"'),
    "100 data attributes": page(
        "<rect" + "".join(f' data-k{i}="{i * i}"' for i in range(100)) + ' width="60" height="40"/>'
    ),
    "120 classes": page(_classes(120)),
    "80 rules of descendants": page(_theme(), 'id="fig" viewBox="0 0 120 80"'),
    "500 uses": page(_uses(500), 'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 120 84"'),
    "50 gradients and 50 clips": page(_own_paint(50)),
    "60 markers": page(_marked()),
    "attribute of 10 KB": page(
        f'<rect width="60" height="40"/><desc data-source="{"7VhLc5s+" * 1250}"/>'
    ),
    "40 times as wide": page(
        f'<g transform="scale(4,1)">{_squares()}</g>', 'width="800" height="20"'
    ),
    "40 times as high": page(
        f'<g transform="translate(16) rotate(90)">{_squares()}</g>', 'viewBox="0 0 16 640"'
    ),
}
"""Name: document."""
