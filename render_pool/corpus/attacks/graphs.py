"""Documents as graphs: references in circles, references that multiply, values that are inherited.

`k` copies in each of `d` levels are `k ** d` drawings, from `k * d` elements.
"""

from collections.abc import Callable
from itertools import pairwise
from random import Random

from render_pool.corpus.attacks.book import (
    HEAVY,
    ODD,
    REFUSED,
    SEEN,
    Book,
    Make,
    colour,
    document,
    filled,
    name,
    points,
    room,
    shape,
)

CYCLES, EXPANSION, INHERITED = Book("cycles"), Book("expansion"), Book("inherited")
BOOKS = (CYCLES, EXPANSION, INHERITED)

_LOOP = ("too_costly", "malformed")


def _defined(kind: str, id: str, body: str) -> str:
    """A definition of `kind` called `id`."""
    size = {
        "pattern": 'patternUnits="userSpaceOnUse" width="20" height="20"',
        "marker": 'viewBox="0 0 9 9" markerWidth="4" markerHeight="4"',
        "filter": 'x="0" y="0"',
    }.get(kind, "")
    return f'<{kind} id="{id}" {size}>{body}</{kind}>'


def _refers(rng: Random, kind: str, id: str) -> str:
    """One drawing that refers to the definition `id`."""
    if kind in ("g", "symbol", "svg"):
        href = rng.choice(("href", "xlink:href"))
        return f'<use {href}="#{id}"/>'
    if kind == "marker":
        where = rng.choice(("marker", "marker-start", "marker-mid", "marker-end"))
        d = f"M{rng.randint(0, 50)} {rng.randint(0, 50)}L9 9L0 9"
        return f'<path {where}="url(#{id})" d="{d}"/>'
    if kind == "textPath":
        return f'<text y="50"><textPath href="#{id}">{name(rng)}</textPath></text>'
    if kind == "tref":
        return f'<tref href="#{id}"/>'
    attribute = {"pattern": rng.choice(("fill", "stroke")), "clipPath": "clip-path"}.get(kind, kind)
    return shape(rng, f'{attribute}="url(#{id})"')


_KINDS = ("g", "symbol", "pattern", "mask", "clipPath", "marker")


def _ring(kind: str, length: int) -> Make:
    def write(rng: Random) -> str:
        ids = [name(rng) for _ in range(length)]
        body = "".join(
            _defined(kind, a, _refers(rng, kind, b) * rng.randint(1, 3))
            for a, b in zip(ids, ids[1:] + ids[:1], strict=True)
        )
        return document(rng, body + _refers(rng, kind, ids[0]) + shape(rng))

    return write


for _kind in _KINDS:
    for _length, _word in ((1, "itself"), (2, "mutual"), (7, "long")):
        CYCLES.add(f"{_kind}-{_word}", _ring(_kind, _length), *_LOOP)


@CYCLES.recipe(*SEEN, *_LOOP)
def across_kinds(rng: Random) -> str:
    kinds = rng.sample(("pattern", "mask", "clipPath", "marker", "symbol"), 3)
    ids = [name(rng) for _ in kinds]
    body = "".join(
        _defined(kinds[i], ids[i], _refers(rng, kinds[(i + 1) % 3], ids[(i + 1) % 3]))
        for i in range(3)
    )
    return document(rng, body + _refers(rng, kinds[0], ids[0]))


@CYCLES.recipe(*_LOOP)
def ancestor(rng: Random) -> str:
    id, depth = name(rng), rng.randint(1, 30)
    inside = "<g>" * depth + f'<use href="#{id}"/>' * rng.randint(1, 30) + "</g>" * depth
    return document(rng, f'<g id="{id}">{inside}</g>' + shape(rng))


@CYCLES.recipe(*_LOOP)
def whole_document(rng: Random) -> str:
    """An empty reference is the document that it stands in."""
    use = rng.choice(('<use href=""/>', '<use href="#"/>', '<use class="a"/>'))
    return document(rng, use + shape(rng))


@CYCLES.recipe(*_LOOP)
def root(rng: Random) -> str:
    text = document(rng, '<use href="#@"/>' + shape(rng))
    return text.replace("@", text.split('id="')[1].split('"')[0])


@CYCLES.recipe(*_LOOP)
def by_inheritance(rng: Random) -> str:
    """The definition inherits the reference to itself from the group around it."""
    id = name(rng)
    kind, attribute = rng.choice((("pattern", "fill"), ("pattern", "stroke"), ("marker", "marker")))
    inside = '<path d="M0 0L9 9L0 9"/>'
    return document(
        rng, f'<g {attribute}="url(#{id})">{_defined(kind, id, inside)}{inside}</g>' + shape(rng)
    )


_BY_CSS = (
    ("pattern", "fill"),
    ("pattern", "stroke"),
    ("mask", "mask"),
    ("clipPath", "clip-path"),
    ("marker", "marker"),
    ("marker", "marker-end"),
)


@CYCLES.recipe(*_LOOP)
def by_stylesheet(rng: Random) -> str:
    id = name(rng)
    kind, attribute = rng.choice(_BY_CSS)
    inside = '<path class="a" d="M0 0L9 9L0 9"/>'
    selector = rng.choice(("*", ".a", "path", "svg path", ":nth-child(1)", "[d]", "path:not(.b)"))
    style = f"<style>{selector}{{{attribute}:url(#{id})}}</style>"
    return document(rng, style + _defined(kind, id, inside) + inside + shape(rng))


@CYCLES.recipe(*_LOOP)
def by_style_attribute(rng: Random) -> str:
    id = name(rng)
    kind, attribute = rng.choice(_BY_CSS)
    inside = f'<path style="{attribute}: url( #{id} ) " d="M0 0L9 9L0 9"/>'.replace("( ", "(")
    return document(rng, _defined(kind, id, inside) + inside + shape(rng))


@CYCLES.recipe(*SEEN, *_LOOP)
def gradients(rng: Random) -> str:
    ids = [name(rng) for _ in range(rng.randint(1, 9))]
    links = zip(ids, ids[1:] + ids[:1], strict=True)
    body = "".join(
        f'<linearGradient id="{a}" href="#{b}"><stop/></linearGradient>' for a, b in links
    )
    return document(rng, body + shape(rng, f'fill="url(#{ids[0]})"') * rng.randint(1, 300))


@CYCLES.recipe(*ODD)
def pattern_templates(rng: Random) -> str:
    """Patterns that take their contents from each other."""
    a, b = name(rng), name(rng)
    body = f'<pattern id="{a}" href="#{b}" width="9" height="9"/><pattern id="{b}" href="#{a}"/>'
    return document(rng, body + shape(rng, f'fill="url(#{a})"') + shape(rng))


@CYCLES.recipe(*_LOOP)
def text_path(rng: Random) -> str:
    id = name(rng)
    inner = f'<textPath id="{id}" href="#{id}">{name(rng)}</textPath>'
    return document(rng, f"<text>{inner}</text>" + shape(rng))


@CYCLES.recipe(*_LOOP, "forbidden", *SEEN)
def tref(rng: Random) -> str:
    id = name(rng)
    return document(rng, f'<text id="{id}" y="50">x<tref href="#{id}"/></text>' + shape(rng))


@CYCLES.recipe(*_LOOP, *SEEN)
def disguised_definition(rng: Random) -> str:
    """cairosvg takes any element for a mask whose name holds "mask", and so on."""
    id = name(rng)
    kind, attribute = rng.choice((("mask", "mask"), ("path", "clip-path"), ("pattern", "fill")))
    tag = rng.choice((f"x{kind}", f"{kind}s", kind.upper()))
    inside = shape(rng, f'{attribute}="url(#{id})"')
    return document(rng, f'<{tag} id="{id}" width="9" height="9">{inside}</{tag}>{inside}')


def _levels(kind: str) -> Make:
    """k references in each of d levels."""

    def write(rng: Random) -> str:
        k = rng.randint(2, 30)
        d = next(n for n in range(2, 30) if k**n > 20_000)
        ids = [name(rng) for _ in range(d)]
        body = "".join(_defined(kind, a, _refers(rng, kind, b) * k) for a, b in pairwise(ids))
        body += _defined(kind, ids[-1], shape(rng) * k)
        return document(rng, f"<defs>{body}</defs>{_refers(rng, kind, ids[0])}" + shape(rng))

    return write


for _kind in _KINDS:
    EXPANSION.add(f"{_kind}-levels", _levels(_kind), *REFUSED)


@EXPANSION.recipe(*REFUSED)
def mixed_levels(rng: Random) -> str:
    kinds = [rng.choice(_KINDS) for _ in range(rng.randint(6, 8))]
    ids = [name(rng) for _ in kinds]
    k = rng.randint(5, 9)
    body = _defined(kinds[-1], ids[-1], shape(rng) * k)
    for i in range(len(kinds) - 1):
        body += _defined(kinds[i], ids[i], _refers(rng, kinds[i + 1], ids[i + 1]) * k)
    return document(rng, f"{body}{_refers(rng, kinds[0], ids[0])}" + shape(rng))


def _times(kind: str) -> Make:
    """Many references to one definition with many leaves."""

    def write(rng: Random) -> str:
        id, leaves = name(rng), rng.randint(150, 400)
        users = _refers(rng, kind, id) * rng.randint(150, 300)
        leaf = f'<path fill="{colour(rng)}" d="M1 1h{rng.randint(2, 9)}v9z"/>'
        return document(rng, f"<defs>{_defined(kind, id, leaf * leaves)}</defs>{users}")

    return write


for _kind in _KINDS:
    EXPANSION.add(f"{_kind}-times-leaves", _times(_kind), *REFUSED)


@EXPANSION.recipe(*REFUSED)
def markers_times_vertices(rng: Random) -> str:
    id = name(rng)
    marker = _defined("marker", id, '<circle r="3"/>' * rng.randint(3, 20))
    line = f'<polyline marker-mid="url(#{id})" points="{points(rng, rng.randint(2000, 8000))}"/>'
    return document(rng, marker + line)


@EXPANSION.recipe(*REFUSED)
def markers_within_clip(rng: Random) -> str:
    """cairosvg copies the whole path for each marker of a path that clips."""
    a, b = name(rng), name(rng)
    line = f'<polyline marker-mid="url(#{a})" points="{points(rng, rng.randint(1000, 5000))}"/>'
    body = _defined("marker", a, '<circle r="3"/>') + _defined("clipPath", b, line)
    return document(rng, body + shape(rng, f'clip-path="url(#{b})"'))


@EXPANSION.recipe(*REFUSED)
def inherited_pattern(rng: Random) -> str:
    id = name(rng)
    pattern = _defined("pattern", id, shape(rng) * rng.randint(20, 90))
    group = f'<g fill="url(#{id})">' + "<rect width='99' height='9'/>" * rng.randint(300, 900)
    return document(rng, f"{pattern}{group}</g>")


@EXPANSION.recipe(*REFUSED)
def stylesheet_pattern(rng: Random) -> str:
    id = name(rng)
    inside = f'<circle fill="{colour(rng)}" r="{rng.randint(1, 9)}"/>' * rng.randint(20, 90)
    selector = rng.choice(("rect", "svg rect", "rect:nth-child(n)", "[y]", "rect:not(.a)"))
    style = f"<style>{selector}{{fill:url(#{id})}}</style>"
    rects = "<rect y='1' width='99' height='9'/>" * rng.randint(300, 900)
    return document(rng, style + _defined("pattern", id, inside) + rects)


@EXPANSION.recipe(*REFUSED)
def flat_uses(rng: Random) -> str:
    """Each use walks the whole document."""
    id = name(rng)
    return document(rng, f'<g id="{id}"/>' + f'<use href="#{id}"/>' * rng.randint(1500, 2500))


@EXPANSION.recipe(*REFUSED)
def uses_of_a_long_path(rng: Random) -> str:
    id = name(rng)
    path = f'<path id="{id}" d="M{points(rng, rng.randint(2000, 4000))}"/>'
    return document(rng, f"<defs>{path}</defs>" + f'<use href="#{id}"/>' * rng.randint(200, 600))


def _paint_links(kind: str, stops: str) -> Callable[[Random], str]:
    def write(rng: Random) -> str:
        """A chain of templates, followed anew (through the whole document) for each paint."""
        ids = [name(rng) for _ in range(rng.randint(60, 200))]
        chain = "".join(f'<{kind} id="{a}" href="#{b}"/>' for a, b in pairwise(ids))
        end = f'<{kind} id="{ids[-1]}" width="9" height="9">{stops}</{kind}>'
        users = shape(rng, f'fill="url(#{ids[0]})"') * rng.randint(100, 400)
        return document(rng, chain + end + users)

    return write


EXPANSION.add("gradient-chain", _paint_links("linearGradient", "<stop/>"), *REFUSED)
EXPANSION.add("pattern-chain", _paint_links("pattern", '<circle r="3"/>'), *REFUSED)


@EXPANSION.recipe(*REFUSED)
def text_path_chain(rng: Random) -> str:
    """An element called textPath serves as a path, too, and each draws the next one twice."""
    ids = [name(rng) for _ in range(rng.randint(12, 40))]
    links = pairwise(ids)
    chain = "".join(f'<textPath id="{a}" href="#{b}">ab</textPath>' for a, b in links)
    path = f'<path id="{ids[-1]}" d="M0 {rng.randint(1, 90)}H99"/>'
    return document(rng, f"<text>{chain}</text>{path}" + _refers(rng, "textPath", ids[0]))


@EXPANSION.recipe(*HEAVY, "forbidden")
def tref_levels(rng: Random) -> str:
    ids = [name(rng) for _ in range(rng.randint(10, 24))]
    body = "".join(f'<text id="{a}">{_refers(rng, "tref", b) * 2}</text>' for a, b in pairwise(ids))
    return document(rng, f'{body}<text id="{ids[-1]}" y="50">{name(rng)}</text>')


# What children inherit, they parse again: a value of n bytes costs each of them n.
_VALUES: dict[str, tuple[str, Callable[[Random, int], str]]] = {
    "d": ("<path/>", lambda rng, size: "M" + points(rng, size // 6)),
    "points": ("<polyline/>", lambda rng, size: points(rng, size // 6)),
    "stroke-dasharray": ("<g/>", lambda rng, size: filled(f"{rng.randint(1, 9)}px ", size)),
    "font-family": ("<text>a</text>", lambda rng, size: filled(name(rng) + ",", size)),
    "font": ("<g/>", lambda rng, size: filled(name(rng) + " ", size)),
    "fill": ("<g><path/></g>", lambda rng, size: filled("url(", size) + name(rng)),
    "stroke": ("<path/>", lambda rng, size: filled("rgb(", size) + name(rng)),
    "marker-mid": ("<path d='M0 0h1'/>", lambda rng, size: filled("url(", size) + name(rng)),
    "letter-spacing": ("<text>a</text>", lambda rng, size: filled(f"{rng.randint(1, 9)} ", size)),
}


def _inherits(attribute: str, by: str) -> Make:
    child, value = _VALUES[attribute]

    def write(rng: Random) -> str:
        size = room(rng, 15_000, 30_000)
        children = filled(child, room(rng, 10_000, 25_000))
        if by == "group":
            return document(rng, f'<g {attribute}="{value(rng, size)}">{children}</g>')
        if by == "style":
            return document(rng, f'<g style="{attribute}:{value(rng, size)}">{children}</g>')
        return document(rng, f"<style>*{{{attribute}:{value(rng, size)}}}</style>{children}")

    return write


for _attribute in _VALUES:
    INHERITED.add(f"{_attribute}", _inherits(_attribute, "group"), *REFUSED)
for _attribute in ("d", "points", "stroke-dasharray"):
    INHERITED.add(f"{_attribute}-by-stylesheet", _inherits(_attribute, "sheet"), *REFUSED)
INHERITED.add("points-by-style", _inherits("points", "style"), *REFUSED)


@INHERITED.recipe(*REFUSED)
def many_attributes(rng: Random) -> str:
    """Every descendant gets a copy of every attribute."""
    names = " ".join(f'a{i}="{name(rng)}"' for i in range(room(rng, 15_000, 30_000) // 16))
    return document(rng, f"<g {names}>{filled('<g/>', room(rng, 10_000, 30_000))}</g>")


@INHERITED.recipe(*HEAVY, "malformed")
def attributes_of_each_level(rng: Random) -> str:
    depth, count = rng.randint(150, 400), rng.randint(8, 12)
    opening = "".join(
        "<g " + " ".join(f'a{i}x{j}=""' for j in range(count)) + ">" for i in range(depth)
    )
    return document(rng, opening + shape(rng) * 20 + "</g>" * depth)
