"""Our learner on a stored batch: a worker of `launch/benches/learner.py`.

A step is `PolicyTrainer.step` on the groups as the engine sends them, decoding included. Told
"parts", it makes a step under stopwatches. They are put around methods of the trainer, its model
and its optimiser from outside, so that the trainer itself has none.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils.logging import disable_progress_bar

from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer
from launch.benches.rollouts import read
from launch.benches.turns import Clock, Turns, forget_peak, memory

PARTS = (
    "prepare",
    "vision tower",
    "decoder",
    "embedding, scoring",
    "backward",
    "optimiser",
    "the rest",
)
"""Of a step. `the rest`: loss, clipping, diagnostics, copying to the device."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("batch", type=Path)
    parser.add_argument("--budget", type=int, required=True, help="tokens_per_micro_batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lr", type=float, default=1e-5)
    options = parser.parse_args()
    turns = Turns()
    disable_progress_bar()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    groups = read(options.batch)
    trainer = PolicyTrainer(
        groups[0].policy,
        options.model,
        LearnerConfig(
            lr=options.lr,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            tokens_per_micro_batch=options.budget,
        ),
        total_steps=1_000_000,
        device=options.device,
    )
    forget_peak(options.device)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    turns.report(versions=versions, **memory(options.device))
    while word := turns.wait():
        if word == "parts":
            turns.report(**parts(trainer, groups))
            continue
        clock = Clock()
        report = trainer.step(groups)
        synchronize(options.device)
        spent = clock.read()
        if report.skipped:
            raise SystemExit(f"the step was skipped: {report.reason}")
        found = {name: report.metrics[name] for name in ("loss", "grad_norm", "micro_batches")}
        turns.report(**found, **spent, **memory(options.device))


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def parts(trainer: PolicyTrainer, groups: list[Any]) -> dict[str, float]:
    """Seconds of one step by part."""
    spent = dict.fromkeys(PARTS, 0.0)
    device = trainer.device.type
    model: Any = trainer.model

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            synchronize(device)
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                synchronize(device)
                spent[name] += time.perf_counter() - started

        return timed

    whole = "embedding, scoring"
    with (
        replaced(trainer, "prepare", watched("prepare", trainer.prepare)),
        replaced(model, "see", watched("vision tower", model.see)),
        replaced(model, "decode", watched("decoder", model.decode)),
        replaced(model, "forward", watched(whole, model.forward)),
        replaced(torch.Tensor, "backward", watched("backward", torch.Tensor.backward)),
        replaced(trainer.optimizer, "step", watched("optimiser", trainer.optimizer.step)),
    ):
        synchronize(device)
        started = time.perf_counter()
        trainer.step(groups)
        synchronize(device)
        total = time.perf_counter() - started
    spent[whole] -= spent["vision tower"] + spent["decoder"]
    spent["the rest"] = total - sum(spent.values())
    return spent


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` meanwhile."""
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


if __name__ == "__main__":
    main()
