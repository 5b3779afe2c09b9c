"""The tables at which one process plays games: samplers and renderer, watched."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from engine.games import Play
from engine.monitor.observed import TIMELINE, ObservedRenderer, Timeline, observed
from engine.monitor.waiting import Waiting
from engine.sampler import Encoder, RoleSampler, ServerPool
from engine.stages import Gate
from engine.types import Group, Invalid, Picture, Rollout
from launch.config import RootConfig, followers, recipes_of, settings_of, streams_of
from launch.recipe import PlayGame
from launch.schedule import begin
from render_pool.pool import RenderPool
from rewards.grader import Grader
from roles.table import Note, Submit, Table


@dataclass(frozen=True, slots=True)
class Played:
    """The recipes of a run, as they are played in one attempt; all by recipe."""

    plays: Mapping[str, Play]
    prepares: Mapping[str, Callable[[int], Awaitable[None]]] = field(default_factory=dict)
    """What a game waits for before its time runs."""
    gates: Mapping[str, Gate] = field(default_factory=dict)
    """Of those that train their streams in stages."""


async def sit_down(
    stack: AsyncExitStack,
    config: RootConfig,
    samplers: Mapping[str, RoleSampler],
    renderer: RenderPool,
    waiting: Waiting,
    games: Callable[[], Iterable[Mapping[str, Any]]] = tuple,
) -> Played:
    """Begin all recipes, to be played in this process until the stack ends.

    `games` gives the notes of the newest games of earlier attempts, oldest first.
    """
    begun = {
        name: await stack.enter_async_context(
            begin(recipe, settings_of(config)[name], renderer.of(name), config.streams)
        )
        for name, recipe in recipes_of(config).items()
    }
    for one in begun.values():
        one.recall(games())
    tables = Tables(
        samplers=samplers,
        players=players_of(config),
        renderer=renderer,
        grader=await stack.enter_async_context(Grader(config.grader)),
        waiting=waiting,
    )
    return Played(
        {name: tables.play(one.play) for name, one in begun.items()},
        {n: tables.prepare(one.prepare) for n, one in begun.items() if one.prepare is not None},
        {name: one.gate for name, one in begun.items() if one.gate is not None},
    )


def players_of(config: RootConfig) -> dict[str, str]:
    """{role: the policy, or the follower, whose servers play it}."""
    return streams_of(config) | {name: name for name in followers(config)}


def samplers_of(
    config: RootConfig,
    pools: Mapping[str, ServerPool],
    encoder: Encoder,
    session: aiohttp.ClientSession,
    warn: Callable[[str], None],
) -> dict[str, RoleSampler]:
    """By role."""
    return {
        role: RoleSampler(role, policy, encoder, pools[policy], session, config.sampler, warn)
        for role, policy in players_of(config).items()
    }


def noting(play: Play, keys: Collection[str], on_note: Callable[[str, Any], None]) -> Play:
    """The same play; `on_note` is told of its notes of these `keys` as well."""

    async def play_game(game: int, submit: Submit, note: Note) -> None:
        def observe(key: str, value: Any) -> None:
            note(key, value)
            if key in keys:
                on_note(key, value)

        await play(game, submit, observe)

    return play_game


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Those of one attempt of a run."""

    samplers: Mapping[str, RoleSampler]
    players: Mapping[str, str]
    """{role: the policy, or the follower, whose servers play it}"""
    renderer: RenderPool
    grader: Grader
    waiting: Waiting
    """Hears who waits where."""

    def play(self, play: PlayGame) -> Play:
        """How a recipe plays, as `engine.games.Play`."""

        async def play_game(game: int, submit: Submit, note: Note) -> None:
            timeline = Timeline()
            try:
                await play(game, self._table(game, timeline, submit, note))
            finally:  # of a game that was cut off, too
                note(TIMELINE, timeline.note)

        return play_game

    def prepare(
        self, prepare: Callable[[Table], Awaitable[None]]
    ) -> Callable[[int], Awaitable[None]]:
        """What many games share is in no game's notes, and submits nothing."""

        async def prepare_for(game: int) -> None:
            await prepare(self._table(game, _NoTimeline(), _submit_nothing, _note_nothing))

        return prepare_for

    def _table(self, game: int, timeline: Timeline, submit: Submit, note: Note) -> Table:
        watched = observed(self.samplers, self.players, self.waiting, timeline)
        drawing = ObservedRenderer(self.renderer.of(game), self.waiting, timeline)
        return Table(game, watched, drawing, self.grader, submit, note)


class _NoTimeline(Timeline):
    """Keeps nothing: the rollouts of a whole phase would not fit."""

    def sampled(self, role: str, rollouts: Sequence[Rollout]) -> None:
        pass

    def rendered(self, started_s: float, result: Picture | Invalid) -> None:
        pass


def _submit_nothing(group: Group) -> None:
    """Groups are a game's."""


def _note_nothing(key: str, value: Any) -> None:
    """So are notes."""
