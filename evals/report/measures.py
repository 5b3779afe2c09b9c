"""Every number of one result: aggregates with intervals, rates, guesses, judges, samples."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evals.benchmark import Scored
from evals.intervals import (
    Interval,
    aggregate_draws,
    aggregate_means,
    blind_spot,
    mean_interval,
    percentiles,
    ratios,
    resampled,
)
from evals.overall import Counted
from evals.records import Record
from evals.repetition import majority_at_k, pass_at_k, powers_up_to
from evals.report.results import (
    BenchmarkResult,
    ScoreOf,
    by_judge,
    by_reference,
    by_row,
    by_rule,
    headline,
    scored_rows,
)
from evals.scoring import FLAGS


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the rule and the judge, on the records that both scored; right is half or more."""

    records: int
    share: float
    kappa: float | None
    """Cohen's; None where one of them says the same of all: chance alone would agree as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """All shares in [0, 1]."""

    headline: str
    """The name of the aggregate that stands for the benchmark; "" where nothing was scored."""
    aggregates: Mapping[str, Interval]
    units: Mapping[str, int]
    """Of each aggregate that is counted itself."""
    left_out: Mapping[str, int]
    """Groups that lack rows with a score, of each part of the headline that has such."""
    scored: int
    """Rows with a score."""
    unscored: int
    """Rows with an answer and none: no judge, or one that failed."""
    missing: int
    """Rows without any answer."""
    skipped: int
    """Rows that could not be loaded, prepared or asked."""
    rates: Mapping[str, float]
    """Of the records, by flag (`evals.scoring.FLAGS`)."""
    guess: float | None
    """What a blind guess among the options would have; None where no row has options."""
    with_guesses: float | None
    """The headline if each unparsed row had the credit of a guess, 1/k."""
    rule: float | None
    """Mean over rows by our rule, by the authors' code, by the judge; None: not taken."""
    reference: float | None
    judge: float | None
    agreement: Agreement | None
    samples: Mapping[str, float]
    """pass@k and maj@k over rows with all their samples; empty for one sample."""

    def score(self) -> Interval | None:
        return self.aggregates.get(self.headline)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def counted(result: BenchmarkResult, scored: Sequence[Scored] | None = None) -> Counted | None:
    """Aggregates of `scored` (default: its rows with a score); None where there are none."""
    rows = scored_rows(result.records) if scored is None else scored
    found = result.benchmark.aggregates(rows) if rows else []
    return Counted(found, rows) if found else None


def measure(result: BenchmarkResult) -> Measures:
    """Count everything. Never fails for what a model wrote."""
    own = counted(result)
    rows = by_row(result.records)
    num_scored = 0 if own is None else len(own.scored)
    return Measures(
        headline="" if own is None else own.headline,
        aggregates={} if own is None else aggregate_intervals(own),
        units={} if own is None else {a.name: len(a.units) for a in own.aggregates if a.units},
        left_out={} if own is None else {a.name: a.left_out for a in own.needed() if a.left_out},
        scored=num_scored,
        unscored=len(rows) - num_scored,
        missing=len({row for row, _, _ in result.missing} - rows.keys()),
        skipped=len({row for row, _ in result.refused}),
        rates=rates(result.records),
        guess=_guess(result),
        with_guesses=_with_guesses(result),
        rule=_mean(result.records, by_rule),
        reference=_mean(result.records, by_reference),
        judge=_mean(result.records, by_judge),
        agreement=agreement(result.records),
        samples=repeated(result),
    )


def aggregate_intervals(own: Counted) -> dict[str, Interval]:
    """{aggregate: interval}; those that are means of others by a joint bootstrap of them all."""
    intervals = {a.name: i for a in own.aggregates if (i := mean_interval(a.units)) is not None}
    if any(aggregate.of for aggregate in own.aggregates):
        means = [intervals[a.name].estimate if a.units else float("nan") for a in own.aggregates]
        points = aggregate_means(own.aggregates, means)
        parts = ratios(*resampled([aggregate.units for aggregate in own.aggregates]))
        draws = aggregate_draws(own.aggregates, parts)
        clusters = {a.name: len({unit.cluster for unit in a.units}) for a in own.aggregates}
        most = max(clusters.values())
        for aggregate in own.aggregates:
            if aggregate.of and points[aggregate.name] == points[aggregate.name]:
                name = aggregate.name
                spots = [blind_spot(draws[p], clusters[p] or most) for p in aggregate.of]
                off = math.hypot(*spots) / len(spots)
                intervals[name] = percentiles(points[name], draws[name], unseen=off)
    return {a.name: intervals[a.name] for a in own.aggregates if a.name in intervals}


def rates(records: Sequence[Record]) -> dict[str, float]:
    """Share of the records with each flag."""
    found = Counter(flag for record in records for flag in record["flags"])
    return {flag: found[flag] / len(records) if records else 0.0 for flag in FLAGS}


def _mean(records: Sequence[Record], score_of: ScoreOf) -> float | None:
    scores = [row.score for row in scored_rows(records, score_of)]
    return sum(scores) / len(scores) if scores else None


def _credit(result: BenchmarkResult, record: Record) -> float:
    """Of a blind guess at this row; 0 where it is open."""
    options = result.benchmark.options(record["fields"])
    return 1 / options if options else 0.0


def _guess(result: BenchmarkResult) -> float | None:
    credits = [_credit(result, samples[0]) for samples in by_row(result.records).values()]
    return sum(credits) / len(credits) if any(credits) else None


def _with_guesses(result: BenchmarkResult) -> float | None:
    def score_of(record: Record) -> float | None:
        score = headline(record)
        if score is None or "unparsed" not in record["flags"]:
            return score
        return max(score, _credit(result, record))

    own = counted(result, scored_rows(result.records, score_of))
    if own is None or not own.has_headline():
        return None
    means = [
        sum(unit.value for unit in aggregate.units) / len(aggregate.units)
        if aggregate.units
        else float("nan")
        for aggregate in own.aggregates
    ]
    return aggregate_means(own.aggregates, means)[own.headline]


def agreement(records: Sequence[Record]) -> Agreement | None:
    """Between rule and judge; None where no record has both scores."""
    pairs = [
        (rule >= 0.5, judged >= 0.5)
        for record in records
        if (rule := by_rule(record)) is not None and (judged := by_judge(record)) is not None
    ]
    return Agreement(len(pairs), *cohen(pairs)) if pairs else None


def cohen(pairs: Sequence[tuple[bool, bool]]) -> tuple[float, float | None]:
    """(share that agrees, Cohen's kappa), Cohen 1960."""
    number = len(pairs)
    same = sum(a == b for a, b in pairs) / number
    first, second = (sum(pair[i] for pair in pairs) / number for i in (0, 1))
    by_chance = first * second + (1 - first) * (1 - second)
    return same, None if by_chance == 1 else (same - by_chance) / (1 - by_chance)


def repeated(result: BenchmarkResult) -> dict[str, float]:
    """pass@k and maj@k, means over the rows that have all their samples, scored."""
    number = result.samples
    full = [
        [(record["modes"]["default"]["value"], float(record["score"])) for record in samples]
        for samples in by_row(result.records).values()
        if len(samples) == number and all(record["score"] is not None for record in samples)
    ]
    measures: dict[str, Callable[[Sequence[Any], int], float]] = {
        "pass": lambda row, k: pass_at_k(number, sum(score >= 0.5 for _, score in row), k),
        "maj": lambda row, k: majority_at_k([v for v, _ in row], [s for _, s in row], k),
    }
    return {
        f"{name}@{k}": sum(measure_row(row, k) for row in full) / len(full)
        for name, measure_row in measures.items()
        for k in powers_up_to(number)
        if full
    }
