"""What each seat is asked, and how it is sampled."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from engine.tasks import concurrently
from engine.types import Rollout
from roles.table import Pair, Table
from roles.vision_zero.config import VOTER, VisionZeroConfig
from roles.vision_zero.outcome import Poll, Turn, transcript
from roles.vision_zero.prompts import Prompts, load_prompts
from roles.vision_zero.rules import RULES

_prompts = functools.cache(load_prompts)


@dataclass(frozen=True, slots=True)
class Players:
    """The seats around one pair of pictures, and who votes."""

    table: Table
    cfg: VisionZeroConfig
    pair: Pair
    spy: int
    prompts: Prompts

    @classmethod
    def at(cls, table: Table, cfg: VisionZeroConfig, pair: Pair, spy: int) -> "Players":
        """Raises ConfigError where `cfg.prompts` names no prompt set."""
        return cls(table, cfg, pair, spy, _prompts(cfg.prompts))

    @property
    def seats(self) -> range:
        return range(1, self.cfg.num_players + 1)

    async def speak(self, seat: int, round_: int, so_far: Sequence[Turn]) -> Turn:
        """One clue: from its own picture, all clues so far and its own earlier reasoning."""
        is_spy = seat == self.spy
        rules = RULES[self.cfg.rules]
        messages = self.prompts.clue(
            seat=seat,
            is_spy=is_spy,
            num_players=self.cfg.num_players,
            round=round_,
            num_rounds=self.cfg.num_rounds,
            hint=self.pair.hint_spy if is_spy else self.pair.hint_civilian,
            transcript=transcript(so_far),
            notes=[rules.reasoning(turn.rollout.text) for turn in so_far if turn.seat == seat],
        )
        role = "spy" if is_spy else "civilian"
        png = self.pair.spy if is_spy else self.pair.civilian
        (rollout,) = await self._sample(role, messages, 1, png)
        earlier = [turn.clue for turn in so_far if isinstance(turn.clue, str)]
        return Turn(seat, round_, rollout, rules.read_clue(rollout.text, earlier, self.cfg))

    async def vote(self, turns: Sequence[Turn], voter: str = VOTER) -> Poll:
        """Everyone who votes, at once; nobody sees another's vote."""
        if self.cfg.voters == "judge":
            rollouts = await self._ask(voter, turns, None, self.cfg.num_votes)
        else:
            civilians = [seat for seat in self.seats if seat != self.spy]
            asked = await concurrently(lambda seat: self._ask(voter, turns, seat, 1), civilians)
            rollouts = tuple(rollout for (rollout,) in asked)
        return RULES[self.cfg.rules].poll(rollouts, self.spy, self.cfg)

    async def _ask(
        self, voter: str, turns: Sequence[Turn], seat: int | None, n: int
    ) -> tuple[Rollout, ...]:
        messages = self.prompts.vote(
            num_players=self.cfg.num_players,
            hint=self.pair.hint_civilian,
            transcript=transcript(turns),
            seat=seat,
        )
        return await self._sample(voter, messages, n, self.pair.civilian)

    async def _sample(self, role: str, messages: list, n: int, png: bytes) -> tuple[Rollout, ...]:
        params = self.cfg.params(role)
        return await self.table.samplers[role].sample(messages, n=n, params=params, images=(png,))
