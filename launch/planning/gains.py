"""Where one more GPU would help most."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from launch.planning.layouts import Layout
from launch.planning.plans import Plan
from launch.planning.rates import loads


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What more GPUs at one place are worth."""

    where: str
    gpus: int
    games_per_hour: float
    gain: float
    """As a share of what there is now."""


def one_more(plan: Plan) -> list[Gain]:
    """Where one more GPU (a server's `tp`) would help most: the best first. Memory only gets
    easier by it."""
    case, layout = plan.case, plan.layout
    found = []
    for where, gpus, changed in _larger(layout, case.cluster.gpus if case.cluster.nodes > 1 else 1):
        rate = 3600 / max(loads(case, changed).values())
        gain = rate / plan.games_per_hour - 1
        found.append(Gain(where=where, gpus=gpus, games_per_hour=rate, gain=gain))
    return sorted(found, key=lambda one: -one.gain)


def _larger(layout: Layout, node: int) -> Iterator[tuple[str, int, Layout]]:
    for i, group in enumerate(layout.groups):
        if layout.sharing == "all":
            continue
        groups = list(layout.groups)
        # Where a group fills nodes, a whole node.
        more = node if group.ranks % node == 0 else 1
        shard = node if more > 1 else None
        groups[i] = replace(group, ranks=group.ranks + more, shard=shard)
        yield (
            f"learner rank{'s' if more > 1 else ''} for {', '.join(group.policies)}",
            more,
            replace(layout, groups=tuple(groups)),
        )
    if layout.sharing in ("none", "light"):
        for i, one in enumerate(layout.servers):
            if layout.sharing == "light" and one is not layout.servers[-1]:
                continue
            servers = list(layout.servers)
            servers[i] = replace(one, count=one.count + 1)
            yield f"server for {one.policy}", one.tp, replace(layout, servers=tuple(servers))
        return
    everywhere = tuple(replace(one, count=one.count + 1) for one in layout.servers)
    wider = tuple(
        replace(group, ranks=group.ranks + (layout.sharing == "all")) for group in layout.groups
    )
    what = "GPU for servers" if layout.sharing == "servers" else "GPU shared like the others"
    yield what, 1, replace(layout, servers=everywhere, groups=wider)
