"""Counted costs against what cairosvg really does.

The oracle counts, in this process, the nodes that cairosvg builds and the elements that it draws:
no clock is asked. Nested references of every kind, inherited paints, texts and links.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.types import Invalid
from render_pool import cost
from render_pool.corpus import attacks, ordinary
from render_pool.outline import outline
from render_pool.svg import MAX_STEPS, Page, prepare
from tests.processor_time import cheaply

cairosvg_parser = pytest.importorskip("cairosvg.parser")
cairosvg_surface = pytest.importorskip("cairosvg.surface")

SIDE = 32
BUILT, DRAWN = 0.15, 0.4
"""Steps that each node and each drawing count for at least, in any document."""
MOST_PER_CALL, MOST_AT_ALL = 12.0, 25.0
"""Steps that each of them counts for at most, where nothing refers to anything."""
PAGE = Page(side=SIDE, grid=1, fit="pad")


_LEVELS = 400
"""Frames that cairosvg may nest: forty drawings."""


class _Enough(Exception):
    """So many calls that the document is hostile, whatever else it would do."""


@dataclass
class Calls:
    built: int = 0
    drawn: int = 0

    @property
    def least(self) -> float:
        return self.built * BUILT + self.drawn * DRAWN

    def check(self, most: int) -> None:
        if self.built + self.drawn > most:
            raise _Enough


@contextmanager
def counted(most: int) -> Iterator[Calls]:
    calls = Calls()
    build, draw = cairosvg_parser.Node.__init__, cairosvg_surface.Surface.draw

    def counted_build(self: object, *arguments: object, **named: object) -> None:
        calls.built += 1
        calls.check(most)
        build(self, *arguments, **named)

    def counted_draw(self: object, node: object) -> None:
        calls.drawn += 1
        calls.check(most)
        draw(self, node)

    cairosvg_parser.Node.__init__ = counted_build
    cairosvg_surface.Surface.draw = counted_draw
    try:
        yield calls
    finally:
        cairosvg_parser.Node.__init__, cairosvg_surface.Surface.draw = build, draw


def _depth() -> int:
    depth, frame = 0, sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        depth += 1
    return depth


@contextmanager
def shallow() -> Iterator[None]:
    """Recursion ends early: the documents of these tests are a few levels deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(_depth() + _LEVELS)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def truth(svg: str, most: int = 1500) -> tuple[Calls, str]:
    """What cairosvg does with a document, and how that ends: drawn, error, recursion or enough."""
    with counted(most) as calls, shallow():
        try:
            tree = cairosvg_parser.Tree(bytestring=svg.encode())
            cairosvg_surface.PNGSurface(tree, None, 96, output_width=SIDE, output_height=SIDE)
        except _Enough:
            return calls, "enough"
        except RecursionError:
            return calls, "recursion"
        except Exception:  # noqa: BLE001  hostile documents raise anything
            return calls, "error"
    return calls, "drawn"


def steps(svg: str) -> float:
    """Infinite where there is no bound."""
    document = outline(svg.encode())
    assert not isinstance(document, Invalid), document
    try:
        return cost.steps(document, (100, 100), SIDE * SIDE)
    except cost.TooCostly:
        return float("inf")


def page(inside: str) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 100 100">{inside}</svg>'
    )


# random documents

IDS = ("a", "b", "c", "d e")
PLAIN = "g rect circle path text tspan a polyline svg switch"
REFERRED = "pattern mask clipPath marker symbol linearGradient radialGradient defs filter"
GEOMETRY = {
    "rect": 'width="40" height="30"',
    "circle": 'r="20"',
    "path": 'd="M0 0L50 50L90 0"',
    "polyline": 'points="0,0 50,50 90,10"',
    "pattern": 'width="9" height="9" patternUnits="userSpaceOnUse"',
    "marker": 'markerWidth="9" markerHeight="9" viewBox="0 0 9 9"',
    "svg": 'width="50" height="50"',
}
REFERENCES = ("fill", "stroke", "mask", "clip-path", "marker-mid", "marker-end", "filter")
SPELLINGS = (
    "url(#{})",
    "url(#{})",
    "url('#{}')",
    "#{}",
    "url(x#{}) red",
    " url(#{})",
    "url(#\t{})",
)


def written(tag: str, attributes: list[str], children: list[str]) -> str:
    inside = "".join(children)
    opened = " ".join([tag, GEOMETRY.get(tag, ""), *attributes])
    return f"<{opened}>{inside}</{tag}>"


def distinct(attributes: list[tuple[str, str]]) -> list[str]:
    return [f'{name}="{value}"' for name, value in dict(attributes).items()]


ids = st.sampled_from(IDS)
names = st.tuples(st.just("id"), ids)
references = st.builds(
    lambda name, spelling, target: (name, spelling.format(target)),
    st.sampled_from(REFERENCES),
    st.sampled_from(SPELLINGS),
    ids,
)
styles = st.builds(
    lambda name, target: ("style", f"{name}:url(#{target})"), st.sampled_from(REFERENCES), ids
)
attributes = st.lists(st.one_of(names, names, references, styles), max_size=3).map(distinct)
uses = st.builds(
    lambda target, form, name: f'<use {form}="{target}"{name}/>',
    st.one_of(ids.map("#{}".format), st.sampled_from(["", "#", "#none"])),
    st.sampled_from(["href", "xlink:href"]),
    st.one_of(st.just(""), ids.map(' id="{}"'.format)),
)
leaves = st.one_of(
    st.builds(written, st.sampled_from(["rect", "path", "text"]), attributes, st.just([])),
    uses,
    st.just("words"),
)


def nested(tags: str) -> Callable[[st.SearchStrategy[str]], st.SearchStrategy[str]]:
    return lambda inner: st.builds(
        written, st.sampled_from(tags.split()), attributes, st.lists(inner, max_size=4)
    )


documents = st.recursive(leaves, nested(f"{PLAIN} {PLAIN} {REFERRED}"), max_leaves=20)
plain_leaves = st.one_of(
    st.builds(written, st.sampled_from(["rect", "path", "text"]), st.just([]), st.just([])),
    st.just("words"),
)
plain_documents = st.recursive(
    plain_leaves,
    lambda inner: st.builds(
        written,
        st.sampled_from(PLAIN.split()),
        names.map(lambda name: distinct([name])),
        st.lists(inner, max_size=4),
    ),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(documents, max_size=4).map("".join).map(page))
@example(page('<g id="d e"><rect width="9" height="9"/></g><use href="#d e"/>'))
@example(page('<mask id="a"><path d="M0 0L5 5" mask="#a"/></mask><path d="M0 0L9 9" mask="#a"/>'))
@example(page('<clipPath  id="a" clip-path="url(#a)"></clipPath>'))
@example(page('<pattern id="a" fill="url(#a)" width="9" height="9"><rect/></pattern>'))
@example(page('<marker id="a" mask="url(#a)"><path d="M0 0L5 5"/></marker>'))
def test_no_work_of_cairosvg_is_missed(svg: str) -> None:
    count = steps(svg)
    calls, end = truth(svg)
    if end == "recursion":
        assert count > MAX_STEPS, svg
    elif end == "enough":
        assert count > calls.least, svg
    else:
        assert count >= calls.least, (calls, count, end, svg)


@settings(max_examples=120, deadline=None)
@given(st.lists(plain_documents, max_size=4).map("".join).map(page))
def test_plain_documents_are_not_overcharged(svg: str) -> None:
    count = steps(svg)
    calls, end = truth(svg)
    assert count >= calls.least
    if end == "drawn" and "<switch" not in svg:  # of its children one is drawn, and all are charged
        most = MOST_PER_CALL * (calls.built + calls.drawn) + MOST_AT_ALL
        assert count <= most, (calls, svg)


@pytest.mark.parametrize("name", [name for name, svg in ordinary.FIXED.items() if len(svg) < 9000])
def test_ordinary_documents_are_counted_and_let_through(name: str) -> None:
    svg = ordinary.FIXED[name]
    prepared = prepare(svg[svg.index("<svg") :].encode(), PAGE)
    if isinstance(prepared, Invalid):
        assert prepared.reason != "too_costly", prepared
        return
    calls, _ = truth(prepared.svg.decode(), 100_000)
    assert steps(prepared.svg.decode()) >= calls.least, calls


# nests of references: k of them at each of d levels

LEAF = '<rect width="5" height="5"/>'


def nest(kind: str, wide: int, deep: int) -> str:
    """Levels of `wide` references each, the last of which are to a leaf."""
    if kind == "use":
        levels = [f'<g id="r0">{LEAF}</g>'] + [
            f'<g id="r{level}">' + f'<use href="#r{level - 1}"/>' * wide + "</g>"
            for level in range(1, deep + 1)
        ]
        return page(f'<defs>{"".join(levels)}</defs><use href="#r{deep}"/>')
    attribute = {"pattern": "fill", "mask": "mask", "clipPath": "clip-path"}.get(kind, "marker-end")
    frame = GEOMETRY.get(kind, "")
    levels = [f'<{kind} id="r0" {frame}>{LEAF}</{kind}>'] + [
        f'<{kind} id="r{level}" {frame}>'
        + f'<path d="M0 0L5 5L9 0z" {attribute}="url(#r{level - 1})"/>' * wide
        + f"</{kind}>"
        for level in range(1, deep + 1)
    ]
    return page(f'{"".join(levels)}<path d="M0 0L50 50L90 0z" {attribute}="url(#r{deep})"/>')


KINDS = ("use", "pattern", "mask", "clipPath", "marker")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wide, deep", [(2, 3), (3, 3), (4, 3)])
def test_a_nest_is_counted_as_what_is_drawn(kind: str, wide: int, deep: int) -> None:
    svg = nest(kind, wide, deep)
    calls, end = truth(svg, 100_000)
    assert end in ("drawn", "error")
    assert calls.drawn >= wide**deep, "the nest does not nest"
    assert steps(svg) >= calls.least


@pytest.mark.parametrize("kind", KINDS)
def test_a_nest_grows_as_its_width_to_the_power_of_its_depth(kind: str) -> None:
    for wide in (3, 5):
        counts = [steps(nest(kind, wide, deep)) for deep in (5, 6, 7, 8)]
        for less, more in itertools.pairwise(counts):
            assert more / less >= wide * 0.99
        assert counts[0] > MAX_STEPS / 10
        assert counts[-1] > MAX_STEPS


@pytest.mark.parametrize("wide", [2, 4, 8])
def test_uses_cost_their_leaf_as_often_as_it_is_drawn(wide: int) -> None:
    leaf = steps(page(LEAF * 101)) / 100 - steps(page(LEAF)) / 100
    for deep in (4, 5, 6):
        heavy = nest("use", wide, deep).replace(LEAF, LEAF * 200)
        share = steps(heavy) / (wide**deep * 200 * leaf)
        # Each use also builds what it draws, of which half the price of a plain element is.
        assert 0.7 <= share <= 2.2, share


# cycles

CYCLES = {
    "use": '<g id="a"><use href="#a"/></g>',
    "use of the root": '<circle r="9"/><use href="#"/>',
    "two uses": '<defs><g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g></defs>'
    '<use href="#a"/>',
    "an ancestor": '<g id="a"><g><g><use href="#a"/></g></g></g>',
    "pattern": '<pattern id="a" width="9" height="9" patternUnits="userSpaceOnUse">'
    '<rect width="5" height="5" fill="url(#a)"/></pattern>'
    '<rect width="50" height="50" fill="url(#a)"/>',
    "mask": f'<mask id="a"><g mask="url(#a)">{LEAF}</g></mask><g mask="url(#a)">{LEAF}</g>',
    "mask without url": f'<mask id="a"><g mask="#a">{LEAF}</g></mask><g mask="#a">{LEAF}</g>',
    "clip path": '<clipPath id="a"><rect width="9" height="9" clip-path="url(#a)"/></clipPath>'
    '<rect width="9" height="9" clip-path="url(#a)"/>',
    "pattern in a mask in a pattern": '<pattern id="p" width="9" height="9" '
    'patternUnits="userSpaceOnUse"><rect width="5" height="5" mask="url(#m)"/></pattern>'
    '<mask id="m"><rect width="5" height="5" fill="url(#p)"/></mask>'
    '<rect width="50" height="50" fill="url(#p)"/>',
    "through a style": '<mask id="a"><g style="mask:url(#a)"><path d="M0 0"/></g></mask>'
    f'<g style="mask:url(#a)">{LEAF}</g>',
    "through a sheet": "<style>.x { clip-path: url(#a) }</style>"
    '<clipPath id="a"><rect class="x" width="9" height="9"/></clipPath>'
    '<rect class="x" width="9" height="9"/>',
}


@pytest.mark.parametrize("name", CYCLES)
def test_a_cycle_that_is_drawn_has_no_count(name: str) -> None:
    svg = page(CYCLES[name])
    assert truth(svg)[1] in ("recursion", "enough"), "no cycle at all"
    assert steps(svg) == float("inf")


@pytest.mark.parametrize(
    "inside",
    [
        '<defs><g id="a"><use href="#a"/></g></defs><circle r="20"/>',
        '<symbol id="a"><use href="#a"/></symbol><circle r="20"/>',
        '<defs><g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g></defs><circle r="20"/>',
        f'<mask id="a"><g mask="url(#a)">{LEAF}</g></mask><circle r="20"/>',
        '<pattern id="a" width="9" height="9"><rect width="5" height="5" fill="url(#a)"/></pattern>'
        '<circle r="20"/>',
        '<use href="#none"/><circle r="20" fill="url(#none)" mask="url(#none)"/>',
        '<linearGradient id="a" href="#b"/><linearGradient id="b" href="#a"/><rect width="9" '
        'height="9" fill="url(#a)"/>',
    ],
)
def test_a_cycle_that_nothing_draws_is_harmless(inside: str) -> None:
    svg = page(inside)
    assert truth(svg)[1] == "drawn"
    assert steps(svg) < 50


# linear in the document

LONG = 64_000


def filled(piece: str, before: str = "", after: str = "") -> str:
    return page(before + piece * ((LONG - len(before) - len(after)) // len(piece)) + after)


def numbered(piece: str, size: int = 64_000) -> str:
    return page("".join(piece.replace("N", str(n)) for n in range(size // (len(piece) + 4))))


RULES = "".join(f".c{n}{{fill:url(#a);mask:url(#b)}}" for n in range(900))
LONG_ONES = {
    "uses of one": filled('<use href="#a"/>', '<rect id="a"/>'),
    "uses of all": filled('<use href="#a"/>', '<g id="a">' + "<rect/>" * 2000 + "</g>"),
    "a chain of uses": numbered('<g id="uN"><use href="#uN"/></g>'),
    "patterns for all": filled('<rect fill="url(#a)"/>', '<pattern id="a"><rect/></pattern>'),
    "inherited paints": filled("<rect/>", '<pattern id="a"/><g fill="url(#a)">', "</g>"),
    "one id for all": filled('<g id="a"/>', "", '<use href="#a"/>' * 50),
    "one id for all, used by all": filled('<use href="#a" id="a"/>'),
    "rules and classes": filled('<g class="c1 c2 c3"/>', f"<style>{RULES[:30000]}</style>"),
    "one selector for all": filled("<g/>", "<style>" + "g{fill:url(#a)}" * 60 + "</style>"),
    "universal rules": filled("<g/>", "<style>" + "*{fill:red}" * 100 + "</style>"),
    "descendants": filled("<g/>", "<style>g g g g g g g g g g{fill:red}</style>"),
    "many selectors": page("<style>" + "a,b>c~d+e," * 6000 + "f{x:y}</style><g/>"),
    "escapes": page("<style>" + "\\75" * 20000 + "{x:y}</style><g/>"),
    "comments": page("<style>" + "/*" * 30000 + "</style><g/>"),
    "braces": page("<style>" + "{" * 60000 + "</style><g/>"),
    "style attribute": page(f'<g style="{"fill:url(#a);" * 4800}"/>'),
    "style attributes": filled('<g style="fill:url(#a);mask:url(#b)"/>'),
    "url( without end": page(f'<g fill="{"url(#" * 12000}"/>'),
    "hashes": page(f'<g fill="url({"#" * 60000})"/>'),
    "path": page(f'<path d="M{"0 0 " * 15000}"/>'),
    "path of signs": page(f'<path d="{"-" * 60000}"/>'),
    "path of letters": page(f'<path d="{"z" * 60000}"/>'),
    "path of arcs": page(f'<path d="{"A1e-3 1 " * 7500}"/>'),
    "path of exponents": page(f'<path d="{"1e" * 30000}"/>'),
    "digits": page(f'<path d="M{"1" * 60000}"/>'),
    "points": page(f'<polyline points="{"1,1 " * 15000}"/>'),
    "dashes": page(f'<g stroke-dasharray="{"1 " * 30000}">' + "<rect/>" * 100 + "</g>"),
    "transform": page(f'<g transform="{"scale(" * 10000}"/>'),
    "spaces": page(f'<g transform="{" " * 60000}" style="{" " * 900}"/>'),
    "depth": page("<g>" * 250 + "<rect/>" + "</g>" * 250),
    "depth with paints": page('<g fill="url(#a)" stroke="url(#a)">' * 200 + "</g>" * 200),
    "texts": filled("<text>a</text>"),
    "links in links": page("<a>" * 200 + "x" + "</a>" * 200),
    "inherited attributes": page(
        "<g " + " ".join(f'a{n}=""' for n in range(6000)) + ">" + "<rect/>" * 500 + "</g>"
    ),
    "gradients in a chain": numbered('<linearGradient id="gN" href="#g1"/><rect fill="url(#gN)"/>'),
    "text paths": filled(
        '<textPath href="#a">a</textPath>', '<path id="a" d="M0 0"/><text>', "</text>"
    ),
    "clips of clips": filled(
        '<path clip-path="url(#a)"/>', '<clipPath id="a">' + "<rect/>" * 999 + "</clipPath>"
    ),
    "blends in a pattern": filled(
        '<rect fill="url(#a)"/>',
        '<filter id="f"><feBlend/></filter><pattern id="a">'
        + '<g filter="url(#f)"/>' * 999
        + "</pattern>",
    ),
    "id attributes alike": filled('<mask id="a" mask="url(#a)"/>'),
}
"""Documents of 64 KB, each of which could cost its square somewhere."""


def check_linear(svg: str, name: str) -> None:
    cheaply(lambda: prepare(svg.encode(), PAGE), 0.3, name)


@pytest.mark.parametrize("name", LONG_ONES)
def test_the_longest_documents_are_counted_in_linear_time(name: str) -> None:
    check_linear(LONG_ONES[name], name)


@pytest.mark.parametrize("family", attacks.FAMILIES)
def test_every_family_of_attacks_is_counted_in_linear_time(family: str) -> None:
    for case in attacks.cases():
        text = case.text if isinstance(case.text, str) else ""
        if case.family == family and "<svg" in text and len(text) < 70_000:
            svg = text[text.index("<svg") :].encode(errors="replace").decode()
            check_linear(svg, case.name)
