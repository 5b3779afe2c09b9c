"""Seconds that one game takes of each resource. Games stream: the busiest resource sets the pace.

    decode       max(bytes read / bandwidth, FLOPs / peak) + overhead per step, for a batch of B:
                 weights once, and the keys and values of B replies
    prefill      FLOPs of prompts and pictures / peak
    training     per step: max(FLOPs / peak, gathering of weights), and moments from and to the host
    publication  copies x bytes / bandwidth to the servers: each rank sends those of its share their
                 own, all are paused until the last has it; each reads what its replies have anew
    renders      pictures / (workers x pictures per second)
    engine       requests / (processes x requests per second)

Peaks and bandwidths are the data sheet's times a share (`assumptions.py`). A server's batch is what
its cache holds, or what games in flight offer: by Little's law a game of R replies of a policy, of
A tokens each, in a life of L tokens has R A / L of them at a time; its life ends with the longest
of the replies that it waits for. Replies are of several lengths (`lengths.py`). Not counted: games
that wait for a step, failures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.learner.activations import adapter_params
from engine.learner.costs import BACKWARD, forward_flops
from engine.learner.memory import GB
from launch.config import recipes_of
from launch.planning.case import Case
from launch.planning.layouts import LORA_RANK, Group, Layout, Servers, Training
from launch.planning.work import RoleWork

RENDERER = "renderer"
ENGINE = "engine"
SERVERS = "the GPUs that servers share"
SHARED = "the GPUs that learners and servers share"
_MOST_WORKERS = 64


def servers_of(policy: str) -> str:
    """The name of the resource that a policy's servers are."""
    return f"{policy}'s servers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What one server of a policy does."""

    held: int
    """Replies at a time that its cache has room for."""
    batch: float
    """That it has: those, or fewer where games in flight do not offer as many."""
    tokens_per_s: float
    """Generated, while it does nothing else."""
    decode_s: float
    """Of a game's tokens, if this server made them all."""
    prefill_s: float
    """Likewise."""
    update_s: float
    """Of one publication."""


def service(case: Case, servers: Servers, *, copies: int = 1, via_disk: bool = False) -> Service:
    """What each of these servers does when there is always a game to be served; `copies`: see
    `Layout.copies`."""
    shape, roles = case.model.shape, case.roles(servers.policy)
    generated = sum(role.generated for role in roles)
    context = mean_context(roles)
    squared = sum(role.generated * role.squared_context for role in roles) / generated
    held = servers.memory.requests(context)
    batch = max(1.0, min(held, offered(case, servers.policy) / servers.count))
    step = decode_step_s(case, servers, batch)
    fast = _flops_s(case, servers)
    again = forward_flops(shape, tokens=batch * context, pairs=batch * squared / 2, scored=0)
    return Service(
        held=held,
        batch=batch,
        tokens_per_s=batch / step,
        decode_s=generated * step / batch,
        prefill_s=sum(_prefill_flops(case, role) for role in roles) / fast,
        update_s=publication_s(case, copies, via_disk=via_disk) + again / fast,
    )


def mean_context(roles: Sequence[RoleWork]) -> float:
    """Tokens that a running reply of one of them sees, on average."""
    generated = sum(role.generated for role in roles)
    return sum(role.generated * role.context for role in roles) / generated


def decode_step_s(case: Case, servers: Servers, batch: float) -> float:
    """Seconds of a decode step of each of these servers, with so many replies."""
    shape, assumed, tp = case.model.shape, case.assumed, servers.tp
    context = mean_context(case.roles(servers.policy))
    output = shape.head_params or shape.embedding_params
    weights = case.model.compute_bytes * (shape.language_params + output) / tp
    read = weights + servers.memory.token * batch * context
    flops = batch * forward_flops(shape, tokens=1, pairs=context, scored=1)
    joins = 2 * shape.layers * assumed.allreduce_s if tp > 1 else 0.0
    bandwidth = assumed.decode_efficiency * case.cluster.device.bandwidth
    computed_s = max(read / bandwidth, flops / _flops_s(case, servers))
    return assumed.step_overhead_s + joins + computed_s


def _flops_s(case: Case, servers: Servers) -> float:
    """FLOP/s of each of these servers."""
    return case.assumed.prefill_mfu * case.cluster.device.flops * servers.tp


def offered(case: Case, policy: str) -> float:
    """Replies of `policy` that the games in flight want at a time, at least: a game's life is taken
    as the sum of its roles'."""
    life = sum(role.life for role in case.work)
    wanted = sum(role.generated for role in case.roles(policy))
    return case.games_in_flight * wanted / life


def publication_s(case: Case, copies: int, *, via_disk: bool = False) -> float:
    """Of one policy's weights, of which a rank sends so many copies. Each server has a group of its
    own with its sender, whose link carries all of the sender's copies (`engine.learner.sender`); of
    several nodes, the one to other nodes, though some servers may be on its own. A folder is
    written once, and all read it at once."""
    if via_disk:
        return 2 * case.model.weight_bytes / (case.assumed.disk_gb_s * GB)
    device = case.cluster.device
    link = device.network if case.cluster.nodes > 1 else device.link
    return copies * case.model.weight_bytes / (case.assumed.link_efficiency * link)


def server_s(case: Case, servers: Servers, *, copies: int = 1, via_disk: bool = False) -> float:
    """Seconds of a game at the servers of a policy, which share them."""
    one = service(case, servers, copies=copies, via_disk=via_disk)
    return (one.decode_s + one.prefill_s) / servers.count + one.update_s / case.games_per_step


def learner_s(case: Case, group: Group, layout: Layout) -> float:
    """Seconds of a game at a learner group: its policies train and publish in turn."""
    published_s = sum(
        publication_s(case, layout.copies(policy), via_disk=layout.sharing == "all")
        for policy in group.policies
    )
    trained_s = sum(train_s(case, policy, group, layout.training) for policy in group.policies)
    return (trained_s + published_s) / case.games_per_step


def loads(case: Case, layout: Layout) -> dict[str, float]:
    """{resource: seconds of it that a game takes}, the busiest first."""
    disk = layout.sharing == "all"
    learners = {
        f"learners of {', '.join(group.policies)}": learner_s(case, group, layout)
        for group in layout.groups
    }
    servers = {
        servers_of(one.policy): server_s(case, one, copies=layout.copies(one.policy), via_disk=disk)
        for one in layout.servers
    }
    if layout.sharing == "light":
        *light, heavy = servers
        together = sum(servers[name] for name in light)
        servers = {heavy: servers[heavy], SERVERS: together}
    if layout.sharing == "servers":
        servers = {SERVERS: sum(servers.values())}
    found = learners | servers
    if layout.sharing == "all":
        found = {SHARED: sum(found.values())}
    fastest = 1 / max(found.values())
    processes = engine_processes(case, layout, fastest)
    found[RENDERER] = render_s(case, processes * render_workers(case, fastest / processes))
    found[ENGINE] = requests(case) / (processes * case.assumed.engine_requests_s)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def requests(case: Case) -> float:
    """Of a game."""
    return sum(role.replies for role in case.work)


def engine_processes(case: Case, layout: Layout, games_per_s: float) -> int:
    """As many branches as `games_per_s` take, if each can have a server of every policy; 1: the
    engine plays itself, as it does where games share a memory."""
    if layout.sharing != "none" or not recipes_of(case.config)[case.recipe].spreads:
        return 1
    wanted = math.ceil(games_per_s * requests(case) / case.assumed.engine_requests_s)
    return max(1, min(wanted, *(one.count for one in layout.servers)))


def render_workers(case: Case, games_per_s: float) -> int:
    """Of one engine process: twice what its `games_per_s` take, at least two."""
    wanted = 2 * games_per_s * case.renders / case.assumed.renders_per_core_s
    return max(2, min(_MOST_WORKERS, math.ceil(wanted)))


def render_s(case: Case, workers: int) -> float:
    """Seconds of a game at the render pool."""
    return case.renders / (workers * case.assumed.renders_per_core_s)


def token_shares(case: Case) -> Mapping[str, float]:
    """{policy: its share of the generated tokens}."""
    total = sum(role.generated for role in case.work)
    return {
        policy: sum(role.generated for role in case.roles(policy)) / total
        for policy in case.policies
    }


def _prefill_flops(case: Case, role: RoleWork) -> float:
    return forward_flops(
        case.model.shape,
        tokens=role.read,
        pairs=role.prompts * role.prompt**2 / 2,
        scored=role.prompts,
        patches=role.pictures * role.patches,
        patch_pairs=role.pictures * role.patches**2,
    )


def _forward_flops(case: Case, role: RoleWork) -> float:
    """Of what a game teaches a role: prompts and pictures once, all its trained replies."""
    own = role.answer_tokens * role.prompt + role.moment(2) / 2  # = answer_tokens * context
    return forward_flops(
        case.model.shape,
        tokens=role.learnt,
        pairs=role.rows * role.prompt**2 / 2 + role.trained * own,
        scored=role.trained * role.answer_tokens,
        patches=role.rows * role.patches,
        patch_pairs=role.rows * role.patches**2,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds of one step of one policy, without its publication."""

    tokens_s: float
    """That grow with its tokens."""
    fixed_s: float
    """Whatever its tokens: gradients, summed over copies of the weights."""
    state_s: float
    """For moments, from and to the host."""

    @property
    def total_s(self) -> float:
        return self.tokens_s + self.fixed_s + self.state_s


def train_s(case: Case, policy: str, group: Group, training: Training) -> float:
    """Seconds of one step of one policy, without its publication."""
    return step_times(case, policy, group, training).total_s


def step_times(case: Case, policy: str, group: Group, training: Training) -> StepTimes:
    """A pass is a forward pass's FLOPs: one forward, two backward (one with adapters, whose frozen
    weights have no gradients), one more with checkpointing and one of the reference. Meanwhile
    weights are gathered for each micro-batch and gradients are summed, which counts where it takes
    longer."""
    shape, assumed, device = case.model.shape, case.assumed, case.cluster.device
    roles = case.roles(policy)
    passes = 1.0 + (1 if training.lora else BACKWARD)
    passes += training.checkpointing + case.config.learner.objective.needs_reference
    flops = case.games_per_step * passes * sum(_forward_flops(case, role) for role in roles)
    compute = flops / (assumed.train_mfu * device.flops * group.ranks)
    tokens = case.games_per_step * sum(role.learnt for role in roles)
    copies = group.shard or group.ranks
    inside = copies <= case.cluster.gpus
    link = assumed.link_efficiency * (device.link if inside else device.network)
    moved = 2.0 * case.model.weight_bytes + (0 if training.lora else 4 * shape.params)
    batches = math.ceil(tokens / (group.ranks * training.tokens))
    gather, summed = batches * moved * (1 - 1 / copies) / link, 0.0
    if group.ranks > copies:  # gradients are summed over the copies
        summed = 8 * shape.params / copies / (assumed.link_efficiency * device.network)
    trained = adapter_params(shape, LORA_RANK) if training.lora else shape.params
    moments = 16 * trained / copies / (assumed.host_gb_s * GB) if training.offload else 0.0
    is_computing = compute >= gather + summed
    return StepTimes(
        tokens_s=compute if is_computing else gather,
        fixed_s=0.0 if is_computing else summed,
        state_s=moments,
    )
