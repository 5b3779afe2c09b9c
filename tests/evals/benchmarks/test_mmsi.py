"""MMSI-Bench: prompts, readings and scores against hand-worked cases."""

from typing import Any

import pytest

from evals.benchmark import Scored
from evals.benchmarks.mmsi import BENCHMARK, extract, options_of, score
from evals.data import load
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts
from tests.processor_time import cheaply

ROW: dict[str, Any] = {
    "id": 5,
    "question": "Where?\nOptions: A: North, B: South-west, C: To the left, near, D: 45 m away",
    "answer": "B",
    "question_type": "Motion (Cam.)",
}

CASES = [
    # response, ours, the authors'
    ("``B``", "B", "B"),
    ("`B`", "B", "B"),
    ("B", "B", "B"),
    ("(B)", "B", "B"),
    ("b", "B", None),
    ("``b``", "B", None),
    ("**B**", "B", "B"),
    (r"\boxed{B}", "B", "B"),
    ("Answer: B", "B", "B"),
    ("I choose B, not C.", "B", "B"),
    ("Not C, I choose B.", "B", "C"),
    ("`C` is wrong, so ``B``", "B", "B"),
    ("``A`` at first, but in the end ``C``", "C", "A"),
    ("A. 30\nB. 45\nC. 60\nD. 90\n\nAnswer: B", "B", "A"),
    ("A is the correct choice because it is near", "A", None),
    ("A is far. B is near. So B", "B", "B"),
    ("<think>The answer is A.</think>B", "B", "A"),
    ("<think>The answer is A.", None, "A"),
    ("The answer is B: South-west", "B", "B"),
    ("South-west", "B", None),
    ("It is to the left, near.", "C", None),
    ("A bike is there", None, None),
    ("I think a", None, None),
    ("Answer: E", None, None),
    ("A or B", None, "B"),
    ("`` ``", None, None),
    ("I cannot determine it.", None, None),
    ("N/A", None, "A"),
    ("", None, None),
    ("The letter is `D`.", "D", "D"),
]

SCORE = [
    ("B", "B", 1.0),
    ("b", "B", 1.0),
    ("(B)", "B", 1.0),
    ("(b)", "B", 1.0),
    (" B", "B", 1.0),
    ("B", "b", 1.0),
    ("B", " B\n", 1.0),
    ("A", "A", 1.0),
    ("C", "C", 1.0),
    ("D", "D", 1.0),
    ("d", "D", 1.0),
    ("A", "B", 0.0),
    ("C", "B", 0.0),
    ("D", "B", 0.0),
    ("E", "B", 0.0),
    ("BB", "B", 0.0),
    ("B.", "B", 0.0),
    ("AB", "B", 0.0),
    ("``B``", "B", 0.0),
    ("South-west", "B", 0.0),
    ("2", "B", 0.0),
    ("", "B", 0.0),
    ("()", "B", 0.0),
    (" ", "B", 0.0),
    (None, "B", 0.0),
]


@pytest.mark.parametrize("text, ours, theirs", CASES)
def test_extract(text: str, ours: str | None, theirs: str | None) -> None:
    assert extract(text, ROW) == ours
    assert extract(text, ROW, mode="reference") == theirs


@pytest.mark.parametrize("prediction, gold, credit", SCORE)
def test_score(prediction: str | None, gold: str, credit: float) -> None:
    assert score(prediction, {**ROW, "answer": gold}) == credit


def test_reference_score_is_exact() -> None:
    assert score("B", ROW, mode="reference") == 1.0
    assert score("b", ROW, mode="reference") == 0.0


@pytest.mark.parametrize(
    "question, options",
    [
        (ROW["question"], ["North", "South-west", "To the left, near", "45 m away"]),
        ("Q? Options: A. x. B. y. C. z. D. w.", ["x", "y", "z", "w"]),
        ("Q: A: is it? Options: A: 1, B: 2, C: 3, D: 4", ["1", "2", "3", "4"]),
        ("Q? Options: A: 1, B: 2", ["", "", "", ""]),
        ("no options at all", ["", "", "", ""]),
    ],
)
def test_options_are_read_from_the_question(question: str, options: list[str]) -> None:
    assert list(options_of({"question": question}).values()) == options


def test_prompts() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("mmsi")


def test_types_are_eleven_whatever_their_dashes() -> None:
    rows = [
        Scored(id=row.id, fields=row.fields, score=1.0) for row in load(BENCHMARK, FIXTURES).rows
    ]
    accuracy, *types = BENCHMARK.aggregates(rows)
    assert (accuracy.name, len(accuracy.units), len(types)) == ("accuracy", 12, 11)
    sizes = {one.name: len(one.units) for one in types}
    assert sizes["type: Positional Relationship (Obj.\u2013Reg.)"] == 2


@pytest.mark.parametrize("piece", ["`", "``a", "` ", "A ", "Options: A: "])
def test_long_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    cheaply(lambda: (extract(text, ROW, mode="reference"), options_of({"question": text})), 3)
