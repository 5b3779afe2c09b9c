"""What a cluster's GPUs do: learner groups and servers, and how learners save memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.learner.config import LearnerConfig, LoraConfig
from launch.planning.server_memory import ServerMemory

LORA_RANK = 32
Sharing = Literal["none", "light", "servers", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What learners do about memory, the same in all groups."""

    tokens: int
    """`learner.tokens_per_micro_batch`."""
    checkpointing: bool = False
    offload: bool = False
    lora: bool = False

    def applied(self, cfg: LearnerConfig) -> LearnerConfig:
        """`cfg` with these settings. Adapters learn at ten times the rate of whole weights."""
        changes: dict[str, object] = {
            "tokens_per_micro_batch": self.tokens,
            "activation_checkpointing": self.checkpointing,
            "offload_optimizer": self.offload,
        }
        if self.lora:
            changes |= {"lora": LoraConfig(rank=LORA_RANK), "lr": float(f"{10 * cfg.lr:.6g}")}
        return cfg.model_copy(update=changes)

    @property
    def text(self) -> str:
        parts = [
            f"LoRA {LORA_RANK}" if self.lora else "all parameters",
            *(["activation checkpointing"] if self.checkpointing else []),
            *(["optimiser offloaded"] if self.offload else []),
        ]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One learner group."""

    policies: tuple[str, ...]
    ranks: int
    shard: int | None = None


def placed(groups: Sequence[Group]) -> Iterator[tuple[Group, int]]:
    """Each with its first rank: from 0 on, the largest first, so that those that fill nodes do."""
    start = 0
    for group in sorted(groups, key=lambda one: -one.ranks):
        yield group, start
        start += group.ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The equal servers of one policy."""

    policy: str
    count: int
    tp: int
    memory: ServerMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Who has which GPUs.

    `sharing`: `none`, every GPU has one job; `light`, one GPU has one server of every policy but
    the busiest, the last of `servers`; `servers`, each server's GPU has one of every policy; `all`,
    each GPU has a learner's rank too, and weights go through files.
    """

    groups: tuple[Group, ...]
    servers: tuple[Servers, ...]
    training: Training
    sharing: Sharing = "none"

    def copies(self, policy: str) -> int:
        """Of its weights, that one rank sends one after the other: the ranks share its servers."""
        (count,) = (one.count for one in self.servers if one.policy == policy)
        (ranks,) = (group.ranks for group in self.groups if policy in group.policies)
        return math.ceil(count / ranks)

    @property
    def learner_gpus(self) -> int:
        return sum(group.ranks for group in self.groups)

    @property
    def server_gpus(self) -> int:
        """That servers have to themselves."""
        if self.sharing == "none":
            return sum(one.count * one.tp for one in self.servers)
        if self.sharing == "light":
            return 1 + self.servers[-1].count
        return self.servers[0].count if self.sharing == "servers" else 0

    @property
    def text(self) -> str:
        """In one line: who has how many GPUs."""
        learners = " | ".join(
            f"{group.ranks} for {' + '.join(group.policies)}" for group in self.groups
        )
        servers = ", ".join(
            f"{one.count}{f' (tp {one.tp})' if one.tp > 1 else ''} {one.policy}"
            for one in self.servers
        )
        if self.sharing == "all":
            return f"learner ranks: {learners}; on the same GPUs servers: {servers}"
        if self.sharing == "light":
            light, heavy = servers.rsplit(", ", 1)
            return f"learner GPUs: {learners}; servers: {heavy}, and on one shared GPU {light}"
        where = f" on {self.server_gpus} shared" if self.sharing == "servers" else ""
        return f"learner GPUs: {learners}; servers{where}: {servers}"
