"""The pool's own fonts: whatever the machine has, whichever family is asked for."""

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from engine.types import Invalid, Picture
from render_pool import fonts
from render_pool.config import RenderConfig
from render_pool.picture import Pixels
from render_pool.pool import RenderPool

LETTERS = "iiiillllWWWW"
TEXT = (
    '<svg viewBox="0 0 400 100"><text x="4" y="60" font-size="28" font-family="{family}" '
    'font-weight="{weight}" font-style="{style}">{text}</text></svg>'
)
SANS = "sans-serif Arial Helvetica Verdana Roboto Inter Impact fantasy cursive system-ui Nonesuch"
SERIF = ("serif", "Times", "Times New Roman", "Georgia", "Palatino", "Garamond", "Cambria")
MONO = ("monospace", "Courier", "Courier New", "Consolas", "Menlo", "Monaco", "Roboto Mono")


def text(
    words: str = LETTERS, family: str = "sans-serif", weight: str = "normal", style: str = "normal"
) -> str:
    return TEXT.format(family=family, weight=weight, style=style, text=words)


def draw(texts: Iterable[str], *, audit: bool = False) -> list[Pixels | Invalid]:
    async def scene() -> list[Pixels | Invalid]:
        cfg = RenderConfig(workers=1, side=400, grid=1, deadline_s=30, cpu_s=10, cache_entries=0)
        async with RenderPool(cfg, audit=audit) as pool:
            return [await pool.pixels(one) for one in texts]

    return asyncio.run(scene())


def extent(result: Pixels | Invalid) -> int:
    """Columns from the first to the last with ink."""
    assert isinstance(result, Pixels), result
    rows = np.frombuffer(result.rgb, np.uint8).reshape(result.height, result.width, 3)
    inked = np.flatnonzero((rows < 128).any(axis=(0, 2)))
    return int(inked[-1] - inked[0])


def test_every_family_is_one_of_three() -> None:
    families = [*SANS.split(), *SERIF, *MONO]
    drawn = dict(zip(families, draw(text(family=family) for family in families), strict=True))
    widths = {name: extent(drawn[name]) for name in fonts.FAMILIES}
    assert len(set(widths.values())) == 3
    for group in (SANS.split(), SERIF, MONO):
        assert len({one.rgb for name in group if isinstance(one := drawn[name], Pixels)}) == 1, (
            group
        )
    narrow, wide = draw([text("iiiiiiii", "monospace"), text("WWWWWWWW", "monospace")])
    assert abs(extent(narrow) - extent(wide)) < 16, "of equal widths"
    narrow, wide = draw([text("iiiiiiii", "serif"), text("WWWWWWWW", "serif")])
    assert extent(wide) > 2 * extent(narrow)


def test_weights_and_slants_differ() -> None:
    kinds = [(weight, style) for weight in ("normal", "bold") for style in ("normal", "italic")]
    drawn = draw(text("Rag 8", family, *kind) for family in fonts.FAMILIES for kind in kinds)
    for start, family in zip(range(0, len(drawn), len(kinds)), fonts.FAMILIES, strict=True):
        four = [one.rgb for one in drawn[start : start + len(kinds)] if isinstance(one, Pixels)]
        # Of the bold ones only Sans has a slanted face: cairo keeps ten open at most.
        assert len(set(four)) == (4 if family == "sans-serif" else 3), family
        ink = [int((np.frombuffer(one, np.uint8) < 128).sum()) for one in four]
        assert ink[2] > 1.2 * ink[0], "bold has more ink"
        assert 0.7 * ink[0] < ink[1] < 1.3 * ink[0]


def test_pictures_do_not_depend_on_the_machine_s_fonts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = [text("Rag \u4e2d\u03c0 8", family) for family in (*fonts.FAMILIES, "Arial", "Georgia")]
    here = draw(texts)
    assert all(isinstance(one, Pixels) for one in here)
    (tmp_path / "fonts.conf").write_text(
        '<?xml version="1.0"?><fontconfig><match target="pattern"><edit name="family" '
        'mode="assign" binding="strong"><string>DejaVu Serif</string></edit></match></fontconfig>'
    )
    config = tmp_path / "fontconfig"
    config.mkdir()
    (config / "fonts.conf").write_text((tmp_path / "fonts.conf").read_text())
    for name in ("FONTCONFIG_FILE", "FC_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "fonts.conf"))
    for name in ("FONTCONFIG_PATH", "HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("FONTCONFIG_SYSROOT", "/nonexistent")
    monkeypatch.setenv("LANG", "ja_JP.UTF-8")
    monkeypatch.chdir(tmp_path)
    assert draw(texts) == here


BOXES = {
    "Rag": "",
    "\u00e9\u00fc\u00df\u0141\u00f1": "",
    "\u03b1\u03b2\u03a9\u0434\u0416": "",
    "\u2190\u2192\u21d2\u2248\u2264\u221a\u222b\u03c0\u00b0\u00d7\u2022\u2026\u2013": "",
    "\u4e2d\u6587": "\u4e2d\u6587",
    "a\u4e2db\u4e2dc": "\u4e2d",
    "\U0001f680": "\U0001f680",
    "&#x4e2d;": "\u4e2d",
    "<tspan>\uac00</tspan>": "\uac00",
    "a\u200b\u00a0b": "",
}


def test_letters_without_a_glyph_are_reported() -> None:
    async def scene() -> dict[str, Picture | Invalid]:
        cfg = RenderConfig(workers=1, side=96, grid=1, deadline_s=30, cpu_s=10)
        async with RenderPool(cfg) as pool:
            return {
                words: await pool.render(text(words).replace("400 100", "96 96")) for words in BOXES
            }

    pictures = asyncio.run(scene())
    found = {words: getattr(picture, "boxes", picture) for words, picture in pictures.items()}
    assert found == BOXES


def test_letters_that_are_not_drawn_are_not_reported() -> None:
    """Comments, titles and attributes hold letters, too."""
    svg = (
        '<svg viewBox="0 0 96 96"><title>\u4e2d</title><!-- \u4e2d --><circle id="\u4e2d" r="40"/>'
    )
    (result,) = draw([svg + "</svg>"])
    assert isinstance(result, Pixels)
    assert result.boxes == ""


def test_a_letter_that_only_one_of_the_fonts_used_lacks_is_reported() -> None:
    """Each font is asked, since a text in its family is drawn with it."""
    letter = "\u0634"  # Sans and Mono have it, Serif has not
    sans, serif = draw([text(letter * 3), text(letter * 3, "Georgia")])
    assert isinstance(sans, Pixels)
    assert isinstance(serif, Pixels)
    assert (sans.boxes, serif.boxes) == ("", letter)


def test_texts_of_any_kind_are_drawn_without_a_file() -> None:
    """Audited: a worker that opened a font, or asked for one, would be ended."""
    rng = random.Random(7)
    words = ("Rag 8", "x\u00b2 + \u03c0", "\u4e2d\u6587", "\u0634\u0631", "fi \U0001f680")
    families = [*SANS.split(), *SERIF, *MONO, "", "'Open Sans', serif", "\u6f22\u5b57", "a" * 200]
    texts = [
        '<svg viewBox="0 0 400 100"><rect width="90" height="30"/><text x="9" y="70" '
        f'font-family="{rng.choice(families)}" '
        f'font-size="{rng.choice((8, 13.5, 24, 60, 100, "2em", "large"))}" '
        f'font-weight="{rng.choice(("normal", "bold", 100, 900, "lighter"))}" '
        f'font-style="{rng.choice(("normal", "italic", "oblique"))}" '
        f'text-rendering="{rng.choice(("auto", "geometricPrecision", "optimizeLegibility"))}" '
        f'rotate="{rng.choice((0, 0, 30))}" letter-spacing="{rng.choice((0, 2, -1))}">'
        f"{rng.choice(words)} "
        f"{number}</text></svg>"
        for number in range(300)
    ]
    assert [one for one in draw(texts, audit=True) if isinstance(one, Invalid)] == []


def test_the_fingerprint_is_that_of_the_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = fonts.fingerprint()
    assert before == fonts.fingerprint()
    for path in fonts.FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(fonts, "FOLDER", tmp_path)
    assert fonts.fingerprint() == before
    (tmp_path / "fonts.conf").write_bytes((tmp_path / "fonts.conf").read_bytes() + b"\n")
    assert fonts.fingerprint() != before
