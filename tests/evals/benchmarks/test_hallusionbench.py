"""HallusionBench: prompts, readings, scores, groups and judge against hand-worked cases."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from evals.benchmark import Aggregate, Row, Scored
from evals.benchmarks.hallusionbench import BENCHMARK, extract, groups, judge, score
from evals.data import load
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts
from tests.evals.extraction.test_yes_no import CASES


def make_row(**changes: str) -> dict[str, Any]:
    row = {"category": "VD", "subcategory": "illusion", "set_id": "0", "figure_id": "1"}
    row |= {"question_id": "0", "visual_input": "2", "question": "Are they equal?"}
    return row | {"gt_answer": "1", "gt_answer_details": "They are equal."} | changes


@pytest.mark.parametrize("text, ours, theirs", CASES)
def test_extract(text: str, ours: str | None, theirs: str | None) -> None:
    assert extract(text, make_row()) == ours
    assert extract(text, make_row(), mode="reference") == theirs


@pytest.mark.parametrize(
    "prediction, if_yes, if_no",
    [
        ("Yes", 1.0, 0.0),
        ("No", 0.0, 1.0),
        ("yes", 1.0, 0.0),
        ("no", 0.0, 1.0),
        ("YES", 1.0, 0.0),
        ("NO", 0.0, 1.0),
        (" Yes ", 1.0, 0.0),
        ("Yes.", 0.0, 0.0),
        ("True", 0.0, 0.0),
        ("1", 0.0, 0.0),
        ("Unknown", 0.0, 0.0),
        ("", 0.0, 0.0),
        (None, 0.0, 0.0),
    ],
)
def test_score(prediction: str | None, if_yes: float, if_no: float) -> None:
    assert score(prediction, make_row(gt_answer="1")) == if_yes
    assert score(prediction, make_row(gt_answer="0")) == if_no


def test_reference_score_is_exact() -> None:
    assert score("Yes", make_row(), mode="reference") == 1.0
    assert score("yes", make_row(), mode="reference") == 0.0


def test_prompts() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("hallusionbench")


def scored(score: float, sizes: Mapping[str, int] | None = None, **ids: str) -> Scored:
    row = make_row(**ids)
    return Scored(id="_".join(ids.values()), fields=row, score=score, groups=sizes or {})


def means(found: list[Aggregate]) -> Mapping[str, float]:
    own = {a.name: sum(u.value for u in a.units) / len(a.units) for a in found if a.units}
    return own | {a.name: sum(own[name] for name in a.of) / len(a.of) for a in found if a.of}


def test_three_accuracies_of_two_figures_with_two_questions() -> None:
    rows = [
        scored(1.0, figure_id="0", question_id="0"),
        scored(1.0, figure_id="0", question_id="1"),
        scored(1.0, figure_id="1", question_id="0"),
        scored(0.0, figure_id="1", question_id="1"),
    ]
    found = list(BENCHMARK.aggregates(rows))
    assert found[0].of == ("aAcc", "fAcc", "qAcc")
    assert means(found)["aAcc"] == 0.75  # 3 of 4 questions
    assert means(found)["fAcc"] == 0.5  # figure 0 is right as a whole
    assert means(found)["qAcc"] == 0.5  # question 0 is right on both figures
    assert means(found)["average"] == pytest.approx(1.75 / 3)
    assert means(found)["questions: easy"] == 1.0
    assert means(found)["questions: hard"] == 0.5
    assert {unit.cluster for a in found for unit in a.units} == {"hallusionbench:VD_illusion_0"}


def test_figure_zero_of_a_visual_supplement_is_no_figure() -> None:
    rows = [
        scored(0.0, category="VS", figure_id="0"),
        scored(1.0, category="VS", figure_id="1"),
    ]
    assert means(list(BENCHMARK.aggregates(rows)))["fAcc"] == 1.0
    assert means(list(BENCHMARK.aggregates(rows)))["qAcc"] == 0.0


def test_groups_of_several_samples_are_right_with_the_chance_that_all_are() -> None:
    rows = [scored(0.5, question_id="0"), scored(0.5, question_id="1")]
    assert means(list(BENCHMARK.aggregates(rows)))["fAcc"] == 0.25


def test_groups_that_lack_rows_are_left_out_and_counted() -> None:
    """Two figures with two questions each; question 1 of figure 1 has no score."""
    ids = [{"figure_id": f, "question_id": q} for f in "01" for q in "01"]
    sizes = Counter(name for one in ids for name in groups(make_row(**one)))
    assert sorted(sizes.values()) == [2, 2, 2, 2, 4]
    rows = [scored(1.0, sizes, **one) for one in ids[:3]]
    found = {aggregate.name: aggregate for aggregate in BENCHMARK.aggregates(rows)}
    assert [len(found[name].units) for name in ("aAcc", "fAcc", "qAcc")] == [3, 1, 1]
    assert [found[name].left_out for name in ("aAcc", "fAcc", "qAcc")] == [0, 1, 1]
    assert found["fAcc VD"].left_out == 1


def test_a_limit_takes_whole_sets() -> None:
    every = load(BENCHMARK, FIXTURES).rows
    for limit in range(1, len(every) + 1):
        rows = load(BENCHMARK, FIXTURES, limit=limit).rows
        by_set = Counter(groups(row.fields)[0] for row in rows)
        assert dict(by_set) == dict(next(iter(row.groups.items())) for row in rows)
        assert len(rows) <= limit or len(by_set) == 1
        found = BENCHMARK.aggregates([_right(row) for row in rows])
        assert not any(aggregate.left_out for aggregate in found)


def _right(row: Row) -> Scored:
    return Scored(id=row.id, fields=row.fields, score=1.0, groups=row.groups)


def test_fixture_groups() -> None:
    rows = [
        Scored(id=row.id, fields=row.fields, score=1.0) for row in load(BENCHMARK, FIXTURES).rows
    ]
    units = {a.name: len(a.units) for a in BENCHMARK.aggregates(rows)}
    assert (units["aAcc"], units["fAcc"], units["qAcc"]) == (12, 9, 8)
    assert (units["aAcc VD"], units["fAcc VS"]) == (7, 4)


def asked(replies: list[str], row: Mapping[str, Any]) -> tuple[float | None, list[str]]:
    """What the judge makes of replies in turn, and the prompts that it sent."""
    sent = []

    async def ask(prompt: str, **_: Any) -> str:
        sent.append(prompt)
        return replies[len(sent) - 1]

    judgement = asyncio.run(judge(row, "They look alike.", ask))
    assert list(judgement.replies) == replies[: len(sent)]
    return judgement.score, sent


@pytest.mark.parametrize(
    "replies, credit, calls",
    [
        (["correct"], 1.0, 1),
        ([" Correct."], 1.0, 1),
        (['"incorrect"'], 0.0, 1),
        (["**incorrect**"], 0.0, 1),
        (["unclear"], 0.0, 1),
        (["It is correct", "correct"], 1.0, 2),
        (["correctly put", "", "incorrect"], 0.0, 3),
        (["?", "?", "?"], None, 3),
    ],
)
def test_judge_is_read_strictly(replies: list[str], credit: float | None, calls: int) -> None:
    found, sent = asked(replies, make_row())
    assert (found, len(sent)) == (credit, calls)
    for text in ("Are they equal?", "They are equal.", "They look alike."):
        assert text in sent[0]


def test_nobody_is_asked_about_nothing() -> None:
    async def ask(prompt: str, **_: Any) -> str:
        raise AssertionError(prompt)

    assert asyncio.run(judge(make_row(), " ", ask)).score == 0.0


def test_unclear_is_right_without_a_figure() -> None:
    assert asked(["unclear"], make_row(category="VS", figure_id="0"))[0] == 1.0
