"""Samplers, a renderer and a grader for the real recipe: they take the time, not the work."""

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import GameDropped
from engine.routing import ServerPool
from engine.tasks import concurrently
from engine.types import Invalid, Message, Picture, Rollout, SamplingParams, Segment
from launch.simulation.cores import Cores, Process
from launch.simulation.script import Script, pick
from launch.simulation.server import Server
from launch.simulation.service_times import Play
from rewards.grading import canonical
from rewards.released.equality import grade_answer


@dataclass(slots=True, kw_only=True)
class SimulatedSampler:
    """In the place of `engine.sampler.RoleSampler`; servers are chosen by the real pool.

    A rollout has one token for each version that had a hand in it, and `prompt_ids` is the number
    of tokens that it stands for: groups stay small, and learners are told what they cost.
    """

    role: str
    policy: str
    pool: ServerPool
    servers: Mapping[str, Server]
    """By url."""
    script: Script
    engine: Process
    request_s: float
    timeout_s: float

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        """`n` rollouts of one prompt. Raises GameDropped at the deadline of a request."""
        texts = self.script.texts(self.role, messages, n)
        prefix = images[0] if images else repr(messages).encode()
        await self.engine.work(self.request_s * n)

        async def rollout(text: str) -> Rollout:
            return await self._rollout(text, prefix, params, tuple(images))

        try:
            async with asyncio.timeout(self.timeout_s):  # they all begin now
                return await concurrently(rollout, texts)
        except TimeoutError:
            raise GameDropped("deadline", f"{self.role}: {self.timeout_s:g} s") from None

    async def _rollout(
        self, text: str, prefix: bytes, params: SamplingParams, images: tuple[bytes, ...]
    ) -> Rollout:
        tokens = self.script.tokens(self.role, params.max_new_tokens)
        versions: list[int] = []
        url = await self._generate(tokens, prefix, params, versions)
        self.pool.counts["tokens"] += tokens
        return Rollout(
            policy=self.policy,
            role=self.role,
            prompt_ids=(tokens,),
            images=images,
            token_ids=(0,) * len(versions),
            logprobs=(0.0,) * len(versions),
            segments=tuple(Segment(i, version) for i, version in enumerate(versions)),
            finish="stop",
            sampling=params,
            text=text,
            server=url,
        )

    async def _generate(
        self, tokens: int, prefix: bytes, params: SamplingParams, versions: list[int]
    ) -> str:
        """Until all are there, from another server where one lets go; the last one's url."""
        left = float(tokens)
        while True:
            most = max(1, params.max_new_tokens - int(tokens - left))
            async with self.pool.place(prefix, most) as url:
                request = await self.servers[url].generate(self.policy, left, prefix)
            versions += [v for v in request.versions if not versions or v != versions[-1]]
            left = request.left
            if not left:
                return url


class SimulatedRenderer:
    """In the place of the render pool: so many workers, each with one picture at a time."""

    def __init__(
        self,
        cores: Cores,
        *,
        workers: int,
        picture_s: Sequence[float],
        play: Play,
        chance: random.Random,
    ) -> None:
        self.workers = [Process(cores) for _ in range(workers)]
        self._free: asyncio.Queue[Process] = asyncio.Queue()
        for worker in self.workers:
            self._free.put_nowait(worker)
        self._picture_s, self._play, self._chance = picture_s, play, chance

    async def render(self, svg: str) -> Picture | Invalid:
        worker = await self._free.get()
        try:
            await worker.work(pick(self._chance, self._picture_s))
        finally:
            self._free.put_nowait(worker)
        if self._chance.random() >= self._play.rendered:
            return Invalid("malformed")
        return Picture(svg.encode(), 1, 1)


class InProcessGrader:
    """The real comparisons, of answers that nobody has to be protected from."""

    async def forms(self, answers: Iterable[str | None]) -> dict[str, str]:
        return {answer: canonical(answer) for answer in answers if answer is not None}

    async def verdicts(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        return {pair: grade_answer(*pair) for pair in pairs}
