"""Scenes of objects: what an edit changes, what it leaves, and what is true of a scene."""

import math
import random
import re
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_pool.pairs.objects import CANVAS, COLOURS, GAP, RADIUS, Objects, Scene, Thing

SEEDS = st.integers(0, 1 << 32)


def look(thing: Thing) -> tuple[str, ...]:
    return thing.shape, thing.colour, thing.size, thing.style


def row(*looks: str) -> Scene:
    """Objects from left to right along the middle, "red circle" each."""
    pairs = [words.split() for words in looks]
    return tuple(
        Thing(224, 75 + 149 * i, shape, colour, "small", "solid")
        for i, (colour, shape) in enumerate(pairs)
    )


@given(SEEDS)
def test_objects_keep_apart_and_inside(seed: int) -> None:
    scene = Objects().original(random.Random(seed))
    assert 4 <= len(scene) <= 6
    for thing in scene:
        r = RADIUS[thing.size]
        assert all(r + GAP <= at <= CANVAS - r - GAP for at in (thing.x, thing.y))
    for a, b in combinations(scene, 2):
        between = math.hypot(a.x - b.x, a.y - b.y) - RADIUS[a.size] - RADIUS[b.size]
        assert between >= GAP


@given(SEEDS, st.integers(1, 6))
def test_an_edit_changes_shape_and_colour_of_so_many_objects_and_nothing_else(
    seed: int, edits: int
) -> None:
    family, rng = Objects(edits), random.Random(seed)
    scene = family.original(rng)
    edited = family.edit(scene, rng)
    if edited is None:
        return  # see the next test
    pairs = list(zip(scene, edited, strict=True))
    changed = [(a, b) for a, b in pairs if a != b]
    assert len(changed) == edits
    assert all(a.shape != b.shape and a.colour != b.colour for a, b in changed)
    for a, b in pairs:
        assert (a.x, a.y, a.size, a.style) == (b.x, b.y, b.size, b.style)


def test_two_objects_that_only_change_places_are_no_edit() -> None:
    scene = row("red circle", "blue square")
    edits = [Objects(2).edit(scene, random.Random(seed)) for seed in range(20_000)]
    # Shape and colour of each are one of 5 and of 7; one of these 35 * 35 outcomes is the swap.
    assert 5 <= edits.count(None) <= 35
    assert all(Counter(map(look, e)) != Counter(map(look, scene)) for e in edits if e is not None)


@given(SEEDS)
def test_a_scene_and_its_edit_are_told_by_the_seed(seed: int) -> None:
    def drawn() -> list[str]:
        family, rng = Objects(), random.Random(seed)
        scene = family.original(rng)
        return [family.svg(scene, 448), family.svg(family.edit(scene, rng), 448)]

    assert drawn() == drawn()


def test_no_scene_is_smaller_than_its_edit() -> None:
    assert {len(Objects(6).original(random.Random(seed))) for seed in range(20)} == {6}
    with pytest.raises(ValueError, match="edits 7"):
        Objects(7)


def test_all_that_there_is_is_drawn() -> None:
    things = [
        thing for seed in range(400) for thing in Objects().original(random.Random(seed))
    ]  # about 2000, of 192 kinds
    assert len({look(thing) for thing in things}) == 6 * 8 * 2 * 2


def test_a_drawing_has_one_element_for_each_object_and_the_size_asked_for() -> None:
    family = Objects()
    scene = family.original(random.Random(5))
    svg = family.svg(scene, 224)
    assert len(re.findall("<(?:circle|polygon) ", svg)) == len(scene)
    assert 'width="224" height="224"' in svg
    blank = family.svg(None, 224)
    assert 'width="224" height="224"' in blank
    assert not re.search("circle|polygon", blank)


def test_the_hint_counts() -> None:
    assert Objects(1).hint == "one object has another shape and another colour"
    assert Objects(2).hint == "two objects have another shape and another colour"


SCENE: Scene = (
    Thing(70, 70, "circle", "red", "large", "outlined"),
    Thing(72, 224, "star", "blue", "small", "solid"),
    Thing(160, 380, "circle", "green", "small", "solid"),  # borders are at 149 and 299
    Thing(370, 90, "cross", "red", "large", "solid"),
    Thing(380, 300, "triangle", "black", "small", "outlined"),
)

TRUE = (
    "a red circle",
    "There is a red circle.",
    "I see a large outlined red circle in the top left corner of the picture",
    "the circle is red",
    "top-left red circle",
    "one blue star at the top center",
    "two circles",
    "2 red objects",
    "there are two red shapes",
    "two circles and one cross",
    "the green circle is on the right",
    "there are five objects in my picture",
    "no yellow object",
    "there is no circle at the bottom",
    "a big filled plus, a small star",
    "a hollow black triangle at the bottom",
)
FALSE = (
    "a yellow circle",
    "a small red circle",
    "the star is red",
    "three circles",
    "one circle",
    "a circle at the bottom",
    "a blue star in the top left",
    "an object in the middle",
    "a red circle and a green square",
    "no red object",
    "four objects",
    "a black triangle on the left",
)
UNDECIDED = (
    "",
    "hello",
    "the picture is lovely",
    "the star is right of the red circle",
    "a red circle above the cross",
    "most objects are red",
    "the circles are red",
    "a red and blue star",
    "the circle and the cross are red",
    "a circle and a cross at the bottom",
    "no stars and circles",
    "a red blue star",
    "not a red circle",
    "a circle in the corner",
    "is there a red circle?",
    "it is in the top left",
    "a green circle at the top right",
    "a green circle on the middle right",
    "a black triangle at the bottom right",
    "a black triangle at the bottom middle",
    "ein roter kreis",
    "a réd circle",
    "a red circle " * 300 + "☃",
)


@pytest.mark.parametrize("claim", TRUE)
def test_what_is_true(claim: str) -> None:
    assert Objects().is_true(SCENE, claim) is True


@pytest.mark.parametrize("claim", FALSE)
def test_what_is_false(claim: str) -> None:
    assert Objects().is_true(SCENE, claim) is False


@pytest.mark.parametrize("claim", UNDECIDED)
def test_what_is_not_decided(claim: str) -> None:
    assert Objects().is_true(SCENE, claim) is None


@given(SEEDS)
def test_every_object_is_truly_described_and_a_missing_colour_is_not(seed: int) -> None:
    family = Objects()
    scene = family.original(random.Random(seed))
    for thing in scene:
        claim = f"there is a {thing.size} {thing.style} {thing.colour} {thing.shape}"
        assert family.is_true(scene, claim) is True
    for colour in set(COLOURS) - {thing.colour for thing in scene}:
        assert family.is_true(scene, f"a {colour} object") is False
        assert family.is_true(scene, f"no {colour} object") is True


@given(SEEDS)
def test_of_what_was_changed_nothing_stays_true_unless_another_object_looks_so(seed: int) -> None:
    family, rng = Objects(), random.Random(seed)
    scene = family.original(rng)
    edited = family.edit(scene, rng)
    for before, after in zip(scene, edited or scene, strict=True):
        claim = f"a {before.size} {before.style} {before.colour} {before.shape}"
        is_elsewhere = look(before) in [look(thing) for thing in edited or scene]
        assert family.is_true(edited or scene, claim) is is_elsewhere
        assert is_elsewhere or before != after


@given(st.text(max_size=80))
def test_any_text_has_a_verdict(claim: str) -> None:
    assert Objects().is_true(SCENE, claim) in (True, False, None)
