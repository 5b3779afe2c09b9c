"""MM-Vet: 218 open questions, each graded from 0 to 1 by a judge.

The question alone is the prompt. The judge completes a table of graded examples; the instruction
and the examples are ours, to the authors' specification (seven rows, elements joined by <AND> or
<OR>, one number from 0.0 to 1.0): its score is ours, never called official. The rule beside it,
the share of the gold elements that stand in the response, is to hold the judge against, and no
more: most gold answers are sentences.
"""

import re
from collections.abc import Sequence

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
from evals.benchmarks.choices import accuracy, by_group
from evals.benchmarks.groups import by_each
from evals.benchmarks.placement import images_first
from evals.extraction.thinking import answer_of

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")

_TABLE = """\
Grade how correct a prediction is against the ground truth, from 0.0 (nothing is right) over 0.1,
0.2, ... to 1.0 (all is right). Where the ground truth has <AND>, all of its elements must be in the
prediction, and each has its share; where it has <OR>, any one of them is enough. Complete the last
row of the table with its grade, and write nothing else.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
Which numbers are on the dice? | 2 <AND> 6 | 3 and 5 | 0.0
Which numbers are on the dice? | 2 <AND> 6 | A two | 0.5
Which numbers are on the dice? | 2 <AND> 6 | 6 or 1 | 0.5
Which numbers are on the dice? | 2 <AND> 6 | The dice show 6 and 2. | 1.0
What colour is the door? | dark green <OR> green | It is green. | 1.0
Why is the sign funny? | It warns of a slippery floor, and the man who put it up \
has slipped on it himself: the warning came too late for the one who gave it. | \
A sign says the floor is wet. | 0.3
Why is the sign funny? | It warns of a slippery floor, and the man who put it up \
has slipped on it himself: the warning came too late for the one who gave it. | \
The man lies beside the warning that he has just set up: he fell for the very danger that it is \
about. | 1.0
"""
_AGAIN = "\nPredict the correctness of the answer (digit): "
_ATTEMPTS = 5
_MAX_RESPONSE = 8000
_WORD = re.compile(r"[^\W_]+(?:\.\d+)?")


def capabilities(row: Fields) -> list[str]:
    """The capabilities that a question takes: "rec,ocr", or a list."""
    value = row.get("capability") or ()
    names = value.split(",") if isinstance(value, str) else value
    return sorted(str(name).strip() for name in names if str(name).strip())


def combination(row: Fields) -> str | None:
    return "+".join(capabilities(row)) or None


def alternatives(answer: str) -> list[list[str]]:
    """[[elements that belong together], ...]: any of the lists is enough."""
    return [
        [element.strip() for element in part.split("<AND>") if element.strip()]
        for part in answer.split("<OR>")
    ]


def ask(row: Row) -> Question:
    return images_first(row, str(row.fields["question"]))


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """The whole response without its thoughts; in reference mode, the text is a judge's reply."""
    if mode == "reference":
        return Extraction(text, "as a judge's reply")
    answer = answer_of(text)
    if answer is None:
        return Extraction(None, "unfinished thought")
    return Extraction(answer or None, "whole response" if answer else "empty")


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    """The share of the gold elements that stand in the response, of the best alternative.

    Reference: the grade that a judge's reply begins with; 0 where it has none, or "nan".
    """
    if prediction is None:
        return 0.0
    if mode == "reference":
        return grade_of(prediction) or 0.0
    words = _words(prediction)
    shares = [
        sum(_stands_in(_words(element), words) for element in elements) / len(elements)
        for elements in alternatives(str(row["answer"]))
        if elements
    ]
    return max(shares, default=0.0)


def _words(text: str) -> str:
    return f" {' '.join(_WORD.findall(text[:200_000].casefold()))} "


def _stands_in(element: str, words: str) -> bool:
    return bool(element.strip()) and element in words


def grade_of(reply: str) -> float | None:
    """The number in [0, 1] that a reply has before its first space; None where there is none."""
    try:
        grade = float(reply[:100].split(" ")[0].strip())
    except ValueError:
        return None
    return grade if 0 <= grade <= 1 else None


async def judge(row: Fields, text: str, ask: Ask) -> Judgement:
    """A grade. What is none is asked for again, up to four times and ever warmer.

    Then the row is unscored; the authors give it 0.
    """
    if not text.strip():
        return Judgement(score=0.0, replies=[])
    gold = str(row["answer"]).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    prompt = _TABLE + " | ".join([str(row["question"]), gold, text[:_MAX_RESPONSE], ""])
    replies: list[str] = []
    for attempt in range(_ATTEMPTS):
        # The authors' first repetition is still at 0.
        temperature = 0.5 * max(0, attempt - 1)
        question = prompt + (_AGAIN if attempt else "")
        replies.append(await ask(question, max_tokens=3, temperature=temperature, attempt=attempt))
        if (grade := grade_of(replies[-1].lstrip())) is not None:
            return Judgement(score=grade, replies=replies)
    return Judgement(score=None, replies=replies)


def _cluster(row: Scored) -> str:
    """Questions of one picture are drawn together, where the row names its picture."""
    image = row.fields.get("imagename") or row.fields.get("image")
    return f"mm_vet:{image if isinstance(image, str) else row.id}"


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """The mean grade, then by capability and by combination of them; absent ones are absent."""
    return [
        accuracy(rows, _cluster),
        *by_each("capability", rows, capabilities, _cluster),
        *by_group("capabilities", rows, combination, _cluster),
    ]


BENCHMARK = Benchmark(
    name="mm_vet",
    title="MM-Vet",
    dataset="whyu/mm-vet",
    split="test",
    num_rows=218,
    columns={
        "question_id": (str, int),
        "image": bytes,
        "question": str,
        "answer": str,
        "capability": (str, list),
    },
    licence="CC BY-NC 4.0 (data), Apache-2.0 (code)",
    citation="Yu et al., MM-Vet, ICML 2024, arXiv:2308.02490",
    published=(
        Published(
            model="Qwen2.5-VL-3B", score=61.8, source="model card", note="GPT-4-Turbo; from memory"
        ),
        Published(model="Qwen2.5-VL-7B", score=67.1, source="model card", note="GPT-4-Turbo"),
    ),
    max_new_tokens=1024,
    row_id=lambda row, number: str(row["question_id"]),
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    judge=judge,
    judged_by_default=True,
    judge_model="gpt-4-0613",
    has_reference=False,
    options=lambda row: None,
    gold=lambda row: str(row["answer"]),
    aggregates=aggregates,
)
