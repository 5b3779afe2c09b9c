"""What the roles wrote, as values; hostile text included."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.types import Invalid
from roles.mm_zero.parsing import (
    FIELDS,
    Proposal,
    extract_svg,
    is_well_formed,
    parse_answer,
    parse_proposal,
    parse_proposal_leniently,
)
from tests.processor_time import cheaply

VALUES = {
    "content_type": "Data Chart",
    "caption": "a < b,\n  two   bars",
    "easy_question": "how many bars?",
    "easy_answer": "2",
    "hard_question": "which is taller?",
    "hard_answer": "b",
}


def written(**changes: str) -> str:
    return "\n".join(f"<{tag}>{text}</{tag}>" for tag, text in (VALUES | changes).items())


def reason(text: str) -> str:
    proposal = parse_proposal(text)
    assert isinstance(proposal, Invalid), proposal
    return proposal.reason


def test_a_proposal() -> None:
    text = f"<think>perhaps <caption>no</think> Sure:\n{written()}\nDone."
    assert parse_proposal(text) == Proposal(
        "data_chart", "a < b, two bars", "how many bars?", "2", "which is taller?", "b"
    )


def test_the_order_of_fields_is_free_and_an_unknown_type_is_other() -> None:
    lines = written(content_type="cartoon").split("\n<")
    text = "<" + "\n<".join([*lines[1:], lines[0].lstrip("<")])
    proposal = parse_proposal(text)
    assert isinstance(proposal, Proposal)
    assert proposal.content_type == "other"


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_is_needed_once_and_closed(field: str) -> None:
    whole = written()
    one = re.search(rf"<{field}>.*?</{field}>", whole, re.DOTALL)
    assert one
    assert reason(whole.replace(one[0], "")) == "missing_tag"
    assert reason(whole + one[0]) == "repeated_tag"
    assert reason(whole.replace(f"</{field}>", "")) == "broken_tag"
    assert reason(whole.replace(f"<{field}>", "")) == "broken_tag"
    assert reason(whole.replace(f"</{field}>", f"</{field.upper()}>")) == "broken_tag"
    assert reason(written(**{field: " \n "})) == "empty_field"
    assert reason(written(**{field: "x" * 8001})) == "long_field"


def test_nested_tags_and_empty_answers_are_invalid() -> None:
    assert reason(written(caption="<easy_answer>2</easy_answer>")) == "broken_tag"
    assert reason(written(easy_answer="N/A")) == "no_answer"
    assert reason("") == "missing_tag"


@pytest.mark.parametrize(
    "text",
    [
        written(),
        written().upper().replace("BARS", "bars"),
        written().replace("<caption>", "< Caption >").replace("</hard_answer>", ""),
        re.sub(r"</\w+>", "", written()),
        re.sub(r"<(\w+)>(.*?)</\w+>", r"\1: \2", written(), flags=re.DOTALL),
        re.sub(r"<(\w+)>(.*?)</\w+>", r"- **\1**: \2", written(), flags=re.DOTALL),
        f"Sure.\n{written()}\n{written(caption='another')}",
    ],
)
def test_careless_marks_are_read_leniently(text: str) -> None:
    proposal = parse_proposal_leniently(text)
    assert isinstance(proposal, Proposal), proposal
    assert proposal.caption.lower() == "a < b, two bars"
    assert proposal.easy_answer == "2"
    assert proposal.hard_answer.lower() == "b"
    assert proposal.content_type == "data_chart"


def test_leniently_the_type_and_the_hard_answer_may_be_missing() -> None:
    text = "<caption>a map</caption><easy_question>q</easy_question><easy_answer>2</easy_answer>"
    proposal = parse_proposal_leniently(f"{text}<hard_question>h")
    assert proposal == Proposal("map", "a map", "q", "2", "h", "")
    assert parse_proposal_leniently(text) == Invalid("missing_tag", "hard_question")
    no_answer = written(easy_answer="n/a")
    assert parse_proposal_leniently(no_answer) == Invalid("no_answer", "easy_answer")


@given(st.sampled_from(FIELDS), st.sampled_from(FIELDS))
def test_what_is_read_strictly_is_read_leniently_alike(one: str, other: str) -> None:
    text = written(**{one: "some words", other: "more: words"})
    assert parse_proposal_leniently(text) == parse_proposal(text)


@pytest.mark.parametrize(
    ("text", "svg"),
    [
        ("<svg><rect/></svg>", "<svg><rect/></svg>"),
        ("```svg\n<svg a='1'>x</svg >\n```", "<svg a='1'>x</svg >"),
        ("```SVG\n<SVG></SVG>", "<SVG></SVG>"),
        ("```xml\n<?xml version='1.0'?><svg></svg>```", "<svg></svg>"),
        ("<svg><svg></svg></svg> and <svg></svg>", "<svg><svg></svg></svg>"),
        ("<think><svg>1</svg></think><svg>2</svg>", "<svg>2</svg>"),
        ("</svg><svg></svg>", "<svg></svg>"),
        ("I write an <svg> now.\n```svg\n<svg>1</svg>\n```", "<svg>1</svg>"),
        ("```python\nprint(1)\n```\n```xml\n<svg>2</svg>\n```", "<svg>2</svg>"),
        ("```svg\n<svg>cut\n```\n```svg\n<svg>whole</svg>", "<svg>whole</svg>"),
        ("<svg a='/'><svg/><rect/></svg>", "<svg a='/'><svg/><rect/></svg>"),
        ("<svg><!-- the <svg> root --></svg>", "<svg><!-- the <svg> root --></svg>"),
        ("<!-- </svg> <svg> --><svg></svg>", "<svg></svg>"),
        ("<svg/>", "<svg/>"),
        ("<svg><!-- <svg></svg>", None),
        ("<svg><rect", None),
        ("<svg><svg></svg>", None),
        ("```svg\nprint(1)\n```", None),
        ("<svgs></svgs>", None),
        ("<svg></svg", None),
        ("", None),
    ],
)
def test_extract_svg(text: str, svg: str | None) -> None:
    assert extract_svg(text) == svg


@pytest.mark.parametrize(
    "thought",
    ["<think>perhaps ", "<think>a</think> or <think>rather ", "the template's</think><think>"],
)
def test_a_thought_that_is_never_closed_leaves_nothing(thought: str) -> None:
    """A reply that was cut off must not vote with a draft."""
    assert parse_answer(thought + "\\boxed{3}") is None
    assert extract_svg(thought + "<svg><rect/></svg>") is None
    assert parse_proposal(thought + written()) == Invalid("missing_tag", "content_type")
    assert parse_proposal_leniently(thought + written()) == Invalid("missing_tag", "caption")


@pytest.mark.parametrize(
    "thought",
    [
        "",
        "<think>\\boxed{4}<svg x='0'></svg><caption>no</caption></think>",
        "\\boxed{4}<svg x='0'></svg><caption>no</caption></think>",
        "<think>a</think> so <think>\\boxed{4}</think>",
    ],
)
def test_what_follows_the_thoughts_counts_whoever_opened_them(thought: str) -> None:
    assert parse_answer(thought + "\\boxed{3}") == "3"
    assert extract_svg(thought + "<svg><rect/></svg>") == "<svg><rect/></svg>"
    assert parse_proposal(thought + written()) == parse_proposal(written())
    assert parse_proposal_leniently(thought + written()) == parse_proposal(written())


@pytest.mark.parametrize("text", ["<think>\\boxed{3}</think>", "\\boxed{3}</think> so it is"])
def test_an_answer_in_a_thought_alone_is_none(text: str) -> None:
    assert parse_answer(text) is None


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("<think>a</think>\\boxed{42}", True),
        ("  <think>a\nb</think>\n\n\\boxed{\\frac{1}{2}}\n", True),
        ("<think></think>\\boxed{a b}", True),
        ("Sure. <think>a</think>\\boxed{42}", False),
        ("<think>a</think> so \\boxed{42}", False),
        ("<think>a</think>\\boxed{42}.", False),
        ("<think>a</think>\\boxed{42} because {x}", False),
        ("<think>a</think>\\boxed{1}\\boxed{2}", False),
        ("<think>a</think><think>b</think>\\boxed{1}", False),
        ("<think>a</think>\\boxed{1", False),
        ("<think>a</think>\\boxed{1\\}", False),
        ("<think>a</think>\\boxed{}", False),
        ("<think>a</think>\\boxed{1}}", False),
        ("a</think>\\boxed{1}", False),
        ("<think>\\boxed{1}</think>", False),
        ("\\boxed{1}", False),
        ("", False),
    ],
)
def test_form_of_an_answer(text: str, is_good: bool) -> None:
    assert is_well_formed(text) is is_good


PIECES = st.sampled_from(
    [f"<{slash}{tag}>" for tag in (*FIELDS, "svg", "think") for slash in ("", "/")]
    + ["\\boxed{", "{", "}", "\\", "x", " ", "\ud800", "\0"]
)


@given(st.text() | st.lists(PIECES, max_size=40).map("".join))
def test_parsers_take_any_text(text: str) -> None:
    proposal = parse_proposal(text)
    if isinstance(proposal, Proposal):
        assert all(proposal.as_dict().values())
    svg = extract_svg(text)
    assert svg is None or (svg in text and svg.lower().startswith("<svg"))
    if is_well_formed(text):
        assert parse_answer(text)


@pytest.mark.parametrize(
    "piece",
    [
        *("<caption>", "</caption>", "<caption></caption>", "<caption>x</caption><easy_answer>"),
        *("<svg>", "<svg", "</svg", "<svg/", "<think>", "</think>"),
        *("\\boxed{", "{", "}", "<", "\\", " "),
    ],
)
def test_a_megabyte_is_read_in_a_second(piece: str) -> None:
    text = "<svg <caption>" + piece * (1_000_000 // len(piece))
    parsers = (parse_proposal, parse_proposal_leniently, extract_svg, parse_answer, is_well_formed)

    def read() -> None:
        for parse in parsers:
            parse(text)
            parse(text[14:] + "</svg" * 100_000)
            parse("<think>" + text + "</think>\\boxed{1}")

    cheaply(read, 6.0)
