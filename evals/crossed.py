"""Ability apart from format: base and trained model, each asked in its own and the other's way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evals.benchmark import Benchmark
from evals.comparison import count_over, scores_of
from evals.intervals import RESAMPLES, Interval, blind_spot, percentiles
from evals.overall import draw_all
from evals.records import Record


@dataclass(frozen=True, slots=True)
class Crossed:
    """Base and trained model, each under both ways of being asked. Over rows that all four have."""

    rows: int
    cells: Mapping[str, float]
    """"base, own prompt", "base, trained prompt", "trained, base prompt", "trained, own prompt"."""
    ability: Interval
    """What training adds under the same prompt: mean over both prompts."""
    format: Interval
    """What the trained model's prompt adds to the same model: mean over both models."""
    interaction: Interval
    """How much more training adds under the prompt it was trained with."""


CELLS = (
    "base, own prompt",
    "base, trained prompt",
    "trained, base prompt",
    "trained, own prompt",
)


def crossed(
    benchmark: Benchmark,
    cells: Sequence[Sequence[Record]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Crossed | None:
    """The 2 x 2 table of four runs in the order of `CELLS`; None where no row is in all four, or
    nothing that counts is whole in them.

    Raises ValueError where there are not four.
    """
    if len(cells) != len(CELLS):
        raise ValueError(f"{len(cells)} runs; a table of 2 x 2 has {len(CELLS)}")
    scores = [scores_of(records) for records in cells]
    records = {record["row"]: record for record in cells[0]}
    rows = [row for row in scores[0] if all(row in other for other in scores[1:])]
    if not rows:
        return None
    counted = [count_over(benchmark, side, rows, records) for side in scores]
    if not all(side.has_headline() for side in counted):
        return None
    found = draw_all({benchmark.name: counted}, seed=seed, resamples=resamples)[benchmark.name]

    def combined(signs: Sequence[float]) -> Interval:
        point = sum(sign * one.headline for sign, one in zip(signs, found, strict=True))
        draws = sum(sign * one.headlines for sign, one in zip(signs, found, strict=True))
        # Half of the signs are of differences between the same rows.
        most = sum(map(abs, signs)) / 2
        off = most * blind_spot(np.asarray(draws), found[0].clusters)
        return percentiles(point, np.asarray(draws), unseen=off, lowest=-most, highest=most)

    return Crossed(
        rows=len(rows),
        cells={name: one.headline for name, one in zip(CELLS, found, strict=True)},
        ability=combined((-0.5, -0.5, 0.5, 0.5)),
        format=combined((-0.5, 0.5, -0.5, 0.5)),
        interaction=combined((1, -1, -1, 1)),
    )
