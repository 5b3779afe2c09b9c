"""HallusionBench, the 951 questions with a picture: yes or no, in groups that belong together.

The prompt is the question alone, so that many answers are sentences: those the rule cannot read
are the judge's. The headline is the mean of three accuracies, as every table since the paper has
it: per question (aAcc), per figure (all its questions right, fAcc), and per question over all its
figures (qAcc). The authors' own judge (GPT-4) compares with `gt_answer_details`; ours has a prompt
of our own to the same specification, so its scores are not the authors'.
"""

import re
from collections.abc import Callable, Sequence
from math import prod

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
    Unit,
)
from evals.benchmarks.choices import by_group
from evals.benchmarks.placement import images_first
from evals.extraction.yes_no import NO, YES, read_yes_no, vlmeval

_JUDGE = """\
You mark answers to questions about a picture. You see the question, a reference answer with its \
reasons, and the answer to mark.
Say "correct" where the answer agrees with the reference on what was asked, "incorrect" where it \
contradicts it, and "unclear" where it takes no side.

Question: {question}
Reference answer: {reference}
Answer to mark: {answer}

One word, correct, incorrect or unclear:"""
_VERDICT = re.compile(r"[\s\"'*`.\u201c]*(correct|incorrect|unclear)\b", re.IGNORECASE)
_ATTEMPTS = 3


def ask(row: Row) -> Question:
    """The picture, then the question as it is."""
    return images_first(row, str(row.fields["question"]))


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """ "Yes" or "No"; in reference mode by VLMEvalKit's rule, what it leaves to a judge is None."""
    if mode == "default":
        return read_yes_no(text)
    word = vlmeval(text)
    return Extraction(word, "VLMEvalKit's rule" if word else "left to a judge")


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def gold(row: Fields) -> str:
    return YES if str(row["gt_answer"]).strip() == "1" else NO


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    if prediction is None:
        return 0.0
    given = prediction if mode == "reference" else prediction.strip().capitalize()
    return float(given == gold(row))


async def judge(row: Fields, response: str, ask: Ask) -> Judgement:
    """Correct or not; "unclear" is right only of a question that was asked without its figure.

    A response that says nothing is wrong, and nobody is asked.
    """
    if not response.strip():
        return Judgement(score=0.0, replies=())
    prompt = _JUDGE.format(
        question=row["question"], reference=row["gt_answer_details"], answer=response
    )
    replies: list[str] = []
    for attempt in range(_ATTEMPTS):
        reply = await ask(prompt, max_tokens=8, temperature=0.5 * attempt, attempt=attempt)
        replies.append(reply)
        if found := _VERDICT.match(reply):
            verdict = found[1].lower()
            no_figure = row["category"] == "VS" and str(row["figure_id"]) == "0"
            right = verdict == "correct" or (verdict == "unclear" and no_figure)
            return Judgement(score=float(right), replies=replies)
    return Judgement(score=None, replies=replies)


def _named(row: Fields, *columns: str) -> str:
    return "_".join(str(row[column]) for column in columns)


_SET = ("category", "subcategory", "set_id")


def _set(row: Scored) -> str:
    """Questions and figures of one set are about one thing: they are drawn together."""
    return f"hallusionbench:{_named(row.fields, *_SET)}"


def _group(row: Fields, column: str) -> str:
    """The name of a group of rows of equal `column` ("figure_id", "question_id")."""
    return f"{column} {_named(row, *_SET, column)}"


def groups(row: Fields) -> tuple[str, str, str]:
    """The set of a row, its figure and its question over all figures."""
    return f"set {_named(row, *_SET)}", _group(row, "figure_id"), _group(row, "question_id")


def _whole(name: str, rows: Sequence[Scored], column: str) -> Aggregate:
    """1 for each group of equal `column` that is right as a whole.

    With several samples of a row, the chance that it is, of independent rows. A group of which rows
    have no score would be right more easily: it is left out.
    """
    found: dict[str, list[Scored]] = {}
    for row in rows:
        found.setdefault(_group(row.fields, column), []).append(row)
    whole = [group for key, group in found.items() if len(group) >= group[0].groups.get(key, 0)]
    units = [Unit(_set(group[0]), prod(row.score for row in group)) for group in whole]
    return Aggregate(name, units, left_out=len(found) - len(whole))


def _three(rows: Sequence[Scored], where: str = "") -> list[Aggregate]:
    with_figure = [
        row for row in rows if not (row.fields["category"] == "VS" and _figure(row.fields) == "0")
    ]
    return [
        Aggregate(f"aAcc{where}", [Unit(_set(row), row.score) for row in rows]),
        _whole(f"fAcc{where}", with_figure, "figure_id"),
        _whole(f"qAcc{where}", rows, "question_id"),
    ]


def _figure(row: Fields) -> str:
    return str(row["figure_id"])


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """The mean of aAcc, fAcc and qAcc; these, also of VD and VS; aAcc by subcategory and by easy
    (the original figure) and hard (an edited one) questions."""
    found = [Aggregate("average", of=("aAcc", "fAcc", "qAcc")), *_three(rows)]
    for category in sorted({str(row.fields["category"]) for row in rows}):
        part = [row for row in rows if row.fields["category"] == category]
        found += _three(part, f" {category}")
    kinds: list[tuple[str, Callable[[Fields], str]]] = [
        ("subcategory", lambda row: _named(row, "category", "subcategory")),
        ("questions", lambda row: "easy" if _figure(row) == "0" else "hard"),
    ]
    for kind, group in kinds:
        found += by_group(kind, rows, group, _set)
    return found


BENCHMARK = Benchmark(
    name="hallusionbench",
    title="HallusionBench",
    dataset="lmms-lab/HallusionBench",
    split="image",
    num_rows=951,
    columns={
        "category": str,
        "subcategory": str,
        "visual_input": str,
        "set_id": str,
        "figure_id": str,
        "question_id": str,
        "question": str,
        "gt_answer": str,
        "gt_answer_details": str,
        "image": bytes,
    },
    licence="BSD-3-Clause",
    citation="Guan et al., HallusionBench, CVPR 2024, arXiv:2310.14566",
    published=(
        Published(model="Qwen2.5-VL-7B", score=52.9, source="model card", note="average"),
        Published(
            model="Qwen2.5-VL-3B", score=46.3, source="model card, from memory", note="average"
        ),
    ),
    max_new_tokens=1024,
    row_id=lambda row, number: _named(row, *_SET, "figure_id", "question_id"),
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    judge=judge,
    judge_model="gpt-4",
    options=lambda row: 2,
    gold=gold,
    groups=groups,
    aggregates=aggregates,
)
