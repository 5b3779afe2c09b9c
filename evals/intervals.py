"""How sure a score is: Wilson, standard errors over clusters, and a joint bootstrap over clusters.

A cluster is what rows share (a picture, a problem): its units are right or wrong together, so they
count as less than as many. All intervals are of 95 %.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evals.benchmark import Aggregate, Unit

Array = NDArray[np.float64]

RESAMPLES = 10_000
Z95 = 1.959963984540054
_CHUNK = 4_000_000
"""Draws of clusters that are held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and where it lies with 95 %."""

    estimate: float
    low: float
    high: float
    se: float
    """Standard error."""
    how: Literal["wilson", "clustered", "bootstrap"]


def wilson(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """(low, high) of a share (Wilson 1927). Nothing tried, nothing known: (0, 1).

    `successes` need not be whole: credit in [0, 1] varies less than right and wrong do, so for it
    the interval is on the safe side.
    """
    if trials <= 0:
        return 0.0, 1.0
    share, spread = successes / trials, z * z / trials
    middle = share + spread / 2
    half = z * math.sqrt(max(0.0, share * (1 - share) / trials + spread / (4 * trials)))
    # At a share of 0 or 1 one end is exact; rounding must not put it outside of [0, 1].
    low = (middle - half) / (1 + spread) if share > 0 else 0.0
    high = (middle + half) / (1 + spread) if share < 1 else 1.0
    return max(0.0, low), min(1.0, high)


def mean_interval(units: Sequence[Unit]) -> Interval | None:
    """Of the mean of `units`, values in [0, 1]; None where there are none.

    One unit a cluster and each right or wrong: Wilson. Else the standard error of a ratio over
    clusters, linearised, with the factor G / (G - 1) of small samples (CR1), put into Wilson's form
    at the effective number of units (Korn & Graubard 1998; Dean & Pagano 2015), where the symmetric
    interval would leave [0, 1] or have no width. Student's t with G - 1 degrees of freedom.
    """
    if not units:
        return None
    values = np.array([unit.value for unit in units])
    share = float(values.mean())
    sums, counts = cluster_sums(units, _numbered([units]))
    groups = len(sums)
    if groups == len(units) and bool(np.all((values == 0) | (values == 1))):
        se = math.sqrt(share * (1 - share) / len(units))
        return Interval(share, *wilson(share * len(units), len(units)), se, "wilson")
    if groups == 1:
        return Interval(share, 0.0, 1.0, math.inf, "clustered")
    squares = float(np.sum((sums - share * counts) ** 2))
    se = math.sqrt(squares * groups / (groups - 1)) / len(units)
    # All clusters alike: as if each were one unit.
    effective = share * (1 - share) / se**2 if se > 1e-9 else float(groups)
    low, high = wilson(share * effective, effective, student_t(groups - 1))
    return Interval(share, low, high, se, "clustered")


def student_t(freedom: int) -> float:
    """The 97.5 % point of Student's t: exact up to 2, then Abramowitz & Stegun 26.7.5."""
    if freedom <= 2:
        return (12.706204736, 4.302652730)[freedom - 1]
    z, n = Z95, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def unseen(clusters: int) -> float:
    """The largest share, with 97.5 %, of what none of so many clusters shows: 3.7 / n for many
    (Clopper & Pearson 1934)."""
    return 1 - 0.025 ** (1 / clusters) if clusters else 1.0


def percentiles(
    estimate: float, draws: Array, *, unseen: float, lowest: float = 0.0, highest: float = 1.0
) -> Interval:
    """The percentile bootstrap (Efron 1979) of one number; draws of NaN are left out.

    `unseen`: how far off the estimate may be for what does not vary in the draws (`blind_spot`),
    added in quadrature, as errors of independent parts are (MOVER: Zou & Donner 2008).
    """
    known = draws[~np.isnan(draws)]
    if not len(known):
        return Interval(estimate, lowest, highest, math.inf, "bootstrap")
    low, high = (float(end) for end in np.percentile(known, (2.5, 97.5)))
    se = math.hypot(float(known.std()), unseen / Z95)
    if unseen:
        low = max(lowest, estimate - math.hypot(estimate - low, unseen))
        high = min(highest, estimate + math.hypot(high - estimate, unseen))
    return Interval(estimate, low, high, se, "bootstrap")


def blind_spot(draws: Array, clusters: int) -> float:
    """How far off a share of so many clusters may be where all draws are alike, as those of nothing
    but wrong answers are: the bootstrap learns nothing from them, which is not certainty. 0 where
    they vary."""
    known = draws[~np.isnan(draws)]
    return unseen(clusters) if len(known) and float(np.ptp(known)) < 1e-9 else 0.0


def _numbered(columns: Sequence[Sequence[Unit]]) -> dict[str, int]:
    """A number for each cluster that any of the columns has."""
    names = dict.fromkeys(unit.cluster for column in columns for unit in column)
    return {name: number for number, name in enumerate(names)}


def cluster_sums(units: Sequence[Unit], numbers: Mapping[str, int]) -> tuple[Array, Array]:
    """([clusters] sum of the values, [clusters] number of units)."""
    places = [numbers[unit.cluster] for unit in units]
    values = np.array([unit.value for unit in units], dtype=np.float64)
    sums: Array = np.bincount(places, weights=values, minlength=len(numbers)).astype(np.float64)
    counts: Array = np.bincount(places, minlength=len(numbers)).astype(np.float64)
    return sums, counts


def resampled(
    columns: Sequence[Sequence[Unit]], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Array, Array]:
    """([resamples, columns] sums, [resamples, columns] counts) of units, clusters drawn again.

    A cluster that several columns have is drawn for all of them at once, so that what makes it
    hard cancels in a difference and adds up in a mean.
    """
    numbers = _numbered(columns)
    groups, width = len(numbers), len(columns)
    if not groups:
        empty = np.zeros((resamples, width))
        return empty, empty
    pairs = [cluster_sums(column, numbers) for column in columns]
    weights = np.column_stack([pair[0] for pair in pairs] + [pair[1] for pair in pairs])
    totals = np.empty((resamples, 2 * width))
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // groups)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        totals[start : start + rows] = times.astype(np.float64) @ weights
    return totals[:, :width], totals[:, width:]


def ratios(sums: Array, counts: Array) -> Array:
    """Means; NaN where nothing was drawn."""
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def aggregate_means(aggregates: Sequence[Aggregate], own: Sequence[float]) -> dict[str, float]:
    """{name: value}: `own` has those with units (NaN for the others), the rest are means of them.

    Raises ValueError where an aggregate is the mean of itself, or of one that is not there.
    """
    drawn = aggregate_draws(aggregates, np.array([list(own)], dtype=np.float64))
    return {name: float(values[0]) for name, values in drawn.items()}


def aggregate_draws(aggregates: Sequence[Aggregate], own: Array) -> dict[str, Array]:
    """{name: [resamples] values} from `own`, [resamples, aggregates]; see `aggregate_means`."""
    places = {aggregate.name: number for number, aggregate in enumerate(aggregates)}

    def value(name: str, above: tuple[str, ...] = ()) -> Array:
        if name in above or name not in places:
            raise ValueError(f"aggregate {name!r} is of itself, or is not there")
        aggregate = aggregates[places[name]]
        if not aggregate.of:
            column: Array = own[:, places[name]]
            return column
        parts = [value(part, (*above, name)) for part in aggregate.of]
        mean: Array = np.mean(parts, axis=0)
        return mean

    return {name: value(name) for name in places}
