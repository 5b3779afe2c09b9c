"""Hostile text: XML that expands or breaks, bytes that are no text, an SVG hidden in prose."""

import gzip
from itertools import pairwise
from random import Random

from render_pool.corpus.attacks.book import (
    ODD,
    SEEN,
    Book,
    Make,
    colour,
    document,
    filled,
    name,
    room,
    shape,
)

XML, BYTES, PROSE, BLANK, FEATURES = (
    Book("xml"),
    Book("bytes"),
    Book("prose"),
    Book("blank"),
    Book("features"),
)
BOOKS = (XML, BYTES, PROSE, BLANK, FEATURES)

_BROKEN = ("malformed", "not_svg")
_UNREAD = ("malformed", "forbidden", "not_svg")


def _text(rng: Random, content: str) -> str:
    return f'<text x="5" y="50" font-size="{rng.randint(20, 30)}">{content}</text>' + shape(rng)


def _laughs(rng: Random) -> str:
    """Ten entities, each ten times the one before."""
    e = [name(rng) for _ in range(rng.randint(8, 12))]
    lines = [f'<!ENTITY {e[0]} "lol">'] + [
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in pairwise(e)
    ]
    return f"<!DOCTYPE svg [{''.join(lines)}]>" + document(rng, _text(rng, f"&{e[-1]};"))


XML.add("billion-laughs", _laughs, *_UNREAD)


@XML.recipe(*_UNREAD)
def quadratic_blowup(rng: Random) -> str:
    """One long entity, used often."""
    e = name(rng)
    dtd = f'<!DOCTYPE svg [<!ENTITY {e} "{"A" * room(rng, 10_000, 20_000)}">]>'
    return dtd + document(rng, _text(rng, f"&{e};" * rng.randint(1000, 2000)))


_TARGETS = (
    "file:///etc/passwd",
    "file:///proc/self/environ",
    "file:///dev/zero",
    "http://127.0.0.1:{port}/e",
    "ftp://127.0.0.1:{port}/e",
    "../../../../etc/passwd",
)


@XML.recipe(*_UNREAD)
def external_entity(rng: Random) -> str:
    e, url = name(rng), rng.choice(_TARGETS)
    kind = rng.choice(("SYSTEM", 'PUBLIC "-//W3C//TEXT"'))
    return f'<!DOCTYPE svg [<!ENTITY {e} {kind} "{url}">]>' + document(rng, _text(rng, f"&{e};"))


@XML.recipe(*SEEN, *_UNREAD)
def parameter_entity(rng: Random) -> str:
    """Opens nothing, even though a reader of DTDs would have to."""
    e, url = name(rng), rng.choice(_TARGETS)
    return f'<!DOCTYPE svg [<!ENTITY % {e} SYSTEM "{url}"> %{e};]>' + document(rng, shape(rng))


@XML.recipe(*SEEN, *_UNREAD)
def external_doctype(rng: Random) -> str:
    url = rng.choice(_TARGETS)
    return f'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "{url}">' + document(rng, shape(rng))


@XML.recipe(*_UNREAD)
def doctype_inside(rng: Random) -> str:
    """A DOCTYPE where none may be: after the root has begun."""
    inside = f'<!DOCTYPE svg [<!ENTITY {name(rng)} SYSTEM "file:///etc/passwd">]>'
    return document(rng, inside + shape(rng))


_LEXICAL = {
    "undefined-entity": "&{name};",
    "html-entity": "&nbsp;{name}",
    "raw-ampersand": "{name} & more",
    "raw-less-than": "{name} < 5",
    "nul": "{name}\0",
    "control-character": "{name}\x0b",
    "null-reference": "&#0;{name}",
    "surrogate-reference": "&#xD800;{name}",
    "beyond-unicode": "&#x110000;{name}",
    "huge-reference": "&#" + "9" * 400 + ";{name}",
    "cdata-end": "]]>{name}",
    "unclosed-cdata": "<![CDATA[{name}",
    "unclosed-comment": "<!-- {name}",
    "double-hyphen": "<!-- {name} -- -->",
    "wrong-close": "<g>{name}</text>",
    "unquoted-attribute": "<tspan x=5>{name}</tspan>",
    "twice-the-attribute": '<tspan x="5" x="6">{name}</tspan>',
    "twice-by-namespace": '<tspan xmlns:a="u" xmlns:b="u" a:x="5" b:x="6">{name}</tspan>',
    "unbound-prefix": "<q:tspan>{name}</q:tspan>",
    "reserved-target": "<?xml {name}?>",
    "noncharacter": "{name}\uffff",
}


def _lexical(content: str) -> Make:
    def write(rng: Random) -> str:
        return document(rng, _text(rng, content.replace("{name}", name(rng))))

    return write


for _name, _content in _LEXICAL.items():
    XML.add(_name, _lexical(_content), *SEEN, *_BROKEN)


@XML.recipe(*SEEN, *_BROKEN)
def two_roots(rng: Random) -> str:
    return document(rng, shape(rng)) + document(rng, shape(rng))


@XML.recipe(*ODD)
def many_namespaces(rng: Random) -> str:
    count = room(rng) // 30
    bound = " ".join(f'xmlns:x{i:04}="u{rng.getrandbits(32)}"' for i in range(count))
    return document(rng, shape(rng), f'viewBox="0 0 100 100" {bound}')


@XML.recipe(*ODD)
def long_names(rng: Random) -> str:
    long = name(rng) * (room(rng) // 14)
    return document(rng, f"<{long}/>" + shape(rng, f'{long[:100]}="1"'))


@XML.recipe(*ODD)
def instructions_and_comments(rng: Random) -> str:
    piece = rng.choice((f"<?{name(rng)} b?>", f"<!--{name(rng)}-->", "<![CDATA[]]>"))
    return document(rng, filled(piece, room(rng)) + shape(rng))


@XML.recipe(*_BROKEN)
def foreign_root(rng: Random) -> str:
    """An <svg> whose namespace is not SVG's."""
    return f'<svg xmlns="http://example.org/{name(rng)}" viewBox="0 0 9 9">{shape(rng)}</svg>'


@XML.recipe("not_svg", "malformed")
def not_an_svg(rng: Random) -> str:
    tag = rng.choice(("html", "SVG", "svgs", "rect", "g", "svg:svg"))
    return f'<{tag} viewBox="0 0 9 9" id="{name(rng)}">{shape(rng)}</{tag}>'


def _ordinary(rng: Random) -> str:
    return document(rng, shape(rng))


@BYTES.recipe("not_svg")
def gzip_svgz(rng: Random) -> bytes:
    return gzip.compress(_ordinary(rng).encode(), mtime=0)


@BYTES.recipe("not_svg", "too_large")
def gzip_bomb(rng: Random) -> bytes:
    """About 40 KB that unpack to 40 MB."""
    size = rng.randint(2 << 20, 40 << 20)
    head, tail = _ordinary(rng).encode().split(b"</svg>")
    packed = gzip.compress(head, mtime=0) + gzip.compress(b" " * size, 9, mtime=0)
    return packed + gzip.compress(b"</svg>" + tail, mtime=0)


@BYTES.recipe("not_svg", "malformed")
def gzip_as_utf16(rng: Random) -> bytes:
    return b"\xff\xfe" + gzip.compress(_ordinary(rng).encode("utf-16-le"), mtime=0)


@BYTES.recipe("not_svg")
def junk(rng: Random) -> bytes:
    return rng.randbytes(rng.randint(1, 20_000))


@BYTES.recipe("not_svg")
def magic_numbers(rng: Random) -> bytes:
    magic = rng.choice(
        (
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"GIF89a",
            b"%!PS",
            b"BZh9",
            b"PK\3\4",
            b"\x28\xb5\x2f\xfd",
        )
    )
    return magic + rng.randbytes(rng.randint(8, 4000))


@BYTES.recipe("not_svg", "malformed")
def latin_1(rng: Random) -> bytes:
    return document(rng, _text(rng, "caf\xe9")).encode("latin-1")


@BYTES.recipe("not_svg", "malformed")
def broken_utf8(rng: Random) -> bytes:
    bad = rng.choice((b"\xc0\x80", b"\xed\xa0\x80", b"\xff", b"\xf5\x80\x80\x80", b"\xe2\x82"))
    return document(rng, _text(rng, "@@")).encode().replace(b"@@", bad)


@BYTES.recipe("not_svg", "malformed")
def utf16_without_mark(rng: Random) -> bytes:
    return _ordinary(rng).encode(rng.choice(("utf-16-le", "utf-16-be")))


@BYTES.recipe("not_svg", "malformed")
def utf16_cut_short(rng: Random) -> bytes:
    return _ordinary(rng).encode("utf-16")[:-1]


@BYTES.recipe("not_svg", *_UNREAD)
def utf16_entities(rng: Random) -> bytes:
    return _laughs(rng).encode("utf-16")


@BYTES.recipe("not_svg", "malformed")
def utf32(rng: Random) -> bytes:
    return _ordinary(rng).encode("utf-32")


@BYTES.recipe(*SEEN, *_BROKEN)
def declared_encoding(rng: Random) -> bytes:
    """A declaration that names a codec which Python has and XML has not, or the wrong one."""
    codec = rng.choice(("rot13", "utf-7", "zlib", "idna", "utf-16", "cp037", "hex", name(rng)))
    return f'<?xml version="1.0" encoding="{codec}"?>{_ordinary(rng)}'.encode()


@BYTES.recipe(*_BROKEN)
def lone_surrogate(rng: Random) -> str:
    return document(rng, _text(rng, chr(rng.randint(0xD800, 0xDFFF))))


@BYTES.recipe("not_svg")
def empty(rng: Random) -> str | bytes:
    blank = rng.choice((" ", "\n", "\t", "\ufeff", "\0")) * rng.randint(0, 400)
    return blank if rng.random() < 0.5 else blank.encode()


@PROSE.recipe("too_large")
def beyond_the_limit(rng: Random) -> str:
    return document(rng, filled(shape(rng), rng.randint(70_000, 300_000)))


_OPENINGS = (
    "<svg ",
    "<svg>",
    "</svg>",
    "<svg/",
    "```svg\n",
    "```svg\n<svg ",
    "<svg a='",
    "<",
    "<!--",
)


@PROSE.recipe(*_BROKEN, "too_large")
def unclosed_again_and_again(rng: Random) -> str:
    """Every piece looks like the beginning of an SVG; none ends."""
    return f"{name(rng)} " + filled(rng.choice(_OPENINGS), rng.randint(20_000, 400_000))


@PROSE.recipe(*SEEN, *_BROKEN, "too_large")
def behind_much_prose(rng: Random) -> str:
    words = filled(f"{name(rng)} ``` <s vg> ", rng.randint(20_000, 300_000))
    return f"{words}\n```svg\n{_ordinary(rng)}\n```\n"


@PROSE.recipe(*_BROKEN, "too_large", "blank")
def nested_roots_unclosed(rng: Random) -> str:
    opening = '<svg viewBox="0 0 9 9">'
    return f"<!-- {name(rng)} -->" + filled(opening, room(rng)) + "</svg>" * rng.randint(0, 9)


@PROSE.recipe("not_svg", *_BROKEN)
def only_words(rng: Random) -> str:
    return f"I cannot draw {name(rng)}. The tag svg would be needed, as in &lt;svg&gt;."


@BLANK.recipe("blank")
def nothing_inside(rng: Random) -> str:
    return document(rng, rng.choice(("", "<g/>", "<defs/>", "<title>x</title>", "<script/>")))


@BLANK.recipe("blank")
def white_on_white(rng: Random) -> str:
    white = rng.choice(("white", "#fff", "#ffffff", "rgb(255,255,255)", "none", "#FFF"))
    return document(rng, shape(rng, f'fill="{white}"'))


@BLANK.recipe("blank")
def off_canvas(rng: Random) -> str:
    far = rng.randint(200, 10_000)
    return document(rng, f'<g transform="translate({far} {far})">{shape(rng)}</g>')


@BLANK.recipe("blank")
def switched_off(rng: Random) -> str:
    how = rng.choice(
        ('display="none"', 'visibility="hidden"', 'opacity="0"', 'style="display:none"')
    )
    return document(rng, shape(rng, how))


@BLANK.recipe("blank")
def one_colour(rng: Random) -> str:
    return document(rng, f'<rect width="100%" height="100%" fill="{colour(rng)}"/>')


@BLANK.recipe("near_blank", "blank", "picture")
def one_speck(rng: Random) -> str:
    x, y, r = rng.randint(5, 95), rng.randint(5, 95), rng.randint(1, 5) / 10
    return document(rng, f'<circle cx="{x}" cy="{y}" r="{r}" fill="{colour(rng)}"/>')


@BLANK.recipe("near_blank", "blank", "picture")
def nearly_white(rng: Random) -> str:
    pale = rng.choice(("#fefefe", "#fffffe", "#fdffff", "rgba(0,0,0,.004)"))
    return document(rng, shape(rng, f'fill="{pale}"'))


@FEATURES.recipe(*SEEN)
def impossible_conditions(rng: Random) -> str:
    wants = rng.choice(("requiredFeatures", "requiredExtensions", "systemLanguage"))
    inside = f'<g {wants}="http://127.0.0.1:{{port}}/{name(rng)}">{shape(rng)}</g>'
    return document(rng, f"<switch>{inside}<g>{shape(rng)}</g></switch>")


@FEATURES.recipe(*ODD)
def long_conditions(rng: Random) -> str:
    wants, mark = rng.choice((("requiredFeatures", " "), ("systemLanguage", ",")))
    return document(rng, f'<g {wants}="{filled(name(rng) + mark, room(rng))}"/>' + shape(rng))


@FEATURES.recipe(*ODD)
def deep_switches(rng: Random) -> str:
    n = rng.randint(50, 300)
    return document(rng, "<switch>" * n + shape(rng) + "</switch>" * n)


_PASSIVE = (
    "<script>while(1){}</script>",
    '<g onload="alert(1)"/>',
    '<animate attributeName="href" to="file:///etc/passwd" repeatCount="indefinite"/>',
    '<set attributeName="xlink:href" to="http://127.0.0.1:{port}/"/>',
    '<foreignObject><iframe xmlns="http://www.w3.org/1999/xhtml" src="file:///etc/passwd"/></foreignObject>',
    '<handler type="application/java-archive">x</handler>',
    "<metadata><rdf/></metadata>",
    '<font><glyph unicode="a" d="M0 0z"/></font>',
)


@FEATURES.recipe(*SEEN)
def passive_elements(rng: Random) -> str:
    """What cairosvg ignores, and must go on ignoring."""
    return document(rng, rng.choice(_PASSIVE) + shape(rng))
