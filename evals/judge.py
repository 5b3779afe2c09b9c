"""Asking a judge: through any endpoint, each request once, its reply kept by the whole request.

What to ask and how to read a reply is the benchmark's own matter. What it does not answer
leaves a row without the judge's score, and counted; it never makes an answer wrong. A judge that no
request can reach (a wrong name or key, nobody there) ends the evaluation: every row would be so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from engine.errors import ConfigError, EngineError, TransportError
from engine.types import Message, SamplingParams
from evals.benchmark import Question
from evals.endpoint import Endpoint, Refused, Response
from evals.records import Journal, key_of

Patient = Callable[[Callable[[], Awaitable[Response]]], Awaitable[Response]]
"""Calls again after a TransportError, until its patience ends (`evals.patience`)."""


class JudgeFailed(EngineError):
    """No reply came: the row stays unscored."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Makes an `Ask` for each row; bounds how many requests are under way."""

    endpoint: Endpoint
    replies: Journal
    patient: Patient
    slots: asyncio.Semaphore
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    """By the key of a request that is under way: who has the same one waits for its reply."""

    def for_row(self) -> "Asked":
        return Asked(self)


@dataclass(slots=True)
class Asked:
    """An `evals.benchmark.Ask` that remembers what it sent."""

    judge: Judge
    keys: list[str] = field(default_factory=list)
    """Of the requests in `Judge.replies`, in order."""

    async def __call__(
        self,
        prompt: str,
        *,
        system: str | None = None,
        max_tokens: int = 16,
        temperature: float = 0.0,
        stop: Sequence[str] | None = None,
        attempt: int = 0,
    ) -> str:
        """The judge's reply. Raises JudgeFailed, or ConfigError where no request can succeed."""
        judge = self.judge
        turns = [("system", system), ("user", prompt)]
        messages: list[Message] = [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in turns
            if text is not None
        ]
        request: dict[str, Any] = {
            "endpoint": dict(judge.endpoint.identity),
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stop": list(stop or ()),
            "attempt": attempt,
        }
        key = key_of(**request)
        self.keys.append(key)
        lock = judge.locks.setdefault(key, asyncio.Lock())
        async with lock:
            kept = judge.replies.get(key)
            if kept is None:
                response = await self._asked(messages, max_tokens, temperature, attempt, stop or ())
                line = {"request": request, "reply": response.text, "finish": response.finish}
                kept = judge.replies.append(key, line)
        reply: str = kept["reply"]
        return reply

    async def _asked(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        temperature: float,
        attempt: int,
        stop: Sequence[str],
    ) -> Response:
        judge = self.judge
        params = SamplingParams(max_new_tokens=max_tokens, temperature=temperature)
        question = Question(messages=messages, images=())
        try:
            async with judge.slots:
                return await judge.patient(
                    lambda: judge.endpoint.generate(question, params, attempt, stop=stop)
                )
        except (TransportError, Refused) as error:
            raise JudgeFailed(str(error)) from error
        except ConfigError as error:
            raise ConfigError(f"--judge: {error}") from error
