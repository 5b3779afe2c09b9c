"""What one rank of a learner group needs to know."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.config import WeightsConfig
from engine.layout import Follower
from engine.learner.config import LearnerConfig
from engine.nodes import LOOPBACK


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """What one rank of a learner group needs to know."""

    policies: tuple[str, ...]
    rank: int
    """Within the group."""
    world: int
    base: Path
    device: Literal["cpu", "cuda"]
    backend: Literal["gloo", "nccl"]
    seed: int
    steps: int
    checkpoint_every: int
    keep_checkpoints: int
    checkpoints: dict[str, Path]
    stop_s: float
    """What a stop may take (`RunConfig.stop_s`)."""
    shard: int | None = None
    """Ranks over which one copy of the weights is sharded; None: all."""
    longest_row: int = 0
    """Tokens of the longest reply with its prompt (`memory.Setup`)."""
    bad_batches: Path
    """Folder for batches that could not be trained on."""
    learner: LearnerConfig
    weights: WeightsConfig
    address: str
    servers: dict[str, tuple[str, ...]]
    """By policy, and by follower."""
    tensor_parallel: dict[str, int]
    """{server url: its tensor-parallel size}."""
    followers: Mapping[str, Follower] = field(default_factory=dict)
    """Of this group's policies."""
    key: str | None = None
    """What servers, and the engine beyond this node, ask for (`RunDir.key`)."""
    node_address: str = LOOPBACK
    """Where servers reach this rank."""
