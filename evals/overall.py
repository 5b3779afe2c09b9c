"""Headlines with their bootstrap, and their means over benchmarks.

A benchmark's headline may be a mean of means over rows that share pictures (HallusionBench), and a
mean over benchmarks holds three forms of one question (MMMU-Pro), so clusters are drawn jointly.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evals.benchmark import Aggregate, Scored, Unit
from evals.intervals import (
    RESAMPLES,
    Array,
    Interval,
    aggregate_draws,
    aggregate_means,
    blind_spot,
    percentiles,
    ratios,
    resampled,
)

MMMU_PRO = ("mmmu_pro_standard4", "mmmu_pro_standard10", "mmmu_pro_vision")
FOLDS: Mapping[str, str] = dict.fromkeys(MMMU_PRO, "mmmu_pro")
"""{benchmark: its entry in the macro mean}, where several make one entry: MMMU-Pro asks the same
questions in three forms. So MM-Zero has it, and its macro mean is over ten entries."""


@dataclass(frozen=True, slots=True)
class Counted:
    """One measurement of one benchmark, counted."""

    aggregates: Sequence[Aggregate]
    """The first is the headline."""
    scored: Sequence[Scored]

    @property
    def headline(self) -> str:
        return self.aggregates[0].name

    def needed(self) -> list[Aggregate]:
        """The headline and what it is made of."""
        by_name = {aggregate.name: aggregate for aggregate in self.aggregates}
        names = [self.headline]
        for name in names:
            names += [part for part in by_name[name].of if part not in names]
        return [by_name[name] for name in names]

    def has_headline(self) -> bool:
        """Whether there is something to count: all groups of a measure may be left out."""
        return all(aggregate.units for aggregate in self.needed() if not aggregate.of)

    def rows(self) -> Sequence[Unit]:
        """Each row once, in the clusters of an aggregate that has all of them, if there is one."""
        for aggregate in self.aggregates:
            if len(aggregate.units) == len(self.scored):
                return aggregate.units
        return [Unit(row.id, row.score) for row in self.scored]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A headline and the credit of all rows: as measured, and in each resample."""

    headline: float
    headlines: Array
    """[resamples]."""
    credit: float
    rows: int
    credits: Array
    """[resamples]; sums over rows."""
    counts: Array
    clusters: int
    """Of its rows."""


def draw(counted: Sequence[Counted], *, seed: int = 0, resamples: int = RESAMPLES) -> list[Drawn]:
    """One bootstrap for all of `counted`: clusters of the same name are drawn together."""
    parts = [one.needed() for one in counted]
    columns = [
        units
        for one, needed in zip(counted, parts, strict=True)
        for units in (*(aggregate.units for aggregate in needed), one.rows())
    ]
    sums, counts = resampled(columns, seed=seed, resamples=resamples)
    drawn: list[Drawn] = []
    start = 0
    for one, needed in zip(counted, parts, strict=True):
        end = start + len(needed)
        means = [_mean(units) for units in columns[start:end]]
        own = ratios(sums[:, start:end], counts[:, start:end])
        drawn.append(
            Drawn(
                headline=aggregate_means(needed, means)[one.headline],
                headlines=aggregate_draws(needed, own)[one.headline],
                credit=sum(unit.value for unit in columns[end]),
                rows=len(columns[end]),
                credits=sums[:, end],
                counts=counts[:, end],
                clusters=len({unit.cluster for unit in columns[end]}),
            )
        )
        start = end + 1
    return drawn


def _mean(units: Sequence[Unit]) -> float:
    return sum(unit.value for unit in units) / len(units) if units else float("nan")


def entries(names: Sequence[str]) -> dict[str, list[str]]:
    """{entry of the macro mean: its benchmarks}, in their order."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(FOLDS.get(name, name), []).append(name)
    return found


def draw_all(
    counted: Mapping[str, Sequence[Counted]], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, list[Drawn]]:
    """{benchmark: one per measurement of it}: benchmarks of one entry are drawn jointly, others
    apart. The measurements of a benchmark (before and after) are drawn jointly always."""
    drawn: dict[str, list[Drawn]] = {}
    for number, names in enumerate(entries(list(counted)).values()):
        flat = [one for name in names for one in counted[name]]
        found = iter(draw(flat, seed=seed + number, resamples=resamples))
        drawn |= {name: [next(found) for _ in counted[name]] for name in names}
    return drawn


@dataclass(frozen=True, slots=True)
class Overall:
    """Means over benchmarks of one measurement, as measured and in each resample."""

    values: Mapping[str, float]
    """"macro": over entries; "micro": over rows; then each entry that is folded of several."""
    draws: Mapping[str, Array]
    unseen: Mapping[str, float]
    """How far off each may be for benchmarks that do not vary; see `unseen_of`."""

    def intervals(self) -> dict[str, Interval]:
        return {
            name: percentiles(self.values[name], self.draws[name], unseen=self.unseen[name])
            for name in self.values
        }


def overall(drawn: Mapping[str, Drawn]) -> Overall:
    """Macro mean (of headlines, folded ones by their own mean) and micro mean (of all rows)."""
    values: dict[str, float] = {}
    draws: dict[str, Array] = {}
    members = entries(list(drawn))
    point = {e: float(np.mean([drawn[n].headline for n in names])) for e, names in members.items()}
    each: dict[str, Array] = {
        entry: np.mean([drawn[name].headlines for name in names], axis=0)
        for entry, names in members.items()
    }
    values["macro"] = float(np.mean(list(point.values())))
    draws["macro"] = np.mean(list(each.values()), axis=0)
    credits = np.sum([one.credits for one in drawn.values()], axis=0)
    counts = np.sum([one.counts for one in drawn.values()], axis=0)
    num_rows = sum(one.rows for one in drawn.values())
    values["micro"] = sum(one.credit for one in drawn.values()) / num_rows
    draws["micro"] = ratios(credits, counts)
    for entry, names in members.items():
        if len(names) > 1:
            values[entry], draws[entry] = point[entry], each[entry]
    spots = {name: blind_spot(one.headlines, one.clusters) for name, one in drawn.items()}
    return Overall(values, draws, unseen_of(drawn, spots))


def unseen_of(drawn: Mapping[str, Drawn], spots: Mapping[str, float]) -> dict[str, float]:
    """How far off the means of `overall` may be, given each benchmark's `blind_spot`: benchmarks
    are independent, but for the forms of one entry."""
    members = entries(list(drawn))
    off = {e: float(np.mean([spots[name] for name in names])) for e, names in members.items()}
    num_rows = sum(one.rows for one in drawn.values())
    shares = [one.rows / num_rows * spots[name] for name, one in drawn.items()]
    folded = {entry: off[entry] for entry, names in members.items() if len(names) > 1}
    return {"macro": math.hypot(*off.values()) / len(off), "micro": math.hypot(*shares), **folded}
