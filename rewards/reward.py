"""A reward and the named terms that it is made of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reward:
    total: float
    terms: Mapping[str, float]
    """Their sum is `total`."""


def reward(*, at_least: float = -math.inf, **terms: float) -> Reward:
    """The sum of `terms`. Where it is below `at_least`, a term `floor` makes up for it."""
    total = math.fsum(terms.values())
    if at_least > -math.inf:
        terms["floor"] = max(0.0, at_least - total)
        total = max(at_least, total)
    return Reward(total, terms)


@dataclass(frozen=True, slots=True)
class Score:
    """How the solver fared on one picture."""

    solvability: float
    """s: share of its answers to the easy question that equal the proposer's answer, in [0, 1];
    -1 where a service of the release would have given no result (`rules: release`)."""
    difficulty: float
    """d = min(c, 1 - c) of its vote on the hard question, in [0, 0.5]; -1 likewise."""
