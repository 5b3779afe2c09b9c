"""MATH-V (MathVision), test: 3040 problems of mathematics competitions, of choices and free.

The prompt is that of the authors' script for GPT-4V, the text before its one merged picture. In
default mode a choice is read as a letter or an option's own text, a free answer compared by
`evals.extraction.mathematics`; in reference mode as in the authors' code.
"""

from collections.abc import Sequence

from evals.benchmark import (
    Aggregate,
    Benchmark,
    Extraction,
    Fields,
    Mode,
    Published,
    Question,
    Row,
    Scored,
)
from evals.benchmarks.choices import accuracy, by_group, exact, gold_option, lettered, listed
from evals.benchmarks.placement import user
from evals.extraction import mathvision_reference
from evals.extraction.letters import read_letter
from evals.extraction.mathematics import same_answer
from evals.extraction.numbers import read_short

PROMPT = "\nAnswer the question using a single word or phrase."
IN_THE_PICTURE = ["A", "B", "C", "D", "E"]
"""Options of a row whose real options are drawn; the authors do not print these."""


def options_of(row: Fields) -> dict[str, str]:
    """{letter: option}; empty for a free answer."""
    return lettered(listed(row.get("options") or []))


def prompt(row: Fields) -> str:
    options = options_of(row)
    is_drawn = list(options.values()) == IN_THE_PICTURE
    shown = {} if is_drawn else options
    lines = "".join(f"({letter}) {text}\n" for letter, text in shown.items())
    return f"{row['question']}\n{lines}{PROMPT}"


def ask(row: Row) -> Question:
    image = row.images.get("decoded_image") or row.images.get("image")
    if image is None:
        raise ValueError("the row has no picture")
    parts = [{"type": "text", "text": prompt(row.fields)}, {"type": "image"}]
    return Question(messages=user(parts), images=[image])


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """A letter, or a free answer; in reference mode the authors' text, in lower case."""
    if mode == "reference":
        return Extraction(mathvision_reference.model_answer(text), "authors' rules")
    options = options_of(row)
    return read_letter(text, options) if options else read_short(text)


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    """1 where it is the gold letter, or the gold value."""
    if prediction is None:
        return 0.0
    letter = str(row["answer"])
    options = options_of(row)
    value = options.get(letter, "")
    if mode == "reference":
        is_right = mathvision_reference.is_equal(letter, prediction)
        return float(is_right or mathvision_reference.is_equal(value, prediction))
    if options:
        return exact(prediction, letter)
    return float(same_answer(prediction, letter))


def _cluster(row: Scored) -> str:
    return f"mathvision:{row.id}"


def _level(row: Fields) -> str | None:
    return None if row.get("level") is None else str(row["level"])


def _subject(row: Fields) -> str | None:
    return None if row.get("subject") is None else str(row["subject"])


def _subject_at_level(row: Fields) -> str | None:
    return f"{_subject(row)}, level {_level(row)}" if _subject(row) and _level(row) else None


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """Accuracy over all rows, then by subject, level, both, and kind of question."""
    return [
        accuracy(rows, _cluster),
        *by_group("level", rows, _level, _cluster),
        *by_group("subject", rows, _subject, _cluster),
        *by_group("subject and level", rows, _subject_at_level, _cluster),
        *by_group("questions", rows, lambda row: "choice" if options_of(row) else "free", _cluster),
    ]


BENCHMARK = Benchmark(
    name="mathvision",
    title="MathVision",
    dataset="MathLLMs/MathVision",
    split="test",
    num_rows=3040,
    columns={
        "id": (str, int),
        "question": str,
        "options": list,
        "decoded_image": bytes,
        "answer": str,
    },
    licence="MIT",
    citation="Wang et al., MATH-Vision, NeurIPS 2024, arXiv:2402.14804",
    published=(
        Published(model="Qwen2.5-VL-3B", score=21.2, source="model card"),
        Published(model="Qwen2.5-VL-7B", score=25.1, source="model card"),
        Published(model="Qwen3-VL-4B", score=51.6, source="QwenLM/Qwen3-VL#1748"),
        Published(model="Qwen3-VL-8B", score=53.9, source="QwenLM/Qwen3-VL#1748"),
    ),
    max_new_tokens=4096,
    row_id=lambda row, number: str(row["id"]),
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    options=lambda row: len(options_of(row)) or None,
    gold=lambda row: gold_option(str(row["answer"]), options_of(row)),
    aggregates=aggregates,
)
