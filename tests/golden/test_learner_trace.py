"""Twenty steps of the learner on the shipped base: losses and gradient norms as they were recorded.

The rollouts are fixed; their behaviour log-probs are the base's own, so that the data ages while
it trains. Write the record anew after a change that is meant to change it:

    python -m tests.golden.test_learner_trace
"""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer
from engine.types import Group, Rollout, SamplingParams, Segment
from tests.engine.learner.learner_data import make_png

BASE = Path(__file__).parents[2] / "launch" / "tiny_base_model"
RECORD = Path(__file__).with_name("learner_trace.json")
STEPS = 20


def make_group(number: int, image_token: int) -> Group:
    """Four rollouts on one prompt, every other one about a picture."""
    rng = random.Random(number)
    words = [rng.randrange(20, 600) for _ in range(12)]
    has_image = number % 2 == 0
    prompt = (*words[:6], *([image_token] if has_image else []), *words[6:])
    rollouts = []
    for _ in range(4):
        token_ids = tuple(rng.randrange(20, 600) for _ in range(rng.randint(3, 12)))
        rollouts.append(
            Rollout(
                policy="solver",
                role="solver",
                prompt_ids=prompt,
                images=(make_png(number, 96, 96),) if has_image else (),
                token_ids=token_ids,
                logprobs=(0.0,) * len(token_ids),
                segments=(Segment(0, 1),),
                finish="stop",
                sampling=SamplingParams(max_new_tokens=64, temperature=0.9),
                text="",
            )
        )
    rewards = tuple(rng.random() for _ in rollouts)
    return Group(stream="solver", game=number, rollouts=tuple(rollouts), rewards=rewards)


def sampled(trainer: PolicyTrainer, groups: list[Group]) -> list[Group]:
    """The groups with the trainer's log-probs as behaviour log-probs."""
    (part,) = trainer.prepare(groups).parts
    found: dict[int, tuple[float, ...]] = {}
    for batch in part.batches:
        with torch.no_grad():
            logprobs_T, _ = trainer.model(batch)
        for sequence, number in enumerate(batch.rollouts_S.tolist()):
            found[number] = tuple(logprobs_T[batch.sequences_T == sequence].tolist())
    numbers = iter(range(len(found)))
    return [
        replace(
            group, rollouts=tuple(replace(r, logprobs=found[next(numbers)]) for r in group.rollouts)
        )
        for group in groups
    ]


def trace() -> list[dict[str, float]]:
    torch.set_num_threads(1)
    cfg = LearnerConfig(lr=3e-5, lr_decay="linear", weight_decay=0, tokens_per_micro_batch=200)
    trainer = PolicyTrainer("solver", BASE, cfg, total_steps=STEPS)
    image_token = json.loads((BASE / "config.json").read_text())["image_token_id"]
    batches = [
        sampled(trainer, [make_group(4 * i + j, image_token) for j in range(4)]) for i in range(4)
    ]
    rows = []
    for step in range(STEPS):
        metrics = trainer.step(batches[step % len(batches)]).metrics
        rows.append({key: metrics[key] for key in ("loss", "grad_norm", "k3", "entropy")})
    return rows


def test_twenty_steps_are_as_recorded() -> None:
    want, got = json.loads(RECORD.read_text()), trace()
    assert len(want) == len(got) == STEPS
    assert want[-1]["k3"] > 1e-3  # the data did age
    for step, (old, new) in enumerate(zip(want, got, strict=True)):
        assert new == pytest.approx(old, rel=2e-3, abs=2e-5), step


if __name__ == "__main__":
    RECORD.write_text(json.dumps(trace(), indent=1) + "\n")
