"""A scene: two to five shapes on a 3x3 grid of 32x32 pixel cells."""

import hashlib
import random
from dataclasses import dataclass

CELLS = (
    "top-left", "top", "top-right",
    "left", "center", "right",
    "bottom-left", "bottom", "bottom-right",
)  # fmt: skip
COLORS = ("red", "blue", "green", "yellow")
KINDS = ("circle", "square", "triangle")
SIZES = ("big", "small")
FEWEST, MOST = 2, 5


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """One shape in one cell (an index into CELLS: row-major)."""

    cell: int
    color: str
    kind: str
    size: str

    def has(self, attribute: str) -> bool:
        """True where `attribute` is the color, the kind or the size of this shape."""
        return attribute in (self.color, self.kind, self.size)


Scene = tuple[Shape, ...]
"""Shapes in the order of their cells, one per cell at most."""


def random_scene(rng: random.Random) -> Scene:
    """A scene with FEWEST to MOST shapes; every attribute uniform and independent."""
    cells = sorted(rng.sample(range(len(CELLS)), rng.randint(FEWEST, MOST)))
    return tuple(
        Shape(cell, rng.choice(COLORS), rng.choice(KINDS), rng.choice(SIZES)) for cell in cells
    )


def scene_hash(scene: Scene) -> int:
    """A 64-bit hash of what the scene shows; equal on every machine and Python."""
    text = ";".join(f"{s.cell},{s.color},{s.kind},{s.size}" for s in scene)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
