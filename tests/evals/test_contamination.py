"""What was played and is in a test: words in a row, and pictures that look alike."""

import io
import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from evals.benchmark import Row
from evals.contamination import Played, check, distances, grams, picture_hash, played_of

LONG = "A farmer has 17 sheep and all but nine of them run away; how many are left in the barn?"


def scene(seed: int, size: int = 128) -> Image.Image:
    rng = random.Random(seed)
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = rng.randrange(size), rng.randrange(size)
        box = (x, y, x + rng.randrange(10, size // 2), y + rng.randrange(10, size // 2))
        draw.rectangle(box, fill=rng.choice(["red", "blue", "black", "green"]))
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **how: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **how)
    return out.getvalue()


def row(question: str = "?", **images: bytes) -> Row:
    return Row(id="r1", fields={"question": question, "options": ["x", "y"]}, images=images)


def bits(a: int | None, b: int | None) -> int:
    assert a is not None
    assert b is not None
    return (a ^ b).bit_count()


def test_thirteen_words_in_a_row_are_a_hit_whatever_stands_between() -> None:
    played = [Played(7, "caption", "So: a Farmer has 17 SHEEP, and all but nine of them run away!")]
    (hit,) = check(played, {"mmmu": [row(LONG)]})
    assert (hit.kind, hit.benchmark, hit.row, hit.column) == ("text", "mmmu", "r1", "question")
    assert (hit.game, hit.where) == (7, "caption")
    assert hit.shared == "a farmer has 17 sheep and all but nine of them run away"
    assert hit.test == LONG
    assert "SHEEP" in hit.played


def test_twelve_words_are_none() -> None:
    twelve = " ".join(LONG.split()[:12])
    assert check([Played(1, "caption", f"{twelve} swim")], {"mmmu": [row(LONG)]}) == []


def test_a_short_text_counts_as_a_whole() -> None:
    question = "What is the area of the red triangle?"
    assert len(check([Played(1, "hard_question", question.upper())], {"m": [row(question)]})) == 1
    assert check([Played(1, "hard_question", question + " Why?")], {"m": [row(question)]}) == []


def test_a_few_words_are_no_evidence() -> None:
    assert grams("How many?") == set()
    assert (
        check(
            [Played(1, "easy_question", "What is shown here?")], {"m": [row("What is shown here?")]}
        )
        == []
    )


def test_a_megabyte_of_text_is_fast() -> None:
    assert len(grams("word " * 250_000)) == 1


def test_the_same_picture_smaller_and_as_jpeg_is_a_hit() -> None:
    original = scene(1)
    smaller = encoded(original.resize((90, 90), Image.Resampling.LANCZOS), "JPEG", quality=80)
    played = [
        Played(3, "picture", png=encoded(original)),
        Played(4, "picture", png=encoded(scene(2))),
    ]
    (hit,) = check(played, {"m": [row(image=smaller)]})
    assert (hit.kind, hit.game, hit.column) == ("picture", 3, "image")
    assert hit.shared.endswith("of 64 bits differ")


def test_other_pictures_are_far() -> None:
    marks = [picture_hash(encoded(scene(seed))) for seed in range(40)]
    apart = [bits(marks[a], marks[b]) for a in range(40) for b in range(a)]
    assert min(apart) > 6
    assert 24 < np.mean(apart) < 40


def test_the_hash_is_that_of_the_cosine_transform_written_out() -> None:
    picture = scene(5, size=32).convert("L")
    grey = np.asarray(picture, dtype=float)
    slow = np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            for i in range(32):
                for j in range(32):
                    across = np.cos(np.pi * u * (2 * i + 1) / 64) * np.cos(
                        np.pi * v * (2 * j + 1) / 64
                    )
                    slow[u, v] += grey[i, j] * across
    middle = np.median(slow.ravel()[1:])
    expected = "".join(str(int(value > middle)) for value in slow.ravel())
    assert picture_hash(encoded(picture)) == int(expected, 2)


def test_what_is_transparent_is_white() -> None:
    drawn = scene(6)
    clear = drawn.convert("RGBA")
    values = np.array(clear)
    values[(values[..., :3] == 255).all(axis=-1)] = 0  # black, but not to be seen
    clear = Image.fromarray(values)
    assert bits(picture_hash(encoded(drawn)), picture_hash(encoded(clear))) == 0


@pytest.mark.parametrize(
    "data", [b"", b"no picture", encoded(Image.new("RGB", (64, 64), "red")), encoded(scene(1))[:80]]
)
def test_what_shows_nothing_has_no_hash(data: bytes) -> None:
    assert picture_hash(data) is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_of_too_many_pixels_is_not_decoded() -> None:
    bomb = encoded(Image.new("1", (10_000, 10_000)))
    assert picture_hash(bomb) is None


def test_distances_are_counts_of_bits() -> None:
    marks = np.array([0, 1, 0b1011, 2**64 - 1], dtype=np.uint64)
    assert distances(0, marks).tolist() == [0, 1, 3, 64]
    assert distances(2**64 - 1, marks).tolist() == [64, 63, 61, 0]


def test_games_give_their_captions_questions_and_pictures() -> None:
    proposal = {"caption": LONG, "hard_question": "How many?"}
    drawing = {"svg": "<svg/>", "picture": "picture/0/0", "hard": {"replies": ["a", "b"]}}
    notes = {
        "topic": "farms",
        "proposals": [
            {"text": f"<caption>{LONG}</caption>", "proposal": proposal, "drawings": [drawing]},
            {"text": "gibberish", "invalid": "no_tags"},
        ],
        "picture/0/0": {"png": "abc"},
        "picture/0/1": {"png": "gone"},
    }
    found = list(played_of([{"game": 9, "notes": notes}], {"abc": b"png"}.get))
    assert Played(9, "caption", LONG) in found
    assert Played(9, "hard_question", "How many?") in found
    assert Played(9, "picture", png=b"png") in found
    assert Played(9, "text", "gibberish") in found
    assert not [one for one in found if "<" in one.text]
    assert sum(bool(one.png) for one in found) == 1


def test_hits_are_bounded() -> None:
    assert len(check([Played(1, "caption", LONG)], {"m": [row(LONG)] * 50}, limit=7)) == 7
