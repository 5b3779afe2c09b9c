"""Drawings to pixels by resvg, in this process: the other backend. Only workers import this module.

It draws more of SVG than cairosvg does (filters, nested clips, CSS), and gives up on less. It opens
the files of its fonts anew for every picture that has a text, so that its worker keeps the right to
read that one folder; and it takes a size only in a document's own proportions, so that the root is
told its size here.
"""

import io
import re
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

import numpy as np
import resvg_py
from PIL import Image

from render_pool import fonts, svg
from render_pool.embedded import embedded_png
from render_pool.picture import Canvas
from render_pool.svg import Drawing

_SANS, _SERIF, _MONO = "DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"
_SVG = "http://www.w3.org/2000/svg"
_ROOT = re.compile(r"""<(?:[^"'<>]|"[^"<]*"|'[^'<]*')*+>""")
_PNG = re.compile(r"data:image/png;base64,(?:[A-Za-z0-9+/\s]|%2B|%2F)*+={0,2}\s*")
_BOLD = re.compile(rb"bold|font[^;>]{0,60}[6-9]\d\d|font[^;>]{0,60}1000", re.IGNORECASE)


def rasterise(drawing: Drawing) -> Canvas:
    """Pixels on white.

    Raises ValueError on a document that resvg can't draw, or that names a picture outside.
    """
    if b"mage" in drawing.svg:
        _check_pictures(drawing.svg)
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=_with_size(drawing),
            background="white",
            dpi=96.0,
            languages=["en"],
            skip_system_fonts=True,
            **_faces(drawing),
        )
    except BaseException as error:
        # What Rust panics with is no Exception; but here it is the document's fault.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"resvg: {str(error)[:60]}") from None
    picture = Image.open(io.BytesIO(png), formats=("PNG",))
    if picture.size != (drawing.width, drawing.height):
        raise ValueError(f"resvg drew {picture.size}, not {drawing.width} x {drawing.height}")
    pixels = np.frombuffer(picture.convert("RGBA").tobytes("raw", "BGRA"), np.uint8)
    return Canvas(pixels.reshape(drawing.height, drawing.width, 4))


def _with_size(drawing: Drawing) -> str:
    """The document with the drawing's size on its root, and the namespace that resvg insists on;
    nothing else of it changes. What it showed by its own size it shows by a `viewBox`."""
    text = drawing.svg.decode()
    found = _ROOT.match(text)
    if found is None:
        raise ValueError("no root")
    name, attributes = _start(found[0])
    prefix = name.rpartition(":")[0]
    declaration = f"xmlns:{prefix}" if prefix else "xmlns"
    if not attributes.get(declaration):
        attributes[declaration] = _SVG
    if not attributes.get("viewBox"):
        sides = [svg.length(attributes.get(side)) for side in ("width", "height")]
        attributes["viewBox"] = f"0 0 {sides[0]!r} {sides[1]!r}"
    attributes |= {"width": str(drawing.width), "height": str(drawing.height)}
    written = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    end = "/>" if found[0].endswith("/>") else ">"
    return f"<{name}{written}{end}{text[found.end() :]}"


def _start(tag: str) -> tuple[str, dict[str, str]]:
    """Name and attributes of a start tag."""
    seen: list[tuple[str, dict[str, str]]] = []
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = lambda name, attributes: seen.append((name, attributes))
    parser.Parse(tag.encode(), False)
    return seen[0]


def _check_pictures(document: bytes) -> None:
    """Raise ValueError unless every picture is a small PNG inside of the document.

    The checks before looked at one reference per element, the one that cairosvg follows; resvg
    may follow the other, and would look for a file of that name. It also decodes the data by
    itself, so only such is let through as is the same PNG to every decoder.
    """

    def start(name: str, attributes: dict[str, str]) -> None:
        if not name.endswith("mage"):
            return
        for key, value in attributes.items():
            if key.rpartition(" ")[2] != "href" or not value or value.startswith("#"):
                continue
            if not (_PNG.fullmatch(value.strip()) and embedded_png(value)):
                raise ValueError("an image that is no plain small PNG of its own")

    parser = expat.ParserCreate("UTF-8", " ")
    parser.StartElementHandler = start
    parser.Parse(document, True)


def _faces(drawing: Drawing) -> dict[str, Any]:
    """The fonts that a document may need, as resvg's options: it reads each file every time.

    Where a family is unknown, resvg takes its "serif": so that is Sans here, unless the document
    asks for a serif family by name.
    """
    source = drawing.svg
    serif, mono = (bool(fonts.HINTS[name].search(source)) for name in (_SERIF, _MONO))
    # Where not all letters are ASCII, any font may have the one that another lacks.
    wanted = [_SANS]
    wanted += [_SERIF] if serif or drawing.letters else []
    wanted += [_MONO] if mono or drawing.letters else []
    weights = ("", "-Bold") if _BOLD.search(source) else ("",)
    return {
        "font_files": [
            str(fonts.FOLDER / f"{name.replace(' ', '')}{weight}.ttf")
            for name in wanted
            for weight in weights
        ],
        "font_family": _SANS,
        "sans_serif_family": _SANS,
        "serif_family": _SERIF if serif else _SANS,
        "monospace_family": _MONO,
        "cursive_family": _SANS,
        "fantasy_family": _SANS,
    }
