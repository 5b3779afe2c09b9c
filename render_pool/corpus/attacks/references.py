"""References that leave the document, and pictures embedded in it."""

import base64
import gzip
import struct
import zlib
from collections.abc import Callable
from random import Random
from urllib.parse import quote

from render_pool.corpus.attacks.book import SEEN, Book, Make, document, name, shape

EXTERNAL, DATA = Book("external"), Book("data")
BOOKS = (EXTERNAL, DATA)

_REFUSED = ("forbidden", "malformed")
_URLS = (
    "http://127.0.0.1:{port}/@",
    "https://127.0.0.1:{port}/@",
    "HTTP://127.0.0.1:{port}/@",
    "ftp://127.0.0.1:{port}/@",
    "//127.0.0.1:{port}/@",
    "file:///etc/passwd",
    "file:///proc/self/environ",
    "file:///dev/zero",
    "FILE:///etc/hostname",
    "file://localhost/etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "../../../../../etc/passwd",
    "etc/@.svg",
    "jar:file:///tmp/@.jar!/x",
    "gopher://127.0.0.1:{port}/@",
    "\\\\127.0.0.1\\share\\@",
)


def url(rng: Random) -> str:
    return rng.choice(_URLS).replace("@", name(rng))


# {url} is outside of the document; a shape beside it can be seen.
_FETCHING = {
    "image-href": '<image href="{url}" width="50" height="50"/>',
    "image-xlink": '<image xlink:href="{url}" width="50" height="50"/>',
    "image-own-prefix": '<image xmlns:q="http://www.w3.org/1999/xlink" q:href="{url}" width="9"/>',
    "image-in-spaces": '<image href="  {url} " width="50" height="50"/>',
    "image-in-url": '<image href="url({url})" width="50" height="50"/>',
    "image-in-defs": '<defs><image id="i" href="{url}"/></defs><use href="#i"/>',
    "image-with-base": '<image xml:base="file:///etc/" href="{url}" width="50" height="50"/>',
    "image-from-entity": '<image href="&#x2f;etc&#x2f;passwd" width="50" height="50"/>',
    "use-href": '<use href="{url}#a"/>',
    "use-xlink": '<use xlink:href="{url}#a"/>',
    "use-without-fragment": '<use href="{url}"/>',
    "tref": '<text y="50"><tref href="{url}#a"/></text>',
    "tref-xlink": '<text y="50"><tref xlink:href="{url}"/></text>',
    "svg-in-svg": '<svg><image href="{url}" width="9" height="9"/></svg>',
}
_IGNORED = {
    "css-href": "<style>image{href:url({url})}</style><image width='9' height='9'/>",
    "style-href": '<image style="href:{url}" width="9" height="9"/>',
    "css-import": "<style>@import url({url});</style>",
    "css-import-string": "<style>@import '{url}';</style>",
    "css-import-escaped": "<style>@\\69mport '{url}';</style>",
    "css-import-cdata": "<style><![CDATA[@IMPORT '{url}' screen;]]></style>",
    "css-font-face": "<style>@font-face{font-family:a;src:url({url})}</style>",
    "css-background": "<style>svg{background:url({url});cursor:url({url})}</style>",
    "css-namespace": "<style>@namespace svg url({url});</style>",
    "stylesheet-instruction": '<?xml-stylesheet href="{url}" type="text/css"?>',
    "link-element": '<link xmlns="http://www.w3.org/1999/xhtml" rel="stylesheet" href="{url}"/>',
    "fe-image": '<filter id="f"><feImage href="{url}"/></filter><g filter="url(#f)"><g/></g>',
    "fill-url": '<rect width="9" height="9" fill="url({url}#a)" stroke="url({url})"/>',
    "filter-url": '<g filter="url({url}#a)" mask="url({url}#b)" clip-path="url({url}#c)"/>',
    "gradient-href": '<linearGradient id="g" href="{url}#a"/><rect fill="url(#g)" width="9"/>',
    "text-path-href": '<text><textPath href="{url}#a">x</textPath></text>',
    "anchor": '<a href="{url}"><rect width="9" height="9"/></a>',
    "script-src": '<script href="{url}" xlink:href="{url}" src="{url}"/>',
    "foreign-object": '<foreignObject><img xmlns="http://www.w3.org/1999/xhtml" src="{url}"/>'
    "</foreignObject>",
    "font-face-uri": '<font-face><font-face-src><font-face-uri xlink:href="{url}"/>'
    "</font-face-src></font-face>",
    "color-profile": '<color-profile name="p" xlink:href="{url}"/>',
    "image-upper-case": '<image HREF="{url}" Href="{url}" width="9" height="9"/>',
    "schema-location": '<g xmlns:i="http://www.w3.org/2001/XMLSchema-instance" '
    'i:schemaLocation="{url}"/>',
    "include": '<i:include xmlns:i="http://www.w3.org/2001/XInclude" href="{url}" parse="text"/>',
}


def _enter(name: str, template: str, *outcomes: str) -> None:
    def write(rng: Random) -> str:
        return document(rng, template.replace("{url}", url(rng)) + shape(rng))

    EXTERNAL.add(name, write, *outcomes)


for _name, _template in _FETCHING.items():
    _enter(_name, _template, *_REFUSED)
for _name, _template in _IGNORED.items():
    _enter(_name, _template, *SEEN, *_REFUSED)


@EXTERNAL.recipe(*SEEN, *_REFUSED)
def root_base(rng: Random) -> str:
    return document(rng, shape(rng), f'viewBox="0 0 100 100" xml:base="{url(rng)}"')


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, depth: int = 1) -> bytes:
    """A greyscale PNG whose header says `width` by `height`, whatever `data` is."""
    header = struct.pack("!IIBBBBB", width, height, depth, 0, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _png_bomb(rng: Random) -> bytes:
    side = rng.randint(15_000, 30_000)
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8 + 1)
    return png(side, side, b"".join(packer.compress(row) for _ in range(200)) + packer.flush())


def _png_text_bomb(rng: Random) -> bytes:
    """A compressed comment that unpacks to 20 MB."""
    text = b"k\0\0" + zlib.compress(bytes(rng.randint(1 << 20, 20 << 20)), 9)
    plain = png(1, 1, zlib.compress(b"\0\0"))
    return plain[:33] + _chunk(b"zTXt", text) + plain[33:]


def _png_lie(rng: Random) -> bytes:
    return png(rng.choice((0, 1 << 31, (1 << 32) - 1, 32767)), 32767, b"junk" + rng.randbytes(20))


def _gif(rng: Random) -> bytes:
    return b"GIF89a" + struct.pack("<HH", 65535, 65535) + rng.randbytes(60)


def _jpeg(rng: Random) -> bytes:
    frame = struct.pack("!BHBHHB", 0xC0, 17, 8, 65500, 65500, 3) + b"\1\x11\0\2\x11\1\3\x11\1"
    return b"\xff\xd8\xff" + frame + rng.randbytes(40)


def _bmp(rng: Random) -> bytes:
    head = struct.pack("<2sIHHI", b"BM", 200, 0, 0, 54)
    return head + struct.pack("<IiiHHI", 40, 60_000, 60_000, 1, 24, 0) + rng.randbytes(60)


def _svg(rng: Random) -> bytes:
    inside = '<image href="file:///etc/passwd" width="9" height="9"/>' + shape(rng)
    return document(rng, inside).encode()


def _postscript(rng: Random) -> bytes:
    """Pillow hands this to Ghostscript, a program of its own."""
    lines = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {rng.randint(10, 400)} 99\n"
    return f"{lines}(/etc/passwd) (r) file\nshowpage\n%%EOF\n".encode()


_PICTURES: dict[str, tuple[str, Callable[[Random], bytes]]] = {
    "png-bomb": ("image/png", _png_bomb),
    "png-text-bomb": ("image/png", _png_text_bomb),
    "png-lie": ("image/png", _png_lie),
    "gif": ("image/gif", _gif),
    "jpeg": ("image/jpeg", _jpeg),
    "bmp": ("image/bmp", _bmp),
    "tiff": ("image/tiff", lambda rng: b"II*\0\x08\0\0\0\xff\xff" + rng.randbytes(600)),
    "webp": ("image/webp", lambda rng: b"RIFF\xff\xff\xff\x7fWEBPVP8L" + rng.randbytes(60)),
    "jp2": ("image/jp2", lambda rng: b"\0\0\0\x0cjP  \r\n\x87\n" + rng.randbytes(80)),
    "ico": ("image/x-icon", lambda rng: b"\0\0\1\0\xff\xff" + rng.randbytes(200)),
    "icns": ("image/icns", lambda rng: b"icns\x7f\xff\xff\xff" + rng.randbytes(80)),
    "psd": ("image/psd", lambda rng: b"8BPS\0\1" + rng.randbytes(60)),
    "ppm": ("image/ppm", lambda rng: f"P6 60000 60000 255 {name(rng)}".encode()),
    "fli": ("video/fli", lambda rng: rng.randbytes(4) + b"\x12\xaf" + rng.randbytes(130)),
    "pcx": ("image/pcx", lambda rng: b"\x0a\5\1\x08" + rng.randbytes(130)),
    "dds": ("image/dds", lambda rng: b"DDS \x7c\0\0\0" + rng.randbytes(130)),
    "eps": ("application/postscript", _postscript),
    "wmf": ("image/wmf", lambda rng: b"\xd7\xcd\xc6\x9a\0\0" + rng.randbytes(60)),
    "svg": ("image/svg+xml", _svg),
    "svgz": ("image/svg+xml", lambda rng: gzip.compress(_svg(rng) * rng.randint(1, 9), mtime=0)),
    "text": ("text/plain", lambda rng: name(rng).encode()),
}


def data_url(rng: Random, kind: str, content: bytes) -> str:
    how = rng.randrange(4)
    if how == 0:
        return f"data:{kind},{quote(content)}"
    word = "DATA" if how == 1 else "data"
    return f"{word}:{kind};base64,{base64.b64encode(content).decode()}"


def _embedded(kind: str, make: Callable[[Random], bytes]) -> Make:
    def write(rng: Random) -> str:
        attribute = rng.choice(("href", "xlink:href"))
        link = data_url(rng, kind, make(rng))
        return document(rng, f'<image {attribute}="{link}" width="50" height="50"/>' + shape(rng))

    return write


for _name, (_kind, _make) in _PICTURES.items():
    DATA.add(_name, _embedded(_kind, _make), *SEEN, *_REFUSED, "too_costly", "too_large")


@DATA.recipe(*_REFUSED)
def use_of_data(rng: Random) -> str:
    link = data_url(rng, "image/svg+xml", _svg(rng))
    return document(rng, f'<use href="{link}#a"/>' + shape(rng))


@DATA.recipe(*SEEN, *_REFUSED)
def import_of_data(rng: Random) -> str:
    """A stylesheet in an address in a stylesheet."""
    link = data_url(rng, "text/css", b"*{fill:red}@import 'file:///etc/passwd';")
    return document(rng, f'<style>@import "{link}";</style>' + shape(rng))


@DATA.recipe(*_REFUSED, "too_large", *SEEN)
def images_within_images(rng: Random) -> str:
    inner = document(rng, shape(rng)).encode()
    for _ in range(rng.randint(3, 6)):
        link = f"data:image/svg+xml;base64,{base64.b64encode(inner).decode()}"
        inner = document(rng, f'<image href="{link}" width="9" height="9"/>' * 2).encode()
    return inner.decode()
