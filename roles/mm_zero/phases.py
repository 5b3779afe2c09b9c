"""MM-Zero as its authors schedule it: one role trains at a time, and the other two are frozen.

    proposer phase   topic -> whole game                                        -> proposer group
    coder phase      [proposals]                       -> drawings, votes       -> coder groups
    solver phase     [proposals, drawings, votes]      -> answers to the labels -> solver groups

What stands in brackets is gathered for a whole phase before its first step, from weights that the
phase's steps do not change (arXiv:2603.09206; its released scripts write it to files). So every
rollout works for one role only: this is what streaming is compared with.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.errors import GameDropped
from engine.tasks import concurrently
from engine.types import Picture
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.memory import Memory
from roles.mm_zero.outcome import Answers
from roles.mm_zero.parsing import Proposal
from roles.mm_zero.players import Players
from roles.mm_zero.recipe import play_drawings, play_proposal, play_topic, submit_answers
from roles.mm_zero.rules import PARSERS, RULES
from roles.mm_zero.scoring import answer_rewards
from roles.table import Submit, Table


class Phases(Protocol):
    """Which role trains now (`engine.phases`)."""

    @property
    def stream(self) -> str: ...
    @property
    def number(self) -> int:
        """Phases that this role has had before."""
        ...

    @property
    def steps_left(self) -> int:
        """Of this phase."""
        ...


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question about a picture, and the answer that the votes before the phase gave."""

    png: bytes
    num_answers: int
    """To be asked for; as many as voted."""
    votes: Answers
    """What was asked, and the label; without the replies, which would fill the memory."""


class PhasedGames:
    """Plays each game as the phase wants it. One per run; what it gathered ends with the phase."""

    def __init__(self, cfg: MMZeroConfig, phases: Phases, games_per_step: int) -> None:
        """`games_per_step`: so many topics are gathered for each step of a phase."""
        self._cfg = cfg
        self._phases = phases
        self._games_per_step = games_per_step
        self._memory = Memory(cfg)
        self._gathering = asyncio.Lock()
        self._gathered: tuple[tuple[str, int] | None, Sequence[list[Any]]] = (None, ())
        """(role and number of the phase, an item for each topic)"""
        self._taken = 0
        """Items of this phase that games have."""
        self._topics = 0
        """Gathered so far, in all phases."""

    def recall(self, games: Iterable[Mapping[str, Any]]) -> None:
        self._memory.recall(games)

    async def prepare(self, table: Table) -> None:
        """Gather for the phase, unless that is done. The first game of a phase does it for all of
        them. Where that fails, the next one tries again."""
        async with self._gathering:
            phase = (self._phases.stream, self._phases.number)
            if self._gathered[0] != phase:
                self._gathered = (phase, await self._gather(table, phase[0]))
                self._taken = 0

    async def __call__(self, game: int, table: Table) -> None:
        await self.prepare(table)
        trained = self._phases.stream
        only = self._players(replace(table, submit=_submits(table, trained)))
        match trained:
            case "coder":
                await concurrently(lambda proposal: play_drawings(proposal, only), self._item())
            case "solver":
                await concurrently(lambda asked: self._answer(asked, only), self._item())
            case _:
                await play_topic(self._memory.topic(game), only, self._memory)

    async def _answer(self, asked: Labelled, players: Players) -> None:
        votes, grader = asked.votes, players.table.grader
        rollouts = await players.answer(asked.png, votes.question, asked.num_answers)
        rewards = await answer_rewards(rollouts, votes.label, self._cfg, grader)
        # Those who gave the label are older solvers: their age is no age of this group.
        submit_answers(replace(votes, rollouts=rollouts, rewards=rewards), (), players)

    def _item(self) -> list[Any]:
        """The next topic's."""
        _, items = self._gathered
        self._taken += 1
        return items[(self._taken - 1) % len(items)]

    async def _gather(self, table: Table, stream: str) -> Sequence[list[Any]]:
        gather: Callable[[str, Players], Awaitable[list[Any]]]
        match stream:
            case "coder":
                gather = self._proposals
            case "solver":
                gather = self._questions
            case _:
                return ()
        players = self._players(replace(table, submit=lambda group: None))
        first, number = self._topics, self._phases.steps_left * self._games_per_step
        self._topics += number

        async def one(place: int) -> list[Any]:
            try:
                return await gather(self._memory.topic(place), players)
            except GameDropped:
                return []

        return await concurrently(one, range(first, first + number))

    def _players(self, table: Table) -> Players:
        # The solver's groups are made by fresh answers to labels, never by those of judges.
        return Players.at(table, self._cfg, trains_solver=False)

    async def _proposals(self, topic: str, players: Players) -> list[Proposal]:
        """Those of a topic that can be drawn."""
        rollouts = await concurrently(
            lambda _: players.propose(topic), range(self._cfg.num_proposals)
        )
        parsed = [PARSERS[self._cfg.parser](rollout.text) for rollout in rollouts]
        rules = RULES[self._cfg.rules]
        return [one for one in parsed if isinstance(one, Proposal) and rules.is_drawn(one)]

    async def _questions(self, topic: str, players: Players) -> list[Labelled]:
        """Those about the pictures of a topic that are worth training on."""
        attempts = await concurrently(
            lambda _: play_proposal(topic, players), range(self._cfg.num_proposals)
        )
        return [
            Labelled(
                drawing.picture.png,
                len(answers.rollouts),
                replace(answers, rollouts=(), rewards=()),
            )
            for attempt in attempts
            for drawing in attempt.drawings
            if isinstance(drawing.picture, Picture) and drawing.solved is not None
            for answers in drawing.solved.answers
            if answers.drop is None
        ]


def _submits(table: Table, stream: str) -> Submit:
    """Keeps only groups of `stream`."""
    return lambda group: table.submit(group) if group.stream == stream else None
