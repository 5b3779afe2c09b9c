"""Games in flight: one asyncio task each, from its slot to `finished` or `dropped[reason]`.

A *named* failure (`GameDropped`: a request out of retries, ...; or the game's deadline) ends its
game as `dropped[reason]`, settled for all its streams; it loses only groups that it had not
submitted. Any other exception ends the run. The recipe sees `Submit` and `Note`, nothing else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.admission import Admission
from engine.buffer import Buffer
from engine.errors import GameDropped
from engine.types import Group

log = logging.getLogger(__name__)


class Play(Protocol):
    """One recipe bound to its samplers and renderer: plays game number `game`."""

    def __call__(
        self,
        game: int,
        submit: Callable[[Group], None],
        note: Callable[[str, Any], None],
        /,
    ) -> Awaitable[None]: ...


async def played(playing: Awaitable[None], deadline_s: float | None) -> tuple[str | None, str]:
    """(None, ""), or the name of the failure that ended a game and what is to be said of it.

    Raises what is no failure of the game's: that ends the run.
    """
    try:
        async with asyncio.timeout(deadline_s) as deadline:
            await playing
    except TimeoutError:
        if not deadline.expired():
            raise
        return "deadline", f"{deadline_s:g} s"
    except GameDropped as dropped:
        return dropped.reason, dropped.detail
    return None, ""


@dataclass(slots=True, kw_only=True)
class Games:
    """Plays games, and hands what they submit to the buffer and to admission."""

    plays: Mapping[str, Play]
    """By recipe."""
    buffer: Buffer
    admission: Admission
    deadline_s: float
    on_change: Callable[[], None]
    """Called after anything that may let a policy step or a game start."""
    on_group: Callable[[Group, bool], None]
    """Told of every submitted group, and whether it is ready to be trained."""
    prepares: Mapping[str, Callable[[int], Awaitable[None]]] = field(default_factory=dict)
    """By recipe: what a game waits for before its time runs."""
    in_flight: dict[int, str] = field(default_factory=dict)
    """{game: its recipe}"""

    def start(self, recipe: str) -> int:
        """Open the books of a new game: its number. Ask `admission.next_recipe()` first."""
        game = self.buffer.start_game(recipe)
        self.admission.start(game, recipe)
        self.in_flight[game] = recipe
        return game

    async def run(self, game: int) -> None:
        """Play a started game to its end, whatever that is."""
        notes: dict[str, Any] = {}
        reason: str | None = "error"
        recipe = self.in_flight[game]
        try:
            reason = await self._played(game, recipe, notes)
        except asyncio.CancelledError:
            reason = "stopped"
            raise
        finally:
            # Also on an error that ends the run: the books balance whatever happens.
            self.in_flight.pop(game, None)
            self.buffer.end_game(game, dropped=reason, notes=notes)
            self.admission.settle(game)
            self.on_change()

    def end_unstarted(self) -> None:
        """End as dropped[stopped] what was started, but cancelled before `run` had its first turn.

        To be called when no game's task is left.
        """
        for game in list(self.in_flight):
            del self.in_flight[game]
            self.buffer.end_game(game, dropped="stopped")
            self.admission.settle(game)

    async def _played(self, game: int, recipe: str, notes: dict[str, Any]) -> str | None:
        """Why it ended before its end; None: it did not."""
        reason, detail = None, ""
        if recipe in self.prepares:
            reason, detail = await played(self.prepares[recipe](game), None)
        if reason is None:
            play = self.plays[recipe]
            playing = play(game, lambda group: self._submit(game, group), notes.__setitem__)
            reason, detail = await played(playing, self.deadline_s)
        if reason is not None:
            log.warning("game %d dropped[%s]: %s", game, reason, detail)
        return reason

    def _submit(self, game: int, group: Group) -> None:
        if group.game != game:
            raise ValueError(f"game {game} submitted a group of game {group.game}")
        refusal = self.admission.refusal(game, group.stream)
        is_ready = self.buffer.submit(group, drop=refusal)
        if is_ready:
            self.admission.submit(game, group.stream)
        self.on_group(group, is_ready)
        self.on_change()
