"""Numbers that leave the plane: of coordinates, of transforms, of the canvas itself."""

from random import Random

from render_pool.corpus.attacks.book import ODD, Book, Make, colour, document, name, shape

NUMBERS, SIZES = Book("numbers"), Book("sizes")
BOOKS = (NUMBERS, SIZES)

_STRANGE = (
    "nan",
    "inf",
    "-inf",
    "1e300",
    "-1e300",
    "1e-300",
    "1_000",
    "\u0661\u0662",
    "1e5",
    "0x10",
    "1e",
    "--1",
    "1e309",
    "9" * 400,
    "0." + "0" * 400 + "1",
    "50%",
    "1e20%",
    "calc(1px)",
    "1e15in",
    "",
    " ",
    "NaN",
    "infinity",
    "1.5.5",
    "\uff11",
)


def strange(rng: Random) -> str:
    """A number that float() takes and geometry does not, or the other way round."""
    return rng.choice(_STRANGE)


_PLACES = (
    '<circle cx="50" cy="50" r="@" stroke="red"/>',
    '<circle cx="@" cy="50" r="9"/>',
    '<rect x="@" width="9" height="9"/>',
    '<rect width="@" height="@" rx="@"/>',
    '<ellipse rx="@" ry="9" stroke="red"/>',
    '<line x1="@" x2="9" y2="9" stroke="red"/>',
    '<path d="M0 0L@ 9" stroke="red"/>',
    '<path d="M@ @h9v9z"/>',
    '<path d="M0 0C@ 1 2 3 4 5" stroke="red"/>',
    '<polygon points="0,0 @,9 9,0"/>',
    '<g transform="scale(@)"><circle r="9"/></g>',
    '<g transform="translate(@ 5)"><circle r="9"/></g>',
    '<g transform="rotate(@)"><circle r="9"/></g>',
    '<g transform="matrix(1 @ 0 1 0 0)"><circle r="9"/></g>',
    '<g transform="skewX(@)"><circle r="9" stroke="red"/></g>',
    '<g opacity="@"><circle r="9"/></g>',
    '<circle r="9" stroke="red" stroke-width="@"/>',
    '<circle r="9" stroke="red" stroke-miterlimit="@"/>',
    '<circle r="9" stroke="red" stroke-dasharray="@ 1" stroke-dashoffset="@"/>',
    '<text x="@" y="50">abc</text>',
    '<text y="50" font-size="@">abc</text>',
    '<text y="50" letter-spacing="@">abc</text>',
    '<text y="50" rotate="@">abc</text>',
    '<svg viewBox="0 0 @ 9"><circle r="9"/></svg>',
    '<svg width="@" height="9"><circle r="9"/></svg>',
)


def _at(place: str) -> Make:
    return lambda rng: document(rng, place.replace("@", strange(rng)) + shape(rng))


for _index, _place in enumerate(_PLACES):
    NUMBERS.add(f"place-{_index:02}", _at(_place), *ODD)


def _tiny(rng: Random) -> str:
    return f"{rng.randint(1, 9)}e-{rng.choice((100, 200, 300, 320))}"


@NUMBERS.recipe(*ODD)
def flat_arcs(rng: Random) -> str:
    """cairo divides such an arc for ever, in C."""
    x, y, r = rng.randint(1, 99), rng.randint(1, 99), rng.randint(1, 9)
    arc = rng.choice((f"A{_tiny(rng)} {r}", f"A {r} {_tiny(rng)}", f"a{_tiny(rng)},{r}e9"))
    end = f"{rng.randrange(360)} 0 {rng.randrange(2)} {x} {y}"
    return document(rng, f'<path d="M0 0{arc} {end}" stroke="red"/>' + shape(rng))


@NUMBERS.recipe(*ODD)
def flat_matrices(rng: Random) -> str:
    """Determinant 1, and nothing else in order."""
    e = rng.choice((20, 50, 100, 150, 200))
    m = rng.choice((f"1e{e} 0 0 1e-{e} 0 0", f"1 1e{e} 0 1 0 0", f"1e-{e} 0 0 1e{e} 5 5"))
    inside = f'<circle r="{rng.randint(2, 50)}" stroke="red"/>' + shape(rng)
    return document(rng, f'<g transform="matrix({m})">{inside}</g>' + shape(rng))


@NUMBERS.recipe(*ODD)
def towering_scales(rng: Random) -> str:
    """Each scale is harmless; their product is not."""
    n, factor = rng.randint(2, 9), rng.choice((10, 100, 1000, 1e4, 1e5))
    inside = f'<circle r="{rng.randint(2, 50)}" stroke="red" stroke-width=".{rng.randint(1, 9)}"/>'
    nest = f'<g transform="scale({factor:g})">' * n + inside + "</g>" * n
    return document(rng, nest + shape(rng))


@NUMBERS.recipe(*ODD)
def towering_boxes(rng: Random) -> str:
    n, side = rng.randint(1, 5), rng.choice(("1e-1", "1e-3", "1e-5", "1e-9"))
    inside = f'<circle r="{rng.randint(2, 50)}" stroke="red"/><text>{name(rng)}</text>'
    nest = f'<svg viewBox="0 0 {side} {side}">' * n + inside + "</svg>" * n
    return document(rng, nest + shape(rng))


@NUMBERS.recipe(*ODD)
def towering_ems(rng: Random) -> str:
    """A font nine times as large at each level, and lengths in units of it."""
    n, unit = rng.randint(8, 60), rng.choice(("em", "ex", "ch"))
    inside = rng.choice(
        (f'<circle r="1{unit}" stroke="red"/>', f'<path d="M0 0h9v9" stroke-width="1{unit}"/>')
    )
    nest = f'<g font-size="{rng.randint(5, 9)}em">' * n + inside + "</g>" * n
    return document(rng, nest + shape(rng))


@NUMBERS.recipe(*ODD)
def towering_symbols(rng: Random) -> str:
    n = rng.randint(2, 9)
    chain = "".join(
        f'<symbol id="s{i}" viewBox="0 0 .01 .01"><use href="#s{i + 1}" width="1" height="1"/>'
        "</symbol>"
        for i in range(n)
    )
    last = f'<symbol id="s{n}"><circle r="{rng.randint(2, 9)}" stroke="red"/></symbol>'
    return document(rng, f'{chain}{last}<use href="#s0" width="9" height="9"/>' + shape(rng))


@NUMBERS.recipe(*ODD)
def huge_curves(rng: Random) -> str:
    far = f"1e{rng.randint(4, 9)}"
    curves = f"C{far} {far} -{far} {far} {rng.randint(1, 9)} 9" * rng.randint(300, 1500)
    return document(rng, f'<path fill="none" stroke="red" d="M0 0{curves}"/>')


@NUMBERS.recipe(*ODD)
def giant_radii(rng: Random) -> str:
    r = f"{rng.randint(1, 9)}e{rng.randint(5, 30)}"
    d = f"M0 0A{r} {r} 0 {rng.randrange(2)} {rng.randrange(2)} 99 {rng.randint(1, 99)}"
    inside = rng.choice((f'<circle r="{r}"/>', f'<ellipse rx="{r}" ry="{r}"/>', f'<path d="{d}"/>'))
    group = f'<g stroke="{colour(rng)}" stroke-width="{rng.randint(1, 9)}">'
    return document(rng, f"{group}{inside * rng.randint(1, 20)}</g>" + shape(rng))


_ROOTS = (
    'width="0" height="9"',
    'width="-5" height="9"',
    'width="nan" height="9"',
    'width="1e300" height="9"',
    'width="1e9" height="1e9"',
    'width="100000" height="1"',
    'width="auto" height="auto"',
    'width="100vw" height="50vh"',
    'width="1e-300" height="1e-300"',
    'width="1_000" height="\u0661\u0662"',
    'width="9" height="9" viewBox="0 0 0 0"',
    'viewBox="0 0 -9 9"',
    'viewBox="0 0 nan 9"',
    'viewBox="0 0 1e-9 1e-9"',
    'viewBox="0 0 1e-300 1e-300"',
    'viewBox="0 0 1e300 1e300"',
    'viewBox="1e300 0 9 9"',
    'viewBox="0 0 1 1000000"',
    'viewBox="0 0 9"',
    'viewBox="a b c d"',
    'viewBox=""',
    'width="9999999999" height="9" viewBox="0 0 9 9"',
    'width="32768" height="32768"',
    'width="50%" height="50%"',
    'width="9" height="9" viewBox="0 0 9 9" preserveAspectRatio="x"',
    'width="9" height="9" overflow="visible" viewBox="0 0 1e-5 1e-5"',
)


def _sized(root: str) -> Make:
    return lambda rng: document(rng, '<circle r="9" stroke="red"/>' + shape(rng), root)


for _index, _root in enumerate(_ROOTS):
    SIZES.add(f"root-{_index:02}", _sized(_root), *ODD)


@SIZES.recipe(*ODD)
def strange_sizes(rng: Random) -> str:
    size = f'width="{strange(rng)}" height="{strange(rng)}"'
    box = rng.choice(("", f'viewBox="{rng.randint(0, 9)} 0 {strange(rng)} 9"'))
    return document(rng, shape(rng), f"{size} {box}")
