"""How sure a difference is: paired bootstrap over items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Difference:
    """Means of one measure before and after, and their difference with its 95 % interval."""

    before: float
    after: float
    delta: float
    low: float
    high: float


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def difference(
    before: Sequence[float | None],
    after: Sequence[float | None],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference | None:
    """Mean of `after` minus mean of `before`, item i of one being item i of the other.

    The interval is the percentile bootstrap (Efron 1979): items are drawn with replacement, both
    values of an item together, so what makes an item hard cancels. A missing value (None) is
    left out of its own mean only. None where either side has no value. Raises ValueError where
    the numbers of items differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} items before, {len(after)} after: not the same items")
    old, new = mean(before), mean(after)
    if old is None or new is None:
        return None
    drawn = np.random.default_rng(seed).integers(len(before), size=(resamples, len(before)))
    gaps = _means(after, drawn) - _means(before, drawn)
    low, high = np.nanpercentile(gaps, (2.5, 97.5))
    return Difference(old, new, new - old, float(low), float(high))


def _means(values: Sequence[float | None], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """[resamples] means over the drawn items; NaN where a resample drew no value at all."""
    known = np.array([value is not None for value in values])
    filled = np.array([value if value is not None else 0.0 for value in values])
    counts = known[drawn].sum(axis=1)
    sums = filled[drawn].sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(drawn), np.nan), where=counts > 0)
