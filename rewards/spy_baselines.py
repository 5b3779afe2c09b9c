"""What a seat could expect, to be taken from what its clues earned (Vision-Zero, arXiv:2509.25541).

Either from other replicas of the same game (`leave_one_out`), or from running means of either role
(role-advantage estimation, RAE). States are values: each function returns the next one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

DECAY = 0.9996
"""Per table that was played: the paper's .95, per iteration of 128 of them."""
FLOOR = 0.05
"""Of a role's scale: what hardly differs is not blown up."""


@dataclass(frozen=True, slots=True)
class Average:
    """An exponential moving average that started at 0."""

    value: float = 0.0
    num: int = 0
    """Values averaged."""

    def after(self, value: float, decay: float) -> "Average":
        return Average(decay * self.value + (1.0 - decay) * value, self.num + 1)

    def debiased(self, decay: float) -> float:
        """Without the pull of the start (as in Adam); 0 where nothing was averaged."""
        return self.value / (1.0 - decay**self.num) if self.num else 0.0


@dataclass(frozen=True, slots=True)
class RoleMeans:
    """Running means of what the spy and what the civilians earn."""

    spy: Average = Average()
    civilian: Average = Average()

    def after(self, spy: float, civilian: float, decay: float) -> "RoleMeans":
        """With one more table: what its spy earned, and the mean of its civilians."""
        return RoleMeans(self.spy.after(spy, decay), self.civilian.after(civilian, decay))


@dataclass(frozen=True, slots=True)
class Baselines:
    """All running means of a run; `Baselines()` is its start."""

    means: Mapping[str, RoleMeans] = field(default_factory=dict)
    """By `baseline_key`."""
    squares: Mapping[str, Average] = field(default_factory=dict)
    """By role, of what `scale` was told."""

    def to_json(self) -> dict[str, Any]:
        """Plain data that survives JSON and msgpack exactly."""
        return {
            "means": {
                key: [_packed(role.spy), _packed(role.civilian)] for key, role in self.means.items()
            },
            "squares": {role: _packed(square) for role, square in self.squares.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Baselines":
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for other data."""
        return cls(
            {
                key: RoleMeans(Average(*spy), Average(*civ))
                for key, (spy, civ) in data["means"].items()
            },
            {role: Average(*square) for role, square in data["squares"].items()},
        )


def _packed(average: Average) -> list[float]:
    return [average.value, average.num]


def baseline_key(
    domain: str,
    spy_view: str,
    num_players: int,
    spy_seat: int | None = None,
    round_: int | None = None,
) -> str:
    """Tables that share their means: those with equal keys. None: all seats, or all rounds."""
    return json.dumps([domain, spy_view, num_players, spy_seat, round_])


def subtract_then_update(
    baselines: Baselines, key: str, rewards: Sequence[float], spy: int, *, decay: float = DECAY
) -> tuple[Baselines, tuple[float, ...]]:
    """RAE by what was known before this table (ours): a seat's advantage is r - b.

    `rewards` are one table's, by seat. b is debiased: the first tables are not compared with 0,
    but with their mean; the very first one with nothing.
    """
    known = baselines.means.get(key, RoleMeans())
    advantages = _less(rewards, spy, known.spy.debiased(decay), known.civilian.debiased(decay))
    return _with(baselines, key, known.after(*_by_role(rewards, spy), decay)), advantages


def update_then_subtract(
    baselines: Baselines,
    key: str,
    rewards: Sequence[float],
    spy: int,
    *,
    decay: float,
    in_float32: bool = False,
) -> tuple[Baselines, tuple[float, ...]]:
    """RAE as the paper's Alg. 1 prints it and the released code does it: b knows this table.

    So the spy's advantage is decay (r - what b was before). Decay: .95 in the paper, which does not
    say per what; .9 in the release, per mean of eight plays of one game. Here it is per table.
    `in_float32` rounds what the means are told, as the released trainer does.
    """
    earned = _by_role(rewards, spy)
    if in_float32:
        earned = (float(np.float32(earned[0])), float(np.float32(earned[1])))
    known = baselines.means.get(key, RoleMeans()).after(*earned, decay)
    advantages = _less(rewards, spy, known.spy.value, known.civilian.value)
    return _with(baselines, key, known), advantages


def _by_role(rewards: Sequence[float], spy: int) -> tuple[float, float]:
    """What the spy earned, and the mean of the civilians."""
    civilians = [value for seat, value in enumerate(rewards, start=1) if seat != spy]
    return rewards[spy - 1], math.fsum(civilians) / len(civilians)


def _less(
    rewards: Sequence[float], spy: int, of_spy: float, of_civilians: float
) -> tuple[float, ...]:
    return tuple(
        value - (of_spy if seat == spy else of_civilians)
        for seat, value in enumerate(rewards, start=1)
    )


def _with(baselines: Baselines, key: str, means: RoleMeans) -> Baselines:
    return replace(baselines, means={**baselines.means, key: means})


def leave_one_out(rewards: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """[replicas][seats] each reward less the mean of that seat's in the other replicas (ours).

    The replicas play the same pair with the same spy's seat, so how hard the pair is for that seat
    cancels. Raises ValueError for less than two, or where the tables are not of one size.
    """
    n = len(rewards)
    if n < 2:
        raise ValueError(f"{n} replica has no others to be compared with")
    sums = [math.fsum(column) for column in zip(*rewards, strict=True)]
    return tuple(
        # = value - (total - value) / (n - 1), but 0 where all are equal, whatever they are.
        tuple((n * value - total) / (n - 1) for value, total in zip(row, sums, strict=True))
        for row in rewards
    )


def scale(
    baselines: Baselines,
    role: str,
    advantages: Sequence[float],
    *,
    decay: float = DECAY,
    floor: float = FLOOR,
) -> tuple[Baselines, float]:
    """What to divide a role's advantages by: their running root mean square, at least `floor`.

    Ours: raw clue rewards are four to seven times smaller than the normalised ones of votes. The
    `advantages` count themselves, so that the first ones have a scale too.
    """
    known = baselines.squares.get(role, Average())
    if advantages:
        square = math.fsum(value * value for value in advantages) / len(advantages)
        known = known.after(square, decay)
    found = max(floor, math.sqrt(known.debiased(decay)))
    return replace(baselines, squares={**baselines.squares, role: known}), found
