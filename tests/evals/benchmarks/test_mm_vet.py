"""MM-Vet: the judge's table, its grades, capabilities, and the rule it is held against."""

import asyncio
import math
from typing import Any

import pytest

from evals.benchmark import Scored
from evals.benchmarks.mm_vet import BENCHMARK, aggregates, extract, grade_of, judge, read, score
from tests.evals.benchmarks.fake_ask import FakeAsk
from tests.evals.benchmarks.fixture_rows import rows_of
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts
from tests.processor_time import cheaply


def row(answer: str = "7<AND>9", capability: str | list[str] = "ocr,spat") -> dict[str, Any]:
    return {"question": "When is it open?", "answer": answer, "capability": capability}


def test_prompts_are_as_they_were() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("mm_vet")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("From 7 to 9.", "From 7 to 9."),
        ("  7  ", "7"),
        ("<think>8?</think>\n7", "7"),
        ("a\n\nb", "a\n\nb"),
        ("<think>7", None),
        ("<think>7</think>", None),
        ("", None),
    ],
)
def test_extract_is_the_whole_response(text: str, expected: str | None) -> None:
    assert extract(text, row()) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "expected"),
    [
        ("From 7 to 9.", "7<AND>9", 1),
        ("At 7", "7<AND>9", 0.5),
        ("At 8", "7<AND>9", 0),
        ("At 77 and 99", "7<AND>9", 0),
        ("It says OPEN.", "OPEN 7-9<OR>OPEN", 1),
        ("open 7-9", "OPEN 7-9<OR>OPEN", 1),
        ("closed", "OPEN 7-9<OR>OPEN", 0),
        ("five dots", "5<OR>five", 1),
        ("Yes, it is.", "yes", 1),
        ("yesterday", "yes", 0),
        ("3.14", "3.14<OR>pi", 1),
        ("3.145", "3.14<OR>pi", 0),
        ("It is pi", "3.14<OR>pi", 1),
        ("red, blue and green", "red<AND>blue<AND>green<AND>orange", 0.75),
        ("x", "", 0),
        ("x", "<AND>", 0),
        (None, "7", 0),
    ],
)
def test_score_is_the_share_of_elements(
    prediction: str | None, answer: str, expected: float
) -> None:
    assert score(prediction, row(answer)) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("0.5", 0.5),
        ("1.0", 1.0),
        ("0", 0.0),
        ("1", 1.0),
        ("0.5 because", 0.5),
        ("0.5\n", 0.5),
        ("0.5\nbecause", None),
        (".5", 0.5),
        ("5e-1", 0.5),
        ("0.5.", None),
        ("**0.5**", None),
        ("1.1", None),
        ("-0.1", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        (" 0.5", None),
        ("0.5,", None),
        ("1/2", None),
        ("half", None),
        ("50%", None),
        ("0.55", 0.55),
        ("1e999", None),
        ("0x1", None),
        ("0.9 | x", 0.9),
    ],
)
def test_grade_of_a_reply(reply: str, expected: float | None) -> None:
    assert grade_of(reply) == expected
    graded = score(extract(reply, row(), mode="reference"), row(), mode="reference")
    assert graded == (expected or 0.0)


def test_judge_completes_the_table() -> None:
    ask = FakeAsk(["0.8"])
    judgement = asyncio.run(judge(row(), "From 7 to 10.", ask))
    assert (judgement.score, list(judgement.replies)) == (0.8, ["0.8"])
    assert ask.prompts[0].endswith("\nWhen is it open? | 7 <AND> 9 | From 7 to 10. | ")
    assert ask.settings == [{"max_tokens": 3, "temperature": 0.0, "attempt": 0}]
    table = ask.prompts[0].split("--- | --- | --- | ---\n")[1].splitlines()
    assert len(table) == 8
    assert all(len(line.split(" | ")) == 4 for line in table[:-1])


def test_judge_is_asked_again_for_what_is_no_grade() -> None:
    ask = FakeAsk(["good", "**1**", "0.4"])
    judgement = asyncio.run(judge(row(), "7", ask))
    assert judgement.score == 0.4
    assert [setting["temperature"] for setting in ask.settings] == [0, 0, 0.5]
    assert ask.prompts[1].endswith("\nPredict the correctness of the answer (digit): ")


def test_judge_that_never_grades_leaves_the_row_unscored() -> None:
    ask = FakeAsk(["nan", "2", "ok", "", "?"])
    judgement = asyncio.run(judge(row(), "7", ask))
    assert (judgement.score, len(judgement.replies), ask.left) == (None, 5, 0)


def test_aggregates_by_capability_and_combination() -> None:
    rows = rows_of(BENCHMARK).values()
    found = aggregates([Scored(id=item.id, fields=item.fields, score=0.5) for item in rows])
    sizes = {item.name: len(item.units) for item in found}
    assert found[0].name == "accuracy"
    assert sizes["capability: rec"] == 8
    assert sizes["capabilities: ocr+spat"] == 1


def test_absent_capabilities_are_absent() -> None:
    found = aggregates([Scored(id="1", fields=row(capability=["math", "ocr"]), score=1.0)])
    names = [item.name for item in found]
    assert names == ["accuracy", "capability: math", "capability: ocr", "capabilities: math+ocr"]
    assert not any(math.isnan(unit.value) for item in found for unit in item.units)


def test_silence_is_wrong_and_nobody_is_asked() -> None:
    judgement = asyncio.run(judge(row(), " ", FakeAsk([])))
    assert (judgement.score, list(judgement.replies)) == (0.0, [])


@pytest.mark.parametrize("text", ["7 " * 500_000, "9" * 10**6, "<AND>" * 200_000])
def test_hostile_text_costs_little(text: str) -> None:
    def grade() -> None:
        for mode in ("default", "reference"):
            score(read(text, row(), mode=mode).value, row(), mode=mode)

    cheaply(grade, 8)
