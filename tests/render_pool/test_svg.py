"""Extraction and the checks that run before any drawing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Invalid
from render_pool.extract import source
from render_pool.outline import MAX_DEPTH, MAX_ELEMENTS
from render_pool.reasons import REASONS
from render_pool.svg import Drawing, Page, prepare
from tests.processor_time import cheaply

GOOD = '<svg viewBox="0 0 96 96"><circle cx="48" cy="48" r="20" fill="red"/></svg>'


PAGE = Page(side=96, grid=32, fit="pad")


def check(text: str | bytes, max_bytes: int = 4096) -> Drawing | Invalid:
    found = source(text, max_bytes)
    return found if isinstance(found, Invalid) else prepare(found, PAGE)


def reason(text: str) -> str:
    result = check(text)
    assert isinstance(result, Invalid), text[:80]
    assert result.reason in REASONS
    return result.reason


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"<think>a plan</think> here it is: {GOOD} done",
        f"```svg\n{GOOD}\n```",
        f"```\n{GOOD}",
        f'```xml\n<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "b">]>\n{GOOD}\n```',
        f"<svg></svg> is empty, so:\n```svg\n{GOOD}\n```",
        f"```python\nprint(1)\n```\n```svg\n{GOOD}\n```",
        f"{GOOD}{GOOD}",
    ],
)
def test_the_svg_is_found_fenced_or_bare(text: str) -> None:
    assert source(text, 4096) == GOOD.encode()


def test_a_nested_svg_stays_inside_its_parent() -> None:
    text = '<svg viewBox="0 0 9 9"><svg x="1"/><svg><rect/></svg></svg>'
    assert source(text + "<p>", 4096) == text.encode()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "not_svg"),
        ("no drawing </svg>", "not_svg"),
        ("<svgfoo></svgfoo>", "not_svg"),
        (GOOD[:-6], "malformed"),
        ("<svg viewBox='0 0 9 9'><g></svg>", "malformed"),
        ("<svg viewBox='0 0 9 9'>&nbsp;</svg>", "malformed"),
        ("<svg viewBox='0 0 9 9'>\x00</svg>", "malformed"),
        ("<svg viewBox='0 0 9 9'>\ud800</svg>", "malformed"),
        ("<svg viewBox='0 0 9 9' viewBox='0 0 9 9'></svg>", "malformed"),
        ("<svg viewBox='0 0 9 9'>" + "x" * 5000 + "</svg>", "too_large"),
        ("<svg viewBox='0 0 9 9'>" + "\u20ac" * 2000 + "</svg>", "too_large"),
        ("<svg></svg>", "bad_size"),
        ("<svg width='100%' height='100%'></svg>", "bad_size"),
        ("<svg width='0' height='9'></svg>", "bad_size"),
        ("<svg width='1e300' height='9'></svg>", "bad_size"),
        ("<svg width='2000' height='9'></svg>", "bad_size"),
        ("<svg viewBox='0 0 nan 9'></svg>", "bad_size"),
        ("<svg viewBox='0 0 9'></svg>", "bad_size"),
        ("<svg viewBox='0 0 -9 9'></svg>", "bad_size"),
        ("<svg viewBox='0 0 9 9'><image href='http://x/y.png'/></svg>", "forbidden"),
        ("<svg viewBox='0 0 9 9'><image href='data:image/png;base64,AA'/></svg>", "forbidden"),
        (
            "<svg viewBox='0 0 9 9' xmlns:q='http://www.w3.org/1999/xlink'>"
            "<use q:href='/etc/passwd#a'/></svg>",
            "forbidden",
        ),
        ("<svg viewBox='0 0 9 9' xml:base='file:///etc/'></svg>", "forbidden"),
    ],
)
def test_each_refusal_has_its_reason(text: str, expected: str) -> None:
    assert reason(text) == expected


def test_counts_are_bounded() -> None:
    many = "<svg viewBox='0 0 9 9'>" + "<g/>" * MAX_ELEMENTS + "</svg>"
    deep = "<svg viewBox='0 0 9 9'>" + "<g>" * MAX_DEPTH + "</g>" * MAX_DEPTH + "</svg>"
    for text in (many, deep):
        result = check(text, 1 << 20)
        assert isinstance(result, Invalid)
        assert result.reason == "too_large"


@pytest.mark.parametrize(
    "root, size, padded",
    [
        ("viewBox='0 0 96 96'", (96, 96), (96, 96)),
        ("viewBox='-5,-5 10,10'", (96, 96), (96, 96)),
        ("width='200' height='100'", (96, 48), (96, 64)),
        ("width='1in' height='192px'", (48, 96), (64, 96)),
        ("width='100%' height='auto' viewBox='0 0 30 20'", (96, 64), (96, 64)),
        ("width='2000' height='100'", (96, 5), (96, 32)),
    ],
)
def test_the_longer_side_is_fixed(
    root: str, size: tuple[int, int], padded: tuple[int, int]
) -> None:
    drawing = check(f"<svg {root}></svg>")
    assert isinstance(drawing, Drawing)
    assert (drawing.width, drawing.height) == size
    assert (drawing.page_width, drawing.page_height) == padded


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(max_size=80), st.sampled_from(["", "```svg\n", "<svg "]))
def test_no_text_raises(before: str, inside: str, fence: str) -> None:
    for text in (before, f"{before}{fence}<svg {inside}>{before}</svg>", f"<svg>{inside}</svg>"):
        result = check(text)
        assert isinstance(result, Drawing) or result.reason in REASONS


@pytest.mark.parametrize(
    "piece", ["<svg ", "<svg>", "</svg ", "```svg\n", "```svg\n<svg ", "<svg></svg>", "<", "`"]
)
def test_a_megabyte_costs_less_than_a_second(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    cheaply(lambda: check(text), 1.0)
