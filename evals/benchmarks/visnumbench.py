"""VisNumBench: 1913 questions on amounts, angles, lengths, ... in drawn and in real pictures.

The prompt is the authors', indentation included. They have an LLM match every response with an
option ("(b)", or "(z)" for none); `judge` does the same in words of ours. The letter rule needs no
judge and is the headline; in reference mode a text counts as the matcher's reply, which is right
only where it is "(b)" to the character.
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
from evals.benchmarks.placement import images_first
from evals.extraction.letters import read_letter

_MATCH = """\
Which option of a question did a model choose? Write the letter of that option in brackets, as (a),
(b), (c), (d) or (e). Write (z) where it refuses to answer, or chooses none of the options. Write
nothing else.

Question: Which of the two poles is longer?
Options: (a) the left one (b) the right one (z) none
Answer: The right pole reaches beyond the window, so it is longer.
Choice: (b)

Question: Which of the two poles is longer?
Options: (a) the left one (b) the right one (z) none
Answer: I am sorry, but I can't help with this picture.
Choice: (z)

Question: How many birds are there, roughly?
Options: (a) 20 (b) 80 (c) 300 (z) none
Answer: About 1000 birds are in the sky.
Choice: (z)

Question: {question}
Options: {options} (z) none
Answer: {answer}
Choice: """
_ATTEMPTS = 3
_MAX_RESPONSE = 8000
_OPTION = re.compile(r"\(([a-h])\)")
_CHOICE = re.compile(r"\(([a-h]|z)\)")
_SYNTHETIC = re.compile(r"synth|\barea\b", re.IGNORECASE)
_REAL = re.compile(r"real|\bvolume\b", re.IGNORECASE)


def options_of(row: Fields) -> dict[str, str]:
    """{capital letter: option} of "(a) 20 (b) 80 ..."; letters that come out of turn are text."""
    text = str(row["option"])
    marks: list[re.Match[str]] = []
    for mark in _OPTION.finditer(text):
        if mark[1] == chr(ord("a") + len(marks)):
            marks.append(mark)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {
        mark[1].upper(): text[mark.end() : end].strip(" ,;\n")
        for mark, end in zip(marks, ends, strict=True)
    }


def prompt(row: Fields) -> str:
    indent = " " * 8
    lines = (
        f"Question: {row['question']}",
        f"Options: {row['option']}",
        "Answer the question based on the most likely options.",
    )
    return "\n" + "".join(f"{indent}{line}\n" for line in lines) + " " * 4


def ask(row: Row) -> Question:
    return images_first(row, prompt(row.fields))


def read(text: str, row: Fields, *, mode: Mode = "default") -> Extraction:
    """ "(b)"; in reference mode the text as it is, taken for the matcher's reply."""
    if mode == "reference":
        return Extraction(text, "as a matcher's reply")
    found = read_letter(text, options_of(row))
    return Extraction(f"({found.value.lower()})" if found.value else None, found.path)


def extract(text: str, row: Fields, *, mode: Mode = "default") -> str | None:
    return read(text, row, mode=mode).value


def score(prediction: str | None, row: Fields, *, mode: Mode = "default") -> float:
    """1 where the prediction is the first three characters of the answer; "B" too, by our rule."""
    if prediction is None:
        return 0.0
    gold = str(row["answer"])[:3]
    if mode == "reference":
        return float(prediction == gold)
    return float(_letter(prediction) == _letter(gold))


def _letter(text: str) -> str:
    return text.strip(" ().\n").lower()


async def judge(row: Fields, text: str, ask: Ask) -> Judgement:
    """The option that a matcher finds; an empty response is wrong unasked.

    A reply that is no "(x)" is asked for again, up to three times in all.
    """
    if not text.strip():
        return Judgement(score=0.0, replies=[])
    filled = _MATCH.format(
        question=row["question"], options=row["option"], answer=text[-_MAX_RESPONSE:]
    )
    replies: list[str] = []
    for attempt in range(_ATTEMPTS):
        replies.append(await ask(filled, max_tokens=16, temperature=0.5 * attempt, attempt=attempt))
        choice = _CHOICE.fullmatch(replies[-1].strip().rstrip(".").lower())
        if choice:
            return Judgement(score=score(choice[0], row), replies=replies)
    return Judgement(score=None, replies=replies)


def scene_of(row: Fields) -> str | None:
    """ "synthetic" or "real", by the path of the picture, else by an attribute only one has."""
    for text in (str(row.get("image_path", "")), str(row.get("Attributes", ""))):
        is_synthetic, is_real = _SYNTHETIC.search(text), _REAL.search(text)
        if bool(is_synthetic) != bool(is_real):
            return "synthetic" if is_synthetic else "real"
    return None


def _attribute(row: Fields) -> str | None:
    scene, name = scene_of(row), row.get("Attributes")
    return f"{scene}, {name}" if scene and name else None


def _cluster(row: Scored) -> str:
    """Questions of one picture are drawn together."""
    return f"visnumbench:{row.pictures or row.fields.get('image_path') or row.id}"


def aggregates(rows: Sequence[Scored]) -> list[Aggregate]:
    """Accuracy over all rows (so the halves weigh 1011 to 902), by half, attribute and task."""
    return [
        accuracy(rows, _cluster),
        *by_group("scenes", rows, scene_of, _cluster),
        *by_group("attribute", rows, _attribute, _cluster),
        *by_group("task", rows, lambda row: row.get("task_class"), _cluster),
    ]


def _row_id(row: Fields, number: int) -> str:
    """Both halves count their rows from 0; where the half is not known, the number in the split
    tells rows apart."""
    scene = scene_of(row)
    return f"{scene}_{row['id']}" if scene else f"row_{row['id']}_{number}"


BENCHMARK = Benchmark(
    name="visnumbench",
    title="VisNumBench",
    dataset="GML-FMGroup/VisNumBench",
    split="test",
    num_rows=1913,
    columns={
        "id": str,
        "question": str,
        "option": str,
        "answer": str,
        "image_path": (bytes, str),  # the path says which half it is
    },
    licence="Apache-2.0 (code); the data set's own terms at its page",
    citation="Weng et al., VisNumBench, ICCV 2025, arXiv:2503.14939 (from memory)",
    published=(
        Published(model="Qwen2.5-VL-3B", score=42.50, source="benchmark README"),
        Published(model="Qwen2.5-VL-7B", score=43.75, source="benchmark README"),
        Published(model="Gemini 2.0 Flash", score=57.08, source="benchmark README"),
        Published(model="chance", score=25.13, source="benchmark README"),
        Published(model="people", score=96.27, source="benchmark README"),
    ),
    max_new_tokens=4096,
    row_id=_row_id,
    ask=ask,
    extract=extract,
    read=read,
    score=score,
    judge=judge,
    judge_model="InternVL2.5-38B",
    has_reference=False,
    options=lambda row: len(options_of(row)) or None,
    gold=lambda row: str(row["answer"]),
    aggregates=aggregates,
)
