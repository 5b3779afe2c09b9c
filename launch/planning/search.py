"""All layouts of a case that fit, the fastest first, and why the others do not fit.

Groups: one that trains all policies side by side, or one per policy. Servers: one per policy, and
each further GPU to the policy whose servers are the busiest. Whole weights come before LoRA, and
GPUs of their own before shared ones: the later ways are looked at only where no earlier one fits.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from engine.learner.memory import GB, Setup, learner_memory, worst
from engine.learner.memory_check import setup_for
from launch.planning.case import Case
from launch.planning.layouts import Group, Layout, Servers, Sharing, Training, placed
from launch.planning.plans import Found, Plan
from launch.planning.rates import server_s, train_s
from launch.planning.server_memory import (
    BETWEEN,
    ServerMemory,
    beside_bytes,
    cache_bytes,
    server_memory,
)

_WAYS: tuple[tuple[Sharing, ...], ...] = (("none", "light", "servers"), ("all",))
"""To share GPUs; later ones only where no earlier one fits."""
MICRO_BATCHES = (16384, 8192, 4096)
"""Tokens of a micro-batch that are tried."""
_TPS = (1, 2, 4, 8)
_FEWEST = 8
"""Requests that a server's cache must hold at a time, beside a longest one."""


def search(case: Case, *, lora: bool | None = None) -> Found:
    """What fits. `lora`: with adapters, without, or (None) where nothing else fits."""
    found = Found()
    for adapters in (False, True) if lora is None else (lora,):
        for ways in _WAYS:
            for sharing in ways:
                for layout in _layouts(case, adapters, sharing, found):
                    _look_at(case, layout, found)
            if found.plans:
                break
        if found.plans:
            break
    found.plans.sort(key=_rank)
    found.forget_what_fits()
    return found


def _rank(plan: Plan) -> tuple[float, float, int, int]:
    """Faster; then less busy elsewhere; then with less that saves memory, in larger pieces."""
    training = plan.layout.training
    switches = training.checkpointing + training.offload
    others = round(sum(plan.loads.values()), 3)
    return -round(plan.games_per_hour, 3), others, switches, -training.tokens


def _trainings(lora: bool) -> Iterator[Training]:
    for tokens, checkpointing, offload in product(MICRO_BATCHES, (False, True), (False, True)):
        if not (lora and offload):  # adapters' moments are small
            yield Training(tokens=tokens, checkpointing=checkpointing, offload=offload, lora=lora)


def _layouts(case: Case, lora: bool, sharing: Sharing, found: Found) -> Iterator[Layout]:
    trainings = tuple(_trainings(lora))
    apart: dict[Training, dict[int, tuple[Group, ...]]] = {}
    if sharing in ("none", "light") and len(case.policies) > 1:
        apart = {training: _one_for_each(case, training) for training in trainings}
    own = _own_servers(case, found) if sharing == "none" else {}
    for ranks in range(1, case.cluster.total + (sharing == "all")):
        servers = own.get(ranks) if sharing == "none" else _shared(case, ranks, sharing, found)
        if servers is None:
            continue
        for training in trainings:
            for groups in _groupings(case, ranks, apart.get(training, {}).get(ranks)):
                yield Layout(groups=groups, servers=servers, training=training, sharing=sharing)


def _groupings(
    case: Case, ranks: int, apart: tuple[Group, ...] | None
) -> Iterator[tuple[Group, ...]]:
    """One group of all policies, and those of one policy each where they stay in nodes."""
    gpus = case.cluster.gpus
    if ranks <= gpus or ranks % gpus == 0:
        yield (Group(policies=case.policies, ranks=ranks),)
    if ranks > gpus and ranks % gpus == 0:
        yield (Group(policies=case.policies, ranks=ranks, shard=gpus),)
    if apart is not None and _stay_in_nodes(apart, gpus):
        yield apart


def _one_for_each(case: Case, training: Training) -> dict[int, tuple[Group, ...]]:
    """{ranks: a group per policy, of so many together}: each rank where learners are busiest."""
    groups = {policy: Group(policies=(policy,), ranks=1) for policy in case.policies}
    taken = {policy: train_s(case, policy, one, training) for policy, one in groups.items()}
    found = {}
    for ranks in range(len(groups), case.cluster.total):
        found[ranks] = tuple(groups.values())
        busiest = max(taken, key=lambda policy: taken[policy])
        one = groups[busiest]
        groups[busiest] = replace(one, ranks=one.ranks + 1)
        taken[busiest] = train_s(case, busiest, groups[busiest], training)
    return found


def _stay_in_nodes(groups: tuple[Group, ...], gpus: int) -> bool:
    """Whether no group that fits into one node lies across two, placed one after the other."""
    for group, start in placed(groups):
        last = start + group.ranks - 1
        if start // gpus != last // gpus and (start % gpus or group.ranks % gpus):
            return False
    return True


def _own_servers(case: Case, found: Found) -> dict[int, tuple[Servers, ...]]:
    """{learners' ranks: servers, each on GPUs of its own, on those that so many ranks leave}; with
    the fewest GPUs to a server on which it has room."""
    total = case.cluster.total
    for tp in _TPS:
        if case.cluster.gpus % tp or not case.model.splits(tp):
            continue
        room = _room(case, case.cluster.memory, tp=tp, found=found)
        if room is not None:
            servers = _by_demand(case, total // tp, tp, room)
            left = {ranks: (total - ranks) // tp for ranks in range(1, total)}
            return {ranks: servers[places] for ranks, places in left.items() if places in servers}
    return {}


def _shared(case: Case, ranks: int, sharing: Sharing, found: Found) -> tuple[Servers, ...] | None:
    """Servers that share GPUs, where `ranks` learners leave some; None where they have no room."""
    policies = case.policies
    free = case.cluster.total - ranks
    if sharing == "light":
        return _light(case, free, found)
    count = free if sharing == "servers" else case.cluster.total
    if case.cluster.nodes > 1 or count < 1 or (sharing == "servers" and free >= len(policies)):
        return None
    if sharing == "all":
        return _beside_learners(case, count)
    one = _room(case, case.cluster.memory, share=len(policies), found=found)
    if one is None:
        return None
    return tuple(Servers(policy=policy, count=count, tp=1, memory=one) for policy in policies)


def _light(case: Case, free: int, found: Found) -> tuple[Servers, ...] | None:
    """The servers of all policies but the busiest on one GPU, and its own on the others."""
    if case.cluster.nodes > 1 or len(case.policies) < 3 or free < 2:
        return None
    own = _room(case, case.cluster.memory, found=found)
    shared = _room(case, case.cluster.memory, share=len(case.policies) - 1, found=found)
    if own is None or shared is None:
        return None
    alone = [Servers(policy=policy, count=1, tp=1, memory=own) for policy in case.policies]
    busiest = max(alone, key=lambda one: server_s(case, one))
    light = (replace(one, memory=shared) for one in alone if one is not busiest)
    return (*light, replace(busiest, count=free - 1))


def _beside_learners(case: Case, count: int) -> tuple[Servers, ...]:
    """Servers on the learners' GPUs, with a cache just large enough: `_look_at` may enlarge it."""
    shape, c = case.model.shape, case.model.compute_bytes
    tokens = _needed_tokens(case)
    share = ServerMemory(
        weights=float(case.model.weight_bytes),
        beside=beside_bytes(shape, c),
        token=cache_bytes(shape, c),
        tokens=tokens,
    )
    return tuple(
        Servers(policy=policy, count=count, tp=1, memory=share) for policy in case.policies
    )


def _by_demand(
    case: Case, most: int, tp: int, room: ServerMemory
) -> dict[int, tuple[Servers, ...]]:
    """{servers, at most `most`: of which policies}: one of each, and each further one where servers
    are the busiest, as if each had a sender of its own (how many share one is up to the learners,
    and is counted when layouts are compared)."""
    servers = {p: Servers(policy=p, count=1, tp=tp, memory=room) for p in case.policies}
    taken = {policy: server_s(case, one) for policy, one in servers.items()}
    found = {}
    for places in range(len(servers), most + 1):
        found[places] = tuple(servers.values())
        busiest = max(taken, key=lambda policy: taken[policy])
        one = servers[busiest]
        servers[busiest] = replace(one, count=one.count + 1)
        taken[busiest] = server_s(case, servers[busiest])
    return found


def _room(
    case: Case, memory: float, *, tp: int = 1, share: int = 1, found: Found
) -> ServerMemory | None:
    """A server's memory, if its cache holds a longest request and a few more."""
    number = case.model.compute_bytes
    room = server_memory(case.model.shape, number_bytes=number, memory=memory, tp=tp, share=share)
    needed = _needed_tokens(case)
    if room is not None and room.tokens >= needed:
        return room
    what = "one server on a GPU" if share == 1 else f"{share} servers on a GPU"
    what += f", tp {tp}" if tp > 1 else ""
    each = case.model.weight_bytes / tp + beside_bytes(case.model.shape, number, tp)
    each += needed * cache_bytes(case.model.shape, number, tp)
    usable = memory * ((1 - BETWEEN) if share > 1 else 1)
    why = f"need about {share * each / GB:.0f} GB of the {usable / GB:.0f} that they may use"
    found.refuse(what, share * each - usable, why)
    return None


def _needed_tokens(case: Case) -> int:
    """Of a cache: a request as long as the context, and a few mean ones."""
    longest = case.config.layout.servers[0].context_length
    return int(longest + _FEWEST * max(role.context for role in case.work))


def _look_at(case: Case, layout: Layout, found: Found) -> None:
    """Add the plan of `layout`, or why it is none."""
    cluster = case.cluster
    estimates = tuple(
        learner_memory(case.model.shape, _setup(case, layout, group)) for group in layout.groups
    )
    plan = Plan(case, layout, estimates)
    beside = sum(one.memory.total for one in layout.servers) if layout.sharing == "all" else 0.0
    if (missing := plan.device_bytes + beside - cluster.memory) > 0:
        fullest = max(estimates, key=lambda estimate: estimate.device_bytes)
        group = layout.groups[estimates.index(fullest)]
        servers = f" beside {beside / GB:.0f} GB of servers" if beside else ""
        why = (
            f"{plan.device_bytes / GB:.0f} GB a GPU ({worst(fullest.device)[0]}) on "
            f"{group.ranks} learner GPUs{servers}, {missing / GB:.0f} GB too many"
        )
        found.refuse(layout.training.text, missing, why)
    elif (missing := plan.host_bytes - cluster.host_memory) > 0:
        of = " on a node" if cluster.nodes > 1 else ""
        why = f"{plan.host_bytes / GB:.0f} GB of host memory{of}, {missing / GB:.0f} GB too many"
        found.refuse(f"{layout.training.text}, where GPUs have room", missing, why)
    else:
        found.plans.append(_with_caches(plan) if beside else plan)


def _setup(case: Case, layout: Layout, group: Group) -> Setup:
    setup = setup_for(
        layout.training.applied(case.config.learner),
        compute_bytes=case.model.compute_bytes,
        policies=len(group.policies),
        ranks=group.ranks,
        shard=group.shard,
        longest_row=max(case.longest_rows[policy] for policy in group.policies),
        bucket_mb=case.config.weights.bucket_mb,
    )
    # More games than the template's are as many more micro-batches that lie ready.
    batches = math.ceil(setup.micro_batches * max(1.0, case.games_factor))
    here = range(min(group.ranks, case.cluster.gpus))
    return replace(setup, here=here, micro_batches=batches)


def _with_caches(plan: Plan) -> Plan:
    """The plan whose servers' caches take what its GPUs have left, all but a twentieth."""
    memory = plan.case.cluster.memory
    used = plan.device_bytes + sum(one.memory.total for one in plan.layout.servers)
    each = max(0.0, (1 - BETWEEN) * memory - used) / len(plan.layout.servers)
    servers = tuple(
        replace(one, memory=replace(
            one.memory, tokens=one.memory.tokens + int(each / one.memory.token)
        ))
        for one in plan.layout.servers
    )  # fmt: skip
    return replace(plan, layout=replace(plan.layout, servers=servers))
