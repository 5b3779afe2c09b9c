"""Pixels to pictures: PNG of our own making, the page around a drawing, and what is too little."""

import asyncio
import io
import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.types import Invalid
from render_pool.config import RenderConfig
from render_pool.picture import VISIBLE, encode_png, nothing_to_see, page
from render_pool.pool import RenderPool

sizes = st.integers(1, 70)


def random_pixels(rng: random.Random, width: int, height: int) -> np.ndarray:
    return np.frombuffer(rng.randbytes(width * height * 3), np.uint8).reshape(height, width, 3)


def gradient(rng: random.Random, width: int, height: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rng.randint(-9, 9) * rows + rng.randint(-9, 9) * columns for _ in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


def flat(rng: random.Random, width: int, height: int) -> np.ndarray:
    return np.broadcast_to(random_pixels(rng, 1, 1), (height, width, 3)).copy()


def stripes(rng: random.Random, width: int, height: int) -> np.ndarray:
    return np.broadcast_to(random_pixels(rng, 1, height), (height, width, 3)).copy()


KINDS = (random_pixels, gradient, flat, stripes)


@settings(max_examples=300, deadline=None)
@given(sizes, sizes, st.sampled_from(KINDS), st.randoms(use_true_random=False))
def test_a_png_decodes_to_its_pixels(
    width: int, height: int, kind: object, rng: random.Random
) -> None:
    pixels = kind(rng, width, height)  # type: ignore[operator]
    picture = Image.fromarray(pixels, "RGB")
    png = encode_png(picture)
    assert png == encode_png(picture.copy())
    decoded = Image.open(io.BytesIO(png))
    decoded.load()
    assert (decoded.format, decoded.mode, decoded.size) == ("PNG", "RGB", (width, height))
    assert np.array_equal(np.asarray(decoded), pixels)


@pytest.mark.parametrize("width, height", [(1, 1), (1, 2048), (2048, 1), (2048, 64)])
def test_extreme_pages_are_encoded(width: int, height: int) -> None:
    pixels = random_pixels(random.Random(3), width, height)
    decoded = Image.open(io.BytesIO(encode_png(Image.fromarray(pixels, "RGB"))))
    assert np.array_equal(np.asarray(decoded), pixels)


def test_a_png_is_whole_by_its_own_checks() -> None:
    png = encode_png(Image.fromarray(gradient(random.Random(1), 40, 30), "RGB"))
    Image.open(io.BytesIO(png)).verify()
    position, kinds = 8, []
    while position < len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        kinds.append(png[position + 4 : position + 8])
        checked = png[position + 4 : position + 8 + length]
        told = int.from_bytes(png[position + 8 + length : position + 12 + length], "big")
        assert zlib.crc32(checked) == told
        position += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    assert position == len(png)


# the page


@settings(max_examples=100, deadline=None)
@given(sizes, sizes, st.integers(0, 40), st.integers(0, 40), st.randoms(use_true_random=False))
def test_a_page_is_the_drawing_and_white(
    width: int, height: int, right: int, below: int, rng: random.Random
) -> None:
    rgb = random_pixels(rng, width, height)
    bgrx = np.full((height, width, 4), 255, np.uint8)
    bgrx[:, :, :3] = rgb[:, :, ::-1]
    whole = np.asarray(page(bgrx, width + right, height + below))
    assert whole.shape == (height + below, width + right, 3)
    assert np.array_equal(whole[:height, :width], rgb)
    assert (whole[height:] == 255).all()
    assert (whole[:, width:] == 255).all()


def test_a_page_outlives_the_pixels_that_it_was_made_of() -> None:
    bgrx = np.zeros((8, 8, 4), np.uint8)
    picture = page(bgrx, 32, 32)
    bgrx[:] = 99
    assert picture.getpixel((3, 3)) == (0, 0, 0)


# too little to see, by hand


def canvas(fill: int = 255, side: int = 448) -> np.ndarray:
    pixels = np.full((side, side, 4), 255, np.uint8)
    pixels[:, :, :3] = fill
    return pixels


def verdict(pixels: np.ndarray) -> str:
    result = nothing_to_see(pixels)
    return "ok" if result is None else result.reason


@pytest.mark.parametrize("fill", [0, 1, 128, 254, 255])
def test_one_colour_is_blank(fill: int) -> None:
    assert verdict(canvas(fill)) == "blank"
    assert verdict(canvas(fill, side=1)) == "blank"


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_the_threshold_is_one_channels_range(channel: int) -> None:
    for difference, expected in ((VISIBLE, "blank"), (VISIBLE + 1, "ok")):
        pixels = canvas(100)
        pixels[100:300, 100:300, channel] += difference
        assert verdict(pixels) == expected
    pixels = canvas(100)
    pixels[:100, :, channel] -= VISIBLE // 2 + 1  # seen against the lightest, not the first pixel
    pixels[300:, :, channel] += VISIBLE // 2 + 1
    assert verdict(pixels) == "ok"


def test_what_is_between_the_samples_is_seen() -> None:
    """The quick look takes every fourth pixel; lines between those are no less there."""
    for start in range(4):
        pixels = canvas()
        pixels[:, start::4, :3] = 0
        assert verdict(pixels) == "ok"
    pixels = canvas()
    pixels[201:450:4, 1::4, :3] = 0
    assert verdict(pixels) == "ok"


def test_a_speck_and_a_trace_are_near_blank() -> None:
    pixels = canvas()
    pixels[200:220, 200:220, :3] = 0
    assert verdict(pixels) == "near_blank"
    pixels[200:230, 200:230, :3] = 0
    assert verdict(pixels) == "ok"
    pixels = canvas()
    pixels[10, 10, :3] = pixels[440, 440, :3] = 0
    assert verdict(pixels) == "near_blank"


@pytest.mark.parametrize("across", [slice(0, 20), slice(-20, None)])
@pytest.mark.parametrize("down", [slice(0, 20), slice(-20, None)])
def test_a_speck_in_a_corner_is_a_speck(across: slice, down: slice) -> None:
    pixels = canvas()
    pixels[down, across, :3] = 0
    assert verdict(pixels) == "near_blank"


@pytest.mark.parametrize("is_row", [True, False])
def test_a_line_across_the_page_is_a_picture(is_row: bool) -> None:
    pixels = canvas()
    if is_row:
        pixels[200, :, :3] = 0
    else:
        pixels[:, 200, :3] = 0
    assert verdict(pixels) == "ok"


@settings(max_examples=200, deadline=None)
@given(sizes, sizes, st.sampled_from(KINDS), st.randoms(use_true_random=False))
def test_any_pixels_have_a_verdict(
    width: int, height: int, kind: object, rng: random.Random
) -> None:
    pixels = np.full((height, width, 4), 255, np.uint8)
    pixels[:, :, :3] = kind(rng, width, height)  # type: ignore[operator]
    assert verdict(pixels) in ("ok", "blank", "near_blank")
    spread = max(int(np.ptp(pixels[:, :, channel])) for channel in range(3))
    assert (verdict(pixels) == "blank") == (spread <= VISIBLE)


# too little to see, as the pool draws it

PAGE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 300">{}</svg>'
SEEN = {
    "empty": ("", "blank"),
    "off canvas": ('<rect x="900" width="50" height="50"/>', "blank"),
    "display none": ('<rect width="50" height="50" display="none"/>', "blank"),
    "hidden": ('<rect width="50" height="50" visibility="hidden"/>', "blank"),
    "transparent": ('<rect width="50" height="50" opacity="0"/>', "blank"),
    "white rect": ('<rect width="90%" height="90%" fill="white"/>', "blank"),
    "white on white": ('<text x="9" y="90" font-size="40" fill="#fefefe">42</text>', "blank"),
    "full blue rect": ('<rect width="400" height="300" fill="blue"/>', "blank"),
    "step of 3 levels": (
        '<rect width="400" height="300" fill="#808080"/>'
        '<rect width="200" height="300" fill="#838383"/>',
        "blank",
    ),
    "step of 9 levels": (
        '<rect width="400" height="300" fill="#808080"/>'
        '<rect width="200" height="300" fill="#898989"/>',
        "ok",
    ),
    "dot of 2": ('<circle cx="200" cy="150" r="2"/>', "near_blank"),
    "dot of 8": ('<circle cx="200" cy="150" r="8"/>', "near_blank"),
    "speck": ('<rect x="200" y="150" width="5" height="5"/>', "near_blank"),
    "speck at the origin": ('<rect width="5" height="5"/>', "near_blank"),
    "disc of 40": ('<circle cx="200" cy="150" r="40"/>', "ok"),
    "diagonal line": ('<path d="M0 0L400 300" stroke="black"/>', "ok"),
    "hair line": ('<path d="M0 150H400" stroke="black" stroke-width=".4"/>', "ok"),
    "outlined triangle": (
        '<path d="M50 250L350 250L200 50z" fill="none" stroke="black"/>',
        "ok",
    ),
    "two halves": ('<rect width="200" height="300"/>', "ok"),
    "gradient alone": (
        '<linearGradient id="g"><stop stop-color="red"/><stop offset="1" stop-color="blue"/>'
        '</linearGradient><rect width="400" height="300" fill="url(#g)"/>',
        "ok",
    ),
    "a word": ('<text x="20" y="60" font-size="28">Answer: 42</text>', "ok"),
    "black on black": ('<rect width="400" height="300"/><circle r="90"/>', "blank"),
    "light grey grid": (
        '<path d="M0 50H400M0 100H400M0 150H400" stroke="#eee" stroke-width="3"/>',
        "ok",
    ),
    "two small words far apart": (
        '<text x="9" y="20" font-size="9">a</text><text x="380" y="290" font-size="9">b</text>',
        "ok",
    ),
}


@pytest.fixture(scope="module")
def seen() -> dict[str, str]:
    async def scene() -> dict[str, str]:
        cfg = RenderConfig(workers=1, side=448, deadline_s=30, cpu_s=10)
        async with RenderPool(cfg) as pool:
            results = {name: await pool.render(PAGE.format(svg)) for name, (svg, _) in SEEN.items()}
        return {
            name: result.reason if isinstance(result, Invalid) else "ok"
            for name, result in results.items()
        }

    return asyncio.run(scene())


@pytest.mark.parametrize("name", SEEN)
def test_drawings_are_told_from_blanks(seen: dict[str, str], name: str) -> None:
    assert seen[name] == SEEN[name][1]
