"""A run that was interrupted and resumed ends with the weights of one that was not."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.admission import AdmissionRules, StreamRule
from engine.buckets import checksums
from engine.buffer import Buffer
from engine.conservation import violations
from engine.learner import checkpoint, checkpoint_writer
from engine.learner.config import LearnerConfig
from engine.learner.presets import ObjectiveConfig
from engine.learner.trainer import PolicyTrainer
from engine.types import Group, Segment
from tests.engine.fakes import FakeLearner, FakeRun, make_rollout

BASE = Path(__file__).resolve().parents[2] / "launch/tiny_base_model"
STEPS = 5
RULES = AdmissionRules(
    streams={"a": StreamRule(policy="a", max_age=0)}, games_per_step=2, total_steps=STEPS
)


@dataclass(slots=True, kw_only=True)
class TrainingLearner(FakeLearner):
    """Trains the tiny base for real, and saves every second step."""

    trainer: PolicyTrainer
    folder: Path

    def learn(self, policy: str, request: int, groups: list[Group]) -> bool:
        report = self.trainer.step(groups)
        if report.step % 2 == 0:
            checkpoint_writer.save(self.folder, self.trainer, base=BASE, meta={"request": request})
        return report.skipped


def scripted_games() -> Callable[[FakeRun, int, Callable[[Group], None]], object]:
    """The k-th game at a step is always the same; which number it has does not matter."""
    started: Counter[int] = Counter()

    async def play(run: FakeRun, game: int, submit: Callable[[Group], None]) -> None:
        while not (version := run.servers["a"].version):
            await asyncio.sleep(0)
        step = run.buffer.ledger.find("a", version).step
        rng = random.Random(1000 * step + started[step])
        started[step] += 1
        rollouts = tuple(
            make_rollout(
                "a",
                prompt_ids=tuple(rng.randrange(20, 500) for _ in range(6)),
                token_ids=tuple(rng.randrange(20, 500) for _ in range(4)),
                logprobs=tuple(-5 * rng.random() for _ in range(4)),
                segments=(Segment(0, version),),
            )
            for _ in range(3)
        )
        submit(Group(stream="a", game=game, rollouts=rollouts, rewards=(0.0, 0.5, 1.0)))

    return play


def make_run(folder: Path, buffer: Buffer, **learner: int) -> FakeRun:
    cfg = LearnerConfig(
        lr=1e-3, lr_decay="linear", objective=ObjectiveConfig(mask_band=None), max_gap=100
    )
    trainer = PolicyTrainer("a", BASE, cfg, total_steps=STEPS, seed=3)
    restored = {}
    newest, warnings = checkpoint.latest_valid(folder / "checkpoints")
    assert not warnings
    if newest is not None:
        meta = checkpoint.load(newest, trainer)
        restored["a"] = (trainer.step_count, int(meta["request"]))
    fake = TrainingLearner(
        f"ipc://{folder}/engine.sock",
        ("a",),
        random.Random(0),
        restored,
        trainer=trainer,
        folder=folder / "checkpoints",
        **learner,
    )
    return FakeRun(buffer=buffer, rules=RULES, folder=folder, play=scripted_games(), learner=fake)


async def until_the_learner_dies(run: FakeRun) -> None:
    engine = asyncio.create_task(run.run())
    assert await asyncio.to_thread(run.learner.is_gone.wait, 60.0)
    engine.cancel()
    with pytest.raises(asyncio.CancelledError):
        await engine


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    weights = []
    for name, deaths in (("whole", []), ("broken", [3, 2])):
        folder = tmp_path / name
        folder.mkdir()
        buffer = Buffer.open(folder / "run.db")
        for batches in deaths:  # dies after steps 3 and 4, resumes from 2 and 4
            asyncio.run(until_the_learner_dies(make_run(folder, buffer, die_after=batches)))
        run = make_run(folder, buffer)
        asyncio.run(asyncio.wait_for(run.run(), 60.0))
        counts = buffer.counts()
        assert not violations(counts)
        assert counts["groups"]["a"]["trained"] == 2 * STEPS, "each group once in the lineage"
        assert isinstance(run.learner, TrainingLearner)
        weights.append(checksums(run.learner.trainer.named_weights()))
        buffer.close()
    assert weights[0] == weights[1]
    base = PolicyTrainer("a", BASE, LearnerConfig(), total_steps=1)
    assert weights[0] != checksums(base.named_weights()), "something was learnt"
