"""Where thoughts end, whoever opened them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.thoughts import said


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", ""),
        ("2", "2"),
        ("<think>a</think> 2", " 2"),
        ("a, since the template opened the block</think>2", "2"),
        ("<think>a</think>1<think>b</think>2", "2"),
        ("<think>a</think>", ""),
        ("<think>perhaps 2", ""),
        ("2 <think>or rather", ""),
        ("<think>a</think>2<think>", ""),
        ("a</think>2<think>or rather", ""),
        ("<thinking>2", "<thinking>2"),
    ],
)
def test_said(text: str, what: str) -> None:
    assert said(text) == what


PLAIN = st.text(alphabet="ab 1{}\\/")
TAGS = st.sampled_from(["<think>", "</think>", "<", "think>", "</", "x", "\\boxed{1}"])


@given(st.lists(TAGS).map("".join), PLAIN)
def test_a_thought_counts_for_nothing_once_it_is_closed_and_all_until_then(
    before: str, behind: str
) -> None:
    assert said(f"{before}</think>{behind}") == behind
    assert said(f"{before}<think>{behind}") == ""


@given(st.lists(TAGS).map("".join))
def test_what_is_said_is_the_end_of_the_text(text: str) -> None:
    found = said(text)
    assert text.endswith(found)
    assert said(found) == found
