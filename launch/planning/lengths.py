"""How long replies are. Rates and the simulator's service times take the same few lengths, so that
both are about one workload."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

NUMBER = 10
"""Lengths, each as likely as the others."""
_WIDEST = 40.0
"""Deviation of a logarithm by which the longest one has all tokens."""
_HALVINGS = 60


@cache
def lengths_of(mean: float, cv2: float, most: float) -> tuple[float, ...]:
    """`NUMBER` lengths, shortest first, of `mean` tokens on average: the middles of as many equal
    parts of a lognormal, so wide that their variance is `cv2` times their mean's square (less than
    `NUMBER` - 1: there the longest has all). They are cut at `most`, and the others scaled to keep
    the mean; so a cap near the mean leaves a smaller variance."""
    shape = _shape(cv2)
    for cut in range(NUMBER):
        scale = (NUMBER * mean - cut * most) / sum(shape[: NUMBER - cut])
        if scale * shape[NUMBER - cut - 1] <= most:
            break
    return tuple(min(most, scale * part) for part in shape)


def longest(lengths: Sequence[float], n: float) -> float:
    """Of `n` independent replies with these lengths, each as likely as the others, the mean of the
    longest. Exact: it is none but the first i of K with a chance of (i / K)^n."""
    n, number = max(1.0, n), len(lengths)
    return sum(
        length * (((i + 1) / number) ** n - (i / number) ** n)
        for i, length in enumerate(sorted(lengths))
    )


@cache
def _shape(cv2: float) -> tuple[float, ...]:
    """Lengths of that variance, the longest being 1. It grows with the lognormal's width: of two
    with one mean the wider one is shorter in the short ones and longer in the long ones."""
    low, high = 0.0, _WIDEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _variance(_lognormal(middle)) < cv2:
            low = middle
        else:
            high = middle
    return _lognormal(high)


def _lognormal(width: float) -> tuple[float, ...]:
    places = [NormalDist().inv_cdf((i + 0.5) / NUMBER) for i in range(NUMBER)]
    return tuple(math.exp(width * (place - places[-1])) for place in places)


def _variance(lengths: Sequence[float]) -> float:
    """Divided by the mean's square."""
    return len(lengths) * sum(one**2 for one in lengths) / sum(lengths) ** 2 - 1
