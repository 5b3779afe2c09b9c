"""MMSI-Bench: 1000 questions about several pictures of one place, four options each.

The options stand in the question's text; the pictures come before it, in their order.
"""

import re
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
from evals.benchmarks.choices import accuracy, by_group, exact, gold_option
from evals.benchmarks.placement import images_first
from evals.extraction.letters import read_letter

_INSTRUCTION = (
    "Answer with the option's letter from the given choices directly. "
    "Enclose the option's letter within ``."
)
_LETTERS = "ABCD"
_OPTIONS = re.compile(r"options\s?:", re.IGNORECASE)
_ITEM = re.compile(r"(?<![\w'])([A-D])\s?[:.)]\s")
_FENCED = (re.compile(r"``([^`]*)``"), re.compile(r"`([^`]*)`"))
_LETTER = re.compile(r"\b[A-D]\b(?!\s[a-zA-Z])")


def options_of(row: Fields) -> dict[str, str]:
    """{letter: option} as far as the question's text tells; "" for one that can't be found."""
    question = str(row["question"])
    options = dict.fromkeys(_LETTERS, "")
    starts = [match.end() for match in _OPTIONS.finditer(question)]
    items = list(_ITEM.finditer(question, starts[-1] if starts else 0))
    if [item[1] for item in items] == list(_LETTERS):
        ends = [*(item.start() for item in items[1:]), len(question)]
        for item, end in zip(items, ends, strict=True):
            options[item[1]] = question[item.end() : end].strip().rstrip(",;.").strip()
    return options


def ask(row: Row) -> Question:
    return images_first(row, f"{row.fields['question']}\n{_INSTRUCTION}")


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    if mode == "default":
        return read_letter(text, options_of(row))
    letter = first_letter(text)
    return Extraction(letter, "authors' rules" if letter else "left to a judge")


def first_letter(text: str) -> str | None:
    """The letter as the authors' code reads it: the first one, in backticks where there are any.

    A letter before a word ("A bike") is none, even in "A is the answer". (Their README has one more
    step, the first `{...}`, that their code does not have.)
    """
    for fenced in _FENCED:
        if inside := fenced.search(text):
            text = inside[1]
    letter = _LETTER.search(text)
    return letter[0] if letter else None


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    gold = str(row["answer"]).strip()
    return float(prediction == gold) if mode == "reference" else exact(prediction, gold)


def kind_of(row: Fields) -> str:
    """The question type, of which some rows have "-" for the dash of others."""
    return re.sub(r"\s?[-\u2010-\u2015]\s?", "\u2013", str(row["question_type"]).strip())


def _cluster(row: Scored) -> str:
    return f"mmsi:{row.id}"


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """Accuracy over all rows, and by the eleven types."""
    return [accuracy(rows, _cluster), *by_group("type", rows, kind_of, _cluster)]


BENCHMARK = Benchmark(
    name="mmsi",
    title="MMSI-Bench",
    dataset="RunsenXu/MMSI-Bench",
    split="test",
    num_rows=1000,
    columns={"id": int, "images": bytes, "question_type": str, "question": str, "answer": str},
    licence="CC BY-NC 4.0",
    citation="Yang et al., MMSI-Bench, ICLR 2026, arXiv:2505.23764",
    published=(
        Published(model="Qwen2.5-VL-3B", score=26.5, source="MMSI-Bench README"),
        Published(model="Qwen2.5-VL-7B", score=25.9, source="MMSI-Bench README"),
        Published(model="GPT-4o, no pictures", score=22.7, source="MMSI-Bench README"),
        Published(model="human", score=97.2, source="MMSI-Bench README"),
    ),
    max_new_tokens=1024,
    row_id=lambda row, number: str(row["id"]),
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    options=lambda row: len(_LETTERS),
    gold=lambda row: gold_option(str(row["answer"]), options_of(row)),
    aggregates=aggregates,
)
