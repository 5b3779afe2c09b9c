"""The authors' readings with their quirks, hand-worked from their code."""

import math

import pytest

from evals.extraction.mmmu_reference import (
    choice,
    choice_pro,
    open_answers,
    open_is_correct,
    packed,
    unpacked,
)
from tests.processor_time import cheaply

FOUR = {"A": "a red square", "B": "a blue circle", "C": "a line", "D": "nothing at all"}
TEN = {letter: f"thing {letter}" for letter in "ABCDEFGHIJ"}


@pytest.mark.parametrize(
    "text, letter",
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("The answer is B.", "B"),
        ("I choose B, not C.", "C"),
        ("It is (B) rather than (A).", "A"),
        ("(A) or (C), so (A)", "A"),
        ("A B", "B"),
        ("Correct answer is **D**. Here's why: A is near", "A"),
        ("What it shows to us is A Blue Circle", "A"),
        ("what it shows to us is surely a blue circle", "B"),
        ("not a line and not a red square but else", "A"),
        ("a blue circle", None),
        ("b", None),
        ("(d)", None),
        ("**B**", None),
        (r"\boxed{A}", None),
        ("`A`", None),
        ("Answer:B", None),
        ("B,", "B"),
        ("'B'!", "B"),
        ("", None),
        ("I cannot help", None),
    ],
)
def test_mmmu_choice(text: str, letter: str | None) -> None:
    assert choice(text, FOUR) == letter


@pytest.mark.parametrize(
    "text, letter",
    [
        ("Answer: B", "B"),
        ("Answer: A\nAnswer: B", "B"),
        ("Answer: $LETTER", "E"),
        ("I cannot determine", "I"),
        ("Failed to obtain answer via API.", "I"),
        ("N/A", "A"),
        ("AB", "B"),
        ("The DNA of it", "A"),
        ("B.C", "C"),
        ("Answer: A or B", "B"),
        ("(B)", "B"),
        ("so (B), not (A)", "A"),
        ("**B**", None),
        ("", None),
        ("what it shows to us is thing g", "G"),
    ],
)
def test_mmmu_pro_choice(text: str, letter: str | None) -> None:
    assert choice_pro(text, TEN) == letter


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("12.5", {12.5}),
        ("5,000", {5000.0, 0.0}),
        ("12,5", {125.0, 5.0}),
        ("1,234.5", {1234.0, 1234.5, 234.5}),
        ("10-20", {10.0, -20.0}),
        ("\u221212.5", {12.5}),
        ("3 or 4", {3.0, 4.0}),
        ("50%", {50.0}),
        ("1e400", {math.inf, 400.0}),
        ("1.5e3", {1500.0, 1.0, 3.0}),
        ("<think>7</think>8", {7.0, 8.0}),
        ("The answer is 3.14159", {3.14}),
        ("it is 3\nso 4", {3.0, 4.0}),
        ("x = 2 = 3", {3.0}),
    ],
)
def test_open_numbers(text: str, numbers: set[float]) -> None:
    assert {value for value in open_answers(text) if isinstance(value, float)} == numbers


@pytest.mark.parametrize(
    "text, golds, correct",
    [
        ("12.5", ["12.5"], True),
        ("\u221212.5", ["12.5"], True),
        ("twelve and a half", ["half"], True),
        ("3 or 4", ["4"], True),
        ("Green", ["green"], True),
        ("it is x", ["x"], True),
        ("x-ray", ["x"], False),
        ("so the answer is x here", ["x"], True),
        ("it is red", ["green", "red"], True),
        ("5.001", ["5"], True),
        ("5.006", ["5"], False),
        ("", ["5"], False),
        ("nan", ["nan"], False),
    ],
)
def test_open_is_correct(text: str, golds: list[str], correct: bool) -> None:
    found = open_answers(text)
    assert open_is_correct(found, golds) is correct
    assert open_is_correct(unpacked(packed(found)), golds) is correct


def test_another_prediction_is_read_as_a_response() -> None:
    assert unpacked("the answer is 4") == open_answers("the answer is 4")
    assert unpacked("[[4]]") == open_answers("[[4]]")


@pytest.mark.parametrize("piece", ["1", "1x", "1,", "1.1", "1e", "=", "is ", "("])
def test_long_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece)) + "x"
    cheaply(lambda: (open_answers(text), choice(text, FOUR), choice_pro(text, FOUR)), 3)
