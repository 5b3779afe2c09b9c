"""MathVista, testmini: 1000 questions on figures; answers are options, integers, floats, lists.

The prompt is the data set's own `query`. Official scores rest on an LLM that extracts the answer
(here `judge`, by a prompt of ours to the same purpose: never called official); our reader does
without. In reference mode a response is normalised as the authors do with an extracted answer: a
choice is the nearest one by edit distance, whatever was said.
"""

import ast
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from evals.benchmark import (
    Aggregate,
    Ask,
    Benchmark,
    Extraction,
    Fields,
    Judgement,
    Mode,
    Published,
    Question,
    Row,
    Scored,
)
from evals.benchmarks.choices import accuracy, by_group, lettered, listed
from evals.benchmarks.groups import by_each
from evals.benchmarks.placement import user
from evals.extraction import mathvista_reference
from evals.extraction.letters import read_letter
from evals.extraction.mathematics import number_of
from evals.extraction.numbers import decimal, only_number, quantity_of, read_short

_BETWEEN = re.compile(r"\s(?:and|to)\s|;|(?<=\d)\s?[-\u2013]\s?(?=\d)")
_SCALE = re.compile(r"\b(?:hundred|thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_ASKED_TYPES = {
    "integer": "an integer",
    "float": "a decimal number",
    "list": "a list such as [1, 2]",
    "text": "the letter of one of the options",
}
_JUDGE = """\
A model was asked the question below, and answered with some reasoning. Write down only its final
answer, as {kind}, and nothing else. Write "null" where it gives no answer.

[Question]
Which number is missing? (an integer)
[Response]
Each number is three more than the one before it, so the missing number is 14.
[Final answer]
14

[Question]
Between which years did the line rise the most? (a list such as [1, 2])
[Response]
The steepest part is from 2007 to 2008.
[Final answer]
[2007, 2008]

[Question]
Which shape is larger? (A) the square (B) the circle (the letter of one of the options)
[Response]
I cannot see the picture well enough to say.
[Final answer]
null

[Question]
{question} ({kind})
[Response]
{response}
[Final answer]
"""


def choices_of(row: Fields) -> list[str]:
    return listed(row.get("choices") or [])


def is_choice(row: Fields) -> bool:
    return bool(row["question_type"] == "multi_choice")


def ask(row: Row) -> Question:
    image = row.images.get("decoded_image") or row.images.get("image")
    if image is None:
        raise ValueError("the row has no picture")
    parts = [{"type": "image"}, {"type": "text", "text": str(row.fields["query"])}]
    return Question(messages=user(parts), images=[image])


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """The answer as `score` compares it: a choice's text, a number, or a list."""
    if mode == "reference":
        value = mathvista_reference.normalised(text, row)
        return Extraction(value, "authors' normalisation")
    if is_choice(row):
        options = lettered(choices_of(row))
        letter = read_letter(text, options)
        return Extraction(options.get(letter.value or ""), letter.path)
    found = read_short(text)
    if found.value is None:
        return found
    answer = found.value
    if _SCALE.search(str(row["question"])):  # "how many million?": there the word is the unit
        answer = _SCALE.sub("", answer)
    value = _typed(answer, row["answer_type"])
    return Extraction(value, found.path if value is not None else f"no {row['answer_type']}")


def _typed(answer: str, answer_type: str) -> str | None:
    """A short answer as a number or a list; None where it is none."""
    if answer_type == "list":
        items = _numbers(answer)
        return f"[{', '.join(decimal(item) for item in items)}]" if len(items) > 1 else None
    if answer_type in ("integer", "float"):
        number = _number(answer)
        return None if number is None else decimal(number)
    return answer


def _number(answer: str) -> Fraction | None:
    quantity = quantity_of(answer) or only_number(answer)
    if quantity is not None:
        return quantity.amount
    value = number_of(answer)
    return None if value is None else Fraction(value).limit_denominator(10**6)


def _numbers(answer: str) -> list[Fraction]:
    """The numbers of a list: "[1, 2]", "1 and 2", "from 2007 to 2008"."""
    text = _BETWEEN.sub(",", answer.strip("[](){} "))
    found = [_number(part) for part in text.split(",") if part.strip()]
    return [] if None in found else [item for item in found if item is not None]


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    """1 where the prediction is the answer: floats to the row's number of decimals."""
    if prediction is None:
        return 0.0
    answer = str(row["answer"])
    if mode == "reference" or is_choice(row):
        return float(prediction == answer)
    if row["answer_type"] == "list":
        return float(_numbers(prediction) == _listed_numbers(answer) != [])
    given, gold = _number(prediction), _number(answer)
    if given is None or gold is None:
        return float(prediction.strip().casefold() == answer.strip().casefold())
    return float(given == gold or round_half_up(given, _decimals(row)) == gold)


def _listed_numbers(answer: str) -> list[Fraction]:
    try:
        return [Fraction(str(item)) for item in ast.literal_eval(answer)]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _numbers(answer)


def _decimals(row: Fields) -> int | None:
    """Of a float row; None: no rounding."""
    precision = row.get("precision")
    return int(precision) if row["answer_type"] == "float" and precision is not None else None


def round_half_up(value: Fraction, places: int | None) -> Fraction:
    if places is None:
        return value
    scaled = abs(value) * 10**places
    whole = Fraction(int(scaled + Fraction(1, 2)), 10**places)
    return -whole if value < 0 else whole


async def judge(row: Fields, text: str, ask: Ask) -> Judgement:
    """Extraction by a judge, where the response is not an answer as it stands; then the rule."""
    if (value := mathvista_reference.quick(text, row)) is not None:
        return Judgement(score=score(value, row), replies=[])
    kind = _ASKED_TYPES.get(row["answer_type"], "a short text")
    options = " ".join(f"({k}) {v}" for k, v in lettered(choices_of(row)).items())
    question = f"{row['question']} {options}".strip()
    reply = await ask(
        _JUDGE.format(kind=kind, question=question, response=text[-8000:]), max_tokens=256
    )
    return Judgement(score=score(extract(reply, row), row), replies=[reply])


def _metadata(name: str) -> Any:
    return lambda row: _text((row.get("metadata") or {}).get(name))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _skills(row: Fields) -> list[str]:
    return [str(skill) for skill in (row.get("metadata") or {}).get("skills") or ()]


def _cluster(row: Scored) -> str:
    """Questions of one picture are drawn together, where the row names its picture."""
    image = row.fields.get("image")
    return f"mathvista:{image if isinstance(image, str) else row.id}"


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """Accuracy over all rows, then by everything that the data set knows of a question."""
    found = [accuracy(rows, _cluster)]
    for name in ("task", "context", "grade", "source", "category", "language"):
        found += by_group(name, rows, _metadata(name), _cluster)
    found += by_each("skill", rows, _skills, _cluster)
    found += by_group("question type", rows, lambda row: _text(row["question_type"]), _cluster)
    return [*found, *by_group("answer type", rows, lambda row: _text(row["answer_type"]), _cluster)]


BENCHMARK = Benchmark(
    name="mathvista",
    title="MathVista (testmini)",
    dataset="AI4Math/MathVista",
    split="testmini",
    num_rows=1000,
    columns={
        "pid": (str, int),
        "question": str,
        "decoded_image": bytes,
        "choices": (list, type(None)),
        "precision": (float, int, type(None)),
        "answer": str,
        "question_type": str,
        "answer_type": str,
        "query": str,
    },
    licence="CC BY-SA 4.0, for tests only",
    citation="Lu et al., MathVista, ICLR 2024, arXiv:2310.02255",
    published=(
        Published(model="Qwen2.5-VL-3B", score=62.3, source="model card"),
        Published(model="Qwen2.5-VL-7B", score=68.2, source="model card"),
        Published(model="Qwen3-VL-4B", score=73.7, source="QwenLM/Qwen3-VL#1748"),
        Published(model="Qwen3-VL-8B", score=77.2, source="QwenLM/Qwen3-VL#1748"),
    ),
    max_new_tokens=4096,
    row_id=lambda row, number: str(row["pid"]),
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    judge=judge,
    judge_model="gpt-4-0613",
    options=lambda row: len(choices_of(row)) or None,
    gold=lambda row: str(row["answer"]),
    aggregates=aggregates,
)
