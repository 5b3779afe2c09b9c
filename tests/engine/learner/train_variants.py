"""Ranks of a learner group that train with each option, as processes; used by test_variants.py.

python -m tests.engine.learner.train_variants BASE OUT STORE_PORT

The weights of VARIANT are left in OUT/VARIANT. Prints the exit codes of its ranks, a line each.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from engine.learner import sharding
from engine.learner.config import LearnerConfig, LoraConfig
from engine.learner.trainer import PolicyTrainer, load_reference
from engine.types import Group
from tests.engine.learner.learner_data import make_group
from tests.engine.learner.ranks import fork_ranks

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
    "anchored": LearnerConfig.model_validate(
        COMMON | {"objective": {"mask_band": None, "kl_beta": 0.5, "reference_steps": 2}}
    ),
}
WORLDS = {"plain": 2, "hsdp": 4, "lora": 2, "frugal": 2, "anchored": 2}
"""Ranks of each variant."""
SHARD = {"hsdp": 2}
"""Variants that replicate copies of so many ranks; otherwise like `plain`."""


def config_of(variant: str) -> LearnerConfig:
    return VARIANTS.get(variant, VARIANTS["plain"])


def batches(policy: str) -> list[list[Group]]:
    """Pictures on some ranks only; one prompt and picture for several micro-batches of one rank
    and one of another; text only."""
    first = 0 if policy == "solver" else 500
    return [
        [make_group(first + i, num_images=i % 2, policy=policy) for i in range(5)],
        [make_group(first + 20, num_rollouts=30, num_images=1, policy=policy)],
        [make_group(first + 30 + i, policy=policy) for i in range(4)],
    ]


def run(base: Path, variant: str, policies: tuple[str, ...]) -> dict[str, PolicyTrainer]:
    """Three steps of each policy, taking turns."""
    mesh = sharding.world_mesh(torch.device("cpu"), SHARD.get(variant))
    cfg = config_of(variant)
    trainers = {
        policy: PolicyTrainer(
            policy,
            base,
            cfg,
            total_steps=9,
            mesh=mesh,
            reference=load_reference(base, mesh=mesh) if cfg.objective.needs_reference else None,
        )
        for policy in policies
    }
    for step in range(3):
        for policy, trainer in trainers.items():
            report = trainer.step(batches(policy)[step])
            assert not report.skipped, report
            trainer.rest()
    return trainers


def run_rank(base: Path, out: Path, variant: str, rank: int) -> None:
    for policy, trainer in run(base, variant, ("solver", "coder")).items():
        weights = dict(trainer.named_weights())
        if rank == WORLDS[variant] - 1:
            out.mkdir(exist_ok=True)
            save_file(weights, out / f"{policy}.safetensors")


def main() -> None:
    base, out, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for variant, world in WORLDS.items():

        def work(rank: int, variant: str = variant) -> None:
            run_rank(base, out / variant, variant, rank)

        print(variant, *fork_ranks(world, port, variant, work), flush=True)


if __name__ == "__main__":
    main()
