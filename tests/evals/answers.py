"""Records without a model: what `evals.runner` would leave of made-up answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from evals.benchmark import Benchmark
from evals.records import Record, key_of
from evals.report.results import BenchmarkResult
from evals.scoring import record_of, rules_of
from tests.evals.small_benchmark import SMALL


def answered(
    row: str,
    text: str,
    *,
    sample: int = 0,
    benchmark: Benchmark = SMALL,
    judged: float | None = None,
    finish: str = "stop",
    prompt: str = "Which colour?",
    images: Sequence[Mapping[str, Any]] = (),
    **fields: Any,
) -> Record:
    """One sample of one row whose answer is "red"; `judged`: the judge's score."""
    columns = {"id": row, "question": prompt, "answer": "red", **fields}
    about = {
        "row": row,
        "sample": sample,
        "fields": columns,
        "prompt": [{"role": "user", "content": [{"type": "image"} for _ in images]}],
        "images": list(images),
    }
    about["prompt"][0]["content"].append({"type": "text", "text": prompt})
    answer = {"key": key_of(row=row, sample=sample), "seed": 1}
    answer |= {"response": text, "finish": finish, "tokens": 3, "prompt_tokens": 9, "seconds": 0.5}
    judge = None if judged is None else {"model": {"model": "j"}, "score": judged, "replies": []}
    return record_of(benchmark, about, answer, rules_of(benchmark, columns, text), judge)


def result(
    records: Sequence[Record], *, benchmark: Benchmark = SMALL, model: str = "base", **changes: Any
) -> BenchmarkResult:
    """These records as the whole result of a benchmark."""
    number = len({record["row"] for record in records})
    known: dict[str, Any] = {
        "settings": {"settings": {"samples": 1, "seed": 0}, "judge": None},
        "rows": number,
        "found": number,
        "revision": "local",
        "fingerprint": "f" * 64,
        "refused": [],
        "missing": [],
    }
    return BenchmarkResult(benchmark=benchmark, model=model, records=records, **(known | changes))
