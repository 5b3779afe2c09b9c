"""One rank of FSDP2 in bfloat16 on one GPU against the plain trainer on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from engine.learner.config import LearnerConfig
from engine.learner.presets import ObjectiveConfig
from engine.learner.trainer import PolicyTrainer
from engine.types import Group
from tests.contract.asking import learner_logprobs
from tests.contract.test_weight_updates import ONE, TEXT
from tests.engine.learner.learner_data import make_rollout

pytestmark = pytest.mark.gpu

CFG = LearnerConfig(
    lr=1e-4, objective=ObjectiveConfig(mask_band=None), tokens_per_micro_batch=256, max_gap=100
)


@contextmanager
def one_rank() -> Iterator[None]:
    """torch.distributed as torchrun makes it for one process."""
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def batch() -> list[Group]:
    """Text and pictures."""
    groups = []
    for game, (ids, images) in enumerate((TEXT, ONE, TEXT, ONE)):
        rollouts = tuple(
            make_rollout(10 * game + i, prompt_ids=ids, images=images, num_tokens=3 + i)
            for i in range(4)
        )
        groups.append(
            Group(stream="solver", game=game, rollouts=rollouts, rewards=(0.0, 1.0, 0.3, 0.6))
        )
    return groups


def test_a_bf16_step_on_one_gpu_is_the_cpus(bf16_dirs: tuple[Path, Path]) -> None:
    folder, _ = bf16_dirs
    tokens = tuple(range(20, 40))
    with one_rank():
        gpu = PolicyTrainer("solver", folder, CFG, total_steps=2, device="cuda")
        scores = [learner_logprobs(gpu, item, tokens) for item in (TEXT, ONE)]
        before, after = _step(gpu)
    cpu = PolicyTrainer("solver", folder, CFG, total_steps=2)
    for item, theirs in zip((TEXT, ONE), scores, strict=True):
        assert (learner_logprobs(cpu, item, tokens) - theirs).abs().max() < 0.05
    same, expected = _step(cpu)
    assert torch.equal(before, same)
    # Adam's first update has the size of lr and the sign of the gradient; near 0 signs are noise.
    assert torch.cosine_similarity(after - before, expected - same, dim=0) > 0.8


def _step(trainer: PolicyTrainer) -> tuple[torch.Tensor, torch.Tensor]:
    """All weights, flat and float32, before and after a step."""

    def flat() -> torch.Tensor:
        parts = [t.flatten().cpu() for _, t in trainer.named_weights(torch.float32)]
        return torch.cat(parts)

    before = flat()
    assert not trainer.step(batch()).skipped
    after = flat()
    assert after.isfinite().all()
    return before, after
