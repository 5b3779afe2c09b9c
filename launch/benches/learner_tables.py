"""What `bench.py learner` prints: ratios first, then a line per batch, then a step by its parts."""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from engine.learner.costs import model_shape
from engine.learner.families import family_of
from launch.benches import flops
from launch.benches.learner import OURS, OWN, TRL, Result, Spent
from launch.benches.learner_worker import PARTS
from launch.benches.render import Ratio

Seconds = Callable[[Spent], float]


def print_all(results: Sequence[Result], model: Path, options: argparse.Namespace) -> None:
    """All tables of one run."""
    is_cpu = options.device == "cpu"
    dtype = torch.float32 if is_cpu else family_of(model).dtype
    kind = "processor" if is_cpu else "wall"

    def seconds(spent: Spent) -> float:
        return spent.cpu_s if is_cpu else spent.wall_s

    print(
        f"{options.size or model.name}, {model_shape(model).params / 1e6:.1f} M parameters, "
        f"{options.device}, {options.threads} threads, {str(dtype).removeprefix('torch.')}; "
        f"{options.rounds} rounds of {options.steps} steps, {kind} seconds\n"
        f"{results[0].versions}\n"
    )
    for ratio in ratios(results, seconds):
        print(ratio)
    _print_batches(results, seconds)
    _print_parts(results)
    _print_utilisation(results, seconds, *flops.peak(options.device, dtype))


def ratios(results: Sequence[Result], seconds: Seconds) -> list[Ratio]:
    """The numbers that count, over all batches: times as medians of ratios within a round."""
    others = [name for name in (TRL, OWN) if name in results[0].memory]
    found = []
    for other in others:
        goal = 1.5
        found.append(
            Ratio(f"{other} / ours, seconds of a step", speed(results, other, seconds), goal)
        )
    if TRL in others:
        wall = speed(results, TRL, lambda spent: spent.wall_s)
        found.append(Ratio("TRL / ours, on the wall", wall))
        growth = max(r.memory[OURS].growth / r.memory[TRL].growth for r in results)
        peak = max(r.memory[OURS].peak / r.memory[TRL].peak for r in results)
        found.append(Ratio("ours / TRL, growth of memory by training", growth, 1.0, at_most=True))
        found.append(Ratio("ours / TRL, peak memory of the process", peak, 1.0, at_most=True))
    return found


def speed(results: Sequence[Result], other: str, seconds: Seconds) -> float:
    """How many times longer `other` takes for a step on every batch, median over the rounds."""
    rounds = zip(*(result.rounds for result in results), strict=True)
    return statistics.median(
        sum(seconds(one[other]) for one in batches) / sum(seconds(one[OURS]) for one in batches)
        for batches in rounds
    )


def _print_batches(results: Sequence[Result], seconds: Seconds) -> None:
    print(
        f"\n{'batch':<10}{'rollouts':>9}{'tokens':>8}  {'trainer':<18}{'setting':>8}"
        f"{'tokens/s':>10}{'TRL / ours':>12}{'MB before':>11}{'growth':>8}"
    )
    for result in results:
        for name, held in result.memory.items():
            per_step = statistics.median(seconds(one[name]) for one in result.rounds)
            ratio = "" if name == OURS else f"{speed([result], name, seconds):.2f}"
            print(
                f"{result.batch:<10}{result.rollouts:>9}{result.tokens:>8}  {name:<18}"
                f"{result.settings[name]:>8}{result.tokens / per_step:>10.0f}{ratio:>12}"
                f"{held.before:>11.0f}{held.growth:>8.0f}"
            )
    worst = max(result.disagreement for result in results)
    print(
        "setting: tokens per micro-batch (ours), rows per micro-batch (TRL), the fastest tried\n"
        f"first steps: loss and gradient norm agree to {worst:.0e} (relative)"
    )


def _print_parts(results: Sequence[Result]) -> None:
    print(f"\n{'milliseconds of a step (wall)':<32}" + "".join(f"{r.batch:>11}" for r in results))
    for part in PARTS:
        print(f"{part:<32}" + "".join(f"{1000 * r.parts[part]:>11.1f}" for r in results))


def _print_utilisation(results: Sequence[Result], seconds: Seconds, peak: float, what: str) -> None:
    """FLOPs needed (`flops.py`) per second, as a share of what the device could do."""
    print(f"\nneeded FLOPs per second, of {peak / 1e9:.0f} G/s ({what})")
    for name in results[0].memory:
        shares = []
        for result in results:
            per_step = statistics.median(seconds(one[name]) for one in result.rounds)
            shares.append(result.flops / per_step / peak)
        print(f"{name:<32}" + "".join(f"{100 * share:>10.1f}%" for share in shares))
