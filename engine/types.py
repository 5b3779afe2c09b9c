"""The words that cross packages. Frozen, complete, checked once; no torch, no I/O.

A *policy* is one set of weights; a *role* is a part in a game; a *stream* is one role's supply
of training groups. A *step* counts the batches that weights contain; a *version* names one
publication of weights and maps to a step (see `engine.versions`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Message = dict[str, Any]
"""One chat turn: {"role": ..., "content": [{"type": "text", "text": ...} or {"type": "image"}]}.
Images are passed beside the messages, as PNG bytes in the order of the `image` parts."""

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Invalid:
    """Model output that could not be used: a value with a reason, never an exception."""

    reason: str
    """One of a closed set per producer: "no_caption", "timeout", "not_svg", ..."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one rollout is sampled. All fields are sent explicitly with every request."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0

    @property
    def is_trainable(self) -> bool:
        """True where the behaviour log-prob is log_softmax(logits / temperature) exactly."""
        return self.temperature > 0 and self.top_p == 1.0 and self.top_k == -1 and self.min_p == 0.0


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [first, next segment's first) of a rollout were sampled by weights `version`."""

    first: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion, exactly as sampled. Token ids are never re-tokenised.

    Raises ValueError where the lengths or the segments contradict each other.
    """

    policy: str
    role: str
    prompt_ids: tuple[int, ...]
    """As sent: one placeholder id per image; the learner expands it by the processor's grid."""
    images: tuple[bytes, ...] = ()
    """PNG, in the order of the placeholders."""
    token_ids: tuple[int, ...]
    """Sampled tokens, the stop token included."""
    logprobs: tuple[float, ...]
    """[len(token_ids)] behaviour log-probs, nats, after temperature."""
    segments: tuple[Segment, ...]
    finish: Finish
    sampling: SamplingParams
    text: str
    """`token_ids` decoded without special tokens: for parsers, never for training."""
    server: str = ""
    started_s: float = 0.0
    """Unix time at which the request was made."""
    finished_s: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        if n == 0:
            raise ValueError(f"{self.role}: a rollout has at least one token")
        if len(self.logprobs) != n:
            raise ValueError(f"{self.role}: {len(self.logprobs)} log-probs for {n} tokens")
        firsts = [segment.first for segment in self.segments]
        if not firsts or firsts[0] != 0 or firsts != sorted(set(firsts)) or firsts[-1] >= n:
            raise ValueError(f"{self.role}: segments {self.segments} do not partition {n} tokens")

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that sampled this rollout, in order of their tokens."""
        return tuple(segment.version for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rollouts whose advantages belong together, usually those of one prompt.

    Raises ValueError where rewards, terms or advantages do not match the rollouts.
    """

    stream: str
    game: int
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float, ...]
    terms: tuple[Mapping[str, float], ...] = ()
    """Per rollout, the named terms that its reward is made of (empty: not given)."""
    advantages: tuple[float, ...] | None = None
    """Given by the recipe, or None: group-relative, computed by the learner."""
    versions: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """{policy: (oldest, newest) version} of every policy that had a hand in the rewards."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """JSON data for inspection (caption, votes, ...)."""
    encoded: tuple[dict[str, Any], dict[str, bytes]] | None = field(
        default=None, compare=False, repr=False
    )
    """What `engine.wire.encode_group` gives, where it came so and goes on."""

    def __post_init__(self) -> None:
        n = len(self.rollouts)
        if n == 0:
            raise ValueError(f"{self.stream}: an empty group")
        if len(self.rewards) != n:
            raise ValueError(f"{self.stream}: {len(self.rewards)} rewards for {n} rollouts")
        if not all(math.isfinite(reward) for reward in self.rewards):
            raise ValueError(f"{self.stream}: rewards {self.rewards} are not all finite")
        if self.terms and len(self.terms) != n:
            raise ValueError(f"{self.stream}: {len(self.terms)} term rows for {n} rollouts")
        if self.advantages is not None:
            if len(self.advantages) != n:
                raise ValueError(
                    f"{self.stream}: {len(self.advantages)} advantages for {n} rollouts"
                )
            if not all(math.isfinite(advantage) for advantage in self.advantages):
                raise ValueError(f"{self.stream}: advantages {self.advantages} are not all finite")
        if len({rollout.policy for rollout in self.rollouts}) != 1:
            raise ValueError(f"{self.stream}: rollouts of more than one policy")

    @property
    def policy(self) -> str:
        return self.rollouts[0].policy

    @property
    def has_signal(self) -> bool:
        """False where every advantage is zero, so that no gradient comes of it."""
        return has_signal(self.rewards, self.advantages)


def has_signal(rewards: Sequence[float], advantages: Sequence[float] | None) -> bool:
    """Of a group with these: `Group.has_signal`."""
    if advantages is not None:
        return any(advantages)
    return max(rewards) > min(rewards)


def version_range(rollouts: Sequence[Rollout]) -> dict[str, tuple[int, int]]:
    """{policy: (oldest, newest) version} over all tokens of `rollouts`."""
    spans: dict[str, tuple[int, int]] = {}
    for rollout in rollouts:
        low, high = min(rollout.versions), max(rollout.versions)
        if rollout.policy in spans:
            low = min(low, spans[rollout.policy][0])
            high = max(high, spans[rollout.policy][1])
        spans[rollout.policy] = (low, high)
    return spans


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered picture, opaque RGB, PNG-encoded."""

    png: bytes
    width: int
    height: int
    boxes: str = ""
    """Characters that no font has, and that were drawn as boxes."""


class Sampler(Protocol):
    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        """`n` rollouts of one prompt, as rollouts of this sampler's role and policy."""
        ...


class Renderer(Protocol):
    async def render(self, svg: str) -> Picture | Invalid:
        """The picture, or a named reason why there is none; never raises for what `svg` holds."""
        ...
