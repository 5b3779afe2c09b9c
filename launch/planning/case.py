"""What is planned: a model, a cluster, a recipe's work. The rest of planning only reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engine.errors import ConfigError
from launch.config import RootConfig, load_root, settings_of, streams_of
from launch.planning.assumptions import Assumptions
from launch.planning.devices import Cluster
from launch.planning.longest import longest_rows
from launch.planning.models import Model
from launch.planning.work import RoleWork, renders_of, work_of
from roles.mm_zero.config import MMZeroConfig
from roles.vision_zero.config import VisionZeroConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TEMPLATES = {
    "mm_zero": CONFIGS / "mm_zero_8gpu.yaml",
    "vision_zero": CONFIGS / "vision_zero_8gpu.yaml",
}
"""A plan changes the model, the layout and what saves memory; all else stands there."""
ONE_POLICY = "shared"
"""The name of the policy that plays all roles where they share one."""


@dataclass(frozen=True)
class Case:
    """One question to the planner."""

    model: Model
    cluster: Cluster
    recipe: str
    assumed: Assumptions
    config: RootConfig
    """The template of the recipe, with what was asked for."""
    tokens: Mapping[str, float]

    @property
    def settings(self) -> MMZeroConfig | VisionZeroConfig:
        settings = settings_of(self.config)[self.recipe]
        assert isinstance(settings, MMZeroConfig | VisionZeroConfig), "no plans for other games"
        return settings

    @cached_property
    def work(self) -> tuple[RoleWork, ...]:
        """Of a game."""
        return work_of(
            self.settings,
            streams_of(self.config),
            self.model,
            self.config.render.side,
            self.assumed,
            self.tokens,
        )

    @cached_property
    def policies(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(role.policy for role in self.work))

    @cached_property
    def renders(self) -> float:
        """Of a game."""
        return renders_of(self.settings, self.work)

    @property
    def games_per_step(self) -> int:
        return self.config.streams.games_per_step

    @cached_property
    def games_factor(self) -> float:
        """Games of a step, over the template's."""
        return self.games_per_step / load_root(TEMPLATES[self.recipe]).streams.games_per_step

    @property
    def games_in_flight(self) -> int:
        """Games that admission lets be under way."""
        return (self.config.streams.max_age + 1) * self.games_per_step

    @cached_property
    def longest_rows(self) -> dict[str, int]:
        """{policy: tokens of the longest reply with its prompt}."""
        return longest_rows(self.config, self.model.picture(self.config.render.side)[0])

    def roles(self, policy: str) -> tuple[RoleWork, ...]:
        """The work of the roles that `policy` plays."""
        return tuple(role for role in self.work if role.policy == policy)


def make_case(
    model: Model,
    cluster: Cluster,
    recipe: str,
    assumed: Assumptions,
    *,
    tokens: Mapping[str, float] | None = None,
    one_policy: bool = False,
    games: int | None = None,
) -> Case:
    """The case of a recipe as its template plays it, with `games` per step if they are given.

    Raises ConfigError for a stream in `tokens` that the recipe lacks, or whose replies are never
    that long."""
    config = load_root(TEMPLATES[recipe])
    streams = tuple(streams_of(config))
    tokens = tokens or {}
    if unknown := tokens.keys() - set(streams):
        raise ConfigError(
            f"--tokens: {recipe} has no role {', '.join(sorted(unknown))}; "
            f"there are {', '.join(streams)}"
        )
    for role, mean in tokens.items():
        most = settings_of(config)[recipe].params(role).max_new_tokens
        if mean > most:
            raise ConfigError(
                f"--tokens {role}={mean:g}: {recipe} cuts a reply of {role} at {most} tokens "
                "(max_new_tokens); want no more than that"
            )
    if one_policy:
        config = _sharing(config, streams)
    if games is not None:
        own = config.streams.model_copy(update={"games_per_step": games})
        config = config.model_copy(update={"streams": own})
    return Case(model, cluster, recipe, assumed, config, tokens)


def _sharing(config: RootConfig, streams: Sequence[str]) -> RootConfig:
    layout = config.layout.model_copy(update={"policies": dict.fromkeys(streams, ONE_POLICY)})
    return config.model_copy(update={"layout": layout})
