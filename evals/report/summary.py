"""All of one model under one regime: what every form of the report is made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evals.benchmark import Regime
from evals.comparison import Comparison, Pair, compare
from evals.intervals import Interval
from evals.overall import Counted, draw_all, overall
from evals.report.differences import differences
from evals.report.measures import Measures, counted, measure
from evals.report.results import BenchmarkResult, of_regime, scored_rows, versions_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    model: str
    regime: Regime
    settings: Mapping[str, Any]
    results: Sequence[BenchmarkResult]
    measures: Mapping[str, Measures]
    """By benchmark."""
    overall: Mapping[str, Interval]
    """"macro", "micro", and what is folded into one entry of the macro mean."""
    against: str | None
    """The other model, which is the one before."""
    comparison: Comparison | None
    unlike: Sequence[str]
    """What differs between the two beside the model, as lines."""
    pictures: Comparison | None
    """The same model without the pictures (before) and with them (after)."""

    def scored(self) -> list[str]:
        """The benchmarks that have a score: those that the means are over."""
        return [r.name for r in self.results if self.measures[r.name].score() is not None]

    def warnings(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        found = [line for result in self.results if (line := warning_of(self, result))]
        if line := _renewed(self.results):
            found.append(line)
        found += self.unlike
        if self.against is not None and self.comparison is None:
            found.append(f"{self.against} has no row with a score that {self.model} has, too")
        return found

    def to_json(self) -> dict[str, Any]:
        """`results.json`; numbers that are not finite are null."""
        told = {
            "model": self.model,
            "regime": self.regime,
            "settings": dict(self.settings),
            "benchmarks": {result.name: self._benchmark(result) for result in self.results},
            "overall": {name: asdict(interval) for name, interval in self.overall.items()},
            "overall_of": self.scored() if self.overall else [],
            "against": self.against,
            "comparison": None if self.comparison is None else asdict(self.comparison),
            "pictures": None if self.pictures is None else asdict(self.pictures),
            "warnings": self.warnings(),
        }
        finite: dict[str, Any] = _finite(told)
        return finite

    def _benchmark(self, result: BenchmarkResult) -> dict[str, Any]:
        first = result.records[0] if result.records else None
        keys = ("row", "prompt", "images", "seed")
        return {
            **result.facts(),
            "measures": self.measures[result.name].to_json(),
            "published": [asdict(published) for published in result.benchmark.published],
            "example": None if first is None else {key: first.get(key) for key in keys},
        }


def summarise(
    results: Sequence[BenchmarkResult],
    against: Sequence[BenchmarkResult] = (),
    blind: Sequence[BenchmarkResult] = (),
) -> Summary:
    """Count everything. Raises ValueError for results of two regimes, or of two models.

    `against`: of the model before; `blind`: of this model without the pictures.
    """
    regime = of_regime([*results, *against, *blind])
    models = sorted({result.model for result in results})
    if len(models) != 1:
        raise ValueError(f"one report for {len(models)} models: {models}")
    tables = {
        r.name: found for r in results if (found := counted(r)) is not None and found.has_headline()
    }
    return Summary(
        model=models[0],
        regime=regime,
        settings=results[0].settings,
        results=results,
        measures={result.name: measure(result) for result in results},
        overall=_overall(tables),
        against=against[0].model if against else None,
        comparison=_compared(against, results),
        unlike=differences(against, results),
        pictures=_compared(blind, results),
    )


def _overall(tables: Mapping[str, Counted]) -> Mapping[str, Interval]:
    if len(tables) < 2:  # the mean of one is that one
        return {}
    drawn = draw_all({name: [table] for name, table in tables.items()})
    return overall({name: one[0] for name, one in drawn.items()}).intervals()


def _compared(
    before: Sequence[BenchmarkResult], after: Sequence[BenchmarkResult]
) -> Comparison | None:
    old = {result.name: result for result in before}
    return compare(
        {
            result.name: Pair(result.benchmark, old[result.name].records, result.records)
            for result in after
            if result.name in old
        }
    )


def _renewed(results: Sequence[BenchmarkResult]) -> str:
    """That answers are of several versions of the weights; "" where they are not."""
    versions = versions_of([record for result in results for record in result.records])
    if len(versions) < 2:
        return ""
    return (
        f"weights were renewed meanwhile: answers are of {len(versions)} versions, from "
        f"{versions[0]} to {versions[-1]}"
    )


def warning_of(summary: Summary, result: BenchmarkResult) -> str:
    """Why the numbers of one benchmark may not be what they seem; "" where there is no reason."""
    benchmark, own = result.benchmark, summary.measures[result.name]
    settings = summary.settings.get("settings") or {}
    authors = benchmark.judge_model
    broken, unjudged = (
        own.rates[flag] * len(result.records) for flag in ("scoring_failed", "judge_failed")
    )
    caveat = benchmark.caveat(scored_rows(result.records))
    left_out = ", ".join(f"{number} of {name}" for name, number in own.left_out.items())
    judge = (summary.settings.get("judge") or {}).get("model")
    said = [
        (
            result.found != benchmark.num_rows,
            f"{result.found} rows in the data where {benchmark.num_rows} are expected: not "
            "comparable with what others publish",
        ),
        (
            bool(own.missing),
            f"rows without an answer yet: {own.missing}, the same command asks again",
        ),
        (bool(own.skipped), f"rows skipped: {own.skipped}, the page names them"),
        (
            bool(own.unscored),
            f"rows with an answer and no score: {own.unscored} (no judge, or one that failed)",
        ),
        (
            bool(unjudged),
            f"answers on which the judge failed: {unjudged:.0f}; the same command asks again where "
            "no reply came",
        ),
        (bool(caveat), caveat),
        (bool(left_out), f"groups left out, since rows of them have no score: {left_out}"),
        (
            benchmark.judged_by_default and None not in (judge, authors) and judge != authors,
            f"judged by {judge}, its authors used {authors}",
        ),
        (
            bool(broken),
            f"a rule of ours broke down on {broken:.0f} answers, which count as wrong: please "
            "report it",
        ),
        (bool(settings.get("blind")), "asked without its pictures"),
        (result.rows < result.found - own.skipped, f"{result.rows} of {result.found} rows asked"),
    ]
    reasons = "; ".join(text for holds, text in said if holds)
    return f"{benchmark.title}: {reasons}" if reasons else ""


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
