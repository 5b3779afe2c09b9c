"""MathVision: prompt, letters and free answers by our rule, and the authors' code bug for bug."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.benchmark import Scored
from evals.benchmarks.mathvision import BENCHMARK, aggregates, extract, read, score
from tests.evals.benchmarks.fixture_rows import rows_of, shown
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts
from tests.processor_time import cheaply

CASES = Path(__file__).parents[2] / "golden" / "eval_reference" / "mathvision.jsonl"
FIVE = ("20", "30", "45", "60", "90")


def row(answer: str = "C", options: Sequence[str] = FIVE) -> dict[str, Any]:
    return {"id": "1", "question": "How many?", "options": list(options), "answer": answer}


def free(answer: str) -> dict[str, Any]:
    return row(answer, [])


def test_prompts_are_as_they_were() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("mathvision")


def test_options_that_are_drawn_are_not_printed() -> None:
    rows = rows_of(BENCHMARK)
    assert shown(BENCHMARK.ask(rows["2"])) == (
        "Which of the five figures is missing?\n<image1>\n"
        "\nAnswer the question using a single word or phrase.<picture>"
    )
    assert "(A) 2\n(B) 3\n" in shown(BENCHMARK.ask(rows["1"]))


def test_every_row_of_the_fixture_scores_its_own_gold_answer() -> None:
    rows = rows_of(BENCHMARK).values()
    for item in rows:
        fields = item.fields
        text = f"I reason about it.\n\nThe answer is \\boxed{{{fields['answer']}}}."
        for mode in ("default", "reference"):
            assert score(extract(text, fields, mode=mode), fields, mode=mode) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C", "C"),
        ("(C)", "C"),
        ("c", "C"),
        ("**C**", "C"),
        ("Answer: C", "C"),
        ("The answer is (C) 45.", "C"),
        (r"\boxed{C}", "C"),
        (r"\boxed{\text{C}}", "C"),
        (r"\boxed{45}", "C"),
        (r"\boxed{45^\circ}", "C"),
        (r"$\boxed{\textbf{(C)}}$", "C"),
        ("45", "C"),
        ("So A is too small and B is not it.\n\nC", "C"),
        ("I first thought A.\nThe correct answer is D", "D"),
        ("A or B", None),
        (r"\boxed{A} or \boxed{B}", None),
        ("<think>A</think>C", "C"),
        ("<think>It must be A", None),
        ("", None),
        ("I cannot determine the answer.", None),
        ("17", None),
        ("F", None),
    ],
)
def test_extract_of_choices(text: str, expected: str | None) -> None:
    assert extract(text, row()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24", "24"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{3} is wrong, so \boxed{4}", "4"),
        ("Answer: 2.5", "2.5"),
        ("We get x = 12", "12"),
        ("<think>\\boxed{1}</think>\\boxed{2}", "2"),
        ("After all of this counting of every single row we finally arrive at 36 tiles", "36"),
        ("I am not sure.", None),
        ("<think>24", None),
    ],
)
def test_extract_of_free_answers(text: str, expected: str | None) -> None:
    assert extract(text, free("24")) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("24", "24", 1),
        ("24.0", "24", 1),
        ("24 cm", "24", 1),
        (r"24\text{ cm}", "24", 1),
        ("25", "24", 0),
        ("1,000", "1000", 1),
        ("1{,}000", "1000", 1),
        ("1e3", "1000", 1),
        ("0.5", r"\frac{1}{2}", 1),
        (r"\frac12", "0.5", 1),
        (r"\tfrac{1}{2}", "1/2", 1),
        ("0.33", "1/3", 1),
        ("0.3", "1/3", 0),
        ("1.41", r"\sqrt{2}", 1),
        (r"\sqrt2", r"\sqrt{2}", 1),
        ("\u221a2", r"\sqrt{2}", 1),
        ("1.4", r"\sqrt{2}", 0),
        (r"2\pi", "6.28", 1),
        ("45\u00b0", "45", 1),
        (r"45^\circ", "45", 1),
        ("50%", "50", 1),
        (r"50\%", "50", 1),
        ("x = 5", "5", 1),
        (r"\$5", "5", 1),
        ("(1, 2)", "(1,2)", 1),
        ("(2, 1)", "(1,2)", 0),
        ("\u22125", "-5", 1),
        ("5", "-5", 0),
        ("0.004", "0", 0),
        ("0", "0", 1),
        ("3:4", "3/4", 1),
        ("5 or 6", "5", 0),
        ("", "5", 0),
        (None, "5", 0),
        ("five", "5", 1),
    ],
)
def test_score_of_free_answers(prediction: str | None, gold: str, expected: int) -> None:
    assert score(prediction, free(gold)) == expected


@pytest.mark.parametrize(("prediction", "expected"), [("C", 1), ("(c)", 1), ("B", 0), (None, 0)])
def test_score_of_choices(prediction: str | None, expected: int) -> None:
    assert score(prediction, row()) == expected


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("5.005", "5", 1),
        ("5.006", "5", 0),
        ("0.333", "1/3", 1),
        ("6.28", r"2\pi", 1),
        (r"\boxed{\frac{1}{2}}", "0.5", 1),
        (r"\boxed{\tfrac12}", "0.5", 0),
        (r"\boxed{\sqrt2}", r"\sqrt{2}", 1),
        (r"\boxed{45^\circ}", "45", 1),
        (r"\boxed{50\%}", "50", 1),
        ("45\u00b0", "45", 0),
        ("50%", "50", 0),
        ("12 cm", "12", 0),
        (r"12\text{ cm}", "12", 0),
        ("1{,}000", "1000", 0),
        ("1,000", "1000", 1),
        ("1e3", "1000", 0),
        ("3:4", "3/4", 1),
        ("The answer is 7.", "7", 1),
        ("It is 7.", "7", 1),
        ("the final answer is x = 7. I am sure", "7", 1),
        (r"\boxed{7} and \boxed{8}", "8", 1),
        ("(1, 2)", "(1.0,2)", 1),
        ("(1/2, 3)", "(0.5,3)", 1),
        ("<think>The answer is 3</think>", "3", 0),
        ("", "5", 0),
    ],
)
def test_reference_of_free_answers(text: str, answer: str, expected: int) -> None:
    fields = free(answer)
    assert score(extract(text, fields, mode="reference"), fields, mode="reference") == expected


@pytest.mark.parametrize(
    ("text", "prediction", "expected"),
    [
        ("C", "c", 1),
        ("so it is C.", "c", 1),
        ("so it is (C).", "c", 1),
        ("C\nbecause of B", "c", 1),
        (r"\boxed{C}", "c", 1),
        (r"\boxed{(C)}", "c", 1),
        (r"\boxed{45}", "45", 1),
        (r"\boxed{\text{C}}", "c", 1),
        ("**C**", "**c**", 0),
        (r"\boxed{C. 45}", "c.45", 0),
        (r"\boxed{\textbf{(C)}}", "bfc", 0),
        ("C)", "c)", 0),
        ("The answer is 45", "45", 1),
    ],
)
def test_reference_of_choices(text: str, prediction: str, expected: int) -> None:
    assert extract(text, row(), mode="reference") == prediction
    assert score(prediction, row(), mode="reference") == expected


def test_reference_is_as_the_authors_functions_had_it() -> None:
    """Their functions' results on responses of ours, with latex2sympy2 1.9.1."""
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    assert len(cases) == 304
    for case in cases:
        answer = extract(case["response"], free(case["gold"]), mode="reference")
        assert answer == case["answer"], case
        assert score(answer, free(case["gold"]), mode="reference") == case["is_equal"], case


def test_aggregates_by_level_and_subject() -> None:
    rows = rows_of(BENCHMARK).values()
    found = aggregates([Scored(id=item.id, fields=item.fields, score=1.0) for item in rows])
    sizes = {item.name: len(item.units) for item in found}
    assert sizes["accuracy"] == 11
    assert sizes["level: 3"] == 3
    assert sizes["subject: counting"] == 3
    assert sizes["subject and level: counting, level 1"] == 2
    assert sizes["questions: choice"] == 5
    assert found[0].name == "accuracy"


@pytest.mark.parametrize(
    "text",
    [
        "9" * 10**6,
        r"\boxed{" * 150_000,
        r"\boxed{9^{9^{9^{9}}}}",
        r"\boxed{9!!!!!}",
        "{" * 500_000 + "}" * 500_000,
        r"\boxed{" + "(" * 290 + r"}",
        r"\boxed{\sqrt{" * 50_000,
        "the answer is " * 70_000,
    ],
)
def test_hostile_text_costs_little(text: str) -> None:
    def grade() -> None:
        for fields in (row(), free("5")):
            for mode in ("default", "reference"):
                score(read(text, fields, mode=mode).value, fields, mode=mode)

    cheaply(grade, 12)
