"""What a recipe may touch: samplers, a renderer, and a place to submit groups.

A recipe awaits these and nothing else. It knows no queue, version, retry or device; those are
the engine's. Tests pass fakes with the same methods.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.types import Group, Invalid, Message, Picture, Rollout, SamplingParams

Submit = Callable[[Group], None]
"""Hands over a group. Never blocks: its slot was paid for when the game started."""
Note = Callable[[str, Any], None]
"""Keeps a JSON value (or PNG bytes) with the game, for the gallery and the report."""


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
    async def render(self, svg: str) -> Picture | Invalid: ...


@dataclass(frozen=True, slots=True)
class Table:
    """The table at which one game is played."""

    game: int
    """Unique number of the game in its run."""
    samplers: Mapping[str, Sampler]
    """By role."""
    renderer: Renderer
    submit: Submit
    note: Note
