"""The fonts that pictures are drawn with: those beside `fonts/fonts.conf`, and no others.

Any family that an SVG asks for is one of three: DejaVu Sans, Serif and Sans Mono.
"""

import ctypes
import hashlib
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "fonts"
FAMILIES = ("sans-serif", "serif", "monospace")

HINTS = {
    "DejaVu Serif": re.compile(rb"(?<!sans-)serif|times|georgia|garamond|palatino", re.IGNORECASE),
    "DejaVu Sans Mono": re.compile(rb"mono|courier|consolas|menlo|monaco", re.IGNORECASE),
}
"""What in a document says that it may use a family other than Sans."""


def environment() -> dict[str, str]:
    """Variables for a process that is to draw with these fonts; its working directory must be
    `FOLDER`."""
    return {"FONTCONFIG_FILE": str(FOLDER / "fonts.conf")}


def fingerprint() -> str:
    """Changes when a font or their configuration does."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def hold() -> list[Any]:
    """Every face, opened; cairo closes none of them while the result lives.

    Each is needed before the process gives up its files: cairo opens them when it first uses them.
    And no more than ten may be: with more, cairo closes some, held or not (cairo-ft-font.c).
    """
    import cairocffi as cairo

    faces = [
        cairo.ToyFontFace(family, slant, weight)
        for family in FAMILIES
        for slant in (cairo.FONT_SLANT_NORMAL, cairo.FONT_SLANT_ITALIC, cairo.FONT_SLANT_OBLIQUE)
        for weight in (cairo.FONT_WEIGHT_NORMAL, cairo.FONT_WEIGHT_BOLD)
    ]
    scaled = [cairo.ScaledFont(face, cairo.Matrix(16, 0, 0, 16)) for face in faces]
    for font in scaled:
        font.text_extents("Rg")
    return [*faces, *scaled]


class Coverage:
    """Which characters the fonts can draw, as fontconfig knows it."""

    def __init__(self) -> None:
        """Raises OSError without fontconfig, LookupError where it has no fonts."""
        self._library = library = ctypes.CDLL("libfontconfig.so.1")
        library.FcInitLoadConfigAndFonts.restype = ctypes.c_void_p
        library.FcConfigGetFonts.restype = ctypes.POINTER(_FontSet)
        library.FcConfigGetFonts.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.FcPatternGetCharSet.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_void_p),
        )
        library.FcPatternGetString.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_char_p),
        )
        library.FcCharSetHasChar.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        # Kept for the life of the process: the character sets are parts of it.
        fonts = library.FcConfigGetFonts(library.FcInitLoadConfigAndFonts(), 0)
        num_fonts = fonts.contents.num_fonts if fonts else 0
        patterns = [fonts.contents.fonts[i] for i in range(num_fonts)]
        self._sets = {self._name(one): self._characters(one) for one in patterns}
        if not self._sets:
            raise LookupError("no font is installed")

    def missing(self, svg: bytes, letters: str) -> str:
        """The printable ones of `letters` that a font lacks which `svg` may draw them with, each
        once, sorted."""
        characters = sorted({c for c in letters if c > "\x7f" and c.isprintable()})
        if not characters:
            return ""
        names = ["DejaVu Sans"] + [name for name, hint in HINTS.items() if hint.search(svg)]
        sets = [self._sets[name] for name in names if name in self._sets]
        has = self._library.FcCharSetHasChar
        return "".join(c for c in characters if not all(has(one, ord(c)) for one in sets))

    def _name(self, pattern: int) -> str:
        found = ctypes.c_char_p()
        self._library.FcPatternGetString(pattern, b"family", 0, ctypes.byref(found))
        return (found.value or b"").decode(errors="replace")

    def _characters(self, pattern: int) -> ctypes.c_void_p:
        found = ctypes.c_void_p()
        self._library.FcPatternGetCharSet(pattern, b"charset", 0, ctypes.byref(found))
        return found


class _FontSet(ctypes.Structure):
    _fields_ = (
        ("num_fonts", ctypes.c_int),
        ("size", ctypes.c_int),
        ("fonts", ctypes.POINTER(ctypes.c_void_p)),
    )
