"""Who runs where: ranks -> learner groups and server hosts. Checked before anything starts."""

from collections.abc import Collection
from dataclasses import dataclass

from engine.config import LayoutConfig, LearnerGroupConfig, ServerHostConfig
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Job:
    """What one rank does. A rank with neither is idle (a tensor-parallel neighbour)."""

    learner: LearnerGroupConfig | None = None
    server: ServerHostConfig | None = None


def world_size(layout: LayoutConfig) -> int:
    """Ranks that `layout` names, from 0 to the largest (a server host occupies `tp` of them)."""
    learner_ranks = [rank for group in layout.learners for rank in group.ranks]
    server_ranks = [host.rank + host.tp - 1 for host in layout.servers]
    return max(learner_ranks + server_ranks) + 1


def check_layout(layout: LayoutConfig, policies: Collection[str], world: int | None = None) -> None:
    """Raise ConfigError unless every rank has at most one job, and every policy a learner group
    and a server. `world`: the number of ranks that torchrun started, where known."""
    owners: dict[int, str] = {}
    for i, group in enumerate(layout.learners):
        for rank in group.ranks:
            _claim(owners, rank, f"layout.learners.{i}")
    for i, host in enumerate(layout.servers):
        if host.kind == "sglang" and len(host.policies) != 1:
            raise ConfigError(
                f"layout.servers.{i}.policies: an SGLang server holds one policy's weights; "
                f"give {len(host.policies)} hosts, one for each"
            )
        for rank in range(host.rank, host.rank + host.tp):
            _claim(owners, rank, f"layout.servers.{i}")
    _check_policies(
        "learners", [p for g in layout.learners for p in g.policies], policies, once=True
    )
    _check_policies(
        "servers", [p for h in layout.servers for p in h.policies], policies, once=False
    )
    needed = world_size(layout)
    if world is not None and world != needed:
        raise ConfigError(
            f"layout: it needs {needed} ranks, torchrun started {world}; run: "
            f"torchrun --standalone --max-restarts=3 --nproc-per-node={needed} "
            "launch/async_selfplay.py CONFIG"
        )


def job_of(layout: LayoutConfig, rank: int) -> Job:
    """The job of `rank` in a checked layout."""
    for group in layout.learners:
        if rank in group.ranks:
            return Job(learner=group)
    for host in layout.servers:
        if rank == host.rank:
            return Job(server=host)
    return Job()


def _claim(owners: dict[int, str], rank: int, owner: str) -> None:
    if rank in owners:
        raise ConfigError(f"{owner}: rank {rank} already belongs to {owners[rank]}")
    owners[rank] = owner


def _check_policies(part: str, named: list[str], policies: Collection[str], *, once: bool) -> None:
    for policy in named:
        if policy not in policies:
            raise ConfigError(
                f"layout.{part}: there is no policy {policy!r} in this recipe; "
                f"there are {', '.join(policies)}"
            )
    for policy in policies:
        if policy not in named:
            raise ConfigError(f"layout.{part}: policy {policy!r} has none")
        if once and named.count(policy) > 1:
            raise ConfigError(f"layout.{part}: policy {policy!r} is in more than one group")
