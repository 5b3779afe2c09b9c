"""Pairs of the spy game: exactly what an edit changes, and which sentences are true."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.scenes.drawing import scene_of_svg
from evals.scenes.language import caption
from evals.scenes.pairs import FEWEST_SHAPES, GridFamily, clue_of
from evals.scenes.scene import CELLS, COLORS, KINDS, SIZES, Scene, Shape
from evals.scenes.splits import scene_of, split_of

SCENE = (Shape(0, "red", "circle", "big"), Shape(4, "blue", "square", "small"))
seeds = st.integers(0, 2**32)
edit_counts = st.integers(1, FEWEST_SHAPES)


def edited(family: GridFamily, scene: Scene, rng: random.Random) -> Scene:
    while (found := family.edit(scene, rng)) is None:
        pass
    return found


@given(seeds, edit_counts)
def test_an_edit_changes_color_and_kind_of_so_many_shapes(seed: int, edits: int) -> None:
    family, rng = GridFamily(edits), random.Random(seed)
    before = family.original(rng)
    after = edited(family, before, rng)
    assert [(s.cell, s.size) for s in before] == [(s.cell, s.size) for s in after]
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == edits
    assert all(a.color != b.color and a.kind != b.kind for a, b in changed)


@given(seeds)
def test_pairs_are_drawn_from_what_is_not_held_out(seed: int) -> None:
    family, rng = GridFamily(2), random.Random(seed)
    scene = family.original(rng)
    assert len(scene) >= FEWEST_SHAPES
    assert split_of(scene) == split_of(edited(family, scene, rng)) == "pretrain"


def test_a_held_out_scene_is_never_edited_into_the_dev_split() -> None:
    family, rng = GridFamily(2), random.Random(0)
    heldout = [scene_of("heldout", rng) for _ in range(200)]
    found = [family.edit(scene, rng) for scene in heldout]
    assert {split_of(scene) for scene in found if scene} == {"heldout", "pretrain"}
    assert found.count(None) < 40  # about one in sixteen


def test_the_same_seed_makes_the_same_pair() -> None:
    family = GridFamily(3)
    first, second = [
        (scene := family.original(rng), edited(family, scene, rng))
        for rng in (random.Random(5), random.Random(5))
    ]
    assert first == second


def test_every_shape_is_edited_alike_often() -> None:
    family, rng = GridFamily(2), random.Random(1)
    scene = family.original(random.Random(3))
    counts = [0] * len(scene)
    for _ in range(1000):
        for i, (a, b) in enumerate(zip(scene, edited(family, scene, rng), strict=True)):
            counts[i] += a != b
    expected = 2000 / len(scene)
    assert all(abs(count - expected) < 0.2 * expected for count in counts)


@pytest.mark.parametrize("edits", [0, 5])
def test_more_edits_than_shapes_are_refused(edits: int) -> None:
    with pytest.raises(ValueError, match="edits"):
        GridFamily(edits)
    assert GridFamily(4).edit(SCENE, random.Random(0)) is None


@given(seeds)
def test_the_picture_shows_the_scene(seed: int) -> None:
    family = GridFamily()
    scene = family.original(random.Random(seed))
    assert scene_of_svg(family.svg(scene, 96)) == scene


def test_the_blank_picture_has_the_same_size_and_no_shape() -> None:
    family = GridFamily()
    blank, drawn = family.svg(None, 192), family.svg(SCENE, 192)
    assert blank == '<svg width="192" height="192" viewBox="0 0 96 96"></svg>'
    assert drawn.startswith(blank.removesuffix("</svg>"))


@settings(max_examples=50)
@given(seeds)
def test_exactly_the_shapes_of_a_scene_are_true_of_it(seed: int) -> None:
    family = GridFamily()
    scene = family.original(random.Random(seed))
    true = {
        f"{cell} {color} {kind}"
        for cell in CELLS
        for color in COLORS
        for kind in KINDS
        if family.is_true(scene, f"{cell} {color} {kind}")
    }
    assert true == {clue_of(shape) for shape in scene}
    sized = [clue_of(shape) + f" {size}" for shape in scene for size in SIZES]
    assert sum(family.is_true(scene, claim) is True for claim in sized) == len(scene)
    assert family.is_true(scene, caption(scene)) is True


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("The top-left red circle.", True),
        ("top-left red circle, center blue square", True),
        ("top-left red circle, center blue circle", False),
        ("top red circle", False),
        ("center blue square big", False),
        ("bottom green triangle", False),
        ("", None),
        ("red circle", None),
        ("top-left red circle, and more", None),
        ("no top-left red circle", None),
        ("top-left red circle top-left", None),
        ("top-left circle red", None),
        ("top-left red circle,", None),
        ("top-left red circle, " * 100_000, None),
    ],
)
def test_what_a_claim_says(claim: str, verdict: bool | None) -> None:
    assert GridFamily().is_true(SCENE, claim) is verdict


def test_the_hint_says_how_many_but_not_which() -> None:
    assert GridFamily(1).hint == "one shape has another color and another kind"
    assert GridFamily(3).hint == "three shapes have another color and another kind"
