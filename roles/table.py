"""What a recipe may touch: samplers, a renderer, a grader, and a place to submit groups.

A recipe awaits these and nothing else. It knows no queue, version, retry or device; those are
the engine's. Tests pass fakes with the same methods.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from engine.types import Group, Renderer, Sampler

__all__ = ["Grader", "Note", "Renderer", "Sampler", "Submit", "Table"]

Submit = Callable[[Group], None]
"""Hands over a group. Never blocks: its slot was paid for when the game started."""
Note = Callable[[str, Any], None]
"""Keeps a JSON value (or PNG bytes) with the game, for the gallery and the report."""


class Grader(Protocol):
    """Compares answers where hostile ones can hang nobody (`rewards.grader`)."""

    async def forms(self, answers: Iterable[str | None]) -> Mapping[str, str]:
        """{answer: canonical form}; "" where it is no answer, None is left out. Equal forms are
        equal answers."""
        ...

    async def verdicts(self, pairs: Iterable[tuple[str, str]]) -> Mapping[tuple[str, str], bool]:
        """{(given, truth): the released code's verdict}, which need not be symmetric."""
        ...


class Pair(Protocol):
    """Two pictures of one scene, of which the spy sees the other one (`render_pool.pairs`)."""

    @property
    def id(self) -> str: ...
    @property
    def domain(self) -> str:
        """What kind of pictures these are: "objects", "bars", ..."""
        ...

    @property
    def view(self) -> str:
        """What the spy sees: "edited" or "blank"."""
        ...

    @property
    def civilian(self) -> bytes:
        """PNG."""
        ...

    @property
    def spy(self) -> bytes:
        """PNG, of the same size."""
        ...

    @property
    def hint_civilian(self) -> str:
        """What differs between the pictures, without saying where."""
        ...

    @property
    def hint_spy(self) -> str: ...

    def is_true(self, claim: str) -> bool | None:
        """Of the civilians' picture; None where the scene does not decide it."""
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
