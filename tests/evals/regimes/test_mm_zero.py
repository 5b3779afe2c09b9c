"""MM-Zero's regime: prompts, boxes, rule, judge and means, against hand-worked cases."""

import asyncio
from typing import Any

import pytest

from evals.benchmark import Row, Scored
from evals.benchmarks import NAMES, benchmarks
from evals.regimes.mm_zero import (
    BENCHMARKS,
    ask,
    extract,
    judge,
    judge_prompt,
    judged_answer,
    parse_judge,
    reference_judge,
    score,
)
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts

ROW: dict[str, Any] = {"problem": "<image> What?", "answer": "B"}

CASES = [
    # response, our reading, the release's
    (r"\boxed{B}", "B", "B"),
    (r"\boxed{ B }", "B", "B"),
    (r"so \boxed{A}, no: \boxed{B}", "B", "B"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", r"\frac{1"),
    (r"\boxed{\text{B}}", r"\text{B}", r"\text{B"),
    (r"\boxed{5.0}", "5.0", "5.0"),
    (r"\boxed{New York}", "New York", "New York"),
    (r"\boxed{42\%}", r"42\%", r"42\%"),
    (r"<think>\boxed{A}</think> \boxed{B}", "B", "B"),
    (r"<think>\boxed{A}</think> B", None, "A"),
    (r"<think>\boxed{A}", None, "A"),
    (r"\boxed{}", None, ""),
    (r"\boxed{B", None, None),
    ("The answer is B", None, None),
    ("", None, None),
]
SCORE = [
    # prediction, gold, ours, the release's
    ("B", "B", 1.0, 1.0),
    ("b.", "B", 1.0, 1.0),
    (" Blue ", "blue", 1.0, 1.0),
    ("blue..", "Blue", 1.0, 1.0),
    ("5.0", "5", 1.0, 0.0),
    ("14", "14.0", 1.0, 0.0),
    (r"\text{B}", "B", 1.0, 0.0),
    (r"\frac{1}{2}", "0.5", 1.0, 0.0),
    ("(B)", "B", 1.0, 0.0),
    ("1,000", "1000", 1.0, 0.0),
    (r"\frac{1", r"\frac{1}{2}", 0.0, 0.0),
    ("A", "B", 0.0, 0.0),
    ("B or C", "B", 0.0, 0.0),
    ("", "B", 0.0, 0.0),
    ("", "", 0.0, 0.0),
    (None, "B", 0.0, 0.0),
]


@pytest.mark.parametrize("text, ours, theirs", CASES)
def test_extract(text: str, ours: str | None, theirs: str | None) -> None:
    assert extract(text, ROW) == ours
    assert extract(text, ROW, mode="reference") == theirs


@pytest.mark.parametrize("prediction, gold, ours, theirs", SCORE)
def test_rule(prediction: str | None, gold: str, ours: float, theirs: float) -> None:
    row = {**ROW, "answer": gold}
    assert score(prediction, row) == ours
    assert score(prediction, row, mode="reference") == theirs


@pytest.mark.parametrize(
    "reply, ours, theirs",
    [
        ("Yes", True, True),
        (" yes.", True, True),
        ("No", False, False),
        ("Yesterday", None, True),
        ("**Yes**", True, False),
        ("'Yes'", True, False),
        ("Yes, since", True, True),
        ("correct", None, False),
        ("It is: Yes", None, False),
        ("", None, False),
        ("\nYes", True, True),
        ("Nope", None, False),
    ],
)
def test_judge_is_parsed(reply: str, ours: bool | None, theirs: bool) -> None:
    assert parse_judge(reply) is ours
    assert parse_judge(reply, mode="reference") is theirs


def test_judge_prompt() -> None:
    assert judge_prompt(" What? ", "B", "(B) ") == (
        "You are an answer correctness judge. Given a question, the gold (correct) answer, and the "
        "model's answer, determine if the model's answer is correct: equivalent to the gold answer "
        "or semantically the same. Consider numeric equality (e.g. 14 vs 14.0), option equivalence "
        "(A vs A.), and paraphrases. Answer with exactly one word: Yes or No.\n\n"
        "Question: What?\n\nGold answer: B\n\nModel answer: (B)\n\n"
        "Is the model answer correct? Answer with exactly one word: Yes or No."
    )


def test_judge_sees_400_and_600_characters() -> None:
    prompt = judge_prompt("q" * 401, "g" * 601, "m" * 601)
    assert f"Question: {'q' * 400}...\n" in prompt
    assert f"Gold answer: {'g' * 600}\n" in prompt
    assert f"Model answer: {'m' * 600}...\n" in prompt
    assert f"Question: {'q' * 400}\n" in judge_prompt("q" * 400, "g", "m")


def test_judge_sees_the_box_or_how_the_response_begins() -> None:
    assert judged_answer(r"long \boxed{7}", ROW) == "7"
    assert judged_answer("x" * 700, ROW) == "x" * 600
    assert judged_answer(r"so \boxed{ }", ROW) == r"so \boxed{ }"
    assert judged_answer(r"\boxed{\frac{1}{2}}", ROW, mode="reference") == r"\frac{1"


def replied(
    replies: list[str], *, reference: bool = False, response: str = r"\boxed{B}"
) -> tuple[float | None, int]:
    asked: list[dict[str, Any]] = []

    async def ask(prompt: str, **how: Any) -> str:
        asked.append(how)
        return replies[len(asked) - 1]

    chosen = reference_judge if reference else judge
    judgement = asyncio.run(chosen(ROW, response, ask))
    first = {"max_tokens": 16, "temperature": 0.0, "stop": ["\n"], "attempt": 0}
    assert asked[:1] == [first][: len(asked)]
    return judgement.score, len(asked)


def test_judge_is_asked_again_where_it_says_neither() -> None:
    assert replied(["Yes"]) == (1.0, 1)
    assert replied(["No."]) == (0.0, 1)
    assert replied(["Hm", "Yes"]) == (1.0, 2)
    assert replied(["Hm", "Yesterday", ""]) == (None, 3)


def test_a_response_that_says_nothing_is_wrong_unasked() -> None:
    assert replied([], response=" ") == (0.0, 0)
    assert replied(["Yes"], response=" ", reference=True) == (1.0, 1)


def test_reference_judge_takes_anything_else_for_no() -> None:
    assert replied(["Hm"], reference=True) == (0.0, 1)
    assert replied(["Yesterday"], reference=True) == (1.0, 1)


@pytest.mark.parametrize("name", ["mmmu", "chartqa"])
def test_prompts(name: str) -> None:
    assert prompts(BENCHMARKS[name], FIXTURES / "mm_zero") == golden(f"mm_zero_{name}")


@pytest.mark.parametrize("images", [0, 11])
def test_rows_that_the_release_skips_are_refused(images: int) -> None:
    row = Row(id="0", fields={"problem": "?"}, images={f"images/{i}": b"" for i in range(images)})
    with pytest.raises(ValueError, match="picture"):
        ask(row)


def test_twelve_sets_in_the_order_of_every_table() -> None:
    assert tuple(benchmarks("mm_zero")) == NAMES
    for name, benchmark in BENCHMARKS.items():
        assert (benchmark.name, benchmark.regime) == (name, "mm_zero")
        assert benchmark.judged_by_default
    with pytest.raises(ValueError, match="regime"):
        benchmarks("vlmevalkit")  # type: ignore[arg-type]


def test_the_three_of_mmmu_pro_share_their_clusters() -> None:
    row = Scored(id="7", fields={**ROW, "id": "test_Math_7"}, score=1.0)
    for name in ("mmmu_pro_standard4", "mmmu_pro_vision"):
        (accuracy,) = BENCHMARKS[name].aggregates([row])
        assert [unit.cluster for unit in accuracy.units] == ["mmmu_pro:test_Math_7"]
    (accuracy,) = BENCHMARKS["mmmu"].aggregates([row])
    assert [unit.cluster for unit in accuracy.units] == ["mmmu:7"]


def clusters(name: str, *rows: Scored) -> list[str]:
    (accuracy,) = BENCHMARKS[name].aggregates(rows)
    return [unit.cluster for unit in accuracy.units]


def scored(id: str, pictures: str = "", **fields: Any) -> Scored:
    return Scored(id=id, fields={**ROW, **fields}, score=1.0, pictures=pictures)


def test_rows_of_one_picture_are_one_cluster() -> None:
    rows = [scored("1", "red"), scored("2", "red"), scored("3", "blue")]
    assert clusters("chartqa", *rows) == ["chartqa:red", "chartqa:red", "chartqa:blue"]
    assert BENCHMARKS["chartqa"].caveat(rows) == ""


def test_versions_of_one_problem_are_one_cluster_where_the_rows_name_it() -> None:
    rows = [scored("1", "red", problem_index=7), scored("2", "blue", problem_index=7)]
    assert clusters("mathverse", *rows) == ["mathverse:7", "mathverse:7"]
    assert BENCHMARKS["mathverse"].caveat(rows) == ""


def test_forms_of_one_question_are_one_cluster_by_their_picture_too() -> None:
    forms = ("mmmu_pro_standard4", "mmmu_pro_standard10")
    assert {clusters(name, scored("1", "red"))[0] for name in forms} == {"mmmu_pro:red"}
    # Numbers of rows name nothing beyond their own set.
    assert len({clusters(name, scored("1"))[0] for name in forms}) == 2


@pytest.mark.parametrize(
    "name, row, said",
    [
        ("mathverse", scored("1", "red"), "rows without 'problem_index' are taken as independent"),
        ("mmmu_pro_vision", scored("1", "red"), "rows without 'id' are taken as independent"),
        ("chartqa", scored("1"), "rows are taken as independent"),
    ],
)
def test_what_rows_do_not_tell_is_said(name: str, row: Scored, said: str) -> None:
    assert BENCHMARKS[name].caveat([row]).startswith(said)
