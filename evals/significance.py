"""Whether a difference is one: exact McNemar, the bootstrap's p, and Holm over many of them."""

from collections.abc import Sequence

import numpy as np

from evals.intervals import Array


def mcnemar(only_before: int, only_after: int) -> float:
    """Two-sided exact p (McNemar 1947): both ways are as likely for each discordant pair."""
    number, fewer = only_before + only_after, min(only_before, only_after)
    term, tail = 1, 0
    for k in range(fewer + 1):
        tail += term
        term = term * (number - k) // (k + 1)
    return min(1.0, 2 * tail / 2**number)


def bootstrap_p(gaps: Array) -> float:
    """Two-sided p of no difference: how much of the bootstrap lies beyond 0, both ways."""
    known = gaps[~np.isnan(gaps)]
    beyond = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + len(known)))


def sign_flips(moved: int) -> float:
    """The smallest two-sided p that so many clusters can give: without a difference each might as
    well have moved the other way (Fisher 1935). A bootstrap of few clusters does not know that."""
    return min(1.0, 2.0 ** (1 - moved))


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p, in the order of `ps` (Holm 1979): at most one of all is wrong by 5 %."""
    order = sorted(range(len(ps)), key=lambda number: ps[number])
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, ps[number] * (len(ps) - rank)))
        adjusted[number] = highest
    return adjusted
