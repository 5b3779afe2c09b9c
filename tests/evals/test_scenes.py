"""Scenes, their captions, questions, drawings and splits, against independent brute force."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.types import Invalid
from evals.scenes.drawing import scene_of_svg, to_svg
from evals.scenes.language import (
    TINY_TOPICS,
    answer,
    caption,
    choices,
    easy_question,
    easy_questions,
    hard_question,
    hard_questions,
    is_careful,
    is_easy,
    parse_caption,
)
from evals.scenes.scene import CELLS, COLORS, FEWEST, KINDS, MOST, SIZES, Scene, Shape, random_scene
from evals.scenes.splits import Split, scene_of, scenes, split_of
from tests.processor_time import cheaply

shapes = st.builds(
    Shape,
    cell=st.integers(0, len(CELLS) - 1),
    color=st.sampled_from(COLORS),
    kind=st.sampled_from(KINDS),
    size=st.sampled_from(SIZES),
)
any_scene = st.lists(
    shapes, min_size=FEWEST, max_size=MOST, unique_by=lambda shape: shape.cell
).map(lambda listed: tuple(sorted(listed)))


def brute_force(question: str, scene: Scene) -> str | None:
    """The answer by set algebra over the words of the question; shares no code with `answer`."""
    words = question.rstrip("?").split()
    rows = [{CELLS[s.cell], s.color, s.kind, s.size} for s in scene]

    def holders(word: str) -> set[int]:
        return {i for i, row in enumerate(rows) if word in row}

    def single(found: set[int], values: tuple[str, ...]) -> str | None:
        answers = [v for v in values if any(v in rows[i] for i in found)]
        return answers[0] if len(answers) == 1 else None

    values = {"color": COLORS, "shape": KINDS, "size": SIZES}
    if words[0] == "what":
        return single(holders(words[-1]), values[words[1]])
    if words[0] == "how" and words[1:3] == ["many", "shapes"]:
        return str(len(rows))
    if words[0] == "which":
        counts = Counter({v: len(holders(v)) for v in values[words[1]]}).most_common()
        return counts[0][0] if counts[0][1] > counts[1][1] else None
    a, b = (
        holders(words[i]) for i in {"how": (3, 5), "difference": (2, 4), "are": (3, 5)}[words[0]]
    )
    if words[0] == "how":
        return str(len(a | b))
    if words[0] == "difference":
        return str(max(len(a), len(b)) - min(len(a), len(b)))
    return "yes" if len(a) > len(b) else "no"


@given(any_scene)
def test_caption_round_trips(scene: Scene) -> None:
    assert parse_caption(caption(scene)) == scene


@given(any_scene)
def test_svg_round_trips(scene: Scene) -> None:
    assert scene_of_svg(to_svg(scene)) == scene


@given(any_scene, any_scene)
@settings(max_examples=60)
def test_answers_equal_brute_force(scene: Scene, other: Scene) -> None:
    asked = easy_questions(scene) + [q for t in TINY_TOPICS for q in hard_questions(scene, t)]
    for question in asked:
        assert question.answer == brute_force(question.text, scene)
        # The same text asked of another scene may be ill-posed there: both must say so.
        assert answer(question.text, other) == brute_force(question.text, other)
        assert question.answer in question.choices == choices(question.text)


@given(any_scene, st.randoms(use_true_random=False))
def test_generators_ask_well_posed_questions_of_their_level(
    scene: Scene, rng: random.Random
) -> None:
    easy = easy_question(scene, rng)
    assert is_easy(easy.text)
    assert answer(easy.text, scene) == easy.answer
    for topic in TINY_TOPICS:
        hard = hard_question(scene, rng, topic)
        assert not is_easy(hard.text)
        assert answer(hard.text, scene) == hard.answer


def test_hard_question_rejects_an_unknown_topic() -> None:
    with pytest.raises(ValueError, match="unknown topic 'weather'"):
        hard_questions(random_scene(random.Random(0)), "weather")


@given(st.text(max_size=60))
def test_any_text_is_answered_by_none_or_a_choice(text: str) -> None:
    scene = random_scene(random.Random(1))
    assert answer(text, scene) in (None, *choices(text))


@pytest.mark.parametrize(
    "question",
    ["what color is at center", "what color is at nowhere?", "difference of red and red?",
     "what shape is blue? and red?", "how many shapes are there? " * 50, ""],
)  # fmt: skip
def test_ill_formed_questions_have_no_answer(question: str) -> None:
    assert answer(question, random_scene(random.Random(2))) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_a_caption"),
        ("a red circle", "not_a_caption"),
        ("top red circle big", "not_a_scene"),
        ("top red circle big, top blue square small", "not_a_scene"),
        ("top red circle big, left blue square huge", "not_a_caption"),
        ("top red circle big," * 100_000, "not_a_caption"),
    ],
)
def test_bad_captions_are_named(text: str, reason: str) -> None:
    found = parse_caption(text)
    assert isinstance(found, Invalid)
    assert found.reason == reason


def test_splits_are_disjoint_and_repeatable() -> None:
    names: tuple[Split, ...] = ("pretrain", "dev", "heldout")
    seen = {name: [s for s, _ in zip(scenes(name), range(400), strict=False)] for name in names}
    for name in names:
        assert all(split_of(scene) == name for scene in seen[name])
        assert seen[name] == [s for s, _ in zip(scenes(name), range(400), strict=False)]
    assert not set(seen["pretrain"]) & set(seen["dev"])
    assert not (set(seen["pretrain"]) | set(seen["dev"])) & set(seen["heldout"])


def test_pretraining_never_draws_a_heldout_scene() -> None:
    rng = random.Random(3)
    drawn = {split_of(scene_of("pretrain", rng)) for _ in range(2000)}
    assert drawn == {"pretrain"}


def test_seeds_outside_of_a_split_are_refused() -> None:
    with pytest.raises(ValueError, match="dev has seeds"):
        next(scenes("dev", first=2**60))


TWO = (Shape(0, "red", "circle", "big"), Shape(4, "blue", "triangle", "small"))
RED = '<circle cx="16" cy="16" r="12" fill="red"/>'


def drawing(*elements: str, root: str = 'viewBox="0 0 96 96"') -> str:
    return f"<svg {root}>{''.join(elements)}</svg>"


@pytest.mark.parametrize(
    "blue",
    ['<polygon points="48,41 55,55 41,55" fill="#00f"/>',
     '<path d="M48 41 L55,55 H41 Z" fill="BLUE"/>',
     '<path d="m48 41l7 14h-14z" fill="#0000FF"/>',
     '<path d="M41 55l14 0l-7 -14l-7 14z" fill="blue"/>'],
)  # fmt: skip
def test_other_ways_to_draw_the_same(blue: str) -> None:
    white = '<rect width="100%" height="96" fill="white"/>'
    assert scene_of_svg(drawing(white, RED, blue)) == TWO
    root = 'xmlns="http://www.w3.org/2000/svg" width="96" height="96px"'
    assert scene_of_svg(drawing(RED, blue, root=root)) == TWO


@pytest.mark.parametrize(
    ("svg", "reason"),
    [
        ("", "malformed"),
        ("plain text", "malformed"),
        ('<svg viewBox="0 0 96 96">', "malformed"),
        (drawing(RED)[:-6], "malformed"),
        ("<svg viewBox='0 0 96 96'>\x00</svg>", "malformed"),
        (drawing(RED), "not_a_scene"),
        (drawing(RED, RED), "not_a_scene"),
        (drawing(RED, RED.replace("red", "blue")), "not_a_scene"),
        (drawing(RED, root='viewBox="0 0 200 200"'), "unsupported"),
        (drawing(RED, root=""), "unsupported"),
        (drawing(RED, "<text>the answer is red</text>"), "unsupported"),
        (drawing(RED, "red"), "unsupported"),
        (drawing(RED.replace("/>", ' transform="scale(2)"/>')), "unsupported"),
        (drawing(RED.replace("/>", ' opacity="0"/>')), "unsupported"),
        (drawing('<g display="none">', RED, "</g>"), "unsupported"),
        (drawing(RED.replace("12", "1e999")), "unsupported"),
        (drawing(RED.replace("12", "nan")), "unsupported"),
        (drawing(RED.replace("12", "-12")), "unsupported"),
        (drawing(RED.replace("12", "٣")), "unsupported"),
        (drawing(RED.replace('cx="16"', 'cx="30"')), "unsupported"),
        (drawing('<path d="M16 4l12 24h-24" fill="red"/>'), "unsupported"),
        (drawing('<path d="M16 4zzz" fill="red"/>'), "unsupported"),
        (drawing('<path d="" fill="red"/>'), "unsupported"),
        (drawing('<polygon points="1,2,3" fill="red"/>'), "unsupported"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>', "unsupported"),
        ("<a>" * 100, "unsupported"),
    ],
)
def test_hostile_or_odd_svg_is_named(svg: str, reason: str) -> None:
    found = scene_of_svg(svg)
    assert isinstance(found, Invalid)
    assert found.reason == reason


@given(st.text(max_size=200) | st.text("<svgcircle=\"/> 'xr19&;#", max_size=200))
def test_any_text_is_a_scene_or_invalid(text: str) -> None:
    assert isinstance(scene_of_svg(text), Invalid)
    assert isinstance(scene_of_svg(drawing(text)), Invalid)


def test_huge_svg_is_refused_at_once() -> None:
    bombs = [
        drawing(RED * 10**6),
        drawing(f'<path d="{"1" * 10**6}" fill="red"/>'),
        drawing(f'<path d="{"M1 1" * 4000}" fill="red"/>'),
        drawing(f'<circle cx="{"1" * 19_000}" cy="1" r="1" fill="red"/>'),
        drawing("<svg>" * 3000),
    ]
    found = cheaply(lambda: [scene_of_svg(bomb) for bomb in bombs], 1.0)
    assert all(isinstance(one, Invalid) for one in found)


def test_careful_is_told_from_hasty() -> None:
    assert is_careful("<think>red circle, blue square. 2</think>\\boxed{2}")
    assert not is_careful("<think>just a guess</think>\\boxed{2}")
    assert is_careful("<think>square big</think>\\boxed{big}")
    assert not is_careful("\\boxed{red}")
    assert not is_careful("<think>red circle")
