"""What can be said about a scene: captions, questions, exact answers.

Wording is telegraphic because every token costs. A caption lists the shapes in the order of
their cells: "top-left red circle big, center blue square small". Easy questions need one look
at the picture; hard ones need counting and comparing. `answer` answers any well-formed question
text from a scene, so that proposals, labels and models can be checked against the truth.
"""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from engine.types import Invalid
from evals.scenes.scene import CELLS, COLORS, FEWEST, KINDS, MOST, SIZES, Scene, Shape

TINY_TOPICS = ("colors", "shapes", "sizes", "mixtures")
"""What the hard question of a proposal is about; the proposer is conditioned on one of them."""

_LONGEST = 400
"""Characters; longer captions and questions are not of this world."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its true answer. `choices`: the answers of this kind of question."""

    text: str
    answer: str
    choices: tuple[str, ...]


def caption(scene: Scene) -> str:
    """The scene in words; `parse_caption` is its inverse."""
    return ", ".join(f"{CELLS[s.cell]} {s.color} {s.kind} {s.size}" for s in scene)


def parse_caption(text: str) -> Scene | Invalid:
    """The scene that `text` describes, or Invalid("not_a_caption" | "not_a_scene")."""
    if len(text) > _LONGEST:
        return Invalid("not_a_caption", f"{len(text)} characters")
    shapes: list[Shape] = []
    for part in text.strip().rstrip(".").split(","):
        words = part.split()
        if len(words) != 4:
            return Invalid("not_a_caption", part)
        cell, color, kind, size = words
        if cell not in CELLS or color not in COLORS or kind not in KINDS or size not in SIZES:
            return Invalid("not_a_caption", part)
        shapes.append(Shape(CELLS.index(cell), color, kind, size))
    if not FEWEST <= len(shapes) <= MOST:
        return Invalid("not_a_scene", f"{len(shapes)} shapes")
    if len({shape.cell for shape in shapes}) != len(shapes):
        return Invalid("not_a_scene", "two shapes in one cell")
    return tuple(sorted(shapes))


def easy_questions(scene: Scene) -> list[Question]:
    """All easy questions that have exactly one answer in `scene`; never empty."""
    found = [Question("how many shapes are there?", str(len(scene)), _counts(FEWEST))]
    for shape in scene:
        found.append(Question(f"what color is at {CELLS[shape.cell]}?", shape.color, COLORS))
        if _shape_of(scene, shape.color):
            found.append(Question(f"what shape is {shape.color}?", shape.kind, KINDS))
        if _size_of(scene, shape.kind):
            found.append(Question(f"what size is the {shape.kind}?", shape.size, SIZES))
    return list(dict.fromkeys(found))


def easy_question(scene: Scene, rng: random.Random) -> Question:
    """A random easy question: first its kind (how many / color / shape / size), then which."""
    by_kind: dict[str, list[Question]] = {}
    for question in easy_questions(scene):
        by_kind.setdefault(" ".join(question.text.split()[:2]), []).append(question)
    return rng.choice(by_kind[rng.choice(sorted(by_kind))])


def hard_questions(scene: Scene, topic: str) -> list[Question]:
    """All hard questions about `topic` (one of TINY_TOPICS) that have one answer in `scene`.

    Raises ValueError for an unknown topic.
    """
    if topic not in TINY_TOPICS:
        raise ValueError(f"unknown topic {topic!r}; there are {', '.join(TINY_TOPICS)}")
    texts = [text for a, b in _pairs(topic) for text in _pair_questions(a, b)]
    if topic in ("colors", "shapes"):
        texts.append(f"which {topic[:-1]} is most frequent?")
    found = []
    for text in texts:
        true = answer(text, scene)
        if true is not None:
            found.append(Question(text, true, choices(text)))
    return found


def hard_question(scene: Scene, rng: random.Random, topic: str | None = None) -> Question:
    """A random hard question: first its kind, then which; about `topic`, or any."""
    by_kind: dict[str, list[Question]] = {}
    for question in hard_questions(scene, topic or rng.choice(TINY_TOPICS)):
        by_kind.setdefault(question.text.split()[0], []).append(question)
    return rng.choice(by_kind[rng.choice(sorted(by_kind))])


def answer(question: str, scene: Scene) -> str | None:
    """The one answer of `question` in `scene`; None where it is ill-formed or ill-posed."""
    if len(question) > _LONGEST:
        return None
    for pattern, rule in _RULES:
        match = pattern.fullmatch(question.strip())
        if match:
            return rule(scene, *match.groups())
    return None


def choices(question: str) -> tuple[str, ...]:
    """The answers among which someone would guess who did not look; () if ill-formed."""
    if re.fullmatch(r"what color is .*|which color .*", question):
        return COLORS
    if re.fullmatch(r"what shape is .*|which shape .*", question):
        return KINDS
    if question.startswith("what size is "):
        return SIZES
    if question.startswith("are there more "):
        return ("yes", "no")
    if question == "how many shapes are there?":
        return _counts(FEWEST)
    if question.startswith(("how many are ", "difference of ")):
        return _counts(0)
    return ()


def is_easy(question: str) -> bool:
    """True for the texts of `easy_questions` (well-formed ones: see `answer`)."""
    return question.startswith(("how many shapes", "what "))


def is_careful(text: str) -> bool:
    """True where a solver's reply thinks by naming what it sees, not by a hasty guess."""
    think, closed, _ = text.partition("</think>")
    sees = any(word in think for word in (*COLORS, *KINDS))
    return bool(closed) and sees and "guess" not in think


def _counts(first: int) -> tuple[str, ...]:
    return tuple(str(n) for n in range(first, MOST + 1))


def _pairs(topic: str) -> list[tuple[str, str]]:
    """Ordered pairs of attributes that questions about `topic` compare."""
    if topic == "colors" or topic == "shapes":
        values = COLORS if topic == "colors" else KINDS
        return [(a, b) for a in values for b in values if a != b]
    if topic == "sizes":
        one_way = [(a, b) for a in SIZES for b in (*SIZES, *COLORS, *KINDS) if a != b]
        return one_way + [(b, a) for a, b in one_way if b not in SIZES]
    one_way = [(a, b) for a in COLORS for b in KINDS]
    return one_way + [(b, a) for a, b in one_way]


def _pair_questions(a: str, b: str) -> list[str]:
    return [
        f"difference of {a} and {b}?",
        f"are there more {a} than {b}?",
        f"how many are {a} or {b}?",
    ]


def _count(scene: Scene, attribute: str) -> int:
    return sum(shape.has(attribute) for shape in scene)


def _only(values: set[str]) -> str | None:
    """What all agree on, if there is anything at all."""
    return next(iter(values)) if len(values) == 1 else None


def _color_at(scene: Scene, cell: str) -> str | None:
    return _only({s.color for s in scene if CELLS[s.cell] == cell})


def _shape_of(scene: Scene, color: str) -> str | None:
    return _only({s.kind for s in scene if s.color == color})


def _size_of(scene: Scene, kind: str) -> str | None:
    return _only({s.size for s in scene if s.kind == kind})


def _difference(scene: Scene, a: str, b: str) -> str | None:
    return None if a == b else str(abs(_count(scene, a) - _count(scene, b)))


def _more(scene: Scene, a: str, b: str) -> str | None:
    if a == b:
        return None
    return "yes" if _count(scene, a) > _count(scene, b) else "no"


def _either(scene: Scene, a: str, b: str) -> str | None:
    return None if a == b else str(sum(s.has(a) or s.has(b) for s in scene))


def _most_frequent(scene: Scene, kind: str) -> str | None:
    counts = Counter(s.color if kind == "color" else s.kind for s in scene)
    top = max(counts.values(), default=0)
    return _only({value for value, count in counts.items() if count == top})


def _rules() -> list[tuple[re.Pattern[str], Callable[..., str | None]]]:
    cell, color, kind = ("(" + "|".join(values) + ")" for values in (CELLS, COLORS, KINDS))
    any_attribute = "(" + "|".join((*COLORS, *KINDS, *SIZES)) + ")"
    rules: dict[str, Callable[..., str | None]] = {
        r"how many shapes are there\?": lambda scene: str(len(scene)),
        rf"what color is at {cell}\?": _color_at,
        rf"what shape is {color}\?": _shape_of,
        rf"what size is the {kind}\?": _size_of,
        rf"difference of {any_attribute} and {any_attribute}\?": _difference,
        rf"are there more {any_attribute} than {any_attribute}\?": _more,
        rf"how many are {any_attribute} or {any_attribute}\?": _either,
        r"which (color|shape) is most frequent\?": _most_frequent,
    }
    return [(re.compile(pattern), rule) for pattern, rule in rules.items()]


_RULES = _rules()
