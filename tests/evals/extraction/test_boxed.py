import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.extraction.boxed import boxes, last_boxed, last_boxed_naive
from tests.processor_time import cheaply


@pytest.mark.parametrize(
    "text, balanced, naive",
    [
        (r"\boxed{B}", "B", "B"),
        (r"so \boxed{A} or rather \boxed{ B }.", "B", "B"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1"),
        (r"\boxed{\text{B}}", r"\text{B}", r"\text{B"),
        (r"\boxed{a\}b}", r"a\}b", "a\\"),
        (r"\boxed{B", None, None),
        (r"\boxed{A} and \boxed{B", "A", "A"),
        (r"\boxed{}", "", ""),
        (r"\boxed {B}", "B", None),
        (r"\\boxed{B}", "B", "B"),
        (r"x \\\boxed{B}", "B", "B"),
        (r"\boxed{\boxed{7}}", r"\boxed{7}", r"\boxed{7"),
        ("{{}} }} boxed{B}", None, None),
        ("", None, None),
    ],
)
def test_last_box(text: str, balanced: str | None, naive: str | None) -> None:
    assert last_boxed(text) == balanced
    assert last_boxed_naive(text) == naive


def test_boxes_say_where_they_stand() -> None:
    text = r"\boxed{1} then \boxed{2}"
    assert [text[box.start : box.end] for box in boxes(text)] == [r"\boxed{1}", r"\boxed{2}"]


PIECES = st.sampled_from(["\\boxed{", "}", "{", "a", "\\"])


@given(st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_naive_reading_is_that_of_the_pattern(text: str) -> None:
    found = re.findall(r"\\boxed\{([^}]*)\}", text)
    assert last_boxed_naive(text) == (found[-1].strip() if found else None)


@pytest.mark.parametrize("piece", ["\\boxed{", "{", "\\", "}", "\\boxed{a}"])
def test_long_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    cheaply(lambda: (last_boxed(text), last_boxed_naive(text)), 3)
