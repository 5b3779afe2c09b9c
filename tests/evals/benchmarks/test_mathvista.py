"""MathVista: prompt, typed answers by our rule, the authors' normalisation, the judge."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.benchmark import Scored
from evals.benchmarks.mathvista import BENCHMARK, aggregates, extract, judge, read, score
from tests.evals.benchmarks.fake_ask import FakeAsk
from tests.evals.benchmarks.fixture_rows import rows_of
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts
from tests.processor_time import cheaply

CASES = Path(__file__).parents[2] / "golden" / "eval_reference" / "mathvista.jsonl"
FOUR = ("30\u00b0", "45\u00b0", "60\u00b0", "90\u00b0")


def row(
    answer_type: str,
    answer: str = "",
    *,
    choices: Sequence[str] | None = None,
    precision: float | None = None,
) -> dict[str, Any]:
    return {
        "pid": "1",
        "question": "What is it?",
        "choices": list(choices) if choices else None,
        "precision": precision,
        "answer": answer,
        "question_type": "multi_choice" if choices else "free_form",
        "answer_type": answer_type,
        "query": "What is it?",
    }


def choice(answer: str = "60\u00b0") -> dict[str, Any]:
    return row("text", answer, choices=FOUR)


def test_prompts_are_as_they_were() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("mathvista")


def test_every_row_of_the_fixture_scores_its_own_gold_answer() -> None:
    for item in rows_of(BENCHMARK).values():
        fields = item.fields
        gold = fields["answer"]
        assert score(extract(f"I look.\n\nAnswer: {gold}", fields), fields) == 1, item.id
        prediction = extract(gold, fields, mode="reference")
        assert score(prediction, fields, mode="reference") == 1, item.id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C", FOUR[2]),
        ("(C)", FOUR[2]),
        ("b", FOUR[1]),
        ("**B**", FOUR[1]),
        (r"\boxed{C}", FOUR[2]),
        ("The correct answer is (B) 45\u00b0.", FOUR[1]),
        ("60\u00b0", FOUR[2]),
        ("Answer: 60\u00b0", FOUR[2]),
        (r"\boxed{60^\circ}", FOUR[2]),
        ("It is not A. It is D.\n\nAnswer: D", FOUR[3]),
        ("A or B", None),
        ("", None),
        ("null", None),
        ("I cannot determine it.", None),
        ("(E)", None),
        ("61\u00b0", None),
        ("<think>A</think>B", FOUR[1]),
        ("<think>A", None),
    ],
)
def test_extract_of_choices(text: str, expected: str | None) -> None:
    assert extract(text, choice()) == expected


@pytest.mark.parametrize(
    ("answer_type", "text", "expected"),
    [
        ("integer", "14", "14"),
        ("integer", "5,000", "5000"),
        ("integer", "5%", "5"),
        ("integer", "$5", "5"),
        ("integer", "5.0", "5"),
        ("integer", "5.7", "5.7"),
        ("integer", "twelve", "12"),
        ("integer", "Answer: 7 apples", "7"),
        ("integer", r"\boxed{42}", "42"),
        ("integer", "There are 14 of them.", "14"),
        ("integer", "3 + 4 = 7", "7"),
        ("integer", "\u22125", "-5"),
        ("integer", "5 thousand", "5000"),
        ("float", "3.5 million", "3500000"),
        ("integer", "5 m", "5"),
        ("integer", "red", None),
        ("integer", "", None),
        ("integer", "<think>4</think>", None),
        ("float", "1.45", "1.45"),
        ("float", "The ticket costs $1.45.", "1.45"),
        ("float", "3/5", "0.6"),
        ("float", r"\frac{3}{5}", "0.6"),
        ("float", "1.2 m", "1.2"),
        ("list", "[2007, 2008]", "[2007, 2008]"),
        ("list", "2007 and 2008", "[2007, 2008]"),
        ("list", "Answer: from 2007 to 2008", "[2007, 2008]"),
        ("list", "[-1, 2.5]", "[-1, 2.5]"),
        ("list", "Answer: 2007-2008", "[2007, 2008]"),
        ("list", "Answer: 2007 to 2008", "[2007, 2008]"),
        ("list", "2007", None),
    ],
)
def test_extract_of_numbers(answer_type: str, text: str, expected: str | None) -> None:
    assert extract(text, row(answer_type)) == expected


@pytest.mark.parametrize("said", ["3.5", "3.5 million", "about 3.5 million people"])
def test_a_scale_that_the_question_names_is_its_unit(said: str) -> None:
    fields = row("float", "3.5", precision=1.0) | {"question": "How many million people?"}
    value = extract(said, fields)
    assert value == "3.5"
    assert score(value, fields) == 1.0


def test_a_number_that_is_too_long_to_be_written_is_wrong_and_breaks_nothing() -> None:
    fields = row("integer", "5")
    value = extract(r"\boxed{999^{1900}}", fields)
    assert value is not None
    assert value.startswith("0x")
    assert score(value, fields) == 0


@pytest.mark.parametrize(
    ("fields", "prediction", "expected"),
    [
        (row("integer", "5"), "5", 1),
        (row("integer", "5"), "5.0", 1),
        (row("integer", "5"), "5.7", 0),
        (row("integer", "5"), "6", 0),
        (row("integer", "5000"), "5,000", 1),
        (row("integer", "-5"), "-5", 1),
        (row("integer", "5"), None, 0),
        (row("integer", "5"), "five", 1),
        (row("float", "0.6", precision=1.0), "0.6", 1),
        (row("float", "0.6", precision=1.0), "0.64", 1),
        (row("float", "0.6", precision=1.0), "0.66", 0),
        (row("float", "0.7", precision=1.0), "0.65", 1),
        (row("float", "1.45", precision=2.0), "1.45", 1),
        (row("float", "1.45", precision=2.0), "1.5", 0),
        (row("float", "1.45", precision=2.0), "1.454", 1),
        (row("float", "-0.7", precision=1.0), "-0.65", 1),
        (row("float", "1.5", precision=None), "1.5", 1),
        (row("list", "[1, 2]"), "[1, 2]", 1),
        (row("list", "[1, 2]"), "[1.0, 2.0]", 1),
        (row("list", "[1, 2]"), "[2, 1]", 0),
        (row("list", "[1, 2]"), "[1]", 0),
        (choice(), FOUR[2], 1),
        (choice(), FOUR[1], 0),
        (choice(), None, 0),
        (choice("None"), None, 0),
    ],
)
def test_score(fields: dict[str, Any], prediction: str | None, expected: int) -> None:
    assert score(prediction, fields) == expected


@pytest.mark.parametrize(
    ("fields", "text", "expected"),
    [
        (choice(), "C", FOUR[2]),
        (choice(), "(c) is it", FOUR[2]),
        (choice(), "", FOUR[0]),
        (choice(), "null", FOUR[0]),
        (choice(), "b", FOUR[0]),
        (choice(), r"\boxed{C}", FOUR[0]),
        (choice(), "f(a) is (C)", FOUR[0]),
        (choice(), "45", FOUR[1]),
        (choice(), "The answer is 90\u00b0", FOUR[3]),
        (row("text", choices=("Apple", "Pear", "Plum", "Fig")), "(E)", "Fig"),
        (row("text", choices=("Yes", "No")), "yes", "Yes"),
        (row("integer"), "5.7", "5"),
        (row("integer"), "-5.7", "-5"),
        (row("integer"), "5,000", None),
        (row("integer"), "5%", None),
        (row("integer"), "$5", None),
        (row("integer"), " 5 ", "5"),
        (row("integer"), "1e2", "100"),
        (row("integer"), "inf", None),
        (row("float", precision=1.0), "0.65", "0.7"),
        (row("float", precision=1.0), "0.25", "0.2"),
        (row("float", precision=2.0), "1.5", "1.5"),
        (row("float", precision=None), "1.5", None),
        (row("float", precision=2.0), "about 1", None),
        (row("list"), "[1, 2]", "[1, 2]"),
        (row("list"), "1 and 2", "1 and 2"),
    ],
)
def test_reference_normalisation(fields: dict[str, Any], text: str, expected: str | None) -> None:
    assert extract(text, fields, mode="reference") == expected


def test_reference_is_as_the_authors_functions_had_it() -> None:
    """Their functions' results on extractions of ours."""
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    assert len(cases) == 250
    for case in cases:
        assert extract(case["response"], case, mode="reference") == case["prediction"], case


def test_reference_compares_texts() -> None:
    assert score("5", row("integer", "5"), mode="reference") == 1
    assert score("5.0", row("integer", "5"), mode="reference") == 0
    assert score(None, row("integer", "None"), mode="reference") == 0
    assert score("[1,2]", row("list", "[1, 2]"), mode="reference") == 0


def test_judge_extracts_and_the_rule_decides() -> None:
    ask = FakeAsk(["14"])
    judgement = asyncio.run(judge(row("integer", "14"), "Fourteen, I would think.", ask))
    assert (judgement.score, judgement.replies, ask.left) == (1.0, ["14"], 0)
    assert "What is it? (an integer)" in ask.prompts[0]
    assert ask.prompts[0].endswith("Fourteen, I would think.\n[Final answer]\n")


def test_judge_is_not_asked_for_what_is_an_answer_already() -> None:
    for fields, text in ((row("integer", "14"), "14"), (choice(), FOUR[2])):
        judgement = asyncio.run(judge(fields, text, FakeAsk([])))
        assert (judgement.score, judgement.replies) == (1.0, [])


def test_judge_that_finds_no_answer_is_a_wrong_answer() -> None:
    assert asyncio.run(judge(choice(), "Hard to say.", FakeAsk(["null"]))).score == 0.0


def test_aggregates_count_a_row_for_each_of_its_skills() -> None:
    rows = rows_of(BENCHMARK).values()
    found = aggregates([Scored(id=item.id, fields=item.fields, score=1.0) for item in rows])
    sizes = {item.name: len(item.units) for item in found}
    assert sizes["accuracy"] == 12
    assert sizes["skill: arithmetic reasoning"] == 1
    assert sizes["skill: numeric commonsense"] == 9
    assert sizes["answer type: list"] == 1
    assert sizes["language: chinese"] == 1
    clusters = {unit.cluster for unit in found[0].units}
    assert "mathvista:images/bars.png" in clusters
    assert len(clusters) == 6


@pytest.mark.parametrize("text", ["9" * 10**6, "a" * 10**6, "(" * 10**6, "[1," * 300_000])
def test_hostile_text_costs_little(text: str) -> None:
    def grade() -> None:
        for fields in (choice(), row("integer", "5"), row("list", "[1]")):
            for mode in ("default", "reference"):
                score(read(text, fields, mode=mode).value, fields, mode=mode)

    cheaply(grade, 12)
