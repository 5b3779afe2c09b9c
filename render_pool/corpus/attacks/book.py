"""What an attack is, and how the families write theirs down."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Make = Callable[[Random], str | bytes]

SEEN = ("picture", "blank", "near_blank")
"""Outcomes of what may be drawn: whatever it shows, it must be cheap."""
REFUSED = ("too_costly", "too_large")
"""Outcomes of what asks for too much, decided before anything is drawn."""
HEAVY = (*SEEN, *REFUSED)
"""Outcomes of what a fast renderer may draw and a slow one has to refuse."""
ODD = (*HEAVY, "malformed", "bad_size")
"""Outcomes of oddities: drawn or refused, as long as they are cheap and reach nothing outside."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One hostile (or merely unlucky) input of `RenderPool.render`."""

    family: str
    name: str
    text: str | bytes
    """`{port}` in a URL stands for a port of this machine that nothing may connect to."""
    outcomes: frozenset[str]
    """What the pool may answer: reasons of `Invalid`, or "picture"."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Writes one kind of attack, in endless variants."""

    family: str
    name: str
    make: Make
    outcomes: frozenset[str]

    def attack(self, rng: Random) -> Attack:
        return Attack(self.family, f"{self.family}/{self.name}", self.make(rng), self.outcomes)


class Book:
    """The recipes of one family."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.recipes: list[Recipe] = []

    def add(self, name: str, make: Make, *outcomes: str) -> None:
        self.recipes.append(Recipe(self.family, name, make, frozenset(outcomes)))

    def recipe(self, *outcomes: str) -> Callable[[Make], Make]:
        """Enter the decorated function under its own name."""

        def enter(make: Make) -> Make:
            self.add(make.__name__.replace("_", "-"), make, *outcomes)
            return make

        return enter


def document(rng: Random, body: str, root: str = 'viewBox="0 0 100 100"') -> str:
    """An SVG around `body`. No two are alike: the root's id is drawn from 48 bits."""
    xmlns = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {xmlns} id="r{rng.getrandbits(48):012x}" {root}>{body}</svg>'


def name(rng: Random) -> str:
    return f"n{rng.getrandbits(24):06x}"


def colour(rng: Random) -> str:
    """Not white, and well seen on white."""
    return f"#{rng.randrange(200):02x}{rng.randrange(200):02x}{rng.randrange(200):02x}"


def shape(rng: Random, attributes: str = "") -> str:
    """A rectangle that is seen: 9..16 % of the usual canvas."""
    x, y = rng.randint(0, 60), rng.randint(0, 60)
    width, height = rng.randint(30, 40), rng.randint(30, 40)
    paint = "" if "fill=" in attributes else f'fill="{colour(rng)}" '
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" {paint}{attributes}/>'


def room(rng: Random, low: int = 20_000, high: int = 60_000) -> int:
    """Bytes to fill: below the usual limit of 64 KB."""
    return rng.randint(low, high)


def filled(piece: str, size: int) -> str:
    """`piece` again and again, `size` bytes of it."""
    return piece * (size // len(piece.encode()))


def points(rng: Random, count: int, side: int = 100) -> str:
    """Random points of the canvas: a zig-zag that crosses itself everywhere."""
    return " ".join(f"{rng.randrange(side)},{rng.randrange(side)}" for _ in range(count))
