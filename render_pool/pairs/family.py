"""What a family of procedural scenes is: an original, an edit of it, a drawing, and the truth."""

import random
from typing import Protocol, TypeVar

S = TypeVar("S")

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
"""Words of the numbers from 0."""


class Family(Protocol[S]):
    """Scenes of one kind. All of it is pure: the same `rng` state gives the same scene."""

    @property
    def name(self) -> str:
        """What kind of pictures these are, in one word."""
        ...

    @property
    def hint(self) -> str:
        """What differs between the pictures of a pair, without saying where, as a clause:
        "two objects have another shape and colour"."""
        ...

    def original(self, rng: random.Random) -> S:
        """A new scene. Scenes that show the same are drawn by the same SVG."""
        ...

    def edit(self, scene: S, rng: random.Random) -> S | None:
        """`scene` with some of its things changed; None where this try is not acceptable."""
        ...

    def svg(self, scene: S | None, side: int) -> str:
        """The drawing of `scene`, or (None) of nothing at all, `side` pixels wide and high."""
        ...

    def is_true(self, scene: S, claim: str) -> bool | None:
        """Whether a sentence is true of `scene`; None where the scene does not decide it, or where
        the sentence is more than is understood here. Never a guess."""
        ...


def document(inside: str, canvas: int, side: int) -> str:
    """An SVG of `side` pixels, drawn in units of a square `canvas`."""
    size = f'width="{side}" height="{side}" viewBox="0 0 {canvas} {canvas}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{inside}</svg>'


def conjunction(verdicts: list[bool | None]) -> bool | None:
    """Whether all are true; None where there is none, or one of them is undecided."""
    return None if not verdicts or None in verdicts else all(verdicts)
