"""One training run on data of a forced age: the batch of step t is by the weights of step t - age.

In a real run the age of a batch depends on the machine's timing. Here one process and one thread
take turns in sampling and training, so that a run repeats to the bit. What is trained is the solver
of the tiny base, on scenes whose answers are known; what is measured is its accuracy on held-out
ones. Sampler, grader, reward and learner are the real ones.
"""

import base64
import io
import itertools
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.encoding import TextEncoder
from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer
from engine.servers.embedded.images import ImageReader
from engine.servers.embedded.request import Progress, Request, Sampling
from engine.servers.embedded.scheduler import Limits
from engine.servers.embedded.served import ServedModel
from engine.types import Group, Rollout, SamplingParams, Segment
from evals.heldout import heldout_items
from evals.scenes import language
from evals.scenes.drawing import to_svg
from evals.scenes.language import Question
from evals.scenes.scene import Scene, scene_hash
from evals.scenes.splits import scenes
from launch.pretraining.pictures import render
from rewards.grading import equal
from rewards.solver import solver_reward
from roles.mm_zero.parsing import parse_answer
from roles.mm_zero.prompts import load_prompts

MODEL = Path(__file__).resolve().parents[1] / "tiny_base_model"
ROLLOUTS = 8
"""Answers to a question, as the quickstart samples them."""
_MAX_NEW_TOKENS = 64
_SEEDS_APART = 2**24
_LIMITS = Limits(
    max_running_requests=128, max_total_tokens=65_536, context_length=512, max_queued_requests=10**6
)

Weights = list[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a run is."""

    steps: int
    scenes_per_step: int = 4
    """Each with an easy and a hard question, hence 8 groups: half the quickstart's batch."""
    eval_every: int = 16
    heldout_scenes: int = 75
    """An easy and a hard question each."""
    heldout_samples: int = 2


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a picture, and its true answer."""

    png: bytes
    question: Question


class Solver:
    """The sampler of a run: the embedded server's engine, without its server."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self._served = ServedModel(
            folder, _LIMITS, version="0", dtype=torch.float32, device="cpu", seed=seed
        )
        self._encoder = TextEncoder.load(folder)
        self._reader = ImageReader(folder)
        self._prompts = load_prompts("tiny")

    def load(self, weights: Weights) -> None:
        """Sample by these weights from now on."""
        with torch.inference_mode():
            unknown = self._served.scheduler.update_weights(weights)
        assert not unknown, f"weights that the sampler lacks: {unknown}"

    @torch.inference_mode()
    def sample(self, asked: Sequence[Asked], *, n: int, step: int) -> list[tuple[Rollout, ...]]:
        """`n` answers to each question at temperature 1; `step` is that of the weights."""
        found: dict[str, Progress] = {}
        scheduler = self._served.scheduler
        sent: list[tuple[int, ...]] = []
        for number, one in enumerate(asked):
            ids = tuple(self._encoder.encode(self._prompts.solver(one.question.text)))
            pixels = self._reader.read([base64.b64encode(one.png).decode()])
            prompt = self._served.layout.expand(ids, pixels)
            sent.append(ids)
            for i in range(n):
                rid = f"{number}.{i}"
                scheduler.submit(
                    Request(
                        rid=rid,
                        prompt=prompt,
                        pixels=pixels,
                        sampling=Sampling(max_new_tokens=_MAX_NEW_TOKENS),
                        deliver=partial(found.__setitem__, rid),
                    )
                )
        while scheduler.has_work:
            scheduler.step()
            for deliver, progress in scheduler.outbox:
                deliver(progress)
            scheduler.outbox.clear()
        return [
            tuple(self._rollout(sent[k], one.png, found[f"{k}.{i}"], step) for i in range(n))
            for k, one in enumerate(asked)
        ]

    def _rollout(self, ids: tuple[int, ...], png: bytes, progress: Progress, step: int) -> Rollout:
        assert progress.finish is not None
        return Rollout(
            policy="solver",
            role="solver",
            prompt_ids=ids,
            images=(png,),
            token_ids=progress.token_ids,
            logprobs=progress.logprobs,
            segments=(Segment(0, step),),
            finish=progress.finish["type"],
            sampling=SamplingParams(max_new_tokens=_MAX_NEW_TOKENS),
            text=self._encoder.decode(progress.token_ids),
        )


def run(learner: LearnerConfig, *, age: int, seed: int, scale: Scale) -> dict[str, Any]:
    """Train once; {"curve": [[step, accuracy], ...], "steps": [metrics, ...], ...} as JSON data.

    Before step `age` the data are the base's. Groups without signal are left out, as the engine
    does, so batches vary in size; a batch without any is no update, but time goes on.
    """
    trainer = PolicyTrainer("solver", MODEL, learner, total_steps=scale.steps, seed=seed)
    solver = Solver(MODEL, seed=seed)
    examiner = Solver(MODEL, seed=seed)  # so that measuring does not change what is sampled
    heldout = heldout_questions(scale.heldout_scenes)
    questions = training_questions(seed)
    past: deque[Weights] = deque([_snapshot(trainer)], maxlen=age + 1)
    curve = [[0, _accuracy(examiner, heldout, past[-1], scale)]]
    steps: list[dict[str, float]] = []
    started = time.process_time()
    for step in range(scale.steps):
        solver.load(past[0])
        asked = list(itertools.islice(questions, 2 * scale.scenes_per_step))
        sampled = solver.sample(asked, n=ROLLOUTS, step=max(0, step - age))
        groups = [_group(one, rollouts, step) for one, rollouts in zip(asked, sampled, strict=True)]
        report = trainer.step([group for group in groups if group.has_signal])
        rewards = [reward for group in groups for reward in group.rewards]
        steps.append(
            {
                **{key: report.metrics[key] for key in LOGGED if key in report.metrics},
                "reward": sum(rewards) / len(rewards),
                "skipped": float(report.skipped),
            }
        )
        past.append(_snapshot(trainer))
        if (step + 1) % scale.eval_every == 0 or step + 1 == scale.steps:
            curve.append([step + 1, _accuracy(examiner, heldout, past[-1], scale)])
    return {"curve": curve, "steps": steps, "cpu_s": time.process_time() - started}


LOGGED = ("ess", "ratio_max", "k3", "truncated_fraction", "masked_fraction", "entropy", "grad_norm")
"""Of the learner's metrics."""


def training_questions(seed: int) -> Iterator[Asked]:
    """An easy and a hard question about each of endless scenes, none of them held out."""
    for scene in scenes("pretrain", first=(seed + 1) * _SEEDS_APART):
        rng = random.Random(scene_hash(scene))
        png = _png(scene)
        yield Asked(png, language.easy_question(scene, rng))
        yield Asked(png, language.hard_question(scene, rng))


def heldout_questions(count: int) -> list[Asked]:
    """The easy and the hard question about each of `count` held-out scenes."""
    items = heldout_items("heldout", count)
    return [Asked(_png(item.scene), q) for item in items for q in (item.easy, item.hard)]


def _png(scene: Scene) -> bytes:
    file = io.BytesIO()
    render(to_svg(scene)).save(file, "PNG")
    return file.getvalue()


def _snapshot(trainer: PolicyTrainer) -> Weights:
    return [(name, tensor.clone()) for name, tensor in trainer.named_weights()]


def _group(asked: Asked, rollouts: tuple[Rollout, ...], step: int) -> Group:
    """Rewards as in the game, but the label is the truth."""
    answers = [parse_answer(rollout.text) for rollout in rollouts]
    rewards = [
        solver_reward(
            is_correct=equal(answer, asked.question.answer), is_well_formed=answer is not None
        )
        for answer in answers
    ]
    return Group(
        stream="solver",
        game=step,
        rollouts=rollouts,
        rewards=tuple(reward.total for reward in rewards),
    )


def _accuracy(examiner: Solver, heldout: Sequence[Asked], weights: Weights, scale: Scale) -> float:
    """Share of right answers at temperature 1."""
    examiner.load(weights)
    sampled = examiner.sample(heldout, n=scale.heldout_samples, step=0)
    right = [
        equal(parse_answer(rollout.text), one.question.answer)
        for one, rollouts in zip(heldout, sampled, strict=True)
        for rollout in rollouts
    ]
    return sum(right) / len(right)
