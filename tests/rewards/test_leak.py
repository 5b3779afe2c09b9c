"""Is the hard answer printed in the picture?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.leak import is_answer_printed
from tests.processor_time import cheaply


def svg(text: str) -> str:
    return f'<svg width="42"><title>t</title><text x="42">{text}</text></svg>'


@pytest.mark.parametrize(
    ("text", "answer", "given", "is_printed"),
    [
        ("Answer: 42", "42", "bars of 12 and 30", True),
        ("42.5", "42.5", "", True),
        ("42", "42", "a bar of 42", False),
        ("42", "42", "a bar of 142", True),
        ("142", "42", "", False),
        ("4", "42", "", False),
        ("", "42", "", False),
        ("north station", "North Station", "stations", True),
        ("north</text><text>station", "north station", "", True),
        ("northern station", "north station", "", False),
        ("north", "north station", "", False),
        ("&#52;2", "42", "", True),
        ("blau &amp; rot", "blau & rot", "", True),
        ("42", "", "", False),
        ("42", "!?", "", False),
        ("<!-- 42 -->", "42", "", False),
        ("<!-- <title> -->42", "42", "", True),
        ("4<!-- -->2", "42", "", True),
        ("<![CDATA[42]]>", "42", "", True),
        ("<![CDATA[<!--]]>42", "42", "", True),
        ("<![CDATA[&#52;2]]>", "42", "", False),
        ("<?a <title>?>42", "42", "", True),
        ("<?a 42?>", "42", "", False),
        ("<title>42</title>", "42", "", False),
        ("<title lang='en'><!-- </title> -->42</title>", "42", "", False),
        ("<title/>42", "42", "", True),
        ("<title lang='>'/>42", "42", "", True),
        ("<titles>42</titles>", "42", "", True),
        ("4<tspan>2</tspan>", "42", "", True),
        ("<tspan fill='red'>4</tspan><s:tspan>2</s:tspan>", "42", "", True),
        ("north <tspan>station</tspan>", "north station", "", True),
        ("<tspan x='0'>red</tspan><tspan x='0' dy='9'>bar</tspan>", "red bar", "", True),
        ("1<tspan x='9'>2</tspan>", "12", "", False),
    ],
)
def test_printed(text: str, answer: str, given: str, is_printed: bool) -> None:
    assert is_answer_printed(svg(text), answer, given=given) is is_printed


def test_attributes_and_tags_are_not_text() -> None:
    assert not is_answer_printed('<svg><circle r="42" id="blue"/></svg>', "42", given="")
    assert not is_answer_printed('<svg><circle r="42" id="blue"/></svg>', "circle", given="")


@pytest.mark.parametrize("name", ["style", "title", "desc", "metadata", "svg:style"])
def test_what_is_never_drawn_is_not_printed(name: str) -> None:
    hidden = f"<svg><{name}>.a{{width:42}}</{name}><text>%s</text></svg>"
    assert not is_answer_printed(hidden % "", "42", given="")
    assert is_answer_printed(hidden % "42", "42", given="")


@given(st.text(), st.text(max_size=10), st.text())
def test_any_text_is_taken(text: str, answer: str, given: str) -> None:
    is_answer_printed(text, answer, given=given)


@pytest.mark.parametrize(
    "piece",
    [
        *("<", "<a", "<!--", "&", "&#", "]]>", "a.1", "_", " ", "<![CDATA[", "<title>", "<tspan>"),
        *("<tspan x", "<a '", "'", "<!---->", "<a:"),
    ],
)
def test_a_megabyte_is_read_in_a_second(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    cheaply(lambda: is_answer_printed(text, "42", given=""), 1.0)
