"""MathVerse: prompt, options in the question, the rule, and the judge's two steps."""

import asyncio
from typing import Any

import pytest

from evals.benchmark import Scored
from evals.benchmarks.mathverse import (
    BENCHMARK,
    aggregates,
    extract,
    judge,
    options_of,
    read,
    score,
)
from tests.evals.benchmarks.fake_ask import FakeAsk
from tests.evals.benchmarks.fixture_rows import rows_of
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts
from tests.processor_time import cheaply


def choice(answer: str = "C") -> dict[str, Any]:
    question = "How large is it?\nChoices:\nA:40\nB:60\nC:70\nD:140"
    return {"question_type": "multi-choice", "question_for_eval": question, "answer": answer}


def free(answer: str) -> dict[str, Any]:
    return {"question_type": "free-form", "question_for_eval": "How large?", "answer": answer}


def test_prompts_are_as_they_were() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("mathverse")


def test_every_row_of_the_fixture_scores_its_own_gold_answer() -> None:
    for item in rows_of(BENCHMARK).values():
        fields = item.fields
        gold = fields["answer"]
        assert score(extract(f"I look.\n\n\\boxed{{{gold}}}", fields), fields) == 1, item.id
        prediction = extract(f"Extracted Answer: {gold}", fields, mode="reference")
        assert score(prediction, fields, mode="reference") == 1, item.id


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Q?\nChoices:\nA:40\nB:60", {"A": "40", "B": "60"}),
        ("Q? Choices: A. 40 B. 60 C. 70", {"A": "40", "B": "60", "C": "70"}),
        ("Which one?\nChoices:\n(A) x + 1\n(B) x: y", {"A": "x + 1", "B": "x: y"}),
        ("Is AB: CD right?", dict.fromkeys("ABCD", "")),
        ("", dict.fromkeys("ABCD", "")),
    ],
)
def test_options_are_read_from_the_question(question: str, expected: dict[str, str]) -> None:
    assert options_of({"question_type": "multi-choice", "question_for_eval": question}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C", "C"),
        ("C:70", "C"),
        ("(C)", "C"),
        ("70", "C"),
        (r"\boxed{C}", "C"),
        (r"\boxed{70^\circ}", "C"),
        ("Each has 70 degrees, so the answer is C.", "C"),
        ("At first A seems right.\nThe correct option is B", "B"),
        ("**Answer:** D", "D"),
        ("<think>B</think>C", "C"),
        ("<think>C", None),
        ("A or C", None),
        ("", None),
        ("I cannot provide the option.", None),
    ],
)
def test_extract_of_choices(text: str, expected: str | None) -> None:
    assert extract(text, choice()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{9\pi}", r"9\pi"),
        ("The area is 9\\pi", "9\\pi"),
        ("d = 17.6 / cos(38)\nTherefore the distance is approximately 22.3 meters.", "22.3 meters"),
        ("Answer: y=2x+1", "y=2x+1"),
        ("22.3", "22.3"),
        ("x = 5", "5"),
        ("<think>3</think>4", "4"),
        ("", None),
        ("It is not possible to determine the length.", None),
        ("After we have looked at each of the lines there remain exactly 14 of them", "14"),
        ("(-2, 1]", "(-2, 1]"),
    ],
)
def test_extract_of_free_answers(text: str, expected: str | None) -> None:
    assert extract(text, free("1")) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("C", "C", 1),
        ("c", "C", 1),
        ("(C)", "C", 1),
        ("B", "C", 0),
        (None, "C", 0),
    ],
)
def test_score_of_choices(prediction: str | None, gold: str, expected: int) -> None:
    assert score(prediction, choice(gold)) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        (r"9\pi", r"9\pi", 1),
        ("28.27", r"9\pi", 1),
        ("28.3", r"9\pi", 0),
        (r"9 \pi \text{ cm}^2", r"9\pi", 1),
        ("9\u03c0", r"9\pi", 1),
        ("y = 2x + 1", "y=2x+1", 1),
        ("2x+1", "y=2x+1", 1),
        ("y = 2x - 1", "y=2x+1", 0),
        ("5", "5 cm", 1),
        ("5cm", "5 cm", 1),
        ("6 cm", "5 cm", 0),
        (r"\frac{\sqrt{3}}{2}", "0.866", 1),
        (r"\sqrt{8}", r"2\sqrt{2}", 1),
        ("0.5", "1/2", 1),
        ("(-2, 1]", "(-2,1]", 1),
        ("(-2, 1)", "(-2,1]", 0),
        ("-2", "2", 0),
        ("120\u00b0", "120", 1),
        (r"120^{\circ}", r"120^\circ", 1),
        ("", "5", 0),
        (None, "5", 0),
    ],
)
def test_score_of_free_answers(prediction: str | None, gold: str, expected: int) -> None:
    assert score(prediction, free(gold)) == expected


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("C", "C", 1),
        ("C.", "C", 0),
        ("c", "C", 0),
        ("Extracted Answer: C", "C", 1),
        ("  C\n", "C", 1),
        ("9 \\pi", "9\\pi", 0),
        ("", "C", 0),
    ],
)
def test_reference_is_the_same_text(text: str, gold: str, expected: int) -> None:
    fields = choice(gold)
    assert score(extract(text, fields, mode="reference"), fields, mode="reference") == expected


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["C"], 1.0),  # the gold text itself needs no second question
        (["Answer: C"], 1.0),
        (["70", "1"], 1.0),
        (["60", "0"], 0.0),
        (["null", "0"], 0.0),
        (["70", "Verdict: 1"], 1.0),
        (["70", "1.", "yes", "1"], 1.0),
        (["70", "1.", "yes", "", "same", "one"], None),
    ],
)
def test_judge(replies: list[str], expected: float | None) -> None:
    ask = FakeAsk(replies)
    judgement = asyncio.run(judge(choice(), "It must be 70.", ask))
    assert judgement.score == expected
    assert (list(judgement.replies), ask.left) == (replies, 0)


def test_judge_grows_warmer_with_every_attempt() -> None:
    ask = FakeAsk(["70", "?", "?", "1"])
    asyncio.run(judge(choice(), "It must be 70.", ask))
    assert [setting.get("temperature", 0) for setting in ask.settings] == [0, 0, 0.5, 1.0]
    assert [setting.get("attempt", 0) for setting in ask.settings] == [0, 0, 1, 2]
    assert "Standard answer: C\nAnswer: 70\n" in ask.prompts[1]
    assert ask.prompts[0].endswith("Response: It must be 70.\nAnswer: ")


def test_versions_of_one_problem_are_one_cluster() -> None:
    rows = rows_of(BENCHMARK).values()
    found = aggregates([Scored(id=item.id, fields=item.fields, score=1.0) for item in rows])
    assert found[0].name == "accuracy"
    assert len(found[0].units) == 13
    assert {unit.cluster for unit in found[0].units} == {f"mathverse:{i}" for i in range(1, 6)}
    sizes = {item.name: len(item.units) for item in found}
    assert sizes["version: Vision Only"] == 3
    assert sizes["subject: Functions"] == 3


def test_silence_is_wrong_and_nobody_is_asked() -> None:
    judgement = asyncio.run(judge(choice(), " ", FakeAsk([])))
    assert (judgement.score, list(judgement.replies)) == (0.0, [])


@pytest.mark.parametrize("text", ["A:" * 500_000, "9" * 10**6, "\\boxed{" * 100_000])
def test_hostile_text_costs_little(text: str) -> None:
    def grade() -> None:
        for fields in (choice(), free("5")):
            for mode in ("default", "reference"):
                score(read(text, fields, mode=mode).value, fields, mode=mode)

    cheaply(grade, 12)
