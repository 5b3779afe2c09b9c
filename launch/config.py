"""The root of the configuration: every section, composed where all packages are visible."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from engine.config import (
    LayoutConfig,
    ModelConfig,
    RunConfig,
    Section,
    StreamsConfig,
    WeightsConfig,
    load,
)
from engine.elastic import ElasticConfig
from engine.errors import ConfigError
from engine.layout import Follower, check_branches, followers_of
from engine.learner.config import LearnerConfig
from engine.monitor.config import MonitorConfig
from engine.sampler import SamplerConfig
from engine.servers.router import check_routers
from evals.config import EvalConfig, LiveEvalsConfig
from launch.recipe import RECIPES, MixedConfig, Recipe, RecipeConfig, RecipeSettings
from render_pool.config import RenderConfig
from rewards.config import GraderConfig
from roles.mm_zero.config import MMZeroConfig
from roles.vision_zero.config import CLUES, VisionZeroConfig

EVALUATED = "evaluated"
"""The name of servers that hold a policy's weights for its evaluation (`evals.servers: own`)."""


class RootConfig(Section):
    """One run. Written to `runs/<name>/config.yaml` as it was resolved."""

    run: RunConfig = RunConfig()
    model: ModelConfig
    layout: LayoutConfig
    streams: StreamsConfig = StreamsConfig()
    sampler: SamplerConfig = SamplerConfig()
    elastic: ElasticConfig = ElasticConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    render: RenderConfig = RenderConfig()
    grader: GraderConfig = GraderConfig()
    recipe: RecipeConfig = Field(default_factory=MMZeroConfig)
    eval: EvalConfig = EvalConfig()
    evals: LiveEvalsConfig = LiveEvalsConfig()
    monitor: MonitorConfig = MonitorConfig()


def load_root(path: Path, overrides: Sequence[str] = ()) -> RootConfig:
    """Load and check a run's configuration. Raises ConfigError."""
    config = load(RootConfig, path, overrides)
    if config.streams.age_bound == 0 and config.streams.too_old == "drop":
        raise ConfigError("streams.too_old: 'drop' with max_age 0 would drop every slow game")
    if config.streams.schedule == "sequential" and len(settings_of(config)) > 1:
        raise ConfigError("streams.schedule: 'sequential' plays one recipe, not several at once")
    check_routers(
        config.layout,
        not_with={
            "elastic.enabled: servers behind a router stay there": config.elastic.enabled,
            "weights.pause=drain: servers behind a router start paused": (
                config.weights.pause == "drain"
            ),
            "sampler.stream: the router drops stream_interval, and every token would be an event": (
                config.sampler.stream
            ),
        },
    )
    if config.layout.branches:
        _check_spread(config)
    if config.evals.benchmarks and config.evals.servers == "rollout" and config.elastic.enabled:
        raise ConfigError(
            "evals.servers: with elastic.enabled a server may serve another policy in the middle "
            f"of an evaluation; set evals.servers=own and give {EVALUATED!r} a server in the layout"
        )
    unknown = config.streams.games_of.keys() - settings_of(config).keys()
    if unknown:
        raise ConfigError(
            f"streams.games_of: {', '.join(sorted(unknown))} is not played; "
            f"there are {', '.join(settings_of(config))}"
        )
    spy = settings_of(config).get("vision_zero")
    if isinstance(spy, VisionZeroConfig) and spy.gate.max_kl is not None:
        if spy.gate.switch == "off":
            raise ConfigError("gate.max_kl: with gate.switch=off nothing stops clues; drop one")
        if not config.learner.objective.needs_reference:
            raise ConfigError(
                "gate.max_kl: no learner measures the KL to a reference; set "
                "learner.objective.kl_beta (0.04 in the paper), however small, or drop gate.max_kl"
            )
        cast = streams_of(config)
        others = {policy for stream, policy in cast.items() if stream not in CLUES}
        if alone := sorted({cast[stream] for stream in CLUES} - others):
            raise ConfigError(
                f"gate.max_kl: {', '.join(alone)} trains on clues alone: once they are stopped it "
                "makes no step, and its KL stays what it is; have it train on votes as well "
                "(layout.policies), or drop gate.max_kl"
            )
    judge_age = config.streams.max_judge_age
    for name, (policy, every) in _judges(config).items():
        oldest = every + config.streams.age_bound
        if judge_age is not None and judge_age < oldest:
            raise ConfigError(
                f"streams.max_judge_age: {judge_age} would drop groups whose {name} is as old as "
                f"it may be; weights of {policy} that are pinned for {every} steps need {oldest}"
            )
    return config


def _check_spread(config: RootConfig) -> None:
    """Refuse branches that don't share out the servers, and games that several processes can't
    play."""
    check_branches(config.layout, (*policies_of(config), *_judges(config)))
    for name, recipe in recipes_of(config).items():
        if not recipe.spreads:
            raise ConfigError(
                f"layout.branches: the games of {name} are played by one process: its recipe does "
                "not say `spreads`, and they may share a gate or baselines; leave the branches out"
            )
    if config.streams.schedule == "sequential":
        raise ConfigError(
            "layout.branches: the games of a phase share the data gathered for it, in one process; "
            "leave the branches out, or set streams.schedule=streaming"
        )
    if config.elastic.enabled:
        raise ConfigError("layout.branches: a branch keeps its servers; set elastic.enabled=false")


def settings_of(config: RootConfig) -> dict[str, RecipeSettings]:
    """{recipe that is played: its settings}, in the order of the config."""
    recipe = config.recipe
    each = recipe.recipes if isinstance(recipe, MixedConfig) else (recipe,)
    return {cfg.name: cfg for cfg in each}


def recipes_of(config: RootConfig) -> dict[str, Recipe]:
    """The recipes that are played."""
    return {name: RECIPES[name] for name in settings_of(config)}


def streams_of(config: RootConfig) -> dict[str, str]:
    """{stream: the policy that it trains}, as the recipes have it or else as the layout says.

    Raises ConfigError where the layout names a stream that there is not.
    """
    cast: dict[str, str] = {}
    for cfg in settings_of(config).values():
        cast |= cfg.policies()
    for stream, policy in config.layout.policies.items():
        if stream not in cast:
            raise ConfigError(
                f"layout.policies: there is no stream {stream!r}; there are {', '.join(cast)}"
            )
        cast[stream] = policy
    return cast


def policies_of(config: RootConfig) -> tuple[str, ...]:
    """Each once, in the order of the streams."""
    return tuple(dict.fromkeys(streams_of(config).values()))


def followers(config: RootConfig) -> dict[str, Follower]:
    """The followers that the recipes want, and that of the benchmarks, if they have one."""
    wanted = followers_of(_judges(config))
    evals = config.evals
    if evals.benchmarks and evals.servers == "own":
        wanted[EVALUATED] = Follower(evals.policy, evals.every, keeps_last=True)
    return wanted


def _judges(config: RootConfig) -> dict[str, tuple[str, int]]:
    """{name: (policy, steps between two pins)} that the recipes want."""
    cast = streams_of(config)
    return {
        name: (cast[stream], every)
        for cfg in settings_of(config).values()
        for name, (stream, every) in cfg.followers().items()
    }
