"""What each role is asked, and how it is sampled."""

import functools
from dataclasses import dataclass

from engine.tasks import concurrently
from engine.types import Rollout
from roles.mm_zero.config import JUDGE, MMZeroConfig
from roles.mm_zero.outcome import Replies
from roles.mm_zero.parsing import Proposal
from roles.mm_zero.prompts import Prompts, load_prompts
from roles.table import Table

_prompts = functools.cache(load_prompts)


@dataclass(frozen=True, slots=True)
class Players:
    """The roles at one table: three, and the judge where that is pinned."""

    table: Table
    cfg: MMZeroConfig
    prompts: Prompts
    trains_solver: bool = True
    """Where not, the solver's own answers are not asked for beside those of a pinned judge."""

    @classmethod
    def at(cls, table: Table, cfg: MMZeroConfig, *, trains_solver: bool = True) -> "Players":
        """Raises ConfigError where `cfg.prompts` names no prompt set."""
        return cls(table, cfg, _prompts(cfg.prompts), trains_solver)

    async def propose(self, topic: str) -> Rollout:
        return (await self._sample("proposer", self.prompts.proposer(topic), 1))[0]

    async def draw(self, proposal: Proposal) -> Rollout:
        messages = self.prompts.coder(
            caption=proposal.caption,
            easy_question=proposal.easy_question,
            easy_answer=proposal.easy_answer,
            hard_question=proposal.hard_question,
            hard_answer=proposal.hard_answer if self.cfg.show_hard_answer else None,
        )
        return (await self._sample("coder", messages, 1))[0]

    async def judge_and_solve(self, proposal: Proposal, png: bytes) -> tuple[Replies, Replies]:
        """(the judges' replies, the solver's own); the same ones unless the judge is pinned, and
        the solver trained."""
        cfg = self.cfg
        judge = JUDGE if cfg.judge == "pinned" else "solver"
        if judge == "solver" or not self.trains_solver:
            replies = await self._both(judge, proposal, png, cfg.num_easy_votes)
            return replies, replies
        num_easy = cfg.num_easy_votes if cfg.train_easy else 0
        judges, own = await concurrently(
            lambda who: self._both(who[0], proposal, png, who[1]),
            [(judge, cfg.num_easy_votes), ("solver", num_easy)],
        )
        return judges, own

    async def _both(self, role: str, proposal: Proposal, png: bytes, num_easy: int) -> Replies:
        """Both questions at once; they share the picture in front, and with it a server."""
        easy, hard = await concurrently(
            lambda asked: self._ask(role, png, *asked),
            [
                (proposal.easy_question, num_easy),
                (proposal.hard_question, self.cfg.num_hard_votes),
            ],
        )
        return Replies(easy, hard)

    async def answer(self, png: bytes, question: str, n: int) -> tuple[Rollout, ...]:
        """The solver's, to one question about a picture."""
        return await self._ask("solver", png, question, n)

    async def _ask(self, role: str, png: bytes, question: str, n: int) -> tuple[Rollout, ...]:
        return await self._sample(role, self.prompts.solver(question), n, (png,))

    async def _sample(
        self, role: str, messages: list[dict], n: int, images: tuple[bytes, ...] = ()
    ) -> tuple[Rollout, ...]:
        params = self.cfg.params(role)
        return await self.table.samplers[role].sample(messages, n=n, params=params, images=images)
