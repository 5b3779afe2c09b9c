"""Pairs of scenes for the spy game: a few shapes of one look different in the other.

Structurally a family of `render_pool.pairs`. What is true of a scene is decided from the scene.
"""

import random
from dataclasses import dataclass, replace

from evals.scenes.drawing import to_svg
from evals.scenes.scene import CELLS, COLORS, KINDS, SIZES, Scene, Shape
from evals.scenes.splits import scene_of, split_of

FEWEST_SHAPES = 4
"""So that each of four players can name a shape of its own."""

_NUMBERS = ("no", "one", "two", "three", "four")
_LONGEST = 400
"""Characters; longer texts are no claims of this world."""


@dataclass(frozen=True, slots=True)
class GridFamily:
    """Scenes of four or five shapes, of which `edits` get another color and another kind.

    A spy that names a shape of its own picture is caught with at most edits / shapes. Cells and
    sizes stay, so the pictures can't be told apart by a count or by what is where.

    Raises ValueError where a scene can't have so many edits.
    """

    edits: int = 2
    """1 to 4."""
    name: str = "grid"

    def __post_init__(self) -> None:
        if not 1 <= self.edits <= FEWEST_SHAPES:
            raise ValueError(f"edits {self.edits} is not within 1 and {FEWEST_SHAPES}")

    @property
    def hint(self) -> str:
        if self.edits == 1:
            return "one shape has another color and another kind"
        return f"{_NUMBERS[self.edits]} shapes have another color and another kind"

    def original(self, rng: random.Random) -> Scene:
        """A scene of the pretrain split: the held-out ones stay unseen by self-play."""
        while len(scene := scene_of("pretrain", rng)) < FEWEST_SHAPES:
            pass
        return scene

    def edit(self, scene: Scene, rng: random.Random) -> Scene | None:
        """None where it would show what is held out from `scene`'s own split, or where `scene` has
        too few shapes."""
        if len(scene) < self.edits:
            return None
        chosen = rng.sample(range(len(scene)), self.edits)
        edited = tuple(
            _changed(shape, rng) if i in chosen else shape for i, shape in enumerate(scene)
        )
        return edited if split_of(edited) in ("pretrain", split_of(scene)) else None

    def svg(self, scene: Scene | None, side: int) -> str:
        return to_svg(scene or ()).replace("<svg ", f'<svg width="{side}" height="{side}" ', 1)

    def is_true(self, scene: Scene, claim: str) -> bool | None:
        """Whether each shape that `claim` names is in `scene`; None where it names none, or says
        anything else."""
        named = shapes_named(claim)
        if not named:
            return None
        return all(any(_fits(shape, said) for shape in scene) for said in named)


Named = tuple[int, str, str, str | None]
"""A shape as far as a clue names it: cell, color, kind, size."""


def clue_of(shape: Shape) -> str:
    """The shape as a clue names it: "top-left red circle"."""
    return f"{CELLS[shape.cell]} {shape.color} {shape.kind}"


def shapes_named(claim: str) -> list[Named]:
    """The shapes of "top-left red circle" or "the top red circle big, center blue square."; empty
    where the claim holds anything else."""
    if len(claim) > _LONGEST:
        return []
    parts = [_shape_named(part) for part in claim.strip().lower().removesuffix(".").split(",")]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else []


def _shape_named(text: str) -> Named | None:
    words = text.split()
    if words and words[0] in ("a", "the"):
        words = words[1:]
    if len(words) not in (3, 4):
        return None
    cell, color, kind, *rest = words
    size = rest[0] if rest else None
    if cell not in CELLS or color not in COLORS or kind not in KINDS or size not in (*SIZES, None):
        return None
    return CELLS.index(cell), color, kind, size


def _fits(shape: Shape, said: Named) -> bool:
    cell, color, kind, size = said
    return (shape.cell, shape.color, shape.kind) == (cell, color, kind) and (
        size is None or shape.size == size
    )


def _changed(shape: Shape, rng: random.Random) -> Shape:
    color = rng.choice([color for color in COLORS if color != shape.color])
    kind = rng.choice([kind for kind in KINDS if kind != shape.kind])
    return replace(shape, color=color, kind=kind)
