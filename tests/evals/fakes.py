"""Endpoints without servers, and watchers that remember."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.types import SamplingParams
from evals.benchmark import Benchmark, Question
from evals.endpoint import Response
from evals.records import Record
from evals.runner import Outcome


def text_of(question: Question) -> str:
    """All texts of a question."""
    return " ".join(
        part["text"]
        for message in question.messages
        for part in message["content"]
        if part["type"] == "text"
    )


def response(text: str = "red", **changes: Any) -> Response:
    whole: dict[str, Any] = {"finish": "stop", "prompt_tokens": 9, "tokens": 1, "seconds": 0.1}
    return Response(text=text, server="fake", **(whole | changes))


@dataclass
class FakeEndpoint:
    """Answers by a function of the question; remembers what it was asked."""

    answer: Callable[[Question], Response | Exception] = lambda question: response()
    name: str = "fake"
    asked: list[tuple[Question, SamplingParams, int, tuple[str, ...]]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    gate: asyncio.Event | None = None
    """Answers wait for it."""
    until_running: int = 0
    """The first answer waits until so many are asked for at a time."""

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": self.name}

    async def generate(
        self, question: Question, params: SamplingParams, seed: int, *, stop: Sequence[str] = ()
    ) -> Response:
        self.asked.append((question, params, seed, tuple(stop)))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            async with asyncio.timeout(300):
                while self.most < self.until_running:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            result = self.answer(question)
        finally:
            self.running -= 1
        if isinstance(result, Exception):
            raise result
        return result


@dataclass
class Remembering:
    """A watcher."""

    records: list[Record] = field(default_factory=list)
    skips: list[tuple[str, str, str]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)

    def began(self, benchmark: Benchmark, rows: int, samples: int) -> None:
        self.events.append(("began", benchmark.name))

    def scored(self, benchmark: Benchmark, record: Record) -> None:
        self.records.append(record)

    def skipped(self, benchmark: Benchmark, row: str, why: str) -> None:
        self.skips.append((benchmark.name, row, why))

    def finished(self, outcome: Outcome) -> None:
        self.events.append(("finished", outcome.benchmark.name))
