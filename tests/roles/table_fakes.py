"""A table without an engine: samplers and a renderer that do as told, a grader, a ledger."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.types import Group, Invalid, Message, Picture, Rollout, SamplingParams, Segment
from rewards.grading import canonical
from rewards.released.equality import grade_answer
from roles.table import Table

Reply = Callable[[Sequence[Message], int], str]
"""(messages, number of the call's first sample) -> text."""


def make_rollout(
    role: str, text: str, *, version: int = 0, images: Sequence[bytes] = ()
) -> Rollout:
    return Rollout(
        policy=role,
        role=role,
        prompt_ids=(1,),
        images=tuple(images),
        token_ids=(2, 3),
        logprobs=(-0.5, -0.5),
        segments=(Segment(0, version),),
        finish="stop",
        sampling=SamplingParams(max_new_tokens=8),
        text=text,
    )


@dataclass
class FakeSampler:
    """Says `reply(messages, i)` as its i-th sample, by weights number i // 10."""

    role: str
    reply: Reply
    asked: list[tuple[str, int, SamplingParams]] = field(default_factory=list)
    count: int = 0

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        self.asked.append((text_of(messages), n, params))
        first, self.count = self.count, self.count + n
        await asyncio.sleep(0)
        return tuple(
            make_rollout(self.role, self.reply(messages, i), version=i // 10, images=images)
            for i in range(first, first + n)
        )


@dataclass
class FakeRenderer:
    """A picture of whatever holds no "bad"; its PNG bytes are the SVG text."""

    async def render(self, svg: str) -> Picture | Invalid:
        await asyncio.sleep(0)
        return Invalid("malformed") if "bad" in svg else Picture(svg.encode(), 96, 96)


class InProcessGrader:
    """The real comparisons, without a process around them."""

    async def forms(self, answers: Iterable[str | None]) -> dict[str, str]:
        return {answer: canonical(answer) for answer in answers if answer is not None}

    async def verdicts(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        return {pair: grade_answer(*pair) for pair in pairs}


@dataclass
class FakeTable:
    replies: dict[str, Reply]
    groups: list[Group] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.samplers = {role: FakeSampler(role, reply) for role, reply in self.replies.items()}
        self.table = Table(
            7, self.samplers, FakeRenderer(), InProcessGrader(), self.groups.append, self._note
        )

    def _note(self, key: str, value: Any) -> None:
        assert key not in self.notes
        self.notes[key] = value

    def stream(self, name: str) -> list[Group]:
        return [group for group in self.groups if group.stream == name]


def text_of(messages: Sequence[Message]) -> str:
    return "\n".join(
        part["text"] for message in messages for part in message["content"] if "text" in part
    )
