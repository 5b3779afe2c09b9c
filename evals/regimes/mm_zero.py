r"""The twelve sets as MM-Zero's release evaluates them: its copies, one prompt, one judge.

Every row has `problem` (with `<image>` tags), `images` and `answer`. The model reasons and boxes
its answer; a language model that sees question, gold answer and that answer says Yes or No, and
this is the headline. The reference mode follows the released code (eval_generate.py,
llm_judge_eval.py): the box ends at the first closing brace, thoughts are not stripped, a reply that
begins with "yes" in any way is a yes. The default mode balances braces, strips thoughts, compares
numbers by value, and takes only "yes" or "no" from the judge. The release gives the judge plain
text; here the server's chat template is around it, as around every prompt.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from evals.benchmark import (
    Aggregate,
    Ask,
    Benchmark,
    Extraction,
    Fields,
    Judgement,
    Mode,
    Question,
    Row,
    Scored,
)
from evals.benchmarks.choices import accuracy
from evals.benchmarks.placement import user
from evals.extraction.boxed import last_boxed, last_boxed_naive
from evals.extraction.thinking import answer_of
from evals.overall import MMMU_PRO
from rewards.grading import normalise

SYSTEM = "You are a helpful assistant."
INSTRUCTION = (
    "Please reason step by step based on the question and image. Put your final answer inside "
    "\\boxed{} as a single number, single word, or short phrase only (e.g. \\boxed{42}, "
    "\\boxed{blue}, \\boxed{Q1})\u2014no units, no full sentences, so the grader can match it."
)
JUDGE = (
    "You are an answer correctness judge. Given a question, the gold (correct) answer, and the "
    "model's answer, determine if the model's answer is correct: equivalent to the gold answer or "
    "semantically the same. Consider numeric equality (e.g. 14 vs 14.0), option equivalence (A vs "
    "A.), and paraphrases. Answer with exactly one word: Yes or No."
)
MAX_QUESTION, MAX_ANSWER = 400, 600
"""Characters that the judge sees."""
MAX_IMAGES = 10
_TAG = "<image>"
_STRICT = re.compile(r"[\s*_`\"'.\u201c]*(yes|no)\b", re.IGNORECASE)
_ATTEMPTS = 3


def ask(row: Row) -> Question:
    """System prompt; the problem with its pictures at the tags; the instruction after a space.

    Pictures beyond the tags are dropped, and so are the last tags where pictures are fewer; without
    a tag, pictures come first. Raises ValueError where the released code skips the row: no picture,
    or more than ten.
    """
    problem, images = str(row.fields["problem"]), list(row.images.values())
    if not images:
        raise ValueError("the row has no picture")
    tags = problem.count(_TAG)
    if tags:
        images = images[:tags]
        for _ in range(tags - len(images)):
            before, _, after = problem.rpartition(_TAG)
            problem = before + after
    if len(images) > MAX_IMAGES:
        raise ValueError(f"{len(images)} pictures, more than {MAX_IMAGES}")
    problem = problem.strip()
    parts: list[dict[str, Any]] = [] if tags else [{"type": "image"} for _ in images]
    for number, text in enumerate(f"{problem} {INSTRUCTION}".split(_TAG)):
        parts += [{"type": "image"}] if number else []
        parts.append({"type": "text", "text": text})
    return Question(messages=user(parts, system=SYSTEM), images=images)


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """What the last box holds."""
    if mode == "reference":
        value = last_boxed_naive(text)
        return Extraction(value, "no box" if value is None else "boxed")
    answer = answer_of(text)
    if answer is None:
        return Extraction(None, "unfinished thought")
    value = last_boxed(answer)
    return Extraction(value or None, "boxed" if value else "no box")


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    """The rule's score: equal in lower case without final periods; by default also by value."""
    gold = str(row["answer"])
    if not prediction or not gold:
        return 0.0
    if _folded(prediction) == _folded(gold):
        return 1.0
    form = "" if mode == "reference" else normalise(prediction)
    return float(form != "" and form == normalise(gold))


def _folded(answer: str) -> str:
    return answer.strip().lower().rstrip(".")


def judge_prompt(question: str, gold: str, answer: str) -> str:
    """What the judge is asked; question and answer are cut with "...", the gold answer without."""
    return (
        f"{JUDGE}\n\nQuestion: {_cut(question, MAX_QUESTION)}\n\n"
        f"Gold answer: {gold.strip()[:MAX_ANSWER]}\n\n"
        f"Model answer: {_cut(answer, MAX_ANSWER)}\n\n"
        "Is the model answer correct? Answer with exactly one word: Yes or No."
    )


def _cut(text: str, limit: int) -> str:
    text = text.strip()
    return text if len(text) <= limit else f"{text[:limit]}..."


def judged_answer(response: str, row: Fields, *, mode: Mode = "default") -> str:
    """What the judge sees of a response: the box, else its first 600 characters."""
    boxed = (extract(response, row, mode=mode) or "").strip()
    return boxed or response.strip()[:MAX_ANSWER]


def parse_judge(reply: str, *, mode: Mode = "default") -> bool | None:
    """Whether the judge says yes; None where it says neither, which the reference takes for no."""
    if mode == "reference":
        return reply.strip().lower().startswith("yes")
    found = _STRICT.match(reply)
    return found[1].lower() == "yes" if found else None


async def judge(row: Fields, response: str, ask: Ask, *, mode: Mode = "default") -> Judgement:
    """Yes or no of every response, also of one that equals the gold answer.

    A reply that can't be read is asked for again, twice, and a response that says nothing is wrong
    unasked; in reference mode such a reply is a no, and every response is asked about.
    """
    if mode == "default" and not response.strip():
        return Judgement(score=0.0, replies=())
    prompt = judge_prompt(
        str(row["problem"]), str(row["answer"]), judged_answer(response, row, mode=mode)
    )
    replies: list[str] = []
    for attempt in range(_ATTEMPTS):
        reply = await ask(
            prompt, max_tokens=16, temperature=0.5 * attempt, stop=["\n"], attempt=attempt
        )
        replies.append(reply)
        if (verdict := parse_judge(reply, mode=mode)) is not None:
            return Judgement(score=float(verdict), replies=replies)
    return Judgement(score=None, replies=replies)


reference_judge = partial(judge, mode="reference")
"""The released code's judge, for who wants its numbers bug for bug."""


_NAMED_BY = {**dict.fromkeys(MMMU_PRO, "id"), "mathverse": "problem_index"}
"""{set: column that names what several of its rows, or of its other forms, ask about}, if there."""


def _cluster(name: str, row: Scored) -> str:
    """By the question or problem where the row names it, else by its pictures. MMMU-Pro asks the
    same questions three times, so its forms are drawn together."""
    shared = _named(name, row) or row.pictures
    family = "mmmu_pro" if name in MMMU_PRO else name
    return f"{family}:{shared}" if shared else f"{name}:{row.id}"


def _named(name: str, row: Scored) -> str:
    """What the row says it asks about; "" where it does not."""
    found = row.fields.get(_NAMED_BY.get(name, ""))
    return "" if found is None else str(found)


def _aggregates(name: str, rows: Sequence[Scored]) -> list[Aggregate]:
    """Accuracy."""
    return [accuracy(rows, partial(_cluster, name))]


def _caveat(name: str, rows: Sequence[Scored]) -> str:
    """Where rows may depend on each other and do not tell."""
    column = _NAMED_BY.get(name)
    if column is not None and not all(_named(name, row) for row in rows):
        return f"rows without {column!r} are taken as independent, but for those of one picture"
    if not all(row.pictures for row in rows):
        return "rows are taken as independent: evaluated again, those of one picture are not"
    return ""


_TEMPLATE = Benchmark(
    name="",
    title="",
    regime="mm_zero",
    dataset="",
    configs=(None,),
    split="test",
    revision=None,
    num_rows=0,
    columns={"problem": str, "images": bytes, "answer": (str, int, float)},
    licence="that of the original; the copies are Apache-2.0 where their card says so",
    citation="MM-Zero, arXiv:2603.09206",
    published=(),
    system=SYSTEM,
    max_new_tokens=4096,
    temperature=0.6,
    top_p=0.95,
    row_id=lambda row, number: str(number),
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    judge=judge,
    judged_by_default=True,
    judge_model="Qwen/Qwen2.5-14B-Instruct",
    options=lambda row: None,
    gold=lambda row: str(row["answer"]),
    aggregates=lambda rows: [],
)
_SETS = {
    "mmsi": ("MMSI-Bench", "MMSI", 1000),
    "mathverse": ("MathVerse", "mathverse", 3940),
    "mathvision": ("MathVision", "mathvision", 3040),
    "mathvista": ("MathVista", "mathvista", 1000),
    "mm_vet": ("MM-Vet", "mm-vet", 218),
    "mmmu_pro_standard4": ("MMMU-Pro (standard, 4 options)", "mmmu_pro_4_options", 1730),
    "visnumbench": ("VisNumBench", "visnumbench", 1913),
    "mmmu_pro_standard10": ("MMMU-Pro (standard, 10 options)", "mmmu_pro_10options", 1730),
    "mmmu_pro_vision": ("MMMU-Pro (vision)", "mmmu-pro-vision", 1730),
    "hallusionbench": ("HallusionBench", "hallusionbench", 951),
    "mmmu": ("MMMU", "MMMU", 895),
    "chartqa": ("ChartQA", "ChartQA", 2500),
}
"""{name: (title, copy at zli12321/, rows)}, in the released script's order. The rows of mathvision,
mathvista, MMMU and ChartQA are those of the copies' cards, the others those of the originals."""

BENCHMARKS: Mapping[str, Benchmark] = {
    name: replace(
        _TEMPLATE,
        name=name,
        title=title,
        dataset=f"zli12321/{copy}",
        num_rows=rows,
        aggregates=partial(_aggregates, name),
        caveat=partial(_caveat, name),
    )
    for name, (title, copy, rows) in _SETS.items()
}
