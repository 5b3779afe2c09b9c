"""What cairo works long on: dashes, joins, tiles, gradients, layers that blend, and fonts."""

from random import Random

from render_pool.corpus.attacks.book import (
    HEAVY,
    ODD,
    REFUSED,
    Book,
    Make,
    colour,
    document,
    name,
    points,
    shape,
)
from render_pool.corpus.attacks.extremes import strange

DASHES, STROKES, FONTS = Book("dashes"), Book("strokes"), Book("fonts")
PATTERNS, GRADIENTS, FILTERS = Book("patterns"), Book("gradients"), Book("filters")
BOOKS = (DASHES, STROKES, FONTS, PATTERNS, GRADIENTS, FILTERS)


def _lines(rng: Random, count: int, length: int) -> str:
    return "".join(
        f'<line x1="-{length}" x2="{length}" y1="{rng.randrange(100)}" y2="{rng.randrange(100)}"/>'
        for _ in range(count)
    )


def _dashed(rng: Random, dash: str, body: str, more: str = "") -> str:
    group = f'<g fill="none" stroke="{colour(rng)}" stroke-dasharray="{dash}" {more}>'
    return document(rng, f"{group}{body}</g>")


@DASHES.recipe(*ODD)
def long_lines(rng: Random) -> str:
    length = 10 ** rng.randint(4, 9)
    return _dashed(rng, f".{rng.randint(1, 9)}", _lines(rng, rng.randint(50, 900), length))


@DASHES.recipe(*REFUSED)
def circles(rng: Random) -> str:
    circle = f'<circle cx="50" cy="50" r="{rng.randint(60, 90)}"/>'
    return _dashed(rng, f".0{rng.randint(1, 9)}", circle * rng.randint(500, 1200))


@DASHES.recipe(*REFUSED)
def round_caps(rng: Random) -> str:
    more = f'stroke-linecap="round" stroke-width="{rng.randint(40, 90)}"'
    circle = f'<circle r="{rng.randint(60, 90)}"/>'
    return _dashed(rng, f".{rng.randint(1, 5)}", circle * rng.randint(30, 200), more)


@DASHES.recipe(*REFUSED)
def zigzags(rng: Random) -> str:
    more = rng.choice(("", f'stroke-linecap="round" stroke-width="{rng.randint(10, 30)}"'))
    body = f'<polyline points="{points(rng, rng.randint(2500, 6000))}"/>'
    return _dashed(rng, f".{rng.randint(2, 6)}", body, more)


@DASHES.recipe(*ODD)
def tiny_dashes(rng: Random) -> str:
    dash = rng.choice(("1e-9", "1e-300 1e-300", "0 1e-12", "0.001", "1e-5 1e300", "0 0 0", "-1 5"))
    body = f'<circle cx="50" cy="50" r="{rng.randint(20, 40)}"/>'
    return _dashed(rng, dash, body, f'stroke-dashoffset="{rng.choice(("0", "1e12", "-1e300"))}"')


@DASHES.recipe(*ODD)
def long_dash_list(rng: Random) -> str:
    dashes = " ".join(f".0{rng.randint(1, 9)}" for _ in range(rng.randint(2000, 9000)))
    body = f'<circle cx="50" cy="50" r="{rng.randint(20, 40)}"/>'
    return _dashed(rng, dashes, body)


def _zigzag(attributes: str, low: int, high: int) -> Make:
    def write(rng: Random) -> str:
        drawn = points(rng, rng.randint(low, high), rng.choice((90, 99)))
        style = attributes.replace("{w}", str(rng.randint(20, 90))).replace("{c}", colour(rng))
        return document(rng, f'<polygon {style} points="{drawn}"/>')

    return write


for _name, _attributes, _low in (
    ("fill", 'fill="{c}"', 4000),
    ("even-odd", 'fill="{c}" fill-rule="evenodd"', 4000),
    ("stroke", 'fill="none" stroke="{c}"', 4000),
    ("wide-round", 'fill="none" stroke="{c}" stroke-width="{w}" stroke-linejoin="round"', 2500),
    ("wide-miter", 'stroke="{c}" stroke-width="{w}" stroke-miterlimit="1e9"', 2500),
    ("best", 'fill="{c}" stroke="{c}" shape-rendering="geometricPrecision"', 4000),
):
    STROKES.add(f"zigzag-{_name}", _zigzag(_attributes, _low, 9000), *HEAVY)


@STROKES.recipe(*REFUSED)
def clips_within_clips(rng: Random) -> str:
    """Two clips that cross themselves are intersected edge by edge."""
    shapes = [f'<polygon points="{points(rng, rng.randint(1000, 3000))}"/>' for _ in range(2)]
    clips = "".join(f'<clipPath id="c{i}">{shapes[i]}</clipPath>' for i in range(2))
    inside = shape(rng, 'clip-path="url(#c0)"')
    return document(rng, f'{clips}<g clip-path="url(#c1)">{inside}</g>')


@STROKES.recipe(*REFUSED)
def clips_times_levels(rng: Random) -> str:
    """Every drawing renders every clip above it once more."""
    n = rng.randint(80, 250)
    clip = f'<clipPath id="c"><circle cx="50" cy="50" r="{rng.randint(30, 49)}"/></clipPath>'
    circles = f'<circle r="60" fill="{colour(rng)}"/>' * rng.randint(200, 600)
    return document(rng, clip + '<g clip-path="url(#c)">' * n + circles + "</g>" * n)


@STROKES.recipe(*REFUSED)
def one_clip_times_drawings(rng: Random) -> str:
    edges = points(rng, rng.randint(500, 2000))
    clip = f'<clipPath id="c"><polygon points="{edges}"/></clipPath>'
    circles = f'<circle r="60" fill="{colour(rng)}"/>' * rng.randint(200, 600)
    return document(rng, f'{clip}<g clip-path="url(#c)">{circles}</g>')


@STROKES.recipe(*REFUSED)
def curves_after_an_arc(rng: Random) -> str:
    """The arc's tolerance of 1e-5 pixels holds for the curves of the same path."""
    x, y = rng.randint(50, 100), rng.randint(50, 100)
    curves = f"C{x} {y} -{y} {x} 9 9" * rng.randint(800, 2000)
    arc = f"A9 9 0 0 1 9 {rng.randint(1, 9)}"
    return document(rng, f'<path fill="none" stroke="{colour(rng)}" d="M0 0{arc}{curves}"/>')


@STROKES.recipe(*REFUSED)
def arcs_then_round_joins(rng: Random) -> str:
    """After an arc cairosvg keeps a tolerance of 1e-5, and a round join has 5000 sides."""
    d = f"M0 0A50 50 0 1 1 9 {rng.randint(1, 90)}L" + points(rng, rng.randint(3000, 9000))
    style = f'fill="none" stroke="{colour(rng)}" stroke-width="50" stroke-linejoin="round"'
    return document(rng, f'<path {style} d="{d}"/>')


@STROKES.recipe(*REFUSED)
def big_arcs(rng: Random) -> str:
    r = rng.randint(40, 90)
    d = "M0 0" + f"A{r} {r} 0 1 1 9 9A{r} {r} 0 1 0 0 0" * rng.randint(700, 1200)
    return document(rng, f'<path d="{d}" stroke="red" fill="{colour(rng)}"/>')


@STROKES.recipe(*ODD)
def giant_widths(rng: Random) -> str:
    width = rng.choice(("1e4", "1e6", "1e9", "1e300", "inf"))
    style = f'stroke="{colour(rng)}" stroke-width="{width}" stroke-linejoin="round"'
    return document(rng, f'<polyline {style} points="{points(rng, rng.randint(2, 90))}"/>')


_TILES = ("1e-3", ".01", "1e-300", "5e3", "2e4", "1e5", "1e9", "inf", "nan", "-5", "0", "1e300")
_BENDS = ("rotate(33)", "scale(1e-4)", "scale(1e3)", "scale(0)", "skewX(89.9)", "matrix(nan)")


@PATTERNS.recipe(*ODD, "memory")
def odd_tiles(rng: Random) -> str:
    """Tiles too small or too large; cairo refuses by itself what it can't allocate."""
    size = f'width="{rng.choice(_TILES)}" height="{rng.choice(_TILES)}"'
    units = rng.choice(('patternUnits="userSpaceOnUse"', ""))
    bend = rng.choice(("", f'patternTransform="{rng.choice(_BENDS)}"'))
    tile = f'<pattern id="p" {units} {size} {bend}><circle r="{rng.randint(1, 9)}"/></pattern>'
    return document(rng, tile + shape(rng, 'fill="url(#p)"'))


@PATTERNS.recipe(*ODD, "memory")
def odd_tile_boxes(rng: Random) -> str:
    box = rng.choice(("1e-6 1e-6", "1e6 1e6", "0 0", "nan 5", "1e300 1e-300", "-5 5"))
    tile = f'<pattern id="p" width="9" height="9" viewBox="0 0 {box}"><circle r="3"/></pattern>'
    return document(rng, tile + shape(rng, 'fill="url(#p)"'))


@PATTERNS.recipe(*HEAVY)
def blend_in_tile(rng: Random) -> str:
    """cairo redraws such a tile at 300 dpi."""
    mode = rng.choice(("multiply", "screen", "darken", "lighten"))
    side = rng.randint(500, 5000)
    blend = f'<filter id="f"><feBlend mode="{mode}"/></filter>'
    inside = shape(rng) + f'<g filter="url(#f)">{shape(rng)}</g>'
    size = f'patternUnits="userSpaceOnUse" width="{side}" height="{side}"'
    users = shape(rng, 'fill="url(#p)"') * rng.randint(1, 9)
    return document(rng, f'{blend}<pattern id="p" {size}>{inside}</pattern>{users}')


@PATTERNS.recipe(*HEAVY)
def many_users(rng: Random) -> str:
    tile = '<pattern id="p" width="9" height="9" patternUnits="userSpaceOnUse"><circle r="3"/>'
    users = shape(rng, f'fill="url(#p)" stroke="{colour(rng)}"') * rng.randint(400, 700)
    return document(rng, f"{tile}</pattern>{users}")


@PATTERNS.recipe(*ODD, "memory")
def growing_tile(rng: Random) -> str:
    """In units of the box cairosvg multiplies the tile's size anew at every use."""
    tile = f'<pattern id="p" width=".{rng.randint(1, 9)}" height=".2"><circle r="3"/></pattern>'
    return document(rng, tile + shape(rng, 'fill="url(#p)"') * rng.randint(2, 90))


@GRADIENTS.recipe(*REFUSED)
def many_stops(rng: Random) -> str:
    stops = "".join(
        f'<stop offset=".{rng.randrange(100)}"/>' for _ in range(rng.randint(500, 1200))
    )
    kind = rng.choice(("linearGradient", "radialGradient"))
    users = shape(rng, 'fill="url(#g)" stroke="url(#g)"') * rng.randint(200, 350)
    return document(rng, f'<{kind} id="g">{stops}</{kind}>{users}')


@GRADIENTS.recipe(*REFUSED)
def full_canvas_radials(rng: Random) -> str:
    """25 ns for a pixel, and every pixel a thousand times."""
    stops = f'<stop stop-color="{colour(rng)}"/><stop offset="1" stop-color="red"/>'
    rects = "<rect width='100' height='100'/>" * rng.randint(300, 1200)
    gradient = f'<radialGradient id="g" r=".{rng.randint(1, 9)}" fx=".1">{stops}</radialGradient>'
    return document(rng, f'{gradient}<g fill="url(#g)">{rects}</g>')


@GRADIENTS.recipe(*ODD)
def odd_vectors(rng: Random) -> str:
    x1, x2, r = (strange(rng) for _ in range(3))
    spread = rng.choice(("pad", "repeat", "reflect", "x"))
    kind = rng.choice((f'linearGradient x1="{x1}" x2="{x2}"', f'radialGradient r="{r}" fx="{x1}"'))
    stops = f'<stop offset="{strange(rng)}" stop-opacity="{rng.random():.2f}"/><stop/>'
    tag = kind.split()[0]
    gradient = f'<{kind} id="g" spreadMethod="{spread}">{stops}</{tag}>'
    return document(rng, gradient + shape(rng, 'fill="url(#g)"') + shape(rng))


@GRADIENTS.recipe(*HEAVY)
def templates_for_many(rng: Random) -> str:
    gradients = '<linearGradient id="a"><stop/></linearGradient><linearGradient id="b" href="#a"/>'
    return document(rng, gradients + shape(rng, 'fill="url(#b)"') * rng.randint(500, 800))


def _filtered(rng: Random, primitives: str, users: str) -> str:
    return document(rng, f'<filter id="f">{primitives}</filter>{users}' + shape(rng))


@FILTERS.recipe(*REFUSED)
def floods_times_users(rng: Random) -> str:
    flood = f'<feFlood width="100" height="100" flood-color="{colour(rng)}"/>'
    users = '<g filter="url(#f)"/>' * rng.randint(300, 900)
    return _filtered(rng, flood * rng.randint(100, 600), users)


@FILTERS.recipe(*REFUSED)
def blends(rng: Random) -> str:
    mode = rng.choice(("multiply", "screen", "darken", "lighten"))
    users = f'<g filter="url(#f)">{shape(rng)}</g>' * rng.randint(200, 500)
    return _filtered(rng, f'<feBlend mode="{mode}"/>', users)


@FILTERS.recipe(*ODD)
def huge_values(rng: Random) -> str:
    value = rng.choice(("1e9", "1e300", "nan", "inf", "-5", "1e-300", "1 1 1", ""))
    kind = rng.choice(
        (
            f'<feGaussianBlur stdDeviation="{value}"/>',
            f'<feOffset dx="{value}" dy="5"/>',
            f'<feFlood width="{value}" height="9" flood-color="red"/>',
            f'<feTurbulence numOctaves="{value}" baseFrequency="{value}"/>',
            f'<feConvolveMatrix order="{value}" kernelMatrix="1"/>',
            f'<feMorphology radius="{value}"/>',
            f'<feDisplacementMap scale="{value}"/>',
        )
    )
    return _filtered(rng, kind, shape(rng, 'filter="url(#f)"'))


@FILTERS.recipe(*ODD)
def long_chain(rng: Random) -> str:
    kind = rng.choice(("feGaussianBlur", "feOffset", "feMerge", "feComposite", "feColorMatrix"))
    chain = "".join(f'<{kind} in="r{i}" result="r{i + 1}"/>' for i in range(rng.randint(200, 900)))
    return _filtered(rng, chain, shape(rng, 'filter="url(#f)"'))


@FILTERS.recipe(*REFUSED)
def masks_for_many(rng: Random) -> str:
    mask = f'<mask id="m"><rect width="99" height="{rng.randint(50, 99)}" fill="#fff"/></mask>'
    users = "<rect width='99' height='99' mask='url(#m)'/>" * rng.randint(200, 600)
    return document(rng, mask + users)


@FONTS.recipe(*HEAVY)
def many_families(rng: Random) -> str:
    start = rng.getrandbits(20)
    count = rng.randint(700, 1100)
    texts = "".join(f'<text y="50" font-family="f{start + i}">a</text>' for i in range(count))
    return document(rng, texts)


@FONTS.recipe(*HEAVY)
def many_sizes(rng: Random) -> str:
    count, start = rng.randint(800, 1100), rng.random()
    texts = (f'<text y="50" font-size="{10 + start + i / 50:.2f}">a</text>' for i in range(count))
    return document(rng, "".join(texts))


_FAMILIES = (
    "../../../etc/passwd",
    "/dev/zero",
    "file:///etc/passwd",
    "DejaVu Sans:file=/etc/passwd",
    ":charset=0-ffff",
    "@cairo:monospace",
    "@cairo:",
    "a:pixelsize=1e9",
    "%s%n%s",
    "\\",
    "",
    "'",
    ",",
    "a" * 5000,
    "\u202e\U0001f600",
    "-1",
)


@FONTS.recipe(*ODD)
def odd_families(rng: Random) -> str:
    family = rng.choice(_FAMILIES)
    style = (
        rng.choice(("italic", "normal", "x", "__class__")),
        rng.choice(("bold", "5000", "x", "-1")),
    )
    attributes = (
        f'font-style="{style[0]}" font-weight="{style[1]}" font-size="{rng.randint(20, 40)}"'
    )
    text = f'<text y="50" font-family="{family}" {attributes}>{name(rng)}</text>'
    return document(rng, text + shape(rng))


@FONTS.recipe(*HEAVY, "malformed")
def giant_letters(rng: Random) -> str:
    size = rng.choice((400, 1000, 3000, 30_000, 1_000_000))
    letters = "".join(chr(97 + rng.randrange(26)) for _ in range(rng.randint(5, 300)))
    stroke = rng.choice(("", 'stroke="red" stroke-width="50" stroke-linejoin="round"'))
    return document(rng, f'<text y="50" font-size="{size}" {stroke}>{letters}</text>' + shape(rng))


@FONTS.recipe(*ODD)
def odd_shorthand(rng: Random) -> str:
    font = rng.choice(("bold", "1e300px/1e300 a", "///", "italic nan x", "0 a", "a b c d", "12px"))
    return document(rng, f'<text y="50" font="{font}">{name(rng)}</text>' + shape(rng))


@FONTS.recipe(*ODD)
def odd_letters(rng: Random) -> str:
    """Marks without a base, directions, private use, beyond the first plane."""
    first = rng.choice((0x300, 0x202A, 0xE000, 0xFE00, 0x1F3FB, 0xE0020, 0x10FF00, 0x0E31, 0x200B))
    letters = "".join(chr(first + rng.randrange(16)) for _ in range(rng.randint(20, 500)))
    return document(rng, f'<text y="50" font-size="20">{letters}</text>' + shape(rng))
