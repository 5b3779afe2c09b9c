"""What off-policy correction is worth: accuracy by the age of the data, with and without it.

Every batch is exactly `age` steps old (`forced_age.py`), so that a run repeats to the bit.
A finished run is one JSON line of the output file; runs that the file has are not made again.
At age 0 sampler and learner have the same weights: the variants are one, and run once.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from engine.learner.config import LearnerConfig
from engine.learner.presets import ObjectiveConfig
from launch.panels import Panel, chart

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "none": {
        **{"proximal": "current", "weight_bounds": None, "mask_band": None},
        **{"eps_low": None, "eps_high": None, "dual_clip": None},
    },
    "grpo": {
        **{"proximal": "sampler", "weight_bounds": None, "mask_band": None},
        **{"eps_high": 0.2, "dual_clip": None},
    },
    "decoupled": {},
}
"""What each sets in `ObjectiveConfig`. none: stale data as if it were fresh; grpo: the clip is
around the sampler; decoupled: the default, truncated weights and a mask of rollouts."""
COLLAPSE = 0.1
"""A run collapsed if its accuracy ever fell by more below what it had been."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Plan:
    """One run."""

    lr: float
    age: int
    variant: str
    seed: int
    steps: int

    def learner(self) -> LearnerConfig:
        """The quickstart's, but for the learning rate and the objective.

        The guard against batches that are far from the policy is off: it would skip just what the
        objective has to cope with here.
        """
        return LearnerConfig(
            objective=ObjectiveConfig(**VARIANTS[self.variant]),
            lr=self.lr,
            lr_decay="linear",
            betas=(0.9, 0.99),
            weight_decay=0.0,
            max_gap=1e6,
            tokens_per_micro_batch=2048,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run's record says. Accuracies are held-out, at temperature 1."""

    final: float
    best: float
    fall: float
    """Largest fall below an earlier measurement of the run."""
    ess: float
    """Mean over the steps; `least_ess`: of the worst one."""
    least_ess: float
    masked: float
    """Mean share of tokens lost to the mask of rollouts."""
    grad_norm: float
    largest_grad_norm: float

    @classmethod
    def of(cls, record: Record) -> "Outcome":
        accuracies = [accuracy for _, accuracy in record["curve"]]
        values = {
            key: [step[key] for step in record["steps"] if key in step] or [math.nan]
            for key in ("ess", "masked_fraction", "grad_norm")
        }
        return cls(
            final=accuracies[-1],
            best=max(accuracies),
            fall=largest_fall(accuracies),
            ess=statistics.fmean(values["ess"]),
            least_ess=min(values["ess"]),
            masked=statistics.fmean(values["masked_fraction"]),
            grad_norm=statistics.fmean(values["grad_norm"]),
            largest_grad_norm=max(values["grad_norm"]),
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py staleness`."""
    parser.add_argument("--ages", type=int, nargs="+", default=[0, 2, 8, 32])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--lrs", type=float, nargs="+", default=[1e-5, 3e-4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/staleness.jsonl"))
    parser.add_argument("--chart", type=Path, help="write the plot here, as SVG")


def run(options: argparse.Namespace) -> None:
    """Make the runs that are missing, then print the table of all that were asked for."""
    wanted, found = plans(options), read(options.out)
    missing = [plan for plan in wanted if plan not in found]
    if missing:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        make(missing, options.out)
        found = read(options.out)
    outcomes = {plan: Outcome.of(found[plan]) for plan in wanted}
    print(table(outcomes))
    if options.chart is not None:
        options.chart.write_text(chart(panels(outcomes), "age of the data, steps"))


def plans(options: argparse.Namespace) -> list[Plan]:
    """The runs that the command line asks for; seeds outermost, so that a part of them is fair."""
    asked = product(options.seeds, options.lrs, options.ages, options.variants)
    return list(
        dict.fromkeys(
            Plan(lr, age, variant if age else "none", seed, options.steps)
            for seed, lr, age, variant in asked
        )
    )


def make(missing: Sequence[Plan], out: Path) -> None:
    """Run them, one line of `out` each."""
    # Not before a run is needed: a finished study is tabled without torch.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from launch.benches import forced_age

    torch.set_num_threads(1)
    disable_progress_bar()
    for number, plan in enumerate(missing, start=1):
        scale = forced_age.Scale(steps=plan.steps)
        record = forced_age.run(plan.learner(), age=plan.age, seed=plan.seed, scale=scale)
        with out.open("a") as file:
            file.write(json.dumps({"plan": asdict(plan), **record}) + "\n")
        accuracies = " ".join(f"{accuracy:.3f}" for _, accuracy in record["curve"])
        print(f"{number}/{len(missing)} {plan}: {accuracies}", file=sys.stderr, flush=True)


def read(out: Path) -> dict[Plan, Record]:
    """The finished runs of a file, if there is one. A line that a kill cut off is no run."""
    found: dict[Plan, Record] = {}
    for line in out.read_text().splitlines() if out.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[Plan(**record["plan"])] = record
    return found


def largest_fall(values: Sequence[float]) -> float:
    """By how much a value lies below an earlier one, at most; 0 where none does."""
    highest, fall = values[0], 0.0
    for value in values:
        highest = max(highest, value)
        fall = max(fall, highest - value)
    return fall


Cell = tuple[float, int, str]
"""Learning rate, age, variant."""


def by_cell(outcomes: Mapping[Plan, Outcome]) -> dict[Cell, list[Outcome]]:
    """The seeds of each cell, in the order of the plans."""
    cells: dict[Cell, list[Outcome]] = {}
    for plan, outcome in outcomes.items():
        cells.setdefault((plan.lr, plan.age, plan.variant), []).append(outcome)
    return cells


def table(outcomes: Mapping[Plan, Outcome]) -> str:
    """Markdown; one row per cell, mean +- standard deviation over its seeds."""
    lines = [
        "| lr | age | variant | final | best | largest fall | collapsed | ESS (least) | masked "
        "| gradient norm (largest) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (lr, age, variant), seeds in by_cell(outcomes).items():
        collapsed = sum(seed.fall > COLLAPSE for seed in seeds)
        cells = [
            f"{lr:g}",
            str(age),
            variant if age else "all",
            _spread([seed.final for seed in seeds]),
            _spread([seed.best for seed in seeds]),
            _spread([seed.fall for seed in seeds]),
            f"{collapsed} of {len(seeds)}",
            f"{_mean(seeds, 'ess'):.3f} ({min(seed.least_ess for seed in seeds):.3f})",
            f"{_mean(seeds, 'masked'):.1%}",
            f"{_mean(seeds, 'grad_norm'):.2f} ({max(s.largest_grad_norm for s in seeds):.1f})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(seeds: Sequence[Outcome], field: str) -> float:
    return statistics.fmean(getattr(seed, field) for seed in seeds)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} +- {statistics.stdev(values):.3f}"


MEASURES: Mapping[str, Callable[[Outcome], float]] = {
    "final accuracy": lambda outcome: outcome.final,
    "largest fall of accuracy": lambda outcome: outcome.fall,
}


def panels(outcomes: Mapping[Plan, Outcome]) -> Iterator[Panel]:
    """A panel per measure and learning rate; the fresh run begins the line of every variant."""
    cells = by_cell(outcomes)
    lrs = sorted({lr for lr, _, _ in cells})
    for (title, measure), lr in product(MEASURES.items(), lrs):
        here = sorted(
            (age, name, seeds) for (rate, age, name), seeds in cells.items() if rate == lr
        )
        lines: dict[str, dict[int, list[float]]] = {}
        for variant in VARIANTS:
            is_run = any(name == variant and age for age, name, _ in here)
            lines[variant] = {
                age: [measure(seed) for seed in seeds]
                for age, name, seeds in here
                if is_run and (name == variant or age == 0)
            }
        yield Panel(title, lines, f"learning rate {lr:g}")
