"""MM-Zero as its authors schedule it: one role trains at a time, and the other two are frozen.

    proposer phase   topic -> whole game                                        -> proposer group
    coder phase      [proposals]                       -> drawings, votes       -> coder groups
    solver phase     [proposals, drawings, votes]      -> answers to the labels -> solver groups

What stands in brackets is gathered for a whole phase before its first step, from weights that the
phase's steps do not change (arXiv:2603.09206; its released scripts write it to files). So every
rollout works for one role only: this is what streaming is compared with.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
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
from roles.mm_zero.recipe import play, play_drawings, play_proposal, submit_answers
from roles.mm_zero.rules import PARSERS, RULES
from roles.mm_zero.scoring import answer_rewards
from roles.table import Table


class Phases(Protocol):
    """Which role trains now (`engine.phases`)."""

    @property
    def stream(self) -> str: ...
    @property
    def number(self) -> int:
        """Phases before this one."""
        ...


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question about a picture, and the answer that the votes before the phase gave."""

    png: bytes
    answers: Answers
    """Of the votes: what they were asked, and their label."""


class PhasedGames:
    """Plays each game as the phase wants it. One per run; what it gathered ends with the phase."""

    def __init__(self, cfg: MMZeroConfig, phases: Phases, games: int) -> None:
        """`games`: of a phase; so many topics are gathered for it."""
        self._cfg = cfg
        self._phases = phases
        self._games = games
        self._memory = Memory(cfg)
        self._gathering = asyncio.Lock()
        self._gathered: tuple[int, Sequence[list[Any]]] = (-1, ())
        """(number of the phase, an item for each topic)"""
        self._taken = 0
        """Items of this phase that games have."""

    async def __call__(self, game: int, table: Table) -> None:
        match self._phases.stream:
            case "coder":
                proposals = await self._item(table, self._proposals)
                await self._play_coder(proposals, Players.at(table, self._cfg))
            case "solver":
                questions = await self._item(table, self._questions)
                await self._play_solver(questions, Players.at(table, self._cfg))
            case trained:
                await play(self._memory.topic(game), _only(table, trained), self._cfg, self._memory)

    async def _play_coder(self, proposals: list[Proposal], players: Players) -> None:
        only = replace(players, table=_only(players.table, "coder"))
        await concurrently(lambda proposal: play_drawings(proposal, only), proposals)

    async def _play_solver(self, questions: list[Labelled], players: Players) -> None:
        async def answer(asked: Labelled) -> None:
            votes, table, cfg = asked.answers, players.table, self._cfg
            rollouts = await players.answer(asked.png, votes.question, len(votes.rollouts))
            rewards = await answer_rewards(rollouts, votes.label, cfg, table.grader)
            # Those who gave the label are older solvers: their age is no age of this group.
            submit_answers(replace(votes, rollouts=rollouts, rewards=rewards), (), table)

        await concurrently(answer, questions)

    async def _item(self, table: Table, gather: Callable[[str, Players], Awaitable[list]]) -> list:
        """The next topic's; the first game of a phase gathers those of all. Where that fails, the
        next game that wants one tries again."""
        async with self._gathering:
            if self._gathered[0] != self._phases.number:
                await self._gather(table, gather)
            _, items = self._gathered
            self._taken += 1
            return items[(self._taken - 1) % len(items)]

    async def _gather(
        self, table: Table, gather: Callable[[str, Players], Awaitable[list]]
    ) -> None:
        number = self._phases.number
        aside = replace(table, submit=lambda group: None, note=lambda key, value: None)
        players = Players.at(aside, self._cfg)

        async def one(place: int) -> list:
            try:
                return await gather(self._memory.topic(number * self._games + place), players)
            except GameDropped:
                return []

        self._gathered = (number, await concurrently(one, range(self._games)))
        self._taken = 0

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
            Labelled(drawing.picture.png, answers)
            for attempt in attempts
            for drawing in attempt.drawings
            if isinstance(drawing.picture, Picture) and drawing.solved is not None
            for answers in drawing.solved.answers
            if answers.drop is None
        ]


def _only(table: Table, stream: str) -> Table:
    """The same table, at which only groups of `stream` are kept."""
    return replace(
        table, submit=lambda group: table.submit(group) if group.stream == stream else None
    )
