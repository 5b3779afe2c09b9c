"""From what a model wrote to the SVG source in it: decoding, fences, and where the element ends.

Runs in the caller's process, so all of it is linear in the text, and no library sees the source.
"""

import re

from engine.types import Invalid
from render_pool.reasons import invalid

MAX_PROSE = 1 << 17
"""Characters around the SVG that are looked through; its own come on top."""

_MARK = re.compile(
    r"<!--|<!\[CDATA\[|<(?P<closing>/?)(?:[\w.-]{1,64}:)?svg(?=[\s/>])"
    r"""(?:[^<>"']++|"[^"<]*"|'[^'<]*')*+>""",
    re.IGNORECASE,
)
_ENDS = {"<!--": "-->", "<![CDATA[": "]]>"}
_MAX_MARKS = 4000
"""Tags of `svg` elements, comments and the like that are counted before a text is given up."""
_HINT = re.compile(r"<(?:[\w.-]{1,64}:)?svg(?=[\s/>])", re.IGNORECASE)


def source(text: str | bytes, max_bytes: int) -> bytes | Invalid:
    """The first complete `<svg ...>...</svg>` of `text`, as UTF-8."""
    if len(text) > MAX_PROSE + max_bytes:
        return invalid("too_large", f"a text of {len(text)} characters")
    if isinstance(text, bytes):
        decoded = _decode(text)
        if decoded is None:
            return invalid("not_svg", "neither UTF-8 nor UTF-16 with a byte order mark")
        text = decoded
    svg = find_svg(text)
    if svg is None:
        is_cut_off = _HINT.search(text)
        return invalid("malformed", "no </svg>") if is_cut_off else invalid("not_svg")
    try:
        encoded = svg.encode()
    except UnicodeEncodeError:
        return invalid("malformed", "lone surrogate")
    if len(encoded) > max_bytes:
        return invalid("too_large", f"{len(encoded)} > {max_bytes} bytes")
    return encoded


def find_svg(text: str) -> str | None:
    """The first complete `<svg ...>...</svg>`, nested ones included; None where there is none.

    A fenced one comes before a bare one; a fence need not be closed. A prolog (and with it every
    DOCTYPE and entity) is left behind, as is all prose. Whether the element is well-formed is for
    others to say.
    """
    pieces = (*text.split("```")[1::2], text)
    found = (_first(piece, is_prose) for piece in pieces for is_prose in (True, False))
    return next(filter(None, found), None)


def _first(text: str, is_prose: bool) -> str | None:
    """`is_prose`: a bare `<svg>`, which has no size, is a word of a sentence and opens nothing."""
    depth = start = position = 0
    never_closed: set[str] = set()
    for _ in range(_MAX_MARKS):
        mark = _MARK.search(text, position)
        if mark is None:
            return None
        position = mark.end()
        if end := _ENDS.get(mark[0].upper()):
            closed = -1 if end in never_closed else text.find(end, position)
            if closed >= 0:
                position = closed + len(end)
            elif depth:
                return None
            else:  # words of a sentence
                never_closed.add(end)
        elif is_prose and depth == 0 and mark[0] == "<svg>":
            continue
        elif not mark["closing"]:
            start = start if depth else mark.start()
            depth += not mark[0].endswith("/>")
        elif depth:
            depth -= 1
        else:
            continue  # closes nothing
        if depth == 0 and not end:
            return text[start:position]
    return None


def _decode(data: bytes) -> str | None:
    is_utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        return None
