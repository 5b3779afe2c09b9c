"""MathVerse, testmini: 788 problems, each in five versions, from all text to none (3940 rows).

The prompt is the row's `query_wo` (or `query_cot`: prompt `cot`). Official scores rest on two
questions to an LLM: what the answer of a response is, and whether it is the gold one. `judge` asks
both, in words of ours to the same purpose: call its score ours, never official. The rule beside it
needs no judge: letters, and mathematical equality.
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
from evals.benchmarks.choices import accuracy, by_group, exact, gold_option
from evals.benchmarks.placement import images_first
from evals.extraction.letters import read_letter
from evals.extraction.mathematics import same_answer
from evals.extraction.numbers import read_short

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")

_EXTRACT = """\
Below is a model's response to a mathematical problem. Write down its final answer and nothing else:
a letter, a number, an expression, or several of them where it gives several. Write null where it
gives no answer.

Response: The sector has the perimeter 2r + s, so to two decimals it is
12.57 cm
Answer: 12.57 cm

Response: They meet where both functions are equal. The correct option is therefore
D. They solve $f(t) = g(t)$.
Answer: D

Response: There is no way to find y without knowing the length of BC.
Answer: null

Response: With the closed circle at y = 1:
Domain: (-3, 3]
Range: (-4, 1]
Answer: Domain: (-3, 3], Range: (-4, 1]

Response: {response}
Answer: """
_MATCH = """\
Is an answer to a mathematical problem the same as the standard answer? Write 1 where it is
completely the same in meaning (0.5 m and 50 cm are the same; for a problem with options, so are a
letter and the text of its option), otherwise 0. Write nothing else.

Problem: Write the numbers on the line as an interval.
Standard answer: (-2, 1]
Answer: (-2, 1)
Verdict: 0

Problem: Is this relation a function? Choices: A: It is a function B: It is not a function
Standard answer: B
Answer: It is not a function
Verdict: 1

Problem: Find the domain and the range.
Standard answer: domain: [-4, 0), range: (-3, 1]
Answer: Range: (-3, 1]
Verdict: 0

Problem: {question}
Standard answer: {gold}
Answer: {answer}
Verdict: """
_ATTEMPTS = 5
_MAX_RESPONSE = 8000
_OPTION = re.compile(r"(?:^|[\n ])\(?([A-H])\s?[:.)]\s?", re.MULTILINE)


def is_choice(row: Fields) -> bool:
    return bool(row["question_type"] == "multi-choice")


def options_of(row: Fields) -> dict[str, str]:
    """{letter: option} as the question lists them ("A:5 B:6"); empty texts where it does not."""
    if not is_choice(row):
        return {}
    text = str(row.get("question_for_eval") or row.get("query_wo") or "")
    marks = list(_OPTION.finditer(text, max(0, text.rfind("Choices:"))))
    first = next((i for i, mark in enumerate(marks) if mark[1] == "A"), len(marks))
    options: dict[str, str] = {}
    for mark, after in zip(marks[first:], [*marks[first + 1 :], None], strict=False):
        if mark[1] != chr(ord("A") + len(options)):
            break
        options[mark[1]] = text[mark.end() : after.start() if after else None].strip()
    return options if len(options) > 1 else dict.fromkeys("ABCD", "")


def ask(row: Row) -> Question:
    return images_first(row, str(row.fields["query_wo"]))


def ask_for_steps(row: Row) -> Question:
    """Raises ValueError where the row has no such prompt: its column may be missing."""
    query = row.fields.get("query_cot")
    if not isinstance(query, str) or not query:
        raise ValueError("no query_cot")
    return images_first(row, query)


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """A letter or a free answer; in reference mode the text as the authors take an extraction."""
    if mode == "reference":
        return Extraction(extraction_of(text), "as an extraction")
    return read_letter(text, options_of(row)) if is_choice(row) else read_short(text)


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def extraction_of(reply: str) -> str:
    """What the first question's reply says, without the words that it may repeat."""
    return reply.replace("Extracted Answer: ", "").strip()


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    """1 where the prediction is the answer; reference: the authors' `--quick_match`, as texts."""
    if prediction is None:
        return 0.0
    answer = str(row["answer"])
    if mode == "reference":
        return float(prediction == answer)
    return exact(prediction, answer) if is_choice(row) else float(same_answer(prediction, answer))


async def judge(row: Fields, text: str, ask: Ask) -> Judgement:
    """Two questions: the answer of the response, then whether it is the gold one ("0" or "1").

    A verdict of any other form is asked for again, up to five times and ever warmer; then the row
    is unscored (the authors ask for ever, VLMEvalKit takes it for wrong).
    """
    if not text.strip():
        return Judgement(score=0.0, replies=[])
    reply = await ask(_EXTRACT.format(response=text[-_MAX_RESPONSE:]), max_tokens=256)
    answer = extraction_of(reply.removeprefix("Answer:"))
    replies = [reply]
    gold = str(row["answer"])
    if answer == gold.strip():
        return Judgement(score=1.0, replies=replies)
    question = str(row.get("question_for_eval") or row.get("question") or "")
    prompt = _MATCH.format(question=question, gold=gold, answer=answer)
    for attempt in range(_ATTEMPTS):
        replies.append(await ask(prompt, max_tokens=8, temperature=0.5 * attempt, attempt=attempt))
        verdict = replies[-1].replace("Verdict:", "").strip()
        if verdict in ("0", "1"):
            return Judgement(score=float(verdict), replies=replies)
    return Judgement(score=None, replies=replies)


def _cluster(row: Scored) -> str:
    """The versions of one problem are drawn together."""
    return f"mathverse:{row.fields.get('problem_index', row.id)}"


def _of_metadata(row: Fields, name: str) -> str | None:
    value = (row.get("metadata") or {}).get(name)
    return None if value is None else str(value)


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """Accuracy over all rows (all versions have equally many), by version, subject, subfield."""
    return [
        accuracy(rows, _cluster),
        *by_group("version", rows, lambda row: str(row["problem_version"]), _cluster),
        *by_group("subject", rows, lambda row: _of_metadata(row, "subject"), _cluster),
        *by_group("subfield", rows, lambda row: _of_metadata(row, "subfield"), _cluster),
        *by_group("questions", rows, lambda row: str(row["question_type"]), _cluster),
    ]


BENCHMARK = Benchmark(
    name="mathverse",
    title="MathVerse (testmini)",
    dataset="AI4Math/MathVerse",
    configs=("testmini",),
    split="testmini",
    num_rows=3940,
    columns={
        "sample_index": (str, int),
        "problem_index": (str, int),
        "problem_version": str,
        "question": str,
        "image": bytes,
        "answer": str,
        "question_type": str,
        "query_wo": str,
        "question_for_eval": str,
    },
    licence="MIT",
    citation="Zhang et al., MathVerse, ECCV 2024, arXiv:2403.14624",
    published=(
        Published(model="Qwen2.5-VL-3B", score=47.6, source="model card", note="versions unknown"),
        Published(model="Qwen2.5-VL-7B", score=49.2, source="model card", note="versions unknown"),
        Published(model="Qwen3-VL-4B", score=46.8, source="QwenLM/Qwen3-VL#1748"),
        Published(model="Qwen3-VL-8B", score=62.1, source="QwenLM/Qwen3-VL#1748"),
    ),
    max_new_tokens=16384,
    row_id=lambda row, number: str(row["sample_index"]),
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    judge=judge,
    judged_by_default=True,
    judge_model="gpt-4 (from memory)",
    options=lambda row: len(options_of(row)) or None,
    gold=lambda row: gold_option(str(row["answer"]), options_of(row)),
    aggregates=aggregates,
    prompts={"direct": ask, "cot": ask_for_steps},
)
