"""The learner: sampled tokens trained per second, against TRL's GRPO trainer.

Both train the same folder on the same stored rollouts (`rollouts.py`): float32 on a CPU, one
update per step, AdamW, token-level loss, importance weights to the sampler capped at 2, no KL.
Their losses and gradient norms at the first step must agree to 1e-3, else nothing is measured.
Generation and rewards are no part of it. Each lives in a process of its own, and they take turns;
a round is some steps of each. On a CPU a second is one of processor time (one thread by default).

Ours is measured from groups as the engine sends them. TRL (`trl_grpo.py`) gets prompts expanded
and pictures decoded; its best setting is searched: rows per micro-batch, without activation
checkpointing. GRPOTrainer has no padding-free mode; Liger's kernels need Triton, hence a GPU;
torch_compile took 4 minutes to compile on two cores, and its steps were 1.5 to 2 times slower.

  TRL               importance weights handed to it ready-made
  TRL, own forward  as it trains from a sampler of its own: one more forward pass for them

TRL's environment: `make .venv-trl/.installed`. `--size 2b --device cuda` makes up a random model
and rollouts of the lengths that are asked for.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.benches.turns import ROOT, Worker

_MODEL = ROOT / "launch" / "tiny_base_model"
_ROWS = (4, 8, 16, 32)
_BUDGETS = (2048, 8192, 32768)
_AGREEMENT = {"cpu": 1e-3, "cuda": 3e-2}
"""Largest relative difference of losses and gradient norms: rounding in float32, in bfloat16."""
OURS, TRL, OWN = "ours", "TRL", "TRL, own forward"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py learner`."""
    add = parser.add_argument
    add("--trl-python", default=str(ROOT / ".venv-trl" / "bin" / "python"))
    add("--alone", action="store_true", help="ours only, where TRL is not at hand")
    add("--no-own", action="store_true", help=f"without {OWN!r}: a GPU may not hold three models")
    add("--rounds", type=int, default=7)
    add("--steps", type=int, default=3, help="of each trainer in a round")
    add("--threads", type=int, default=1)
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--rows", type=int, nargs="+", default=_ROWS, help="TRL's micro-batches to try")
    add("--budgets", type=int, nargs="+", default=_BUDGETS, help="ours, in tokens")
    add("--seed", type=int, default=0)
    add("--games", type=int, default=3, help="of the quickstart, that make the batches")
    made_up = parser.add_argument_group("made-up rollouts, for a model of another size")
    add = made_up.add_argument
    add("--model", type=Path, help="a folder of Qwen3-VL's architecture")
    add("--size", choices=("60m", "2b", "8b"), help="random weights in place of --model")
    add("--layers", type=int, default=0, help="keep so many decoder layers of --size")
    add("--pictures", type=int, default=8, help="two prompts each")
    add("--prompts", type=int, default=16, help="without a picture")
    add("--samples", type=int, default=8, help="rollouts of each prompt")
    add("--prompt-tokens", type=int, default=128)
    add("--answer-tokens", type=int, default=256)
    add("--side", type=int, default=448, help="pixels")


@dataclass(frozen=True, slots=True)
class Spent:
    """Of one trainer in one round, per step."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Held:
    """MB before the first step, and at most later."""

    before: float
    peak: float

    @property
    def growth(self) -> float:
        return self.peak - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One batch, measured. Keys are the trainers."""

    batch: str
    rollouts: int
    tokens: int
    """Sampled ones."""
    flops: float
    """Needed by a step."""
    settings: Mapping[str, int]
    rounds: Sequence[Mapping[str, Spent]]
    memory: Mapping[str, Held]
    disagreement: float
    """Of loss and gradient norm at the first step, the larger relative difference."""
    versions: str
    """Of the libraries of the last trainer."""
    parts: Mapping[str, float]
    """Seconds of a step of ours."""


def run(options: argparse.Namespace) -> None:
    """Make the batches, measure each, and print the tables."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    if not options.alone and not Path(options.trl_python).exists():
        raise SystemExit(
            f"{options.trl_python}: no such Python; `make .venv-trl/.installed` makes TRL's "
            "environment, --alone measures ours only"
        )
    from launch.benches import learner_tables

    with tempfile.TemporaryDirectory() as folder:
        model, batches = _make(Path(folder), options)
        results = [
            _measure(Case(options, model, Path(folder) / name, tokens, rollouts, flops))
            for name, (rollouts, tokens, flops) in batches.items()
        ]
        learner_tables.print_all(results, model, options)


def _make(folder: Path, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The model, and {batch: (rollouts, sampled tokens, FLOPs needed)} of what lies in `folder`."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from engine.learner.costs import model_shape
    from engine.learner.families import family_of
    from launch.benches import flops, random_model, rollouts

    torch.set_num_threads(options.threads)
    disable_progress_bar()
    if options.size:
        model = random_model.make(
            folder / "model", options.size, side=options.side, layers=options.layers,
            seed=options.seed, device=options.device,
        )  # fmt: skip
    else:
        model = options.model or _MODEL
    if model == _MODEL:
        made = rollouts.played(model, games=options.games, seed=options.seed)
    else:
        shape = rollouts.Shape(
            pictures=options.pictures, prompts=options.prompts, samples=options.samples,
            prompt_tokens=options.prompt_tokens, answer_tokens=options.answer_tokens,
            side=options.side,
        )  # fmt: skip
        made = rollouts.made_up(model, shape, seed=options.seed, device=options.device)
    rollouts.write(made, folder, model)
    measure, size = family_of(model).measure, model_shape(model)
    found = {}
    for name, groups in made.items():
        answers = [rollout.token_ids for group in groups for rollout in group.rollouts]
        needs = flops.needed(groups, size, measure)
        found[name] = (len(answers), sum(map(len, answers)), needs)
    return model, found


@dataclass(frozen=True, slots=True)
class Case:
    """A batch in its two files, and how it is to be measured."""

    options: argparse.Namespace
    model: Path
    path: Path
    """Without a suffix."""
    tokens: int
    rollouts: int
    flops: float

    def start(self, trainer: str, setting: int) -> Worker:
        options = self.options
        common = ["--device", options.device]
        if trainer == OURS:
            command = ["-m", "launch.benches.learner_worker", str(self.model)]
            command += [f"{self.path}.groups", "--budget", str(setting), *common]
            return Worker(sys.executable, command, threads=options.threads)
        command = [str(ROOT / "launch" / "benches" / "trl_grpo.py"), str(self.model)]
        command += [f"{self.path}.safetensors", "--rows", str(setting), *common]
        command += ["--weights", "own" if trainer == OWN else "given"]
        return Worker(options.trl_python, command, threads=options.threads)

    def candidates(self, trainer: str) -> list[int]:
        """Settings to try: token budgets of ours; of TRL's rows those that divide, and all."""
        if trainer == OURS:
            return list(self.options.budgets)
        rows = {rows for rows in self.options.rows if self.rollouts % rows == 0}
        return sorted(rows | {self.rollouts})

    def seconds(self, spent: Spent) -> float:
        return spent.cpu_s if self.options.device == "cpu" else spent.wall_s


def _measure(case: Case) -> Result:
    options = case.options
    trainers = [OURS] if options.alone else [OURS, TRL] if options.no_own else [OURS, TRL, OWN]
    settings = {name: _best(case, name) for name in trainers if name != OWN}
    if OWN in trainers:
        settings[OWN] = settings[TRL]
    workers = {name: case.start(name, settings[name]) for name in trainers}
    try:
        firsts = {name: worker.turn() for name, worker in workers.items()}
        gap = disagreement(firsts, at_most=_AGREEMENT[options.device])
        rounds: list[dict[str, Spent]] = []
        peaks = {name: first["peak"] for name, first in firsts.items()}
        for number in range(options.rounds):
            rounds.append({})
            # The first of a round is the last of the next one.
            for name in trainers if number % 2 == 0 else trainers[::-1]:
                spent, peak = _turn(workers[name], options.steps)
                rounds[-1][name] = spent
                peaks[name] = max(peaks[name], peak)
        parts = [workers[OURS].turn("parts") for _ in range(options.steps)]
        memory = {name: Held(workers[name].began["held"], peaks[name]) for name in trainers}
    finally:
        for worker in workers.values():
            worker.close()
    return Result(
        batch=case.path.name,
        rollouts=case.rollouts,
        tokens=case.tokens,
        flops=case.flops,
        settings=settings,
        rounds=rounds,
        memory=memory,
        disagreement=gap,
        versions=workers[trainers[-1]].began["versions"],
        parts={name: statistics.median(part[name] for part in parts) for name in parts[0]},
    )


def _best(case: Case, trainer: str) -> int:
    """The fastest setting, each tried for one turn after a step to warm up."""
    candidates = case.candidates(trainer)
    if len(candidates) == 1:
        return candidates[0]
    found: dict[int, float] = {}
    failed = ""
    for setting in candidates:
        worker = case.start(trainer, setting)
        try:
            worker.turn()
            found[setting] = case.seconds(_turn(worker, case.options.steps)[0])
        except SystemExit as error:  # out of memory, for one
            failed = str(error)
        finally:
            worker.close()
    if not found:
        raise SystemExit(failed)
    return min(found, key=lambda setting: found[setting])


def _turn(worker: Worker, steps: int) -> tuple[Spent, float]:
    """(seconds per step, peak in MB) of `steps` steps."""
    reports = [worker.turn() for _ in range(steps)]
    wall_s, cpu_s = (
        sum(report[name] for report in reports) / steps for name in ("wall_s", "cpu_s")
    )
    return Spent(wall_s, cpu_s), max(report["peak"] for report in reports)


def disagreement(firsts: Mapping[str, Mapping[str, float]], *, at_most: float) -> float:
    """The largest relative difference between any two first steps, of loss or gradient norm.

    Raises SystemExit where it is above `at_most`: then times would compare different things.
    """
    pairs = itertools.combinations(firsts.values(), 2)
    gaps = [
        abs(one[name] - other[name]) / abs(other[name])
        for one, other in pairs
        for name in ("loss", "grad_norm")
    ]
    worst = max(gaps, default=0.0)
    if worst > at_most:
        raise SystemExit(f"the trainers compute different things: {dict(firsts)}")
    return worst
