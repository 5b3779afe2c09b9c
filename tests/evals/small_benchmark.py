"""A benchmark of four rows, to walk the whole path with; and rows on disk in its schema."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from evals.benchmark import (
    Aggregate,
    Ask,
    Benchmark,
    Extraction,
    Fields,
    Judgement,
    Question,
    Row,
    Scored,
    Unit,
)


def png(color: str = "red", size: tuple[int, int] = (32, 24), kind: str = "PNG") -> bytes:
    """A small picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, kind)
    return out.getvalue()


def ask(row: Row) -> Question:
    """The picture, then the question."""
    parts = [{"type": "image"} for _ in row.images]
    text = {"type": "text", "text": row.fields["question"]}
    return Question(
        messages=[{"role": "user", "content": [*parts, text]}], images=list(row.images.values())
    )


def read(text: str, fields: Fields, *, mode: str = "default") -> Extraction:
    """The last word; where the text says "crash", our own rule breaks down."""
    if "crash" in text:
        raise ZeroDivisionError("a rule of ours")
    words = text.split()
    return Extraction(words[-1], "last word") if words else Extraction(None, "nothing there")


def score(prediction: str | None, fields: Fields, *, mode: str = "default") -> float:
    return float(prediction is not None and prediction == fields["answer"])


async def judge(fields: Fields, text: str, ask: Ask) -> Judgement:
    """Yes or No."""
    reply = await ask(f"Is {text!r} the same as {fields['answer']!r}? Yes or No.")
    known = {"Yes": 1.0, "No": 0.0}
    return Judgement(score=known.get(reply), replies=[reply])


def aggregates(scored: Sequence[Scored]) -> list[Aggregate]:
    return [Aggregate("accuracy", [Unit(row.id, row.score) for row in scored])]


SMALL = Benchmark(
    name="small",
    title="Small",
    regime="official",
    dataset="nobody/small",
    configs=[None],
    split="test",
    revision=None,
    num_rows=4,
    columns={"id": str, "question": str, "answer": str, "image": bytes},
    licence="",
    citation="",
    published=[],
    system=None,
    max_new_tokens=8,
    temperature=0.0,
    top_p=1.0,
    row_id=lambda fields, number: fields["id"],
    ask=ask,
    extract=lambda text, fields, *, mode="default": read(text, fields, mode=mode).value,
    read=read,
    score=score,
    judge=None,
    judged_by_default=False,
    judge_model=None,
    options=lambda fields: None,
    gold=lambda fields: fields["answer"],
    aggregates=aggregates,
)
JUDGED = replace(SMALL, judge=judge, judged_by_default=True)


def record(number: int, **changes: Any) -> dict[str, Any]:
    """One row of the data set, its picture a path."""
    row = {"id": f"q{number}", "question": "Which colour?", "answer": "red", "image": "red.png"}
    return row | {"question": f"Which colour has number {number}?"} | changes


def write_rows(folder: Path, records: Sequence[Mapping[str, Any]], *, name: str = "small") -> Path:
    """`folder` with NAME.jsonl and red.png in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "red.png").write_bytes(png())
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"{name}.jsonl").write_text(text)
    return folder
