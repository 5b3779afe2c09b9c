"""Who runs where: ranks -> learner groups and server hosts. Checked before anything starts."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from engine.config import LayoutConfig, LearnerGroupConfig, RunConfig, ServerHostConfig
from engine.errors import ConfigError
from engine.nodes import ADDRESS, Node, is_loopback


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
    *,
    num_nodes: int = 1,
    run: RunConfig | None = None,
) -> None:
    """Raise ConfigError unless every rank has at most one job, every policy a learner group and
    a server, and every follower a server. `world`: the number of ranks that torchrun started, where
    known, on `num_nodes`; `run`: how long it may take to stop, for the line to use instead."""
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
    _check_gpus(layout, num_nodes)
    needed = world_size(layout)
    if world is not None and world != needed:
        raise ConfigError(
            f"layout: it needs {needed} ranks, torchrun started {world}; "
            f"{_torchrun(needed, num_nodes, run or RunConfig())} launch/async_selfplay.py CONFIG"
        )


def check_branches(layout: LayoutConfig, players: Collection[str]) -> None:
    """Raise ConfigError unless every server of `players` (the policies and followers that games
    ask) belongs to one branch, and every branch has servers of all of them."""
    if not layout.branches:
        return
    hosts = {host.rank: host for host in layout.servers}
    owners: dict[int, int] = {}
    for i, branch in enumerate(layout.branches):
        where = f"layout.branches.{i}"
        if branch.rank >= world_size(layout):
            raise ConfigError(f"{where}.rank: there is no rank {branch.rank}")
        if branch.rank in [other.rank for other in layout.branches[:i]]:
            raise ConfigError(f"{where}.rank: rank {branch.rank} has a branch already")
        for rank in branch.servers:
            if rank not in hosts:
                raise ConfigError(
                    f"{where}.servers: rank {rank} hosts no servers; "
                    f"there are {', '.join(map(str, hosts))}"
                )
            if owners.setdefault(rank, i) != i:
                raise ConfigError(
                    f"{where}.servers: those of rank {rank} belong to layout.branches."
                    f"{owners[rank]}; a server is asked by one branch"
                )
        served = {policy for rank in branch.servers for policy in hosts[rank].policies}
        if missing := sorted(set(players) - served):
            raise ConfigError(
                f"{where}.servers: none of them serves {', '.join(missing)}, which its games need"
            )
    for rank, host in hosts.items():
        if rank not in owners and set(host.policies) & set(players):
            raise ConfigError(
                f"layout.branches: no games would ask the servers of rank {rank}; add it to one"
            )
    if layout.routers:
        raise ConfigError(
            "layout.branches: a router's servers can't be told apart by branch; leave "
            "layout.routers out"
        )


def check_nodes(layout: LayoutConfig, nodes: Sequence[Node]) -> None:
    """Raise ConfigError where a checked layout does not fit to where its ranks are. `nodes`: of
    every rank."""
    for i, host in enumerate(layout.servers):
        own = range(host.rank, host.rank + host.tp)
        if len({nodes[rank].rank for rank in own}) > 1:
            raise ConfigError(
                f"layout.servers.{i}.tp: ranks {own[0]}-{own[-1]} are on more than one node, a "
                f"server's GPUs must be on one; {_ranks_of(nodes)}"
            )
    for i, group in enumerate(layout.learners):
        _check_copies(i, group, nodes)
    if len({node.machine for node in nodes}) > 1:
        _check_addresses(layout, nodes)


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


def gpu_ranks(layout: LayoutConfig) -> list[int]:
    """The ranks that use a GPU, where there are any: of learners, and of servers with their
    tensor-parallel neighbours."""
    return sorted(
        {rank for group in layout.learners for rank in group.ranks}
        | {rank for host in layout.servers for rank in range(host.rank, host.rank + host.tp)}
    )


def shared_gpus(layout: LayoutConfig) -> dict[int, tuple[int, ...]]:
    """{GPU: ranks} of the GPUs that several learners or servers share, in the order of ranks."""
    found: dict[int, tuple[int, ...]] = {}
    for rank in gpu_ranks(layout) if layout.gpu_of else ():
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


def killed_after_s(run: RunConfig) -> int:
    """torchrun's `--shutdown-timeout`: what is left so long after it was told to stop hangs."""
    return math.ceil(run.stop_s) + 30


def _torchrun(world: int, num_nodes: int, run: RunConfig) -> str:
    """What to run, without the script."""
    patience = f"--max-restarts={run.max_restarts} --shutdown-timeout={killed_after_s(run)}"
    if num_nodes == 1:
        return f"run: torchrun --standalone {patience} --nproc-per-node={world}"
    each = "N" if world % num_nodes else world // num_nodes
    return (
        "on each node run: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
        f"torchrun --nnodes={num_nodes} --nproc-per-node={each} "
        "--rdzv-backend=c10d --rdzv-endpoint=HOST:PORT --rdzv-conf=join_timeout=1800 "
        f"{patience}"
    )


def _ranks_of(nodes: Sequence[Node]) -> str:
    """Which ranks are where, for a message."""
    places: dict[int, list[int]] = {}
    for rank, node in enumerate(nodes):
        places.setdefault(node.rank, []).append(rank)
    return ", ".join(f"node {n} has ranks {r[0]}-{r[-1]}" for n, r in sorted(places.items()))


def _check_copies(index: int, group: LearnerGroupConfig, nodes: Sequence[Node]) -> None:
    """Refuse copies of the weights that cross nodes where in another order of ranks none would."""
    shard = group.shard
    if shard is None or shard == len(group.ranks):
        return
    fits = all(
        num % shard == 0 for num in Counter(nodes[rank].rank for rank in group.ranks).values()
    )
    for first in range(0, len(group.ranks), shard):
        copy = group.ranks[first : first + shard]
        if fits and len({nodes[rank].rank for rank in copy}) > 1:
            raise ConfigError(
                f"layout.learners.{index}.ranks: each {shard} in a row share one copy of the "
                f"weights, and {list(copy)} are on more than one node; order them by node: "
                f"{_ranks_of(nodes)}"
            )


def _check_addresses(layout: LayoutConfig, nodes: Sequence[Node]) -> None:
    """Refuse loopback between machines."""
    for node in nodes:
        if is_loopback(node.address):
            raise ConfigError(
                f"{ADDRESS}: node {node.rank} takes {node.address} for its own address, where "
                "other machines do not reach it; set it on that node to an address where they do"
            )
    for policy, address in layout.routers.items():
        name = address.rpartition(":")[0]
        if name == "localhost" or name.startswith("127."):
            raise ConfigError(
                f"layout.routers.{policy}: {address} is not reached from other nodes; give an "
                f"address of the node of rank {router_host(layout, policy).rank}"
            )


def _claim(owners: dict[int, str], rank: int, owner: str) -> None:
    if rank in owners:
        raise ConfigError(f"{owner}: rank {rank} already belongs to {owners[rank]}")
    owners[rank] = owner


def _check_gpus(layout: LayoutConfig, num_nodes: int) -> None:
    """Raise ConfigError for GPUs that can not be shared as `gpu_of` says."""
    if not layout.gpu_of:
        return
    if num_nodes > 1:
        raise ConfigError(
            f"layout.gpu_of: ranks share GPUs on one node, and there are {num_nodes}; leave it out"
        )
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
