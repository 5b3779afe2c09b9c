"""What each role is asked, and how it is sampled."""

import functools
from dataclasses import dataclass

from engine.types import Rollout
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.parsing import Proposal
from roles.mm_zero.prompts import Prompts, load_prompts
from roles.table import Table

_prompts = functools.cache(load_prompts)


@dataclass(frozen=True, slots=True)
class Players:
    """The three roles at one table."""

    table: Table
    cfg: MMZeroConfig
    prompts: Prompts

    @classmethod
    def at(cls, table: Table, cfg: MMZeroConfig) -> "Players":
        """Raises ConfigError where `cfg.prompts` names no prompt set."""
        return cls(table, cfg, _prompts(cfg.prompts))

    async def propose(self, topic: str) -> Rollout:
        return (await self._sample("proposer", self.prompts.proposer(topic), 1))[0]

    async def draw(self, proposal: Proposal) -> Rollout:
        card = self.prompts.coder(
            caption=proposal.caption,
            easy_question=proposal.easy_question,
            easy_answer=proposal.easy_answer,
            hard_question=proposal.hard_question,
        )
        return (await self._sample("coder", card, 1))[0]

    async def answer(self, question: str, png: bytes, n: int) -> tuple[Rollout, ...]:
        return await self._sample("solver", self.prompts.solver(question), n, (png,))

    async def _sample(
        self, role: str, messages: list[dict], n: int, images: tuple[bytes, ...] = ()
    ) -> tuple[Rollout, ...]:
        params = self.cfg.params(role)
        return await self.table.samplers[role].sample(messages, n=n, params=params, images=images)
