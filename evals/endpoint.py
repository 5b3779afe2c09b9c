"""Who answers questions: a model behind whatever server is at hand.

Three ways to fail, and no fourth: `TransportError` (nobody's fault: asked again, then the row is
missing), `Refused` (this question: the row is named and skipped) and `ConfigError` (the whole
evaluation: it ends). A failure is never text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.errors import ConfigError, EngineError, TransportError
from engine.types import Finish, SamplingParams
from evals.benchmark import Question


class Refused(EngineError):
    """The server will not answer this question (too long for its context, a bad picture, ...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a model said, and what it took."""

    text: str
    """Without special tokens and without what stopped it."""
    finish: Finish
    prompt_tokens: int | None
    """Pictures included; None where the server does not say. So with `tokens`."""
    tokens: int | None
    seconds: float
    """From the request to the whole answer, waiting at the server included."""
    server: str
    weights: str = ""
    """Version of the weights, where the server says so."""
    max_new_tokens: int | None = None
    """Where the context left fewer than were asked for; None: as asked."""


class Endpoint(Protocol):
    """Answers questions, many at once. Implementations bound nothing: whoever asks does."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What makes its answers its own: model, weights, chat template. Part of every key."""
        ...

    async def generate(
        self, question: Question, params: SamplingParams, seed: int, *, stop: Sequence[str] = ()
    ) -> Response:
        """One answer. Raises TransportError, Refused or ConfigError."""
        ...


def failure_of(status: int, message: str) -> EngineError | None:
    """What an HTTP status means for a question; None where it was answered."""
    if status == 200:
        return None
    text = f"{status}: {message[:500]}"
    if status in (400, 413, 422):
        return Refused(text)
    if status in (408, 409, 425, 429) or status >= 500:
        return TransportError(text)
    return ConfigError(f"the server answers {text}")
