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
from engine.layout import Follower, followers_of
from engine.learner.config import LearnerConfig
from engine.monitor.config import MonitorConfig
from engine.sampler import SamplerConfig
from engine.servers.router import check_routers
from evals.config import EvalConfig, LiveEvalsConfig
from launch.recipe import RecipeConfig
from render_pool.config import RenderConfig
from rewards.config import GraderConfig

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
    recipe: RecipeConfig = Field(default_factory=RecipeConfig)
    eval: EvalConfig = EvalConfig()
    evals: LiveEvalsConfig = LiveEvalsConfig()
    monitor: MonitorConfig = MonitorConfig()


def load_root(path: Path, overrides: Sequence[str] = ()) -> RootConfig:
    """Load and check a run's configuration. Raises ConfigError."""
    config = load(RootConfig, path, overrides)
    if config.streams.max_age == 0 and config.streams.too_old == "drop":
        raise ConfigError("streams.too_old: 'drop' with max_age 0 would drop every slow game")
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
    if config.evals.benchmarks and config.evals.servers == "rollout" and config.elastic.enabled:
        raise ConfigError(
            "evals.servers: with elastic.enabled a server may serve another policy in the middle "
            f"of an evaluation; set evals.servers=own and give {EVALUATED!r} a server in the layout"
        )
    judge_age = config.streams.max_judge_age
    for name, (policy, every) in config.recipe.followers().items():
        oldest = every + config.streams.max_age
        if judge_age is not None and judge_age < oldest:
            raise ConfigError(
                f"streams.max_judge_age: {judge_age} would drop groups whose {name} is as old as "
                f"it may be; weights of {policy} that are pinned for {every} steps need {oldest}"
            )
    return config


def followers(config: RootConfig) -> dict[str, Follower]:
    """The followers that the recipe wants, and that of the benchmarks, if they have one."""
    wanted = followers_of(config.recipe.followers())
    evals = config.evals
    if evals.benchmarks and evals.servers == "own":
        wanted[EVALUATED] = Follower(evals.policy, evals.every, keeps_last=True)
    return wanted
