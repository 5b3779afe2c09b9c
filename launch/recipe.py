"""The games that can be played: the one place that names them.

To add a game of your own, add its parts to `RECIPES` and its settings to `AnySettings`
(roles/README.md, "Write your own game").
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from pydantic import Discriminator, Tag, model_validator

import evals.heldout
import evals.spy_heldout
import roles.mm_zero.curves
import roles.mm_zero.recipe
import roles.vision_zero.curves
import roles.vision_zero.recipe
from engine.config import Section
from engine.phases import Phases
from engine.stages import Gate
from engine.types import Renderer, Sampler, SamplingParams
from evals.heldout import HeldoutResult
from evals.spy_heldout import check_measurable, transcripts_from_json, transcripts_to_json
from launch.pairs import check_pairs, open_pairs
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.memory import Memory
from roles.mm_zero.phases import PhasedGames
from roles.mm_zero.prompts import load_prompts
from roles.table import Table
from roles.vision_zero.config import VisionZeroConfig
from roles.vision_zero.gallery import NOTE
from roles.vision_zero.memory import Memory as SpyMemory
from roles.vision_zero.prompts import load_prompts as load_spy_prompts

Charts = Mapping[str, Mapping[str, float]]
"""{chart: {series: value}}"""


PlayGame = Callable[[int, Table], Awaitable[None]]
"""Plays game number so and so at a table."""


@dataclass(frozen=True, slots=True)
class Playing:
    """One recipe in one attempt of a run; what it remembers spans the games."""

    play: PlayGame
    gate: Gate | None = None
    """Where it trains its streams in stages."""
    prepare: Callable[[Table], Awaitable[None]] | None = None
    """What a game waits for before its time runs: data that many games share."""
    recall: Callable[[Iterable[Mapping[str, Any]]], None] = lambda games: None
    """To be told the notes of the newest games of earlier attempts, oldest first."""


class PlayInPhases(Protocol):
    """How games are played where one role trains at a time."""

    def recall(self, games: Iterable[Mapping[str, Any]]) -> None:
        """As `Playing.recall`."""
        ...

    async def prepare(self, table: Table) -> None:
        """Gather what the games of this phase share."""
        ...

    async def __call__(self, game: int, table: Table) -> None: ...


class RecipeSettings(Protocol):
    """What there is to a recipe's section of the configuration, whichever game it is."""

    @property
    def name(self) -> str: ...

    def policies(self) -> dict[str, str]:
        """{stream: policy} where the layout does not say else."""
        ...

    def followers(self) -> dict[str, tuple[str, int]]:
        """{servers with older weights: (of which stream's policy, steps between two pins)}."""
        ...

    def params(self, role: str) -> SamplingParams:
        """How replies are sampled of a role that is played: a stream, or a follower."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A game, as far as `launch` has to know it."""

    streams: tuple[str, ...]
    """One per role; no two recipes of one run share one (`MixedConfig` refuses it)."""
    stations: tuple[str, ...]
    """Where a game waits for work to be done, in its order: roles, and the renderer."""
    begin: Callable[[Any, Renderer], AbstractAsyncContextManager[Playing]]
    """From its settings, and the renderer that it may use beside the games."""
    check: Callable[[Any, bool], None] = lambda settings, is_measured: None
    """Raises ConfigError for what would fail only when the first game is played, or measured."""
    in_phases: Callable[[Any, Phases, int], PlayInPhases] | None = None
    """From settings, phases, and games per step; None: games are played as ever, and what the
    other roles would train on is refused."""
    funnel: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """{stream: what its rollouts are called, and those that passed the role's form check}"""
    note: str | None = None
    """The note of a game from which the curves are made."""
    curves: Callable[[Sequence[Any]], Charts] = lambda notes: {}
    """Of the notes of the newest games."""
    spreads: bool = False
    """Its games may be played by several processes, each with a memory of its own: nothing in it
    decides what trains, and nothing of it has to outlive a restart."""
    measure: Callable[..., Awaitable[tuple[HeldoutResult, Any]]] | None = None
    """(samplers, renderer, settings, split, items, samples, majority_items, kept): a measurement by
    exact truth, and JSON data for later ones of the same items, which get it as `kept`."""


def _check_mm_zero(cfg: MMZeroConfig, is_measured: bool) -> None:
    load_prompts(cfg.prompts)


def _check_vision_zero(cfg: VisionZeroConfig, is_measured: bool) -> None:
    load_spy_prompts(cfg.prompts)
    check_pairs(cfg.pairs)
    if is_measured:
        check_measurable(cfg)


@asynccontextmanager
async def _begin_mm_zero(cfg: MMZeroConfig, _: Renderer) -> AsyncIterator[Playing]:
    memory = Memory(cfg)

    async def play(game: int, table: Table) -> None:
        await roles.mm_zero.recipe.play(memory.topic(game), table, cfg, memory)

    yield Playing(play, recall=memory.recall)


@asynccontextmanager
async def _begin_vision_zero(cfg: VisionZeroConfig, renderer: Renderer) -> AsyncIterator[Playing]:
    memory = SpyMemory(cfg)
    async with open_pairs(cfg.pairs, renderer) as pairs:

        async def play(game: int, table: Table) -> None:
            pair = await pairs.pair(game)
            await roles.vision_zero.recipe.play(pair, table, cfg, memory)

        yield Playing(play, memory)


async def _measure_mm_zero(
    samplers: Mapping[str, Sampler],
    renderer: Renderer,
    cfg: MMZeroConfig,
    *,
    kept: Any,
    **how: Any,
) -> tuple[HeldoutResult, Any]:
    return await evals.heldout.measure(samplers, renderer, cfg, **how), None


async def _measure_vision_zero(
    samplers: Mapping[str, Sampler],
    renderer: Renderer,
    cfg: VisionZeroConfig,
    *,
    kept: Any,
    majority_items: int,
    **how: Any,
) -> tuple[HeldoutResult, Any]:
    base = None if kept is None else transcripts_from_json(kept)
    result, clues = await evals.spy_heldout.measure(samplers, renderer, cfg, base=base, **how)
    return result, kept or transcripts_to_json(clues)


RECIPES: Mapping[str, Recipe] = {
    "mm_zero": Recipe(
        streams=roles.mm_zero.recipe.STREAMS,
        stations=roles.mm_zero.recipe.STATIONS,
        funnel=roles.mm_zero.recipe.FUNNEL,
        note="proposals",
        curves=roles.mm_zero.curves.play_curves,
        check=_check_mm_zero,
        begin=_begin_mm_zero,
        in_phases=PhasedGames,
        spreads=True,
        measure=_measure_mm_zero,
    ),
    "vision_zero": Recipe(
        streams=roles.vision_zero.recipe.STREAMS,
        stations=roles.vision_zero.recipe.STATIONS,
        funnel=roles.vision_zero.recipe.FUNNEL,
        note=NOTE,
        curves=roles.vision_zero.curves.play_curves,
        check=_check_vision_zero,
        begin=_begin_vision_zero,
        measure=_measure_vision_zero,
    ),
}

STREAMS = tuple(stream for recipe in RECIPES.values() for stream in recipe.streams)
"""Of all recipes, in the order in which people are shown them."""
UNNAMED = ("sampled", "usable")
"""Words for the funnel of a stream that has none of its own."""


def funnel_of(recipes: Iterable[str]) -> dict[str, tuple[str, str]]:
    """{stream: its words in the funnel} of these recipes; those that are not known have none."""
    played = [RECIPES[name] for name in recipes if name in RECIPES]
    return {stream: words for recipe in played for stream, words in recipe.funnel.items()}


def _name(given: Any) -> str:
    """Which recipe a section of the config is of; MM-Zero where it does not say."""
    name = given.get("name") if isinstance(given, Mapping) else getattr(given, "name", None)
    return str(name or "mm_zero")


AnySettings = (
    Annotated[MMZeroConfig, Tag("mm_zero")] | Annotated[VisionZeroConfig, Tag("vision_zero")]
)
"""Of each of `RECIPES`, with its name there."""
OneRecipe = Annotated[AnySettings, Discriminator(_name)]


class MixedConfig(Section):
    """Games of several recipes at once."""

    name: Literal["mixed"] = "mixed"
    recipes: tuple[OneRecipe, ...]

    @model_validator(mode="after")
    def _each_once(self) -> "MixedConfig":
        names = [cfg.name for cfg in self.recipes]
        if len(names) < 2:
            raise ValueError("recipes: name at least two, or write one as the section `recipe`")
        if len(set(names)) < len(names):
            raise ValueError(f"recipes {', '.join(names)}: name each once")
        return self

    @model_validator(mode="after")
    def _roles_apart(self) -> "MixedConfig":
        owners: dict[str, str] = {}
        for cfg in self.recipes:
            for role in (*RECIPES[cfg.name].streams, *cfg.followers()):
                if (owner := owners.setdefault(role, cfg.name)) != cfg.name:
                    raise ValueError(
                        f"recipes: {owner} and {cfg.name} both have a stream {role!r}; rename it "
                        "in one of them, or play them in runs of their own"
                    )
        return self


RecipeConfig = Annotated[
    AnySettings | Annotated[MixedConfig, Tag("mixed")],
    Discriminator(_name),
]
