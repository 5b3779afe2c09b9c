"""The same layout and schedule on more GPUs, and other schedules on the same ones."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from engine.config import LayoutConfig
from engine.errors import ConfigError
from engine.layout import gpu_of, shared_gpus, world_size
from launch.config import RootConfig, policies_of
from launch.simulation.service_times import LearnerTimes, MadeFor, ServiceTimes

_PHASED: Mapping[str, object] = MappingProxyType(
    {"enabled": True, "patience_s": 2.0, "cooldown_s": 0.0, "smoothing_s": 60.0}
)
"""Of `elastic`, for servers that follow phases. A move brings one server, and the defaults allow
one a minute: half an hour for 32, as long as a phase may take. The waves of a step, of drawings and
then of answers to them, are averaged over, for a server that follows each comes too late: requests
in flight stay where they are."""

SCHEDULES: Mapping[str, Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        "streaming": {"streams": {"schedule": "streaming"}},
        "one-step-off": {"streams": {"schedule": "streaming", "max_age": 1, "too_old": "wait"}},
        "synchronous": {"streams": {"schedule": "streaming", "max_age": 0, "too_old": "wait"}},
        "sequential": {
            "streams": {"schedule": "sequential", "too_old": "wait"},
            "elastic": _PHASED,
        },
    }
)
"""{name: {section: what it changes there}}; "streaming" is the configuration's own window. So it is
for a configuration of the sequential schedule, too, which does not use its `max_age` itself: what
would come of the same run, streamed.

The servers of "sequential" follow its phases, as far as the layout lets them (`why_fixed`): the
release generates with all of its GPUs in each phase, and a fixed split over policies of which one
or two are asked would be a handicap. It is still not quite the release: one server stays with each
policy, and the learners' GPUs are idle while games are gathered."""


def scheduled(config: RootConfig, schedule: str) -> RootConfig:
    """The configuration with another schedule. Raises ConfigError for an unknown one."""
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule {schedule!r}: there are {', '.join(SCHEDULES)}")
    update: dict[str, object] = {
        section: getattr(config, section).model_copy(update=dict(changes))
        for section, changes in SCHEDULES[schedule].items()
        if section != "elastic" or why_fixed(config) is None
    }
    return config.model_copy(update=update)


def why_fixed(config: RootConfig) -> str | None:
    """Why the layout's servers can't follow the demand; None: they can."""
    layout = config.layout
    own = policies_of(config)
    hosts = [host for host in layout.servers if set(host.policies) & set(own)]
    if layout.routers or layout.branches:
        return "they belong to routers or branches"
    if any(len(host.policies) > 1 for host in hosts):
        return "they have several policies each, whichever is asked"
    if len(hosts) <= len(own):
        return "each policy has one server, which it keeps"
    if config.weights.via != "disk" and _shares_with_learners(layout):
        return "they share GPUs with learners"
    return None


def _shares_with_learners(layout: LayoutConfig) -> bool:
    """A server could move to a policy that is taught on its GPU, which NCCL refuses."""
    learners = {rank for group in layout.learners for rank in group.ranks}
    return any(learners & set(ranks) for ranks in shared_gpus(layout).values())


def num_gpus(layout: LayoutConfig) -> int:
    """The GPUs of a layout, those that ranks share once; its ranks where it has no GPUs."""
    # Only ranks of one node share GPUs, so a rank is its local rank where that matters.
    return len({gpu_of(layout, rank, rank) for rank in range(world_size(layout))})


def scaled(
    config: RootConfig, times: ServiceTimes, gpus: int, *, games_too: bool = False
) -> tuple[RootConfig, ServiceTimes]:
    """As many copies of the servers, render workers and learner ranks as take so many GPUs.

    Learners take that much less time for a token and for the optimiser's state; what a step and a
    publication take beside that stays. So does what a copy of the weights takes: each copy of the
    layout has its own ranks of the learners, and they send to the servers on their node.
    `games_too`: a step takes that many more games, else as many as before.

    Raises ConfigError where the layout is no whole part of `gpus`.
    """
    own = num_gpus(config.layout)
    factor, rest = divmod(gpus, own)
    if rest or factor < 1:
        raise ConfigError(
            f"--gpus {gpus}: the layout has {own}; want {own}, {2 * own}, ..., or a configuration "
            f"and times that are planned for {gpus}: launch/plan.py MODEL --gpus {gpus} --write "
            "CONFIG --times FILE"
        )
    streams = config.streams
    if games_too:
        games = {name: number * factor for name, number in streams.games_of.items()}
        update = {"games_per_step": streams.games_per_step * factor, "games_of": games}
        streams = streams.model_copy(update=update)
    workers = config.render.workers * factor
    update = {
        "layout": _layout(config.layout, factor),
        "streams": streams,
        "render": config.render.model_copy(update={"workers": workers}),
    }
    costs = {
        "learners": {name: _faster(one, factor) for name, one in times.learners.items()},
        "made_for": None if times.made_for is None else _more(times.made_for, factor),
    }
    return config.model_copy(update=update), times.model_copy(update=costs)


def _layout(layout: LayoutConfig, factor: int) -> LayoutConfig:
    """Copies of the whole, rank after rank; the learner groups stay as many, and grow."""
    own = world_size(layout)
    copies = [own * number for number in range(factor)]
    learners = [
        group.model_copy(
            update={"ranks": tuple(r + first for first in copies for r in group.ranks)}
        )
        for group in layout.learners
    ]
    servers = [
        host.model_copy(update={"rank": host.rank + first})
        for first in copies
        for host in layout.servers
    ]
    update = {"learners": tuple(learners), "servers": tuple(servers)}
    return layout.model_copy(update=update | {"gpu_of": _gpu_of(layout, copies)})


def _gpu_of(layout: LayoutConfig, copies: Sequence[int]) -> dict[int, int]:
    """Of copies that begin with these ranks: each shares its own GPUs, as the layout does."""
    if not layout.gpu_of:
        return {}
    gpus = [gpu_of(layout, rank, rank) for rank in range(world_size(layout))]
    return {
        first + rank: number * (max(gpus) + 1) + gpu
        for number, first in enumerate(copies)
        for rank, gpu in enumerate(gpus)
    }


def _faster(times: LearnerTimes, factor: int) -> LearnerTimes:
    """Each rank has that much less of the tokens, and of the optimiser's state."""
    update = {"token_s": times.token_s / factor, "state_s": times.state_s / factor}
    return times.model_copy(update=update)


def _more(made_for: MadeFor, factor: int) -> MadeFor:
    ranks = {policy: number * factor for policy, number in made_for.ranks.items()}
    return made_for.model_copy(update={"ranks": ranks})
