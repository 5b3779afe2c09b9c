"""Objects on a white ground: shapes of a colour, a size and a style, none near another.

An edit gives `edits` of them another shape *and* another colour; size, style and place stay. So a
spy that names a random object says something false of the civilians' picture with probability
edits / number of objects: that is the difficulty. (The paper's CLEVR pairs, drawn; our vocabulary.)
"""

import math
import random
import re
from collections import Counter
from dataclasses import dataclass, replace

from render_pool.pairs.family import NUMBERS, conjunction, document

CANVAS = 448
"""Units of both sides; divisible by the visual tokens' 28 and 32 pixels."""
GAP = 14
"""Fewest units between the circles around two objects, and between one and the edge."""
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
COLOURS = {
    "red": "#d8232a", "orange": "#f58a1f", "yellow": "#f2c800", "green": "#2c9a3a",
    "cyan": "#25c3d6", "blue": "#2456c8", "purple": "#8b3fb5", "black": "#222222",
}  # fmt: skip
RADIUS = {"small": 36, "large": 58}
"""Of the circle around an object, units."""
STYLES = ("solid", "outlined")
FEWEST, MOST = 4, 6

_STROKE = 9
_DOUBTFUL = 20
"""Units on both sides of the border between two thirds of the picture: who says that an object
there is in either is not wrong."""
_TRIES = 40


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One object; `x`, `y`: its middle, units from the top left."""

    y: int
    x: int
    shape: str
    colour: str
    size: str
    style: str


Scene = tuple[Thing, ...]
"""From top to bottom."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The family of such scenes (`render_pool.pairs.family.Family`).

    Raises ValueError where a scene can't have so many edits.
    """

    edits: int = 2
    """Objects that an edit changes, 1 to 6; no scene has fewer."""
    name: str = "objects"

    def __post_init__(self) -> None:
        if not 1 <= self.edits <= MOST:
            raise ValueError(f"edits {self.edits} is not within 1 and {MOST}")

    @property
    def hint(self) -> str:
        if self.edits == 1:
            return "one object has another shape and another colour"
        return f"{NUMBERS[self.edits]} objects have another shape and another colour"

    def original(self, rng: random.Random) -> Scene:
        number = rng.randint(max(FEWEST, self.edits), MOST)
        while True:
            sizes = [rng.choice(tuple(RADIUS)) for _ in range(number)]
            if places := _places(sizes, rng):
                break
        return tuple(
            sorted(
                Thing(y, x, rng.choice(SHAPES), rng.choice(tuple(COLOURS)), size, style)
                for size, (x, y) in zip(sizes, places, strict=True)
                for style in [rng.choice(STYLES)]
            )
        )

    def edit(self, scene: Scene, rng: random.Random) -> Scene | None:
        chosen = set(rng.sample(range(len(scene)), self.edits))
        edited = tuple(
            _changed(thing, rng) if i in chosen else thing for i, thing in enumerate(scene)
        )
        # Else the same objects have only changed places, and no list of them tells the two apart.
        return edited if _looks(edited) != _looks(scene) else None

    def svg(self, scene: Scene | None, side: int) -> str:
        return document("".join(map(_element, scene or ())), CANVAS, side)

    def is_true(self, scene: Scene, claim: str) -> bool | None:
        """Reads lists of objects, each said by its attributes, how many of them, and which of the
        nine parts of the picture: "two small red stars", "there is no circle at the top left".

        What is true of one object more is true: "a red star" where there are two. Relations
        between objects are not read.
        """
        text = _OF_PICTURE.sub(" ", claim.lower())
        found = [_read(part) for part in _PARTS.split(text) if part.strip()]
        claims = [claim for claim in found if claim is not None]
        if len(claims) < len(found) or not _is_list(claims):
            return None
        return conjunction([_holds(scene, claim) for claim in claims])


def _places(sizes: list[str], rng: random.Random) -> list[tuple[int, int]] | None:
    """A middle (x, y) for each of the objects, or None where this try left no room."""
    placed: list[tuple[int, int, int]] = []
    for size in sizes:
        r = RADIUS[size]
        low, high = r + GAP, CANVAS - r - GAP
        for _ in range(_TRIES):
            x, y = rng.randint(low, high), rng.randint(low, high)
            if all(math.hypot(x - u, y - v) >= r + q + GAP for u, v, q in placed):
                placed.append((x, y, r))
                break
        else:
            return None
    return [(x, y) for x, y, _ in placed]


def _changed(thing: Thing, rng: random.Random) -> Thing:
    shape = rng.choice([shape for shape in SHAPES if shape != thing.shape])
    colour = rng.choice([colour for colour in COLOURS if colour != thing.colour])
    return replace(thing, shape=shape, colour=colour)


def _looks(scene: Scene) -> Counter[tuple[str, ...]]:
    return Counter((t.shape, t.colour, t.size, t.style) for t in scene)


# drawing


def _element(thing: Thing) -> str:
    r, colour = RADIUS[thing.size], COLOURS[thing.colour]
    if thing.style == "solid":
        paint = f'fill="{colour}"'
    else:
        r -= _STROKE // 2
        paint = f'fill="none" stroke="{colour}" stroke-width="{_STROKE}" stroke-linejoin="round"'
    if thing.shape == "circle":
        return f'<circle cx="{thing.x}" cy="{thing.y}" r="{r}" {paint}/>'
    corners = " ".join(
        f"{thing.x + r * reach * math.sin(turn):.1f},{thing.y - r * reach * math.cos(turn):.1f}"
        for reach, turn in _CORNERS[thing.shape]
    )
    return f'<polygon points="{corners}" {paint}/>'


def _regular(corners: int, first: float = 0.0) -> list[tuple[float, float]]:
    return [(1.0, math.tau * (first + i) / corners) for i in range(corners)]


def _cross() -> list[tuple[float, float]]:
    """A plus whose arms are two fifths as wide as they are long from tip to tip."""
    half = math.atan(0.4)
    inner = 0.4 * math.sqrt(2) * math.cos(half)
    return [
        corner
        for arm in range(4)
        for corner in (
            (1.0, math.tau * arm / 4 - half),
            (1.0, math.tau * arm / 4 + half),
            (inner, math.tau * (arm + 0.5) / 4),
        )
    ]


_CORNERS = {
    "square": _regular(4, first=0.5),
    "triangle": _regular(3),
    "diamond": [(reach, turn) for (_, turn), reach in zip(_regular(4), (1, 0.7) * 2, strict=True)],
    "star": [(reach, turn) for (_, turn), reach in zip(_regular(10), (1, 0.45) * 5, strict=True)],
    "cross": _cross(),
}
"""Clockwise from above: the distance from the middle in radii, and the angle from north."""


# claims

_PARTS = re.compile(r"[,;.!]|\band\b")
_THERE = re.compile(r"\bthere (?:is|are)\b")
_OF_PICTURE = re.compile(r"\b(?:in|on|of) (?:the|my|this|our) (?:picture|image)\b")
_WORD = re.compile(r"[a-z]+|[0-9]+")
_BETWEEN = re.compile(r"[\s\-'\"`:()]*")
_FILLERS = frozenset({
    "a", "an", "the", "is", "are", "i", "see", "my", "our", "picture", "image", "it", "has",
    "shows", "contains", "in", "at", "on", "to", "side", "corner", "colored", "coloured", "sized",
    "style", "shaped",
})  # fmt: skip
_ANY = frozenset({"object", "objects", "shape", "shapes", "thing", "things"})
_LOOKS = ("shape", "colour", "size", "style")
_SAID = {
    **{("shape", shape): (shape, shape + "s") for shape in SHAPES},
    ("shape", "cross"): ("cross", "crosses", "plus", "pluses"),
    **{("colour", colour): (colour,) for colour in COLOURS},
    ("size", "small"): ("small", "little", "tiny"),
    ("size", "large"): ("large", "big"),
    ("style", "solid"): ("solid", "filled"),
    ("style", "outlined"): ("outlined", "hollow"),
    ("row", "0"): ("top", "upper"),
    ("row", "2"): ("bottom", "lower"),
    ("column", "0"): ("left",),
    ("column", "2"): ("right",),
    **{("count", str(number)): (word, str(number)) for number, word in enumerate(NUMBERS)},
}
_MEANING = {word: meaning for meaning, words in _SAID.items() for word in words}
_MIDDLE = frozenset({"middle", "center", "centre"})


@dataclass(frozen=True, slots=True)
class _Claim:
    """Some objects: what they look like, where they are, how many there are of them."""

    looks: dict[str, str]
    row: int | None
    column: int | None
    count: int | None
    """None: one or more."""
    is_noun: bool
    """It names a shape, or an object."""
    is_sentence: bool
    """Something is said of them, not only that they are there."""


def _is_list(claims: list[_Claim]) -> bool:
    """Whether each can be read alone. Not so "a circle and a square at the top", "the circle and
    the square are red", "no circles and squares", "a red and a blue star"."""
    if len(claims) == 1:
        return True
    kinds = {(c.row is c.column is None, c.count == 0) for c in claims}
    return len(kinds) == 1 and all(c.is_noun and not c.is_sentence for c in claims)


def _holds(scene: Scene, claim: _Claim) -> bool | None:
    alike = [t for t in scene if all(getattr(t, key) == v for key, v in claim.looks.items())]
    surely = possibly = 0
    for thing in alike:
        rows, columns = _thirds(thing.y), _thirds(thing.x)
        if claim.row in (None, *rows) and claim.column in (None, *columns):
            possibly += 1
            surely += (claim.row is None or len(rows) == 1) and (
                claim.column is None or len(columns) == 1
            )
    low = 1 if claim.count is None else claim.count
    high = len(scene) if claim.count is None else claim.count
    if possibly < low or surely > high:
        return False
    return True if surely >= low and possibly <= high else None


def _thirds(middle: int) -> list[int]:
    """The thirds of the picture (0, 1, 2) in which an object with its middle there may be said to
    be; two, near a border."""
    return sorted({min(2, 3 * at // CANVAS) for at in (middle - _DOUBTFUL, middle + _DOUBTFUL)})


def _read(part: str) -> _Claim | None:
    """What `part` says, or None where a word of it is not known, or it says two of one kind."""
    part = _THERE.sub(" ", part)
    words = _WORD.findall(part)
    if _BETWEEN.sub("", _WORD.sub("", part)):
        return None
    found: dict[str, str] = {}
    for word in words:
        if word in _FILLERS or word in _ANY or word in _MIDDLE:
            continue
        key, value = _MEANING.get(word, ("", ""))
        if not key or found.setdefault(key, value) != value:
            return None
    looks = {key: value for key, value in found.items() if key in _LOOKS}
    is_noun = "shape" in looks or not _ANY.isdisjoint(words)
    row, column = found.get("row"), found.get("column")
    num_middle = sum(word in _MIDDLE for word in words)
    if num_middle > 1 or (num_middle and row and column):
        return None
    if num_middle:
        row, column = row or "1", column or "1"
    if "corner" in words and not (row in ("0", "2") and column in ("0", "2")):
        return None
    if not (looks or is_noun) or ("are" in words and "count" not in found):
        return None  # "the circles are red": each of them, or some?
    return _Claim(
        looks,
        row=_number(row),
        column=_number(column),
        count=_number(found.get("count")),
        is_noun=is_noun,
        is_sentence="is" in words or "are" in words,
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
