"""One generation request, from its arrival to its answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine.servers.embedded.model import Prompt
from engine.servers.embedded.vision import Pixels

Finish = dict[str, Any]
"""{"type": "stop" | "length" | "abort", ...} as in the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Checked sampling parameters of one request; defaults are SGLang's."""

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    no_stop_trim: bool = False
    stream_interval: int = 1
    """Tokens between two events of a streamed answer."""

    @property
    def truncates(self) -> bool:
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a request has produced so far."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    spans: tuple[tuple[str, int, int], ...]
    """(weight version, first token, end token)."""
    finish: Finish | None
    version: str
    cached_tokens: int
    retractions: int
    input_logprobs: tuple[float | None, ...] | None


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """Mutable state; the scheduler's own once submitted."""

    rid: str
    prompt: Prompt
    pixels: tuple[Pixels, ...]
    sampling: Sampling
    deliver: Callable[[Progress], None]
    """Called after each step where `stream` is set, and at the end."""
    stream: bool = False
    priority: int = 0
    """Requests with a higher one join first."""
    logprob_start: int = -1
    """First prompt column whose log-prob is wanted; -1: none."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[tuple[str, int]] = field(default_factory=list)
    synced_clock: int = 0
    """Cache time up to which `tokens` is complete."""
    cached_tokens: int = 0
    retractions: int = 0
    input_logprobs: tuple[float | None, ...] | None = None
    created_s: float = field(default_factory=time.time)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal keys have equal prompts, pictures included."""
        return self.prompt.token_ids, self.prompt.images

    @property
    def watched(self) -> bool:
        """True where every new token must be looked at in Python."""
        stops = self.sampling
        return bool(self.stream or stops.stop_strings or stops.stop_token_ids)

    @property
    def reserved(self) -> int:
        """Cache columns that the request may come to occupy."""
        return len(self.prompt.token_ids) + self.sampling.max_new_tokens

    def to_prefill(self) -> Prompt:
        """The prompt and everything sampled so far."""
        done, prompt = len(self.tokens), self.prompt
        if not done:
            return prompt
        following = tuple(range(prompt.next_position, prompt.next_position + done))
        time_, height, width = (axis + following for axis in prompt.positions)
        return Prompt(
            token_ids=prompt.token_ids + tuple(self.tokens),
            positions=(time_, height, width),
            next_position=prompt.next_position + done,
            images=prompt.images,
        )

    def enter_version(self, version: str) -> None:
        """Tokens from here on are sampled by weights `version`."""
        if self.spans and self.spans[-1][1] == len(self.tokens):
            self.spans.pop()
        if not self.spans or self.spans[-1][0] != version:
            self.spans.append((version, len(self.tokens)))

    def progress(self, finish: Finish | None, version: str) -> Progress:
        """A snapshot; spans without a token are left out."""
        ends = [*(first for _, first in self.spans), len(self.tokens)][1:]
        return Progress(
            token_ids=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            spans=tuple(
                (name, first, end)
                for (name, first), end in zip(self.spans, ends, strict=True)
                if end > first
            ),
            finish=finish,
            version=version,
            cached_tokens=self.cached_tokens,
            retractions=self.retractions,
            input_logprobs=self.input_logprobs,
        )
