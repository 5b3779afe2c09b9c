"""Two models on the same rows: how sure their difference is, and how much of it is format.

Pairs are rows that both have a score for. What one side lacks is counted and never imputed. Rows
with several samples count by their mean; records are those of `evals.scoring.record_of`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.benchmark import Benchmark
from evals.intervals import RESAMPLES, Interval, blind_spot, percentiles
from evals.overall import Counted, Drawn, draw_all, overall, unseen_of
from evals.records import Record
from evals.scoring import scored_of
from evals.significance import bootstrap_p, holm, mcnemar, sign_flips


@dataclass(frozen=True, slots=True)
class Discordant:
    """Rows that only one of two models has right, and McNemar's exact test of them."""

    only_before: int
    only_after: int
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One benchmark, before and after."""

    before: float
    """The headline over the pairs."""
    after: float
    delta: Interval
    """Paired bootstrap over clusters."""
    p: float
    how: str
    """"mcnemar" where rows are single, right or wrong, and share no cluster; else "bootstrap"."""
    p_holm: float
    """Holm's, over all benchmarks that are compared."""
    discordant: Discordant | None
    """None where scores are not just right or wrong."""
    pairs: int
    lost_before: int
    """Rows that only `after` has a score for, and the reverse."""
    lost_after: int
    other_prompt: int
    """Pairs that were not asked the same with the same seed."""
    readable: "Readable"


@dataclass(frozen=True, slots=True)
class Readable:
    """Mean scores over the pairs that a rule could read on both sides: a gain that vanishes here
    is one of format."""

    pairs: int
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All benchmarks that both have, and their means."""

    changes: Mapping[str, Change]
    overall: Mapping[str, Interval]
    """Differences of the means over the benchmarks, by name ("macro", "micro", ...)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One benchmark's records of two models."""

    benchmark: Benchmark
    before: Sequence[Record]
    after: Sequence[Record]


def compare(
    pairs: Mapping[str, Pair], *, seed: int = 0, resamples: int = RESAMPLES
) -> Comparison | None:
    """Before and after by benchmark; None where no benchmark has a pair of scored rows."""
    both = {name: scores for name, pair in pairs.items() if (scores := _paired(pair))}
    if not both:
        return None
    drawn = draw_all(both, seed=seed, resamples=resamples)
    raw = {name: _p(pairs[name], both[name], drawn[name]) for name in both}
    adjusted = dict(zip(raw, holm([p for p, _ in raw.values()]), strict=True))
    changes = {
        name: _change(pairs[name], both[name], drawn[name], raw[name], adjusted[name])
        for name in both
    }
    # Both sides may vary, and their difference not.
    spots = {
        name: blind_spot(after.headlines - before.headlines, before.clusters)
        for name, (before, after) in drawn.items()
    }
    off = unseen_of({name: before for name, (before, _) in drawn.items()}, spots)
    sides = [overall({name: one[side] for name, one in drawn.items()}) for side in (0, 1)]
    gaps = {
        name: percentiles(
            sides[1].values[name] - sides[0].values[name],
            sides[1].draws[name] - sides[0].draws[name],
            unseen=off[name],
            lowest=-1.0,
        )
        for name in sides[0].values
    }
    return Comparison(changes, gaps)


def _change(
    pair: Pair, both: Sequence[Counted], drawn: Sequence[Drawn], p: tuple[float, str], held: float
) -> Change:
    before, after = drawn
    rows = {row.id for row in both[0].scored}
    old, new = scores_of(pair.before), scores_of(pair.after)
    return Change(
        before=before.headline,
        after=after.headline,
        delta=percentiles(
            after.headline - before.headline,
            after.headlines - before.headlines,
            unseen=blind_spot(after.headlines - before.headlines, before.clusters),
            lowest=-1.0,
        ),
        p=p[0],
        how=p[1],
        p_holm=held,
        discordant=_discordant(both),
        pairs=len(rows),
        lost_before=len(new.keys() - rows),
        lost_after=len(old.keys() - rows),
        other_prompt=_asked_otherwise(pair, rows),
        readable=_readable(pair),
    )


def scores_of(records: Sequence[Record]) -> dict[str, list[float]]:
    """{row: scores of its samples}, of those that have one."""
    found: dict[str, list[float]] = {}
    for record in records:
        if record["score"] is not None:
            found.setdefault(record["row"], []).append(float(record["score"]))
    return found


def _paired(pair: Pair) -> list[Counted]:
    """Both sides, counted over the rows that both have; empty where there is nothing to count."""
    old, new = scores_of(pair.before), scores_of(pair.after)
    records = {record["row"]: record for record in pair.before}
    rows = [row for row in old if row in new]
    if not rows:
        return []
    both = [count_over(pair.benchmark, side, rows, records) for side in (old, new)]
    return both if all(side.has_headline() for side in both) else []


def count_over(
    benchmark: Benchmark,
    scores: Mapping[str, Sequence[float]],
    rows: Sequence[str],
    records: Mapping[str, Record],
) -> Counted:
    """The aggregates of `rows` only, each by the mean of its scores; `records`: any one of each."""
    scored = [scored_of(records[row], sum(scores[row]) / len(scores[row])) for row in rows]
    return Counted(benchmark.aggregates(scored), scored)


def _is_binary(both: Sequence[Counted]) -> bool:
    return all(row.score in (0.0, 1.0) for side in both for row in side.scored)


def _discordant(both: Sequence[Counted]) -> Discordant | None:
    if not _is_binary(both):
        return None
    scores = [(a.score, b.score) for a, b in zip(both[0].scored, both[1].scored, strict=True)]
    only_before = sum(old > new for old, new in scores)
    only_after = sum(new > old for old, new in scores)
    return Discordant(only_before, only_after, mcnemar(only_before, only_after))


def _p(pair: Pair, both: Sequence[Counted], drawn: Sequence[Drawn]) -> tuple[float, str]:
    """(p of no difference, how)."""
    discordant = _discordant(both)
    first = both[0].aggregates[0]
    is_of_rows = len(first.units) == len(both[0].scored)
    is_single = max(len(scores) for scores in scores_of(pair.after).values()) == 1
    apart = len({unit.cluster for unit in first.units}) == len(first.units)
    if discordant is not None and is_of_rows and is_single and apart:
        return discordant.p, "mcnemar"
    p = bootstrap_p(drawn[1].headlines - drawn[0].headlines)
    return max(p, sign_flips(_moved(both))), "bootstrap"


def _moved(both: Sequence[Counted]) -> int:
    """Clusters in which the sides differ."""
    pairs = zip(both[0].rows(), both[1].rows(), strict=True)
    return len({before.cluster for before, after in pairs if before.value != after.value})


def _asked_otherwise(pair: Pair, rows: set[str]) -> int:
    def asked(record: Record) -> object:
        pictures = [image["sha256"] for image in record["images"]]
        return record["prompt"], pictures, record.get("seed")

    old = {(record["row"], record["sample"]): asked(record) for record in pair.before}
    other = {
        record["row"]
        for record in pair.after
        if record["row"] in rows and old.get((record["row"], record["sample"])) != asked(record)
    }
    return len(other)


def _readable(pair: Pair) -> Readable:
    """Record by record: sample i of a row on both sides."""

    def read(records: Sequence[Record]) -> dict[tuple[str, int], float]:
        return {
            (record["row"], record["sample"]): float(record["score"])
            for record in records
            if record["score"] is not None and "unparsed" not in record["flags"]
        }

    old, new = read(pair.before), read(pair.after)
    both = [key for key in old if key in new]
    if not both:
        return Readable(0, None, None)
    means = [sum(side[key] for key in both) / len(both) for side in (old, new)]
    return Readable(len(both), *means)
