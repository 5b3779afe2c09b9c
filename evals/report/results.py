"""What is known of one model on one benchmark, from the runner or read back from its folder.

The records are the truth; every number of a report is counted from them (`evals.report.measures`).
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from evals.benchmark import Benchmark, Regime, Scored
from evals.records import Record, read_lines
from evals.runner import Outcome
from evals.scoring import scored_of

RESULTS = "results.json"
RECORDS = "records.jsonl"

ScoreOf = Callable[[Record], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """One model on one benchmark."""

    benchmark: Benchmark
    model: str
    settings: Mapping[str, Any]
    """JSON: everything needed to do it again, beside the benchmark's own rules."""
    rows: int
    """To be asked: the loaded ones, after a limit."""
    found: int
    """In the data set, before a limit."""
    revision: str
    fingerprint: str
    """Of all rows, pictures included."""
    records: Sequence[Record]
    """One per sample of a row, in the order of the rows: see `evals.scoring.record_of`."""
    refused: Sequence[tuple[str, str]]
    """(row, why it was skipped)."""
    missing: Sequence[tuple[str, int, str]]
    """(row, sample, why no answer came)."""

    @property
    def name(self) -> str:
        return self.benchmark.name

    @property
    def samples(self) -> int:
        """Per row; where the settings do not say, as the records have them."""
        said = (self.settings.get("settings") or {}).get("samples")
        return int(said or 1 + max((record["sample"] for record in self.records), default=0))

    def facts(self) -> dict[str, Any]:
        """Everything but the records and what is counted from them. JSON."""
        benchmark = self.benchmark
        return {
            "title": benchmark.title,
            "dataset": benchmark.dataset,
            "configs": list(benchmark.configs),
            "split": benchmark.split,
            "revision": self.revision,
            "pinned_revision": benchmark.revision,
            "fingerprint": self.fingerprint,
            "licence": benchmark.licence,
            "citation": benchmark.citation,
            "expected": benchmark.num_rows,
            "found": self.found,
            "rows": self.rows,
            "judge_needed": benchmark.judged_by_default,
            "judge_of_authors": benchmark.judge_model,
            "decoding": {
                "max_new_tokens": benchmark.max_new_tokens,
                "temperature": benchmark.temperature,
                "top_p": benchmark.top_p,
                "system": benchmark.system,
            },
            "refused": [list(pair) for pair in self.refused],
            "missing": [list(triple) for triple in self.missing],
        }


def result_of(outcome: Outcome, model: str, settings: Mapping[str, Any]) -> BenchmarkResult:
    """The result of an evaluation that just ended."""
    return BenchmarkResult(
        benchmark=outcome.benchmark,
        model=model,
        settings=settings,
        rows=outcome.rows,
        found=outcome.loaded.found,
        revision=outcome.loaded.revision,
        fingerprint=outcome.loaded.fingerprint,
        records=outcome.records,
        refused=outcome.refused,
        missing=outcome.missing,
    )


def read_results(folder: Path, known: Mapping[str, Benchmark]) -> list[BenchmarkResult]:
    """What `evals.report.write` left in `folder`; benchmarks that are not `known` are left out.

    Raises ConfigError where there is nothing, or something else.
    """
    try:
        told = json.loads((folder / RESULTS).read_text())
        return [
            BenchmarkResult(
                benchmark=known[name],
                model=told["model"],
                settings=told["settings"],
                rows=facts["rows"],
                found=facts["found"],
                revision=facts["revision"],
                fingerprint=facts["fingerprint"],
                records=read_lines(folder / name / RECORDS),
                refused=[(row, why) for row, why in facts["refused"]],
                missing=[(row, sample, why) for row, sample, why in facts["missing"]],
            )
            for name, facts in told["benchmarks"].items()
            if name in known
        ]
    except OSError as error:
        raise ConfigError(f"{folder}: no results of an evaluation here ({error})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / RESULTS} is damaged: {error!r}; evaluate again") from None


def of_regime(results: Sequence[BenchmarkResult]) -> Regime:
    """The one regime of all. Raises ValueError: two regimes never stand in one table."""
    regimes = {result.benchmark.regime for result in results}
    if len(regimes) != 1:
        raise ValueError(f"one table for {sorted(regimes) or 'no'} regimes: one each")
    return regimes.pop()


def headline(record: Record) -> float | None:
    """The score that counts: the judge's where the benchmark is judged, else the rule's."""
    score: float | None = record["score"]
    return score


def by_rule(record: Record) -> float | None:
    score: float | None = record["modes"]["default"]["score"]
    return score


def by_reference(record: Record) -> float | None:
    """By the authors' own code, where it is not a random choice and reads responses at all."""
    score: float | None = record["modes"].get("reference", {}).get("score")
    return score


def by_judge(record: Record) -> float | None:
    judged = record["judge"]
    return None if judged is None else judged["score"]


def by_row(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The samples of each row, in order."""
    rows: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        rows[record["row"]].append(record)
    return dict(rows)


def versions_of(records: Sequence[Record]) -> list[str]:
    """The versions of the weights that answered, where servers say them, oldest first."""
    found = {str(record["weights"]) for record in records if record.get("weights")}
    return sorted(found, key=lambda version: (not version.isdecimal(), len(version), version))


def scored_rows(records: Sequence[Record], score_of: ScoreOf = headline) -> list[Scored]:
    """Rows with the mean over their samples; what has no score is left out, not counted as 0."""
    scored: list[Scored] = []
    for samples in by_row(records).values():
        scores = [score for record in samples if (score := score_of(record)) is not None]
        if scores:
            scored.append(scored_of(samples[0], sum(scores) / len(scores)))
    return scored
