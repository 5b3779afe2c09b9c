"""Who runs where: ranks -> learner groups and server hosts. Checked before anything starts."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from engine.config import LayoutConfig, LearnerGroupConfig, ServerHostConfig
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Follower:
    """Servers that hold *older* weights of a policy, so that it can be judged by a frozen self.

    A follower is a name of servers, as a policy is, but nobody trains it. Its weights are a copy
    of its policy's (a *pin*), made when an attempt begins and after every `every`-th step (but the
    last, where nobody wants it), and published under the follower's name, with versions of its own.
    Rank 0 of the learner group keeps the pin in host memory: a late or restarted server gets these
    weights, not newer ones.
    """

    policy: str
    every: int
    """Steps of the policy between two pins."""
    keeps_last: bool = False
    """Pinned after the last step, too: for whoever is not done when nobody plays any more."""


def followers_of(wanted: Mapping[str, tuple[str, int]]) -> dict[str, Follower]:
    """{name: Follower} from a recipe's plain {name: (policy, steps between two pins)}."""
    return {name: Follower(policy, every) for name, (policy, every) in wanted.items()}


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


def check_layout(
    layout: LayoutConfig,
    policies: Collection[str],
    world: int | None = None,
    followers: Mapping[str, Follower] = MappingProxyType({}),
) -> None:
    """Raise ConfigError unless every rank has at most one job, every policy a learner group and
    a server, and every follower a server. `world`: the number of ranks that torchrun started,
    where known."""
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
    served = [p for h in layout.servers for p in h.policies]
    for name, follower in followers.items():
        if name not in served:
            raise ConfigError(
                f"layout.servers: {name!r}, which holds older weights of {follower.policy!r}, has "
                f"none; {_room_for(name, layout)}"
            )
    _check_policies("servers", served, (*policies, *followers), once=False)
    for name in layout.routers:
        if name not in served:
            raise ConfigError(
                f"layout.routers: there are no servers of {name!r}; there are those of "
                f"{', '.join(dict.fromkeys(served))}"
            )
    _check_gpus(layout)
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


def gpu_of(layout: LayoutConfig, rank: int, local_rank: int) -> int:
    """Index of the GPU of `rank`, among those of its machine."""
    return layout.gpu_of.get(rank, local_rank)


def shared_gpus(layout: LayoutConfig) -> dict[int, tuple[int, ...]]:
    """{GPU: ranks} of the GPUs that several learners or servers share, in the order of ranks."""
    ranks = sorted(
        {rank for group in layout.learners for rank in group.ranks}
        | {rank for host in layout.servers for rank in range(host.rank, host.rank + host.tp)}
    )
    found: dict[int, tuple[int, ...]] = {}
    for rank in ranks if layout.gpu_of else ():
        gpu = gpu_of(layout, rank, rank)
        found[gpu] = (*found.get(gpu, ()), rank)
    return {gpu: sharing for gpu, sharing in found.items() if len(sharing) > 1}


def router_host(layout: LayoutConfig, policy: str) -> ServerHostConfig:
    """The host that starts the router of a policy or follower: the first that has servers of it."""
    return next(host for host in layout.servers if policy in host.policies)


def router_url(layout: LayoutConfig, policy: str) -> str | None:
    """Where the router of a policy or follower is reached; None: it has none."""
    address = layout.routers.get(policy)
    return None if address is None else f"http://{address}"


def _claim(owners: dict[int, str], rank: int, owner: str) -> None:
    if rank in owners:
        raise ConfigError(f"{owner}: rank {rank} already belongs to {owners[rank]}")
    owners[rank] = owner


def _check_gpus(layout: LayoutConfig) -> None:
    """Raise ConfigError for GPUs that can not be shared as `gpu_of` says."""
    if not layout.gpu_of:
        return
    if layout.device != "cuda":
        raise ConfigError("layout.gpu_of: there are no GPUs with device=cpu; leave it out")
    world = world_size(layout)
    for rank in layout.gpu_of:
        if not 0 <= rank < world:
            raise ConfigError(f"layout.gpu_of: there is no rank {rank}; there are 0 to {world - 1}")
    for i, group in enumerate(layout.learners):
        gpus = [gpu_of(layout, rank, rank) for rank in group.ranks]
        if len(set(gpus)) < len(gpus):
            raise ConfigError(
                f"layout.gpu_of: ranks of layout.learners.{i} share a GPU, which NCCL refuses; "
                "give the group fewer ranks"
            )
    shared = {rank for ranks in shared_gpus(layout).values() for rank in ranks}
    for i, host in enumerate(layout.servers):
        ranks = set(range(host.rank, host.rank + host.tp))
        if host.tp > 1 and ranks & (shared | layout.gpu_of.keys()):
            raise ConfigError(
                f"layout.gpu_of: layout.servers.{i} has tp {host.tp}, whose GPUs are those of its "
                "ranks and its own; give it tp 1"
            )
        if host.kind == "sglang" and ranks & shared and host.cache_tokens is None:
            raise ConfigError(
                f"layout.servers.{i}.cache_tokens: it shares a GPU, and would take what is free "
                "there; say how many tokens its cache may hold"
            )


def _room_for(name: str, layout: LayoutConfig) -> str:
    """What to write so that `name` has a server."""
    for i, host in enumerate(layout.servers):
        if host.kind == "embedded":
            return f"set layout.servers.{i}.policies=[{', '.join((*host.policies, name))}]"
    rank = world_size(layout)
    return f"add {{rank: {rank}, policies: [{name}], kind: sglang}} to layout.servers"


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
