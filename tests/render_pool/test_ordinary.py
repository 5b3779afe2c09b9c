"""Ordinary pictures: none is refused, and none is drawn differently from plain cairosvg.

The oracle is `cairosvg.svg2png` on the whole document in a process of its own, with the pool's
fonts, at the size that the pool chose. Some facts are worked out by hand besides, so that what
both get wrong is seen too.
"""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice

import pytest
from PIL import Image

from engine.types import Invalid, Picture
from render_pool import fonts
from render_pool.config import RenderConfig
from render_pool.corpus.ordinary import FIXED, stream
from render_pool.picture import Pixels
from render_pool.pool import RenderPool

SIDE = 320
STREAMED = {f"stream {i}": svg for i, svg in enumerate(islice(stream(11, SIDE), 40))}
DOCUMENTS = FIXED | STREAMED

# Reads [[svg, width, height], ...]; writes the RGB bytes of each, one after the other.
ORACLE = """
import io, json, sys
import cairosvg
from PIL import Image
for svg, width, height in json.load(sys.stdin):
    png = cairosvg.svg2png(
        bytestring=svg.encode(), output_width=width, output_height=height, background_color="white"
    )
    sys.stdout.buffer.write(Image.open(io.BytesIO(png)).convert("RGB").tobytes())
"""


def config(**changes: object) -> RenderConfig:
    """A page exactly as large as the drawing, and time enough for a busy machine."""
    settings = {"side": SIDE, "grid": 1, "deadline_s": 30.0, "cpu_s": 10.0, "cache_entries": 0}
    return RenderConfig.model_validate(settings | changes)


def draw(texts: Iterable[str | bytes], **changes: object) -> list[Pixels | Invalid]:
    async def scene() -> list[Pixels | Invalid]:
        async with RenderPool(config(**changes)) as pool:
            return await asyncio.gather(*(pool.pixels(text) for text in texts))

    return asyncio.run(scene())


def draw_one(svg: str, **changes: object) -> Pixels:
    (pixels,) = draw([svg], **changes)
    assert isinstance(pixels, Pixels), pixels
    return pixels


def plainly(requests: list[tuple[str, int, int]]) -> list[bytes]:
    """RGB of each (svg, width, height) by cairosvg itself."""
    done = subprocess.run(
        [sys.executable, "-c", ORACLE],
        input=json.dumps(requests).encode(),
        capture_output=True,
        env=os.environ | fonts.environment(),
        cwd=fonts.FOLDER,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]
    pictures, start = [], 0
    for _, width, height in requests:
        pictures.append(done.stdout[start : start + width * height * 3])
        start += width * height * 3
    assert start == len(done.stdout)
    return pictures


@pytest.fixture(scope="module")
def drawn() -> dict[str, Pixels | Invalid]:
    return dict(zip(DOCUMENTS, draw(DOCUMENTS.values()), strict=True))


@pytest.fixture(scope="module")
def expected(drawn: dict[str, Pixels | Invalid]) -> dict[str, bytes]:
    sizes = {
        name: (one.width, one.height) for name, one in drawn.items() if isinstance(one, Pixels)
    }
    requests = [(DOCUMENTS[name], width, height) for name, (width, height) in sizes.items()]
    return dict(zip(sizes, plainly(requests), strict=True))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_ordinary_picture_is_what_plain_cairosvg_draws(
    name: str, drawn: dict[str, Pixels | Invalid], expected: dict[str, bytes]
) -> None:
    picture = drawn[name]
    assert isinstance(picture, Pixels), picture
    assert max(picture.width, picture.height) == SIDE
    if picture.rgb != expected[name]:
        pairs = zip(picture.rgb, expected[name], strict=True)
        different = [i for i, (ours, theirs) in enumerate(pairs) if ours != theirs]
        y, x = divmod(different[0] // 3, picture.width)
        pytest.fail(f"{len(different)} of {len(picture.rgb)} bytes differ, first at {x}, {y}")


def test_png_and_pixels_are_the_same_picture(drawn: dict[str, Pixels | Invalid]) -> None:
    async def scene() -> list[Picture | Invalid]:
        async with RenderPool(config()) as pool:
            return await asyncio.gather(*map(pool.render, STREAMED.values()))

    for name, picture in zip(STREAMED, asyncio.run(scene()), strict=True):
        raw = drawn[name]
        assert isinstance(picture, Picture)
        assert isinstance(raw, Pixels)
        image = Image.open(io.BytesIO(picture.png))
        assert (image.mode, image.size) == ("RGB", (picture.width, picture.height))
        assert (image.size, image.tobytes()) == ((raw.width, raw.height), raw.rgb), name


def test_a_padded_page_holds_the_drawing_in_its_corner(
    drawn: dict[str, Pixels | Invalid],
) -> None:
    for name, padded in zip(STREAMED, draw(STREAMED.values(), grid=32), strict=True):
        tight = drawn[name]
        assert isinstance(tight, Pixels)
        assert isinstance(padded, Pixels)
        assert padded.width % 32 == padded.height % 32 == 0
        page = Image.new("RGB", (padded.width, padded.height), "white")
        page.paste(Image.frombytes("RGB", (tight.width, tight.height), tight.rgb), (0, 0))
        assert page.tobytes() == padded.rgb, name


def test_prose_and_fences_around_a_picture_change_nothing(
    drawn: dict[str, Pixels | Invalid],
) -> None:
    names = ["stream 0", "text/emoji-arrows-and-mathematics", "syntax/svg-prefix"]
    texts = [f"Here it is:\n```svg\n{DOCUMENTS[name]}\n```\nI used <svg>." for name in names]
    assert draw(texts) == [drawn[name] for name in names]
    assert draw(DOCUMENTS[name].encode() for name in names) == [drawn[name] for name in names]
    utf16 = [DOCUMENTS[name].removeprefix("\ufeff").encode("utf-16") for name in names]
    assert draw(utf16) == [drawn[name] for name in names]


def page(body: str, root: str = 'viewBox="0 0 96 96"') -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" {root}>{body}</svg>'


RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
BLACK_TO_WHITE = '<stop stop-color="black"/><stop offset="1" stop-color="white"/>'

# A document of 96 x 96 pixels, and colours at the middles of some: {(x, y): (r, g, b)}, within 2.
FACTS: dict[str, tuple[str, dict[tuple[int, int], tuple[int, int, int]]]] = {
    "a disc on white": (
        page('<circle cx="48" cy="48" r="20" fill="red"/>'),
        {(48, 48): RED, (66, 48): RED, (70, 48): WHITE, (2, 2): WHITE},
    ),
    "two halves": (
        page('<rect width="48" height="96" fill="blue"/><rect x="48" width="48" height="96"/>'),
        {(0, 0): BLUE, (47, 95): BLUE, (48, 0): BLACK, (95, 95): BLACK},
    ),
    "stripes of a pattern": (
        page(
            '<pattern id="p" width="12" height="12" patternUnits="userSpaceOnUse"><rect width="6" '
            'height="12" fill="red"/></pattern><rect width="96" height="96" fill="url(#p)"/>'
        ),
        {(3, 50): RED, (9, 50): WHITE, (15, 5): RED, (21, 90): WHITE},
    ),
    # At the middle of pixel x, (x + 0.5) / 96 of the way from 0 to 255.
    "a linear gradient": (
        page(
            f'<linearGradient id="g">{BLACK_TO_WHITE}</linearGradient>'
            '<rect width="96" height="96" fill="url(#g)"/>'
        ),
        {(48, 9): (129, 129, 129), (24, 50): (65, 65, 65), (72, 50): (193, 193, 193)},
    ),
    # The distance from (48, 48) is 12.52 and 36.50 of 48 at these two.
    "a radial gradient": (
        page(
            f'<radialGradient id="g" r="50%">{BLACK_TO_WHITE}</radialGradient>'
            '<rect width="96" height="96" fill="url(#g)"/>'
        ),
        {(60, 48): (67, 67, 67), (48, 84): (194, 194, 194), (1, 1): WHITE},
    ),
    "half opacity over white": (
        page('<rect width="96" height="96" fill="red" fill-opacity="0.5"/>'
             '<rect width="48" height="96" fill="#00f"/>'),
        {(70, 48): (255, 127, 127), (20, 48): BLUE},
    ),
    "rgba and short hexadecimal": (
        page('<rect width="96" height="48" fill="rgba(0,0,255,0.25)"/>'
             '<rect y="48" width="96" height="48" fill="#F80"/>'),
        {(48, 20): (191, 191, 255), (48, 70): (255, 136, 0)},
    ),
    "a group's opacity, once for what overlaps": (
        page('<g opacity=".5"><rect width="64" height="96"/><rect x="32" width="32" height="96"/>'
             "</g>"),
        {(16, 48): (127, 127, 127), (48, 48): (127, 127, 127), (80, 48): WHITE},
    ),
    "a hole by the even-odd rule": (
        page('<path fill-rule="evenodd" fill="green" d="M8 8H88V88H8zM32 32H64V64H32z"/>'),
        {(20, 20): GREEN, (48, 48): WHITE, (48, 70): GREEN},
    ),
    # A quarter turn to the right about the middle takes the top strip to the right-hand side.
    "a turn about the middle": (
        page('<rect width="96" height="24" fill="red" transform="rotate(90 48 48)"/>'),
        {(84, 48): RED, (48, 12): WHITE, (70, 48): WHITE},
    ),
    "transforms from right to left": (
        page('<rect width="10" height="10" transform="translate(20,30) scale(2)"/>'),
        {(22, 32): BLACK, (39, 49): BLACK, (41, 40): WHITE, (18, 40): WHITE},
    ),
    "a use moved by x and y": (
        page('<defs><rect id="r" width="20" height="20"/></defs>'
             '<use href="#r" x="40" y="60" fill="red"/>'),
        {(50, 70): RED, (10, 10): WHITE, (62, 70): WHITE},
    ),
    "a symbol scaled into its use": (
        page('<symbol id="s" viewBox="0 0 10 10"><rect width="5" height="10" fill="red"/></symbol>'
             '<use href="#s" width="48" height="48"/>'),
        {(12, 24): RED, (36, 24): WHITE, (12, 60): WHITE},
    ),
    "a clip path": (
        page('<clipPath id="c"><rect x="24" y="24" width="48" height="48"/></clipPath>'
             '<rect width="96" height="96" fill="blue" clip-path="url(#c)"/>'),
        {(48, 48): BLUE, (20, 48): WHITE, (75, 48): WHITE},
    ),
    "a stroke on both sides of its line": (
        page('<line y1="48" x2="96" y2="48" stroke="black" stroke-width="10"/>'),
        {(48, 44): BLACK, (48, 52): BLACK, (48, 41): WHITE, (48, 54): WHITE},
    ),
    "dashes": (
        page('<path d="M0 48H96" stroke="red" stroke-width="8" stroke-dasharray="10"/>'),
        {(5, 48): RED, (15, 48): WHITE, (25, 48): RED, (35, 48): WHITE},
    ),
    "a half disc by an arc": (
        page('<path d="M0 48A48 48 0 0 1 96 48z" fill="green"/>'),
        {(48, 2): GREEN, (20, 40): GREEN, (48, 60): WHITE, (2, 2): WHITE},
    ),
    "a triangle": (
        page('<polygon points="0,96 48,0 96,96" fill="blue"/>'),
        {(48, 64): BLUE, (10, 10): WHITE, (86, 10): WHITE, (48, 90): BLUE},
    ),
    "CSS: a class before an attribute, a style before a class": (
        page('<style>.a{fill:blue}</style><rect class="a" fill="red" width="48" height="96"/>'
             '<rect class="a" x="48" width="48" height="96" style="fill:green"/>'),
        {(20, 48): BLUE, (70, 48): GREEN},
    ),
    "currentColor": (
        page('<g color="red"><rect width="48" height="96" fill="currentColor"/></g>'),
        {(20, 48): RED, (70, 48): WHITE},
    ),
    "a marker at the end of a line": (
        page('<marker id="m" markerUnits="userSpaceOnUse" markerWidth="20" '
             'markerHeight="20" refX="10" refY="10"><rect width="20" height="20" fill="red"/>'
             '</marker><path d="M10 48H70" stroke="black" stroke-width="2" marker-end="url(#m)"/>'),
        {(75, 55): RED, (65, 40): RED, (85, 48): WHITE, (20, 55): WHITE, (30, 48): BLACK},
    ),
    "a viewBox around the origin": (
        page('<circle r="24" fill="red"/>', 'viewBox="-48 -48 96 96"'),
        {(48, 48): RED, (48, 30): RED, (2, 2): WHITE},
    ),
    "a square in the middle of a wide page": (
        page('<rect width="96" height="96" fill="blue"/>', 'width="192" height="96" '
             'viewBox="0 0 96 96"'),
        {(48, 24): BLUE, (26, 24): BLUE, (20, 24): WHITE, (76, 24): WHITE},
    ),
    "a hidden part, and one that is not displayed": (
        page('<rect width="48" height="48" display="none"/><g visibility="hidden">'
             '<rect y="48" width="48" height="48"/></g><rect x="48" width="48" height="96" '
             'fill="red"/>'),
        {(20, 20): WHITE, (20, 70): WHITE, (70, 48): RED},
    ),
    "what comes later lies above": (
        page('<rect width="96" height="96" fill="red"/><circle cx="48" cy="48" r="30"/>'
             '<rect x="40" y="40" width="16" height="16" fill="blue"/>'),
        {(2, 2): RED, (48, 30): BLACK, (48, 48): BLUE},
    ),
    "millimetres and percent": (
        page('<rect width="50%" height="100%" fill="red"/>', 'width="25.4mm" height="25.4mm"'),
        {(46, 90): RED, (50, 5): WHITE},
    ),
    "a black letter that fills its em": (
        page('<text x="8" y="88" font-size="110" font-family="monospace">\u2588</text>'),
        {(40, 48): BLACK, (4, 48): WHITE, (92, 48): WHITE},
    ),
    "an embedded picture, all red": (
        page('<image width="48" height="48" href="data:image/png;base64,'
             'iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP4z8CAFTEMLQkAKP8/wc53yE8AAAAASUVORK5CYII="/>'),
        {(24, 24): RED, (70, 24): WHITE, (24, 70): WHITE},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def facts() -> dict[str, Pixels | Invalid]:
    return dict(zip(FACTS, draw((svg for svg, _ in FACTS.values()), side=96), strict=True))


@pytest.mark.parametrize("name", FACTS)
def test_pixels_have_the_colours_worked_out_by_hand(
    name: str, facts: dict[str, Pixels | Invalid]
) -> None:
    picture = facts[name]
    assert isinstance(picture, Pixels), picture
    for (x, y), color in FACTS[name][1].items():
        start = (y * picture.width + x) * 3
        seen = tuple(picture.rgb[start : start + 3])
        assert all(abs(a - b) <= 2 for a, b in zip(seen, color, strict=True)), (x, y, seen, color)


def test_letters_are_drawn_where_they_are_written() -> None:
    picture = draw_one(page('<text x="10" y="80" font-size="60">M</text>'), side=96)
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.rgb).convert("L")
    box = image.point(lambda level: 255 * (level < 128)).getbbox()
    assert box is not None
    left, top, right, bottom = box
    # An M of DejaVu Sans is .63 em wide and .73 em high, and stands on the baseline.
    assert abs(left - 16) <= 3
    assert abs(right - left - 38) <= 3
    assert abs(bottom - 80) <= 1
    assert abs(bottom - top - 44) <= 2


def test_letters_without_end_spoil_the_font_of_no_later_picture() -> None:
    async def scene() -> list[Pixels | Invalid]:
        async with RenderPool(config(side=96, workers=1)) as pool:
            first = await pool.pixels(page('<text y="60" font-size="1e6">Rgh</text>'))
            assert isinstance(first, Invalid), "cairo has become able to draw it: choose another"
            letters = '<text y="60" font-size="{}">Rgh</text>'
            return [await pool.pixels(page(letters.format(size))) for size in (9, 21, 33)]

    later = asyncio.run(scene())
    assert all(isinstance(picture, Pixels) for picture in later), later


def test_the_stream_is_of_the_size_and_mix_that_it_promises() -> None:
    documents = list(islice(stream(5, 640), 300))
    assert len(set(documents)) == 300
    assert documents == list(islice(stream(5, 640), 300))
    assert not set(documents) & set(islice(stream(6, 640), 300))
    assert 1900 < sum(map(len, documents)) / 300 < 2700
    elements = [len(re.findall(r"<[a-zA-Z]", svg)) for svg in documents]
    assert min(elements) >= 30
    assert max(elements) <= 120
    sizes = {re.search(r'width="(\d+)" height="(\d+)"', svg).groups() for svg in documents}  # type: ignore[union-attr]
    assert len(sizes) >= 5
    assert {max(int(width), int(height)) for width, height in sizes} == {640}
    assert len(FIXED) >= 80
