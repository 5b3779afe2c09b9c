"""The other backend: the pool does with it what it does with cairosvg, and draws the same, but for
what is listed here."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.errors import ConfigError
from engine.types import Invalid, Picture
from render_pool.config import RenderConfig
from render_pool.corpus import attacks, ordinary
from render_pool.corpus.attacks import Attack
from render_pool.picture import Pixels
from render_pool.pool import RenderPool
from render_pool.processes import INSTALL_RESVG, check_system

pytest.importorskip("resvg_py")

WAIT_S = 300.0
CIRCLE = '<svg viewBox="0 0 96 96"><circle cx="48" cy="48" r="20" fill="red"/>{}</svg>'
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQ"
    "DJ/pLvAAAAAElFTkSuQmCC"
)


@asynccontextmanager
async def pool(backend: str = "resvg", **changes: float | str) -> AsyncIterator[RenderPool]:
    """A pool whose one worker ends at the first attempt to do more than to read its fonts."""
    given = {"backend": backend, "workers": 1, "cache_entries": 0, "deadline_s": WAIT_S, **changes}
    async with RenderPool(RenderConfig.model_validate(given), audit=True) as opened:
        yield opened


async def drawn(opened: RenderPool, text: str) -> np.ndarray:
    return array(await opened.pixels(text))


def array(result: Pixels | Invalid) -> np.ndarray:
    assert isinstance(result, Pixels), result
    return np.frombuffer(result.rgb, np.uint8).reshape(result.height, result.width, 3)


async def drawn_or_blank(opened: RenderPool, text: str) -> np.ndarray | None:
    """None where nothing can be seen."""
    result = await opened.pixels(text)
    is_blank = isinstance(result, Invalid) and result.reason == "blank"
    return None if is_blank else array(result)


async def reason(opened: RenderPool, text: str) -> str:
    result = await opened.render(text)
    return result.reason if isinstance(result, Invalid) else "picture"


def test_pictures_are_opaque_rgb_on_white_and_the_same_every_time() -> None:
    async def scene() -> None:
        async with pool(side=96) as opened:
            result = await opened.render(CIRCLE.format('<text y="20">Rg</text>'))
            assert isinstance(result, Picture), result
            picture = Image.open(io.BytesIO(result.png))
            assert (picture.mode, picture.size) == ("RGB", (96, 96))
            assert picture.getpixel((48, 48)) == (255, 0, 0)
            assert picture.getpixel((90, 90)) == (255, 255, 255)
            letters = np.asarray(picture)[:24, :24]
            assert letters.min() < 64, "a text has left no trace"
            half = await drawn(
                opened, CIRCLE.replace("<circle", '<circle opacity="0.5"').format("")
            )
            assert half[48, 48, 0] == 255
            assert half[48, 48, 1] in (127, 128)
            await opened.render(CIRCLE.format('<text x="9" font-weight="bold">x</text>'))
            assert await opened.render(CIRCLE.format('<text y="20">Rg</text>')) == result
        async with pool(side=96) as another:
            assert await another.render(CIRCLE.format('<text y="20">Rg</text>')) == result

    asyncio.run(scene())


def test_what_is_no_picture_has_the_same_reasons() -> None:
    cases = {
        "nothing here": "not_svg",
        '<svg viewBox="0 0 9 9"/>': "blank",
        '<svg viewBox="0 0 9 9"><rect width="9" height="9" fill="blue"/></svg>': "blank",
        '<svg viewBox="0 0 9 9"><rect</svg>': "malformed",
        '<svg viewBox="0 0 9 9"><g id="a"><use href="#a"/></g></svg>': "too_costly",
        '<svg viewBox="0 0 9 9"><image href="file:///etc/passwd"/></svg>': "forbidden",
    }

    async def scene() -> None:
        async with pool(side=96) as opened:
            for text, expected in cases.items():
                assert await reason(opened, text) == expected, text
            assert opened.stats()["kills"] == 0

    asyncio.run(scene())


ROOTS = (
    'viewBox="0 0 200 101"',
    'width="200" height="101"',
    'width="20cm" height="101mm"',
    "width='12em' height='101'",
    'width="50" height="200" viewBox="0 0 100 100"',
    'viewBox="-20,-20 240 141" preserveAspectRatio="none" width="300" height="300"',
    'viewBox="0 0 200 100" preserveAspectRatio="xMinYMax slice" width="70" height="96"',
    'width="100%" height="100%" viewBox="0 0 100 90" data-x="a &gt; b &quot;c&quot;"',
)


@pytest.mark.parametrize("fit", ["pad", "scale"])
def test_a_drawing_lies_on_its_page_as_with_cairosvg(fit: str) -> None:
    # Per cent are another matter: resvg's are of the viewBox, cairosvg's of the page.
    shapes = (
        '<rect x="-40" y="5" width="500" height="80" fill="#06c"/><circle cx="40" cy="40" r="20"/>'
    )

    async def scene() -> None:
        async with pool(side=192, fit=fit) as ours, pool("cairosvg", side=192, fit=fit) as theirs:
            for root in ROOTS:
                text = f"<svg {root}>{shapes}</svg>"
                assert unlike(await drawn(ours, text), await drawn(theirs, text)) < 0.5, root

    asyncio.run(scene())


def test_documents_need_not_name_their_namespace() -> None:
    circle = '<circle cx="4" cy="4" r="3"/></svg>'

    async def scene() -> None:
        async with pool(side=96) as opened:
            for text in (
                f'<svg viewBox="0 0 9 9">{circle}',
                f'<svg xmlns="" viewBox="0 0 9 9">{circle}',
                '<s:svg xmlns:s="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
                '<s:circle cx="4" cy="4" r="3"/></s:svg>',
            ):
                picture = await drawn(opened, text)
                assert picture[48, 40].max() == 0, text
                assert picture[2, 2].min() == 255, text

    asyncio.run(scene())


def test_pictures_are_only_those_of_the_document() -> None:
    image = '<image width="40" height="40" {}/>'
    bare = "http://www.w3.org/1999/xlink"
    outside = (
        # cairosvg follows the one, resvg the other.
        f'xmlns:x="{bare}" href="/etc/hostname" x:href="#a"',
        f'xmlns:x="{bare}" x:href="{DOT}" href="http://127.0.0.1:{{port}}/a.png"',
        # Two ways to read one string.
        f'href="{DOT.replace("iVBOR", "iVB%4FR")}"',
        f'href="{DOT.replace("iVBOR", "iVB*OR")}"',
    )

    async def scene(port: int) -> None:
        async with pool(side=96) as opened:
            inside = await drawn(opened, CIRCLE.format(image.format(f'href="{DOT}"')))
            assert inside[2, 2].tolist() != [255, 255, 255]
            for attributes in outside:
                given = image.format(attributes.replace("{port}", str(port)))
                assert await reason(opened, CIRCLE.format(given)) in ("malformed", "forbidden")
            assert opened.stats()["kills"] == 0

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(scene(listener.getsockname()[1]))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_panic_is_the_documents_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from render_pool import resvg
    from render_pool.svg import Drawing

    class PanicException(BaseException):
        """As Rust's bindings have it."""

    def panic(**_options: object) -> bytes:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(resvg.resvg_py, "svg_to_bytes", panic)
    with pytest.raises(ValueError, match="index out of bounds"):
        resvg.rasterise(Drawing(CIRCLE.format("").encode(), 32, 32, "", 32, 32))


TIMEOUTS = {"filters/huge-values", "filters/long-chain"}
"""cairosvg leaves out most filters, so that they cost nothing before it; resvg draws them, and the
kernel ends its worker."""


def test_attacks_do_no_more_than_to_cairosvg() -> None:
    cases = attacks.cases()
    chosen = {case.name: case for case in cases[:: max(1, len(cases) // 60)]}
    endless = {case.name: case for case in cases if case.name in TIMEOUTS}

    async def seen(opened: RenderPool, cases: Mapping[str, Attack], port: int) -> dict[str, str]:
        found = {}
        for name, case in cases.items():
            text = case.text
            given = text.replace("{port}", str(port)) if isinstance(text, str) else text
            result = await opened.render(given)
            found[name] = result.reason if isinstance(result, Invalid) else "picture"
        return found

    async def scene(port: int) -> None:
        # Machines differ: nobody is near these limits, from either side.
        async with pool(cpu_s=WAIT_S) as opened:
            rest = {name: case for name, case in chosen.items() if name not in TIMEOUTS}
            found = await seen(opened, rest, port)
            assert not {name: was for name, was in found.items() if was not in rest[name].outcomes}
            assert opened.stats()["kills"] == 0
        async with pool(cpu_s=0.2) as opened:
            assert await seen(opened, endless, port) == dict.fromkeys(TIMEOUTS, "timeout")
            assert opened.stats()["kills_by_reason"] == {"processor time": len(TIMEOUTS)}

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(scene(listener.getsockname()[1]))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


UNLIKE = 2.0
"""Of 255, mean over blocks of 8 x 8 pixels: edges, hinting and the places of letters differ by
less, but where little else is on a page."""
BLOCK = 8

_LETTERS = "cairo rounds the advance of each letter, and lines of text get longer or shorter"
_MASK = "cairosvg leaves out the luminance of masks"
_FILTER = "cairosvg leaves out this filter"
_PATTERN = "cairosvg draws a tile once, small, and enlarges it"
_SMOOTH = "cairosvg smooths a picture more that it enlarges"
DIFFERENT = {
    "120 classes": "hsl(), which is black with cairosvg",
    "1500 letters": _LETTERS,
    "2500 rects": "width and height by stylesheet, which resvg leaves out",
    "exports/design-tool-export": _FILTER,
    "painting/blend-modes-and-isolation": "cairosvg leaves out mix-blend-mode",
    "painting/clip-within-clip": "cairosvg loses the fill of what is clipped twice",
    "painting/colours-in-every-notation": "hsl() and #rgba",
    "painting/css-combinators-and-pseudo-classes": "resvg knows :first-child alone, and not ~",
    "painting/filter-blur": _FILTER,
    "painting/filter-drop-shadow-of-five-parts": _FILTER,
    "painting/filter-fedropshadow": _FILTER,
    "painting/filter-of-noise-and-colour": _FILTER,
    "painting/filter-offset-flood-and-blend": "cairosvg paints flood and blend over the picture",
    "painting/gradients-in-a-chain-of-references": "cairosvg follows one reference, not two",
    "painting/grid-pattern-over-the-page": _PATTERN,
    "painting/mask-with-gradient-in-user-space": _MASK,
    "painting/masks": _MASK,
    "painting/pattern-of-uses": _PATTERN,
    "painting/patterns": _PATTERN,
    "painting/small-picture-in-a-data-uri": _SMOOTH,
    "painting/small-picture-in-a-data-uri-by-xlink": _SMOOTH,
    "painting/style-attributes-as-people-write-them": "resvg takes no property in upper case",
    "shapes/attributes-left-undefined": 'fill="" is none with cairosvg, and black with resvg',
    "shapes/circles-and-ellipses": "cairosvg draws no ellipse of one radius",
    "shapes/path-without-any-spare-character": "cairosvg loses a path of 1.5e1+20",
    "shapes/use-of-nothing": "resvg draws nothing whose clip, mask or filter is not there",
    "shapes/use-of-use-with-xlink-and-inherited-paint": "cairosvg leaves out the opacity of a use",
    "stream 5": _LETTERS,
    "stream 6": _MASK,
    "stream 9": _MASK,
    "stream 11": "a font by stylesheet, which with resvg also undoes a bold attribute",
    "stream 13": _MASK,
    "stream 19": _MASK,
    "syntax/elements-that-nobody-knows": "cairosvg draws what is inside of them",
    "syntax/empty-references": "a fill of url(#) is none with cairosvg, and black with resvg",
    "text/anchors": _LETTERS,
    "text/decorations-strokes-and-hollow-letters": "cairosvg has no lines under or through text",
    "text/emoji-arrows-and-mathematics": _LETTERS,
    "text/fonts-weights-and-styles": "resvg takes one family for all unknown ones; has no italics",
    "text/letter-spacing-and-text-length": "cairosvg leaves out textLength",
    "text/scripts-of-the-world": "cairosvg neither joins Arabic letters nor turns their order",
    "text/sizes-in-every-unit": "cairosvg takes a font size in per cent of the page",
    "text/text-turned-and-scaled": "cairosvg leaves out writing-mode",
    "text/tspans": _LETTERS,
    "text/tspans-with-line-breaks-and-spaces-between": _LETTERS,
}


def unlike(one: np.ndarray | None, other: np.ndarray) -> float:
    """How much two pictures of one size differ, in levels of 255; None is a white page."""
    one = np.full_like(other, 255) if one is None else one
    assert one.shape == other.shape
    rows, columns = one.shape[0] // BLOCK, one.shape[1] // BLOCK
    blocks = (one.astype(np.int32) - other).reshape(rows, BLOCK, columns, BLOCK, 3)
    return float(np.abs(blocks.mean(axis=(1, 3))).mean())


def test_both_backends_draw_the_same_but_for_what_is_listed() -> None:
    documents = ordinary.FIXED | {
        f"stream {i}": text for i, text in enumerate(islice(ordinary.stream(1), 20))
    }

    async def scene() -> dict[str, float]:
        async with pool() as ours, pool("cairosvg") as theirs:
            return {
                name: unlike(await drawn_or_blank(ours, text), await drawn(theirs, text))
                for name, text in documents.items()
            }

    measured = asyncio.run(scene())
    different = {name for name, by in measured.items() if by > UNLIKE}
    for name, by in sorted(measured.items(), key=lambda item: -item[1])[: len(different) + 10]:
        print(f"{by:7.2f}  {name}: {DIFFERENT.get(name, '')}")
    assert different == DIFFERENT.keys()
    assert np.median(list(measured.values())) < 0.5


def test_a_missing_wheel_is_a_config_error_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resvg_py.py").write_text("raise ImportError('no such wheel')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def enter() -> None:
        async with pool():
            pass

    with pytest.raises(ConfigError, match="resvg: no such wheel") as caught:
        check_system("resvg")
    assert INSTALL_RESVG in str(caught.value)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[resvg\]'"):
        asyncio.run(enter())
    check_system("cairosvg")
