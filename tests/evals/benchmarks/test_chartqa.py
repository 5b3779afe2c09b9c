"""ChartQA: prompt, extraction, relaxed accuracy by our rule and by the authors' floats."""

from typing import Any

import pytest

from evals.benchmark import Scored
from evals.benchmarks.chartqa import BENCHMARK, aggregates, extract, read, score
from tests.evals.benchmarks.fixture_rows import rows_of, shown
from tests.processor_time import cheaply


def row(gold: str = "3", query: str = "How many?") -> dict[str, Any]:
    return {"query": query, "label": [gold], "human_or_machine": 0}


def test_prompt_is_the_picture_then_the_question() -> None:
    rows = rows_of(BENCHMARK)
    assert len(rows) == 12
    assert shown(BENCHMARK.ask(rows["chartqa_1"])) == (
        "<picture>Which colour has the tallest bar?\nAnswer the question with a single word."
    )
    assert {len(BENCHMARK.ask(row).images) for row in rows.values()} == {1}


def test_every_row_of_the_fixture_scores_its_own_gold_answer() -> None:
    for item in rows_of(BENCHMARK).values():
        gold = item.fields["label"][0]
        assert score(extract(f"I look at the chart.\nAnswer: {gold}", item.fields), item.fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("14", "14"),
        ("Yes", "Yes"),
        ("Yes.", "Yes"),
        ("  Green \n", "Green"),
        ("**Green**", "Green"),
        ("1,234", "1,234"),
        ("57%", "57%"),
        ("$4.5 million", "$4.5 million"),
        ("Answer: 12.5", "12.5"),
        ("The answer is 12.5.", "12.5"),
        ("The bars add up to 40, so the answer is 40", "40"),
        (r"So \boxed{42}", "42"),
        (r"\boxed{1} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("First 10.\nThen 20.\n\n30", "30"),
        ("I count the bars.\nFinal answer: 7", "7"),
        ("<think>maybe 3</think>5", "5"),
        ("<think>maybe 3, the answer is 3", None),
        ("", None),
        ("   ", None),
        ("I cannot determine the value.", None),
        ("Sorry, I can't see the chart", None),
        ("The tallest bar is green.", "green"),
        ("60 - 45 = 15", "15"),
        ("2007 and 2008", "2007 and 2008"),
        ("[2007, 2008]", "[2007, 2008]"),
        ("Answer: **Japan**", "Japan"),
        ("\u221212.5", "\u221212.5"),
    ],
)
def test_extract(text: str, expected: str | None) -> None:
    assert extract(text, row()) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("3", "3", 1),
        ("3.1", "3", 1),
        ("3.2", "3", 0),
        ("1.9", "2", 1),  # exactly 5 %
        ("2.1", "2", 1),
        ("0.38", "0.4", 1),
        ("0.42", "0.4", 1),
        ("0.421", "0.4", 0),
        ("1,000", "1000", 1),
        ("1000", "1,000", 1),
        ("$1,000", "1000", 1),
        ("57%", "57", 1),
        ("57", "57%", 1),
        ("0.57", "57%", 1),
        ("0.57%", "57%", 0),
        ("57 percent", "57%", 1),
        ("3.5 million", "3500000", 1),
        ("3.5 million", "3.5", 1),
        ("3.5 billion", "3.5 million", 0),
        ("45.2 people", "45.2", 1),
        ("\u221212.5", "-12.5", 1),
        ("12.5", "-12.5", 0),
        ("0", "0", 1),
        ("0.0", "0", 1),
        ("-0", "0", 1),
        ("0.01", "0", 0),
        ("three", "3", 1),
        ("1/2", "0.5", 1),
        ("Yes", "yes", 1),
        ("yes.", "Yes", 1),
        ("No", "Yes", 0),
        ("the Green", "Green", 1),
        ("Green and red", "Green", 0),
        ("3 or 4", "3", 0),
        ("10-20", "10", 0),
        ("2007 and 2008", "[2007, 2008]", 1),
        ("2007, 2008", "[2007, 2008]", 1),
        ("2007", "[2007, 2008]", 0),
        ("2008, 2007", "[2007, 2008]", 0),
        ("", "", 0),
        (None, "3", 0),
        ("None", "None", 1),
        ("none", "None ", 1),
        ("N/A", "n/a", 1),
        ("unknown", "None", 0),
        ("9" * 1000, "9", 0),
    ],
)
def test_score(prediction: str | None, gold: str, expected: int) -> None:
    assert score(prediction, row(gold)) == expected


def test_a_chart_may_say_that_there_is_none() -> None:
    assert score(extract("The answer is None.", row("None")), row("None")) == 1
    assert score(extract("N/A", row("N/A")), row("N/A")) == 1


@pytest.mark.parametrize(
    ("query", "prediction", "expected"),
    [
        ("In which year is it highest?", "2005", 1),
        ("In which year is it highest?", "2006", 0),
        ("When was it highest?", "1990", 0),
        ("How many were sold?", "2006", 1),
        ("What years had the most?", "2006", 0),
        ("When did it peak?", "2006", 0),
        ("How many were sold over the years?", "2006", 1),
        ("How many are there when both are added?", "2006", 1),
        ("What was sold in the last year?", "2006", 1),
    ],
)
def test_a_year_that_was_asked_for_has_no_tolerance(
    query: str, prediction: str, expected: int
) -> None:
    assert score(prediction, row("2005", query)) == expected


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("1.9", "2", 0),
        ("2.1", "2", 0),
        ("0.38", "0.4", 0),
        ("0.42", "0.4", 1),
        ("95", "100", 1),
        ("105", "100", 1),
        ("0.0", "0", 0),
        ("-0", "0", 0),
        ("0%", "0", 0),
        ("0", "0", 1),
        ("1,000", "1000", 0),
        ("57%", "57", 0),
        ("57%", "0.57", 1),
        ("yes.", "yes", 0),
        ("Yes ", "yes", 0),
        ("YES", "yes", 1),
        ("1910", "2005", 1),
        ("2104", "2005", 1),
        ("\uff15", "5", 1),
        ("\u0665", "5", 1),
        ("1_000", "1000", 1),
        ("5e0", "5", 1),
        (" 5 ", "5", 1),
        ("", "", 1),
        (r"\boxed{5}", "5", 0),
        ("The answer is 5", "5", 0),
        ("<think>5</think>5", "5", 0),
        ("nan", "5", 0),
        ("inf", "5", 0),
        ("5%%", "0.05", 1),
    ],
)
def test_reference(text: str, gold: str, expected: int) -> None:
    prediction = extract(text, row(gold), mode="reference")
    assert prediction == text
    assert score(prediction, row(gold), mode="reference") == expected


def test_aggregates_are_the_halves_and_the_whole() -> None:
    rows = rows_of(BENCHMARK).values()
    scored = [
        Scored(id=item.id, fields=item.fields, score=float(item.fields["human_or_machine"] == 0))
        for item in rows
    ]
    found = {item.name: [unit.value for unit in item.units] for item in aggregates(scored)}
    assert list(found) == ["accuracy", "questions: augmented", "questions: human"]
    assert sum(found["accuracy"]) == 7
    assert set(found["questions: human"]) == {1.0}
    assert set(found["questions: augmented"]) == {0.0}


@pytest.mark.parametrize("text", ["9" * 10**6, "[" * 10**6, "1," * 500_000, " " * 10**6 + "x"])
def test_a_megabyte_costs_little(text: str) -> None:
    def grade() -> None:
        for mode in ("default", "reference"):
            score(read(text, row(), mode=mode).value, row(), mode=mode)
        score(text, row("[" * 1000))

    cheaply(grade, 8)
