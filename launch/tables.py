"""The tables at which games are played: samplers and renderer, watched."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.games import Play
from engine.monitor.observed import TIMELINE, ObservedRenderer, Timeline, observed
from engine.sampler import RoleSampler
from engine.types import Group, Invalid, Picture, Rollout
from launch.recipe import PlayGame
from launch.watching import Watcher
from render_pool.pool import RenderPool
from rewards.grader import Grader
from roles.table import Note, Submit, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Those of one attempt of a run."""

    samplers: Mapping[str, RoleSampler]
    players: Mapping[str, str]
    """{role: the policy, or the follower, whose servers play it}"""
    renderer: RenderPool
    grader: Grader
    watcher: Watcher

    def play(self, play: PlayGame) -> Play:
        """How a recipe plays, as `engine.games.Play`."""

        async def play_game(game: int, submit: Submit, note: Note) -> None:
            def observe(key: str, value: Any) -> None:
                note(key, value)
                self.watcher.on_note(key, value)

            timeline = Timeline()
            try:
                await play(game, self._table(game, timeline, submit, observe))
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
        watched = observed(self.samplers, self.players, self.watcher.waiting, timeline)
        drawing = ObservedRenderer(self.renderer.of(game), self.watcher.waiting, timeline)
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
