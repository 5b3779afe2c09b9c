"""ChartQA, test: 1250 questions that people asked and 1250 that a model did.

Relaxed accuracy: a number within 5 % of the gold one, any other answer word for word. There is no
prompt of the authors for chat models; the sentence is lmms-eval's, which others publish with. Its
16 new tokens would cut models off that reason; a model that answers shortly needs no more anyway.
"""

import ast
import re
from collections.abc import Sequence
from fractions import Fraction

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
from evals.benchmarks.choices import accuracy, by_group
from evals.benchmarks.placement import images_first
from evals.extraction.numbers import only_number, quantity_of, read_short, same_quantity
from rewards.grading import normalise

PROMPT = "\nAnswer the question with a single word."
TOLERANCE = Fraction(5, 100)

_SOURCES = ("human", "augmented")
_ASKS_YEAR = re.compile(r"\b(?:(?:which|what) years?|when (?:did|was|were))\b", re.IGNORECASE)
_YEAR = re.compile(r"1[5-9]\d\d|20\d\d|21\d\d")
_MAX_FLOAT = 400
"""Characters of a text that the authors' rule may take for a number; any longer one is inf."""
_MAX_ANSWER = 200


def golds(row: Fields) -> list[str]:
    """The gold answers: `label`, or the `answer` of the copy at lmms-lab."""
    label = row.get("label", row.get("answer"))
    return [str(item) for item in label] if isinstance(label, list | tuple) else [str(label)]


def ask(row: Row) -> Question:
    return images_first(row, f"{question_of(row.fields)}{PROMPT}")


def question_of(row: Fields) -> str:
    return str(row.get("query", row.get("question", "")))


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """The short answer a response ends on; in reference mode the whole response, unstripped."""
    if mode == "reference":
        return Extraction(text, "as it is")
    return read_short(text)


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    """1 where the prediction is right by relaxed accuracy."""
    if prediction is None:
        return 0.0
    wanted = golds(row)
    if mode == "reference":
        return float(bool(wanted) and relaxed_by_floats(prediction, wanted[0]))
    asks_year = bool(_ASKS_YEAR.search(question_of(row)))
    return float(any(relaxed(prediction, gold, asks_year=asks_year) for gold in wanted))


def relaxed(given: str, gold: str, *, asks_year: bool = False) -> bool:
    """Our rule: exact arithmetic, numbers as people write them, lists item by item.

    A year that was asked for, or stands in a list, has no tolerance.
    """
    if len(given) > _MAX_ANSWER:
        return False
    if given.strip().casefold() == gold.strip().casefold() != "":
        return True  # also where a chart says "None" or "N/A", which else are no answers
    form, wanted_form = normalise(given), normalise(gold)
    if form and form == wanted_form:
        return True
    items = _items(gold)
    if len(items) > 1:
        parts = _items(given)
        return len(parts) == len(items) and all(
            relaxed(part, item, asks_year=True) for part, item in zip(parts, items, strict=True)
        )
    wanted = quantity_of(items[0] if items else gold)
    if wanted is None or (asks_year and _YEAR.fullmatch(gold.strip())):
        return _phrase(form) == _phrase(wanted_form) != ""
    number = quantity_of(given) or only_number(given)
    return number is not None and same_quantity(number, wanted, TOLERANCE)


def relaxed_by_floats(given: str, gold: str) -> bool:
    """The authors' rule, to the last float: no comma, no unit, no stripping, years lenient."""
    first, second = _float(given), _float(gold)
    if first is None or not second:
        return given.lower() == gold.lower()
    return abs(first - second) / abs(second) <= 0.05


def _float(text: str) -> float | None:
    if len(text) > _MAX_FLOAT:
        return None
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _items(text: str) -> list[str]:
    """The items of "[2007, 2008]", "2007 and 2008" or "Red, Blue"; one item is itself."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            return [str(item) for item in ast.literal_eval(text)]
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            text = text[1:-1]
    parts = re.split(r",(?!\d{3}\b)\s?(?:and\s)?|,\s(?:and\s)?|\sand\s|\s&\s", text)
    return [part.strip(" '\"") for part in parts if part.strip(" '\"")]


def _phrase(form: str) -> str:
    return re.sub(r"^(?:the|an?) ", "", form)


def source_of(row: Fields) -> str | None:
    """ "human" or "augmented"; None where the row does not say."""
    kind = row.get("human_or_machine", row.get("type"))
    if kind in (0, 1):
        return _SOURCES[int(kind)]
    return next((name for name in _SOURCES if name[:5] in str(kind).lower()), None)


def _cluster(row: Scored) -> str:
    """Questions of one chart are drawn together, where a row names its chart."""
    chart = row.fields.get("imgname") or row.id
    return f"chartqa:{chart}"


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """Relaxed accuracy over all rows, then of the two halves."""
    return [accuracy(rows, _cluster), *by_group("questions", rows, source_of, _cluster)]


BENCHMARK = Benchmark(
    name="chartqa",
    title="ChartQA",
    dataset="HuggingFaceM4/ChartQA",
    split="test",
    num_rows=2500,
    columns={"image": bytes, "query": str, "label": (list, str), "human_or_machine": int},
    licence="GPL-3.0",
    citation="Masry et al., ChartQA, Findings of ACL 2022, arXiv:2203.10244",
    published=(
        Published(model="Qwen2.5-VL-3B", score=84.0, source="model card", note="from memory"),
        Published(model="Qwen2.5-VL-7B", score=87.3, source="model card"),
        Published(model="Qwen2.5-VL-7B", score=86.1, source="Vision-Zero README"),
        Published(model="GPT-4o", score=85.7, source="Vision-Zero README"),
    ),
    max_new_tokens=1024,
    row_id=lambda row, number: f"chartqa_{number}",
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    options=lambda row: None,
    gold=lambda row: " | ".join(golds(row)),
    aggregates=aggregates,
)
