"""VisNumBench: prompt, options in one text, letters, the matcher, the two halves."""

import asyncio
import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.benchmark import Scored
from evals.benchmarks.visnumbench import (
    BENCHMARK,
    aggregates,
    extract,
    judge,
    options_of,
    read,
    scene_of,
    score,
)
from evals.data import Loaded, load
from tests.evals.benchmarks.fake_ask import FakeAsk
from tests.evals.benchmarks.fixture_rows import rows_of, shown
from tests.evals.benchmarks.prompts import FIXTURES, golden, prompts
from tests.evals.small_benchmark import png, write_rows
from tests.processor_time import cheaply


def row(answer: str = "(b) 55 degrees") -> dict[str, Any]:
    option = "(a) 30 degrees (b) 55 degrees (c) 90 degrees (d) 120 degrees"
    return {"id": "1_Angle", "question": "How large?", "option": option, "answer": answer}


def test_prompts_are_as_they_were() -> None:
    assert prompts(BENCHMARK, FIXTURES) == golden("visnumbench")
    text = shown(BENCHMARK.ask(rows_of(BENCHMARK)["synthetic_3_Length"]))
    assert text == (
        "<picture>\n"
        "        Question: Which bar is the longest?\n"
        "        Options: (a) red (b) blue (c) green\n"
        "        Answer the question based on the most likely options.\n"
        "    "
    )


def test_every_row_of_the_fixture_scores_its_own_gold_answer() -> None:
    for item in rows_of(BENCHMARK).values():
        fields = item.fields
        assert score(extract(f"I look.\n\nAnswer: {fields['answer']}", fields), fields), item.id
        assert score(fields["answer"][:3], fields, mode="reference") == 1


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("(a) 1 (b) 2", {"A": "1", "B": "2"}),
        ("(a) 1\n(b) 2\n(c) 3", {"A": "1", "B": "2", "C": "3"}),
        ("(a) x, (b) y, (c) z, (d) u, (e) v", dict(zip("ABCDE", "xyzuv", strict=True))),
        ("(a) (d) of the left (b) right", {"A": "(d) of the left", "B": "right"}),
    ],
)
def test_options(option: str, expected: dict[str, str]) -> None:
    assert options_of({"option": option}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(b)", "(b)"),
        ("b", "(b)"),
        ("B", "(b)"),
        ("(B)", "(b)"),
        ("(b) 55 degrees", "(b)"),
        ("b) 55 degrees", "(b)"),
        ("55 degrees", "(b)"),
        ("**(b) 55 degrees**", "(b)"),
        ("The answer is (c).", "(c)"),
        ("The most likely option is (d) 120 degrees.", "(d)"),
        ("It is not (a).\nAnswer: (c)", "(c)"),
        (r"\boxed{b}", "(b)"),
        (r"\boxed{(b)}", "(b)"),
        (r"\boxed{55}", "(b)"),
        ("<think>(a)</think>(b)", "(b)"),
        ("<think>(b)", None),
        ("", None),
        ("I'm sorry, I can't assist with that.", None),
        ("(a) or (b)", None),
        ("(z)", None),
        ("(e)", None),
        ("57 degrees", None),
    ],
)
def test_extract(text: str, expected: str | None) -> None:
    assert extract(text, row()) == expected


@pytest.mark.parametrize(
    ("prediction", "default", "reference"),
    [
        ("(b)", 1, 1),
        ("(B)", 1, 0),
        ("(b) ", 1, 0),
        ("(b).", 1, 0),
        ("(b)\n", 1, 0),
        ("b", 1, 0),
        ("Your output: (b)", 0, 0),
        ("(b) 55 degrees", 0, 0),
        ("(a)", 0, 0),
        ("(z)", 0, 0),
        ("", 0, 0),
        (None, 0, 0),
    ],
)
def test_score(prediction: str | None, default: int, reference: int) -> None:
    assert score(prediction, row()) == default
    assert score(prediction, row(), mode="reference") == reference


def test_reference_takes_the_text_as_it_is() -> None:
    assert extract(" (b)\n", row(), mode="reference") == " (b)\n"


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["(b)"], 1.0),
        (["(B)."], 1.0),
        (["(a)"], 0.0),
        (["(z)"], 0.0),
        (["It is (b)", "(b)"], 1.0),
        (["b", "", "?"], None),
    ],
)
def test_judge(replies: list[str], expected: float | None) -> None:
    ask = FakeAsk(replies)
    judgement = asyncio.run(judge(row(), "About 55.", ask))
    assert (judgement.score, list(judgement.replies), ask.left) == (expected, replies, 0)
    assert ask.prompts[0].endswith(" (z) none\nAnswer: About 55.\nChoice: ")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_path": "Synthetic Mathematical Dataset/Angle/1.png"}, "synthetic"),
        ({"image_path": "Real-World Dataset/Angle/1.png"}, "real"),
        ({"image_path": "1.png", "Attributes": "Area"}, "synthetic"),
        ({"image_path": "1.png", "Attributes": "Volume"}, "real"),
        ({"image_path": "1.png", "Attributes": "Angle"}, None),
    ],
)
def test_scene(fields: dict[str, Any], expected: str | None) -> None:
    assert scene_of(fields) == expected


def test_aggregates_are_the_halves_and_their_attributes() -> None:
    rows = rows_of(BENCHMARK).values()
    found = aggregates([Scored(id=item.id, fields=item.fields, score=1.0) for item in rows])
    sizes = {item.name: len(item.units) for item in found}
    assert (sizes["accuracy"], sizes["scenes: synthetic"], sizes["scenes: real"]) == (11, 5, 6)
    assert sizes["attribute: synthetic, Area"] == 1
    assert sizes["task: value estimation"] == 4


def picture(path: str | None, colour: str = "red") -> dict[str, Any]:
    """As the Hub has it."""
    return {"bytes": base64.b64encode(png(colour)).decode(), "path": path}


def loaded(folder: Path, pictures: Sequence[Any]) -> Loaded:
    """Rows of one id with these pictures."""
    fields = row() | {"task_class": "value estimation", "Attributes": "Angle"}
    rows = [fields | {"image_path": one} for one in pictures]
    return load(BENCHMARK, write_rows(folder, rows, name="visnumbench"))


def test_the_half_of_a_row_from_the_hub_is_read_from_the_path_of_its_picture(
    tmp_path: Path,
) -> None:
    found = loaded(tmp_path, [picture("Synthetic/1.png"), picture("Real-World/1.png")])
    assert {one.id for one in found.rows} == {"synthetic_1_Angle", "real_1_Angle"}
    assert not found.refused


def test_where_the_half_is_not_known_both_rows_of_an_id_are_there(tmp_path: Path) -> None:
    found = loaded(tmp_path, [picture("1.png"), picture(None, "blue")])
    assert {one.id for one in found.rows} == {"row_1_Angle_0", "row_1_Angle_1"}
    assert not found.refused
    (accuracy, *_) = aggregates(
        [Scored(id=r.id, fields=r.fields, score=1.0, pictures=r.pictures) for r in found.rows]
    )
    assert len({unit.cluster for unit in accuracy.units}) == 2


def test_questions_of_one_picture_are_one_cluster_whatever_it_is_called(tmp_path: Path) -> None:
    rows = loaded(tmp_path, [picture("1.png"), picture("2.png"), picture("3.png", "blue")]).rows
    (accuracy, *_) = aggregates(
        [Scored(id=r.id, fields=r.fields, score=1.0, pictures=r.pictures) for r in rows]
    )
    assert len({unit.cluster for unit in accuracy.units}) == 2


@pytest.mark.parametrize("path", ["Synthetic/1.png", "Synthetic/1"])
def test_a_path_without_its_picture_is_refused_by_what_is_missing(
    tmp_path: Path, path: str
) -> None:
    ((_, why),) = loaded(tmp_path, [path]).refused
    assert "'image_path'" in why
    assert f"{path!r}" in why
    assert "picture" in why
    assert "is missing" in why


def test_a_path_alone_from_the_hub_says_where_the_picture_may_come_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [row() | {"image_path": "Synthetic/1.png"}]
    monkeypatch.setattr("evals.data.rows_of", lambda benchmark, revisions: (iter(rows), "abc"))
    ((_, why),) = load(BENCHMARK, "hub").refused
    assert "'Synthetic/1.png' is missing" in why
    assert "--data DIR" in why


def test_silence_is_wrong_and_nobody_is_asked() -> None:
    judgement = asyncio.run(judge(row(), " ", FakeAsk([])))
    assert (judgement.score, list(judgement.replies)) == (0.0, [])


@pytest.mark.parametrize("text", ["(b) " * 250_000, "(" * 10**6, "b" * 10**6])
def test_hostile_text_costs_little(text: str) -> None:
    def grade() -> None:
        for mode in ("default", "reference"):
            score(read(text, row(), mode=mode).value, row(), mode=mode)

    cheaply(grade, 8)
