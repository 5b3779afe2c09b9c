"""The SVG in a text: found wherever a model puts it, byte for byte, and in linear time."""

import gzip
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Invalid
from render_pool.extract import MAX_PROSE, find_svg, source
from render_pool.reasons import REASONS
from tests.processor_time import cheaply

GOOD = '<svg viewBox="0 0 96 96"><circle cx="48" cy="48" r="20" fill="red"/></svg>'
MAX = 4096


def found(text: str | bytes, max_bytes: int = MAX) -> str:
    result = source(text, max_bytes)
    assert isinstance(result, bytes), (result, text[:200])
    return result.decode()


def reason(text: str | bytes, max_bytes: int = MAX) -> str:
    result = source(text, max_bytes)
    assert isinstance(result, Invalid), result
    return result.reason


# bytes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_bytes_are_read_by_their_mark(encoding: str) -> None:
    svg = GOOD.replace("<circle", "<text>\u4e2d\U0001f600\u00e9</text><circle")
    marks = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
    data = marks.get(encoding, b"") + svg.encode(encoding)
    assert found(data) == svg


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(GOOD.encode(), mtime=0),
        GOOD.encode("utf-16-le"),  # without a mark these are letters with NULs in between
        GOOD.encode("utf-16-be"),
        GOOD.encode("utf-32"),
        b"\xff\xfe" + GOOD.encode(),
        b"\xff\xfe\x00",
        b"\xff" + GOOD.encode(),
        GOOD.replace("red", "r\u00e9d").encode("latin-1"),
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        b"",
        b"\xef\xbb\xbf",
    ],
)
def test_other_bytes_are_no_svg(data: bytes) -> None:
    assert reason(data) == "not_svg"


def test_a_declared_encoding_is_left_behind() -> None:
    assert found(b'<?xml version="1.0" encoding="rot13"?>' + GOOD.encode()) == GOOD


def test_the_bound_is_on_the_bytes_of_the_svg_alone() -> None:
    svg = GOOD.replace("<circle", "<text>\u20ac</text><circle")
    size = len(svg.encode())
    assert size > len(svg)
    assert found(f"{'prose ' * 2000}{svg}", size) == svg
    assert reason(svg, size - 1) == "too_large"
    assert reason(svg.encode(), size - 1) == "too_large"
    assert reason(" " * (MAX_PROSE + MAX + 1) + svg) == "too_large"
    assert found(" " * (MAX_PROSE + MAX - len(svg)) + svg) == svg


# where it stands


@pytest.mark.parametrize(
    "text",
    [
        f"```svg\n{GOOD}\n```",
        f"```SVG{GOOD}```",
        f"~~~\n{GOOD}\n~~~",
        f"```\nnothing\n```\n{GOOD}",
        f'```xml\n<?xml version="1.0"?>\n<!DOCTYPE svg [<!ENTITY a "b">]>\n{GOOD}\n```',
        f"<svg viewBox='0 0 1 1'></svg>\n```svg\n{GOOD}\n```",
        f"```svg\n{GOOD}",
        f"```python\nprint('<svg>')\n```\nand\n```svg\n{GOOD}\n```",
        f"The `<svg>` element holds it all, `</svg>` ends it:\n{GOOD}",
        f"An <svg> is wanted. {GOOD}",
        f"</svg></svg>{GOOD}",
        f"<svgs></svgs><svg.x></svg.x>{GOOD}",
        f"<!-- <svg viewBox='0 0 1 1'></svg> -->{GOOD}",
        f"<![CDATA[ <svg viewBox='0 0 1 1'></svg> ]]>{GOOD}",
        f"<answer>{GOOD}</answer><svg viewBox='0 0 1 1'></svg>",
        f"{GOOD}</svg></svg>",
        f"1 < 2 and 3 > 2, \"quoted' {GOOD} 'and \" so on",
    ],
)
def test_the_one_meant_is_found(text: str) -> None:
    assert found(text) == GOOD
    assert found(text.encode()) == GOOD


@pytest.mark.parametrize(
    "svg",
    [
        "<svg viewBox='0 0 9 9'><!-- </svg> --><g/></svg>",
        "<svg viewBox='0 0 9 9'><!-- <svg --><g/></svg>",
        "<svg viewBox='0 0 9 9'><style><![CDATA[ a > b </svg> ]]></style><g/></svg>",
        "<svg viewBox='0 0 9 9'><svg x='1'/><svg><svg></svg></svg><g/></svg>",
        "<svg:svg xmlns:svg='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><svg:g/></svg:svg>",
        "<s-1.x:svg viewBox='0 0 9 9'></s-1.x:svg>",
        "<svg viewBox='0 0 9 9' aria-label='a > b'><g/></svg>",
        '<svg viewBox="0 0 9 9" a="/>" b=\'"\' c="\'"><g/></svg>',
        "<svg\n\tviewBox = '0 0 9 9'\n>\n<g/></svg\n>",
        "<svg viewBox='0 0 9 9'/>",
        "<svg viewBox='0 0 9 9' />",
        "<svg viewBox='0 0 9 9'><text>```</text><g/></svg>",
        "<svg viewBox='0 0 9 9'><text>\U0001f600 &lt;/svg&gt;</text></svg>",
        "<svg viewBox='0 0 9 9'><svgx></svgx></svg>",
    ],
)
def test_an_element_is_taken_whole(svg: str) -> None:
    assert found(svg) == svg
    assert found(f"before {svg} after") == svg
    assert found(f"```svg\n{svg}\n```") == svg or "```" in svg


@pytest.mark.parametrize(
    "text",
    [
        "<svg viewBox='0 0 9 9'>",
        "<svg viewBox='0 0 9 9'><g>",
        "<svg viewBox='0 0 9 9'><svg></svg>",
        "<svg viewBox='0 0 9 9'><!-- </svg>",
        "<svg viewBox='0 0 9 9'><![CDATA[</svg>",
        f"```svg\n{GOOD[:-3]}\n```",
    ],
)
def test_what_is_cut_off_is_malformed(text: str) -> None:
    assert reason(text) == "malformed"


@pytest.mark.parametrize(
    "text", ["", " ", "svg", "<svgx/>", "<SVGfoo></SVGfoo>", "</svg>", "&lt;svg&gt;&lt;/svg&gt;"]
)
def test_what_holds_none_is_not_svg(text: str) -> None:
    assert reason(text) == "not_svg"


# whatever comes

PIECES = [
    *("<svg ", "<svg>", "<svg/>", "<svg viewBox='0 0 9 9'>", "</svg>", "</svg ", "<a:svg ", "svg"),
    *("<!--", "-->", "<![CDATA[", "]]>", "```", "```svg\n", "<", ">", '"', "'", "/>", "<g>", "x"),
    *("<?xml ", "?>", "<!DOCTYPE ", "\n", "\x00", "\ud800", "\u0130", "a" * 70 + ":svg ", "<" * 9),
]
pieces = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=40).map("".join)


@settings(max_examples=500, deadline=None)
@given(pieces)
def test_nothing_raises_and_what_is_found_was_there(text: str) -> None:
    result = source(text, MAX)
    if isinstance(result, Invalid):
        assert result.reason in REASONS
        return
    svg = result.decode()
    assert svg in text
    assert svg.endswith(">")
    assert find_svg(svg) == svg, "found again, it is the same"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"]))
def test_no_bytes_raise(data: bytes, mark: bytes) -> None:
    for text in (data, mark + data, mark + data + GOOD.encode()):
        result = source(text, MAX)
        assert isinstance(result, bytes) or result.reason in REASONS


names = st.text("abgsv", min_size=1, max_size=3)
trees = st.recursive(
    st.builds(ElementTree.Element, st.sampled_from(["svg", "g", "text", "svga"])),
    lambda inner: st.builds(
        lambda tag, attributes, text, children: _node(tag, attributes, text, children),
        st.sampled_from(["svg", "g", "text"]),
        st.dictionaries(names, st.text("ab<>\"'&/ ", max_size=8), max_size=3),
        st.text("ab<>\"'&/- ", max_size=8),
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)


def _node(
    tag: str, attributes: dict[str, str], text: str, children: list[ElementTree.Element]
) -> ElementTree.Element:
    node = ElementTree.Element(tag, attributes)
    node.text = text
    node.extend(children)
    return node


prose = st.text("ab <>\"'&/.,\n", max_size=30)


@settings(max_examples=300, deadline=None)
@given(prose, st.lists(trees, max_size=4), prose)
def test_any_well_formed_document_is_found_whole(
    before: str, children: list[ElementTree.Element], after: str
) -> None:
    svg = ElementTree.tostring(
        _node("svg", {"viewBox": "0 0 9 9"}, "", children), encoding="unicode"
    )
    assert find_svg(before + svg + after) == svg
    assert find_svg(f"{before}```svg\n{svg}\n```{after}") == svg


# linear


NASTY = [
    *PIECES,
    *("<svg a='", "<svg a=\"'", "<svg a=''", "<svg <svg ", "<svg></svg>", "<svg><!--", "<!----"),
    *("`", "``", "```<svg ", "```<svg>```", "```\n<svg viewBox='0 0 9 9'>\n", "<a:", "a:svg"),
    *("<svg viewBox='0 0 9 9'></svg ", "<svg =", "<!--<![CDATA[", "<svg\t", "<svg/ ", "-", "]"),
    *("<svg a='b' ", "' \"", "<svg '\"", "</a:svg"),
]
LONG = 300_000
"""Characters; what takes their square in steps would take minutes."""


def check_linear(text: str) -> None:
    result = cheaply(lambda: source(text, LONG), 0.6)
    assert isinstance(result, bytes) or result.reason in REASONS


@pytest.mark.parametrize("piece", NASTY, ids=ascii)
def test_a_long_text_of_anything_is_linear(piece: str) -> None:
    many = piece * (LONG // len(piece))
    for text in (f"<svg viewBox='0 0 9 9'>{many}", f"<svg {many}", f"```{many}"):
        check_linear(text)


@pytest.mark.parametrize("opens, closes", [("<svg>", "</svg>"), ("<!--", "-->"), ("```", "```")])
def test_a_long_text_of_nesting_is_linear(opens: str, closes: str) -> None:
    count = LONG // (len(opens) + len(closes))
    for text in (opens * count + closes * count, (opens + closes) * count, closes * count + opens):
        check_linear(f"<svg viewBox='0 0 9 9'>{text}")
