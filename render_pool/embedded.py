"""PNG pictures that a document brings along in a `data:` reference.

Only what a picture needs is kept of them (five kinds of chunks), so that the decoder meets no
text, colour profiles or animations.
"""

import base64
import binascii
import struct
import zlib

MAX_PIXELS = 1 << 20

_PREFIX = "data:image/png;base64,"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_MAX_CHUNKS = 1000


def embedded_png(href: str) -> bytes | None:
    """The PNG of a `data:image/png;base64,` reference; None where it is none, broken, or large."""
    href = href.strip()
    if not href.startswith(_PREFIX):
        return None
    try:
        data = base64.b64decode(href[len(_PREFIX) :].replace("%2B", "+").replace("%2F", "/"))
    except (binascii.Error, ValueError):
        return None
    if not data.startswith(_SIGNATURE) or pixels(data) > MAX_PIXELS:
        return None
    chunks, position = [_SIGNATURE], len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if position + 12 > len(data):
            return None  # cut off
        length, kind = struct.unpack_from("!I4s", data, position)
        chunk = data[position : position + 12 + length]
        if kind in _KEPT:
            if zlib.crc32(chunk[4:-4]).to_bytes(4, "big") != chunk[-4:]:
                return None
            chunks.append(chunk)
        if kind == b"IEND":
            return b"".join(chunks)
        position += 12 + length
    return None


def pixels(png: bytes) -> float:
    """Width times height as the header says; infinite where there is no header."""
    if len(png) < 33 or png[12:16] != b"IHDR":
        return float("inf")
    width, height = struct.unpack_from("!II", png, 16)
    return float(width * height)
