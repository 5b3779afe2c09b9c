"""MMMU: prompts, readings and scores against hand-worked cases."""

from typing import Any

import pytest

from evals.benchmark import Row, Scored
from evals.benchmarks.mmmu import BENCHMARK, SUBJECTS, ask, extract, read, score
from evals.data import load
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts

CHOICE = {
    "id": "validation_Geography_7",
    "question": "Which city is it?",
    "options": "['Paris', 'London', 'New York', 'York']",
    "answer": "B",
    "question_type": "multiple-choice",
}
OPEN = {
    "id": "validation_Math_7",
    "question": "How long is it?",
    "options": "[]",
    "answer": "['12.5', 'twelve and a half']",
    "question_type": "open",
}

EXTRACT = [
    (CHOICE, "B", "B"),
    (CHOICE, "b", "B"),
    (CHOICE, "(d)", "D"),
    (CHOICE, "**B**", "B"),
    (CHOICE, r"\boxed{A}", "A"),
    (CHOICE, "`A`", "A"),
    (CHOICE, "Answer:B", "B"),
    (CHOICE, "B. London", "B"),
    (CHOICE, "London", "B"),
    (CHOICE, "The answer is (C).", "C"),
    (CHOICE, "I choose B, not C.", "B"),
    (CHOICE, "It is (B) rather than (A).", "B"),
    (CHOICE, "Correct answer is **D**. Here's why: A is old", "D"),
    (CHOICE, "<think>The answer is A</think>The answer is B", "B"),
    (CHOICE, "<think>The answer is A", None),
    (CHOICE, "", None),
    (CHOICE, "I cannot tell from the image.", None),
    (CHOICE, "A or B", None),
    (CHOICE, "Answer: F", None),
    (CHOICE, "A city in England.", None),
    (OPEN, "12.5", "12.5"),
    (OPEN, "12.5 cm.", "12.5 cm"),
    (OPEN, "The answer is 12.5.", "12.5"),
    (OPEN, r"Hence \boxed{\frac{25}{2}}", r"\frac{25}{2}"),
    (OPEN, "We add 10 and 2.5.\nThe length is 12.5", "12.5"),
    (OPEN, "<think>12.5</think>7", "7"),
    (OPEN, "<think>12.5", None),
    (OPEN, "Sorry, I can't see it.", None),
    (OPEN, "", None),
]

SCORE = [
    (CHOICE, "B", 1.0),
    (CHOICE, "b", 1.0),
    (CHOICE, "(B)", 1.0),
    (CHOICE, "A", 0.0),
    (CHOICE, "BC", 0.0),
    (CHOICE, "", 0.0),
    (CHOICE, None, 0.0),
    ({**CHOICE, "answer": "['A', 'B']"}, "B", 1.0),
    ({**CHOICE, "answer": "['A', 'B']"}, "C", 0.0),
    (OPEN, "12.5", 1.0),
    (OPEN, "12.50", 1.0),
    (OPEN, "12.5 cm", 1.0),
    (OPEN, r"\frac{25}{2}", 1.0),
    (OPEN, "12.504", 1.0),
    (OPEN, "12.506", 0.0),
    (OPEN, "12,5", 0.0),
    (OPEN, "twelve and a half", 1.0),
    (OPEN, "half", 0.0),
    (OPEN, "\u221212.5", 0.0),
    (OPEN, "10-12.5", 0.0),
    (OPEN, "12 or 12.5", 0.0),
    (OPEN, "", 0.0),
    (OPEN, None, 0.0),
    ({**OPEN, "answer": "green"}, "Green", 1.0),
    ({**OPEN, "answer": "green"}, "the green", 1.0),
    ({**OPEN, "answer": "green"}, "evergreen", 0.0),
    ({**OPEN, "answer": "5000"}, "5,000", 1.0),
]

REFERENCE = [
    (CHOICE, "B", 1.0),
    (CHOICE, "b", 0.0),
    (CHOICE, "**B**", 0.0),
    (CHOICE, "I choose C, not B.", 1.0),
    (CHOICE, "It is (A) rather than (B).", 1.0),
    (CHOICE, "what it shows to us is London", 1.0),
    (CHOICE, "<think>A </think> so B", 1.0),
    (OPEN, "5,000", 0.0),
    ({**OPEN, "answer": "0"}, "5,000", 1.0),
    ({**OPEN, "answer": "5"}, "12,5", 1.0),
    ({**OPEN, "answer": "234.5"}, "1,234.5", 1.0),
    (OPEN, "\u221212.5", 1.0),
    (OPEN, "<think>12.5</think>7", 1.0),
    ({**OPEN, "answer": "half"}, "twelve and a half", 1.0),
    ({**OPEN, "answer": "4"}, "3 or 4", 1.0),
]


@pytest.mark.parametrize("row, text, prediction", EXTRACT)
def test_extract(row: dict[str, Any], text: str, prediction: str | None) -> None:
    assert extract(text, row) == prediction


@pytest.mark.parametrize("row, prediction, credit", SCORE)
def test_score(row: dict[str, Any], prediction: str | None, credit: float) -> None:
    assert score(prediction, row) == credit


@pytest.mark.parametrize("row, text, credit", REFERENCE)
def test_reference_mode_follows_the_authors(row: dict[str, Any], text: str, credit: float) -> None:
    assert score(extract(text, row, mode="reference"), row, mode="reference") == credit


@pytest.mark.parametrize("text", ["b", "**B**", r"\boxed{A}", "", "I cannot tell", "Answer:B"])
def test_what_the_authors_guess_is_none(text: str) -> None:
    found = read(text, CHOICE, mode="reference")
    assert (found.value, found.path) == (None, "authors choose at random")


def test_prompts() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("mmmu")


def test_a_tag_without_its_picture_is_refused() -> None:
    fields = {**CHOICE, "question": "Compare <image 1> and <image 2>"}
    with pytest.raises(ValueError, match="image_2"):
        ask(Row(id="x", fields=fields, images={"image_1": b"png"}))


def test_pictures_without_tags_come_first_and_unnamed_ones_are_not_shown() -> None:
    images = {"image_1": b"one", "image_2": b"two"}
    assert ask(Row(id="x", fields=CHOICE, images=images)).images == [b"one", b"two"]
    named = {**CHOICE, "question": "See <image 2>"}
    assert ask(Row(id="x", fields=named, images=images)).images == [b"two"]


@pytest.mark.parametrize("options", ["no list", "5", "[" * 5000, str(list(range(27))), "{'a': 1}"])
def test_options_that_are_no_list_are_refused(options: str) -> None:
    with pytest.raises(ValueError, match=r"options|letters"):
        ask(Row(id="x", fields={**CHOICE, "options": options}, images={"image_1": b""}))


def test_aggregates_by_discipline_subject_and_kind() -> None:
    rows = [
        Scored(id=row.id, fields=row.fields, score=float(row.fields["question_type"] == "open"))
        for row in load(BENCHMARK, FIXTURES).rows
    ]
    found = {a.name: [unit.value for unit in a.units] for a in BENCHMARK.aggregates(rows)}
    assert next(iter(found)) == "accuracy"
    assert (len(found["accuracy"]), sum(found["accuracy"])) == (12, 4.0)
    assert sorted(found["discipline: Business"]) == [0.0, 0.0]
    assert sorted(found["subject: Math"]) == [0.0, 1.0]
    assert found["subject: Basic_Medical_Science"] == [0.0]
    assert found["questions: open"] == [1.0] * 4
    assert len(found["questions: choice"]) == 8


def test_declared_facts() -> None:
    assert len(SUBJECTS) == 30
    assert BENCHMARK.options(CHOICE) == 4
    assert BENCHMARK.options(OPEN) is None
    assert BENCHMARK.gold(CHOICE) == "B. London"
    assert BENCHMARK.gold(OPEN) == "12.5 | twelve and a half"
