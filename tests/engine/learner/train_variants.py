"""Ranks of a learner group that train with some option, as processes; used by test_variants.py.

python -m tests.engine.learner.train_variants BASE OUT RANK WORLD STORE_PORT VARIANT
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from engine.learner import sharding
from engine.learner.config import LearnerConfig, LoraConfig
from engine.learner.trainer import PolicyTrainer
from engine.types import Group
from tests.engine.learner.learner_data import make_group

COMMON = {
    "lr": 1e-3,
    "weight_decay": 0,
    "tokens_per_micro_batch": 60,
    "max_gap": 100,  # the data are random
    "objective": {"mask_band": None},
}
VARIANTS: dict[str, LearnerConfig] = {
    "plain": LearnerConfig.model_validate(COMMON),
    "lora": LearnerConfig.model_validate(COMMON | {"lora": LoraConfig(rank=4, alpha=8)}),
    "frugal": LearnerConfig.model_validate(
        COMMON | {"activation_checkpointing": True, "offload_optimizer": True}
    ),
}
SHARD = {"hsdp": 2}
"""Variants that replicate copies of so many ranks; otherwise like `plain`."""


def config_of(variant: str) -> LearnerConfig:
    return VARIANTS.get(variant, VARIANTS["plain"])


def batches(policy: str) -> list[list[Group]]:
    """Pictures on some ranks only; one prompt for all ranks; text only."""
    first = 0 if policy == "solver" else 500
    return [
        [make_group(first + i, num_images=i % 2, policy=policy) for i in range(5)],
        [make_group(first + 20, num_images=1, policy=policy)],
        [make_group(first + 30 + i, policy=policy) for i in range(4)],
    ]


def run(base: Path, variant: str, policies: tuple[str, ...]) -> dict[str, PolicyTrainer]:
    """Three steps of each policy, taking turns."""
    mesh = sharding.world_mesh(torch.device("cpu"), SHARD.get(variant))
    trainers = {
        policy: PolicyTrainer(policy, base, config_of(variant), total_steps=9, mesh=mesh)
        for policy in policies
    }
    for step in range(3):
        for policy, trainer in trainers.items():
            report = trainer.step(batches(policy)[step])
            assert not report.skipped, report
            trainer.rest()
    return trainers


def main() -> None:
    base, out = Path(sys.argv[1]), Path(sys.argv[2])
    rank, world, port = map(int, sys.argv[3:6])
    variant = sys.argv[6]
    torch.set_num_threads(1)
    patience = timedelta(seconds=180)  # four ranks may share two busy cores
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=patience)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
    for policy, trainer in run(base, variant, ("solver", "coder")).items():
        weights = dict(trainer.named_weights())
        if rank == world - 1:
            save_file(weights, out / f"{policy}.safetensors")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
