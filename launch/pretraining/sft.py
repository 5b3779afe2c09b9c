"""Pre-training: next-token loss on replies, first clean, then with the weak habits.

Every batch is made from (seed, step) alone, so a run can be taken up at any step.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3VLForConditionalGeneration

from evals.scenes.language import easy_question, hard_question
from evals.scenes.scene import Scene
from evals.scenes.splits import scene_of
from launch.pretraining.corpus import CLEAN, WEAK, Example, Rates, Writer
from launch.pretraining.model import Batch, collate, hidden_states
from launch.pretraining.pictures import Tiles


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run."""

    steps: int
    seed: int = 0
    weak_from: float = 0.75
    """Share of the steps after which the habits are added."""
    lr: float = 3e-3
    scenes: int = 24
    """Pictures per step, with two questions each."""
    drawings: int = 12
    proposals: int = 14
    weak: Rates = WEAK

    def rates(self, step: int) -> Rates:
        return self.weak if step >= self.weak_from * self.steps else CLEAN

    def describe_share(self, step: int) -> float:
        """Share of the picture rows that are dense descriptions: what teaches to see."""
        return 0.5 if step < 0.2 * self.steps else 0.2

    def lr_at(self, step: int) -> float:
        """Linear warm-up, then cosine to 2 %."""
        warm = min(1.0, (step + 1) / 100)
        return self.lr * warm * (0.51 + 0.49 * math.cos(math.pi * step / self.steps))


StepExamples = tuple[list[Scene], list[Example], list[Example]]


def step_examples(plan: Plan, step: int, writer: Writer) -> StepExamples:
    """Scenes, two examples about each picture (in order), and text-only examples."""
    rng = random.Random(f"{plan.seed}:{step}")
    rates = plan.rates(step)
    scenes = [scene_of("pretrain", rng) for _ in range(plan.scenes)]
    seeing: list[Example] = []
    for scene in scenes:
        for _ in range(2):
            if rng.random() < plan.describe_share(step):
                seeing.append(writer.description(scene))
            else:
                ask = easy_question if rng.random() < 0.4 else hard_question
                seeing.append(writer.solution(scene, ask(scene, rng), rng, rates))
    reading = [writer.drawing(scene_of("pretrain", rng), rng, rates) for _ in range(plan.drawings)]
    reading += [
        writer.proposal(scene_of("pretrain", rng), rng, rates) for _ in range(plan.proposals)
    ]
    return scenes, seeing, reading


def train(
    model: Qwen3VLForConditionalGeneration,
    writer: Writer,
    plan: Plan,
    *,
    examples: Callable[[Plan, int, Writer], StepExamples] = step_examples,
    resume: Path | None = None,
    save_at: dict[int, Path] | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train in place; returns the loss of each step.

    `examples`: what a step imitates. `save_at` {step: file} keeps the state before that step;
    `resume` is such a file.
    """
    tiles = Tiles()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.lr, betas=(0.9, 0.98), weight_decay=0.0
    )
    first = 0
    if resume is not None:
        state = torch.load(resume, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    model.train()
    losses = []
    for step in range(first, plan.steps):
        if save_at and step in save_at:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step}, save_at[step])
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_at(step)
        scenes, seeing, reading = examples(plan, step, writer)
        shown = [i for i in range(len(scenes)) for _ in range(2)]
        total, weight = _loss(model, seeing, shown, tiles.patches(scenes))
        more, more_weight = _loss(model, reading, [None] * len(reading), torch.empty(0))
        loss = (total + more) / (weight + more_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        on_step(step, losses[-1])
    model.eval()
    return losses


def _loss(
    model: Qwen3VLForConditionalGeneration,
    examples: list[Example],
    pictures: Sequence[int | None],
    patches: torch.Tensor,
) -> tuple[torch.Tensor, float]:
    """Weighted sum of the negative log-probabilities (nats), and the sum of the weights."""
    batch: Batch = collate(
        [example.ids for example in examples],
        pictures,
        patches,
        image_token=model.config.image_token_id,
        pad_token=model.model.language_model.config.pad_token_id,
        pad_left=False,
    )
    weights = np.zeros(batch.ids_BT.shape, np.float32)
    for i, example in enumerate(examples):
        weights[i, : len(example.weights)] = example.weights
    targets_weight = torch.from_numpy(weights)[:, 1:]
    trained = targets_weight > 0
    states = hidden_states(model, batch)[:, :-1][trained]
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(states), batch.ids_BT[:, 1:][trained], reduction="none"
    )
    chosen = targets_weight[trained]
    return (losses * chosen).sum(), float(chosen.sum())


def progress_printer(plan: Plan) -> Callable[[int, float], None]:
    """A line every hundred steps: loss and seconds of this process so far."""
    recent: list[float] = []

    def on_step(step: int, loss: float) -> None:
        recent.append(loss)
        if (step + 1) % 100 == 0:
            mean = sum(recent) / len(recent)
            print(f"step {step + 1}/{plan.steps} loss {mean:.4f} cpu {time.process_time():.0f} s",
                  flush=True)  # fmt: skip
            recent.clear()

    return on_step
