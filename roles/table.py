"""What a recipe may touch: samplers, a renderer, a grader, and a place to submit groups.

A recipe awaits these and nothing else. It knows no queue, version, retry or device; those are
the engine's. Tests pass fakes with the same methods.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    async def render(self, svg: str) -> Picture | Invalid:
        """The picture, or a named reason why there is none; never raises for what `svg` holds."""
        ...


class Grader(Protocol):
    """Compares answers where hostile ones can hang nobody (`rewards.grader`)."""

    async def forms(self, answers: Iterable[str | None]) -> Mapping[str, str]:
        """{answer: canonical form}; "" where it is no answer, None is left out. Equal forms are
        equal answers."""
        ...

    async def verdicts(self, pairs: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], bool]:
        """{(given, truth): the released code's verdict}, which need not be symmetric."""
        ...


@dataclass(frozen=True, slots=True)
class Table:
    """The table at which one game is played."""

    game: int
    """Unique number of the game in its run."""
    samplers: Mapping[str, Sampler]
    """By role."""
    renderer: Renderer
    grader: Grader
    submit: Submit
    note: Note
