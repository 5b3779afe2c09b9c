"""Too much of one thing: letters, levels, elements, attributes, and strings read quadratically."""

from random import Random

from render_pool.corpus.attacks.book import (
    HEAVY,
    ODD,
    REFUSED,
    Book,
    Make,
    colour,
    document,
    filled,
    name,
    points,
    room,
    shape,
)

TEXT, DEPTH, COUNTS, PARSING = Book("text"), Book("depth"), Book("counts"), Book("parsing")
BOOKS = (TEXT, DEPTH, COUNTS, PARSING)


def _letters(rng: Random, count: int) -> str:
    """`count` letters, now and then a space; some alphabets take three bytes for each."""
    first = rng.choice((ord("a"), ord("A"), 0x3B1, 0x430, 0x4E00, 0x1F600))
    return "".join(chr(first + rng.randrange(24)) for _ in range(count))


@TEXT.recipe(*HEAVY)
def long_text(rng: Random) -> str:
    size = room(rng)
    count = size // len(_letters(rng, 1).encode() * 4)
    return document(rng, f'<text y="50">{_letters(rng, max(count, 8000))}</text>')


def _nest(tag: str, low: int, high: int) -> Make:
    """cairosvg builds what is inside of these two or three times, at each level."""

    def write(rng: Random) -> str:
        n, inside = rng.randint(low, high), name(rng)
        nest = f"<{tag}>" * n + inside + f"</{tag}>" * n
        return document(rng, f'<text y="50">{nest}</text>' + shape(rng))

    return write


TEXT.add("anchor-nest", _nest("a", 16, 60), *REFUSED, "malformed")
TEXT.add("text-path-nest", _nest("textPath", 16, 60), *REFUSED, "malformed")
TEXT.add("text-nest", _nest("text", 16, 60), *REFUSED, "malformed")
TEXT.add("tspan-nest", _nest("tspan", 16, 60), *ODD)


@TEXT.recipe(*REFUSED, "malformed")
def anchors_around_shapes(rng: Random) -> str:
    n = rng.randint(14, 60)
    link = f'<a href="#{name(rng)}">'
    return document(rng, link * n + shape(rng) + "</a>" * n)


@TEXT.recipe(*REFUSED, "malformed")
def mixed_nest(rng: Random) -> str:
    tags = [rng.choice(("a", "tspan", "textPath", "text", "a")) for _ in range(rng.randint(35, 60))]
    opening, closing = (f"<{t}>x" for t in tags), (f"</{t}>y" for t in reversed(tags))
    return document(rng, f'<text y="50">{"".join(opening)}{name(rng)}{"".join(closing)}</text>')


@TEXT.recipe(*REFUSED)
def letters_along_segments(rng: Random) -> str:
    """Each letter walks the whole path, three times."""
    path = f'<path id="p" fill="none" d="M{points(rng, rng.randint(2000, 4000))}"/>'
    letters = _letters(rng, rng.randint(3000, 6000))
    return document(rng, f'{path}<text><textPath href="#p">{letters}</textPath></text>')


@TEXT.recipe(*REFUSED)
def spans_along_path(rng: Random) -> str:
    """Each span draws the path anew."""
    path = f'<path id="p" fill="none" d="M{points(rng, rng.randint(2000, 4000))}"/>'
    spans = f"<tspan>{name(rng)[0]}</tspan>" * rng.randint(800, 1500)
    return document(rng, f'{path}<text><textPath href="#p">{spans}</textPath></text>')


@TEXT.recipe(*HEAVY)
def turned_letters(rng: Random) -> str:
    """Each angle is a font of its own for cairo."""
    count = rng.randint(5000, 7000)
    angles = " ".join(str(rng.randrange(3600) / 10) for _ in range(count))
    return document(rng, f'<text x="50" y="50" rotate="{angles}">{_letters(rng, count)}</text>')


@TEXT.recipe(*HEAVY)
def many_spans(rng: Random) -> str:
    spans = "".join(
        f'<tspan x="{rng.randrange(100)}" y="{rng.randrange(100)}">{chr(97 + i % 26)}</tspan>'
        for i in range(rng.randint(1000, 1500))
    )
    return document(rng, f"<text>{spans}</text>")


@TEXT.recipe(*HEAVY)
def many_turned_texts(rng: Random) -> str:
    start = rng.random()
    texts = "".join(
        f'<text y="50" transform="rotate({start + i:.2f})">a</text>'
        for i in range(rng.randint(700, 1100))
    )
    return document(rng, texts)


@TEXT.recipe(*ODD)
def long_position_lists(rng: Random) -> str:
    numbers = filled(f"{rng.randint(1, 90)} ", room(rng) // 4)
    return document(rng, f'<text x="{numbers}" y="{numbers}" dx="{numbers}">{name(rng)}</text>')


@TEXT.recipe(*HEAVY)
def references_for_letters(rng: Random) -> str:
    return document(rng, f'<text y="50">{filled("&#38;", room(rng, 40_000))}{name(rng)}</text>')


@DEPTH.recipe(*REFUSED, "malformed")
def groups(rng: Random) -> str:
    n = rng.randint(1000, 8000)
    return document(rng, "<g>" * n + shape(rng) + "</g>" * n)


@DEPTH.recipe(*REFUSED, "malformed")
def unknown_elements(rng: Random) -> str:
    n, tag = rng.randint(1000, 3000), name(rng)
    return document(rng, f"<{tag}>" * n + shape(rng) + f"</{tag}>" * n)


@DEPTH.recipe(*REFUSED)
def roots_around_leaves(rng: Random) -> str:
    """Each nested root looks for definitions in everything below it."""
    n = rng.randint(100, 250)
    return document(rng, "<svg>" * n + filled("<g/>", room(rng, 8000, 30_000)) + "</svg>" * n)


def _layers(attribute: str) -> Make:
    """Each level is a canvas of its own, and all are held at once."""

    def write(rng: Random) -> str:
        n = rng.randint(120, 400)
        value = attribute.replace("{o}", f"{rng.randint(1, 9) / 10}").replace("{n}", name(rng))
        mask = f'<mask id="m"><rect width="99" height="{rng.randint(50, 99)}" fill="#fff"/></mask>'
        return document(rng, mask + f"<g {value}>" * n + shape(rng) + "</g>" * n)

    return write


for _name, _attribute in (
    ("opacity", 'opacity="{o}"'),
    ("opacity-by-style", 'style="opacity:{o}"'),
    ("mask", 'mask="url(#m)"'),
    ("filter", 'filter="url(#{n})"'),
    ("dangling-mask", 'mask="url(#{n})"'),
    ("all-three", 'opacity="{o}" mask="url(#m)" filter="url(#{n})"'),
):
    DEPTH.add(f"{_name}-layers", _layers(_attribute), *HEAVY, "malformed")


@DEPTH.recipe(*HEAVY)
def flat_layers(rng: Random) -> str:
    layer = rng.choice(('opacity=".5"', 'filter="url(#f)"', 'mask="url(#q)"'))
    count = rng.randint(900, 1500)
    return document(rng, f"<g {layer}><g/></g>" * count + shape(rng))


@DEPTH.recipe(*HEAVY)
def layers_by_stylesheet(rng: Random) -> str:
    n = rng.randint(150, 400)
    style = f"<style>g{{opacity:{rng.randint(1, 99) / 100}}}</style>"
    return document(rng, style + "<g>" * n + shape(rng) + "</g>" * n)


_SMALL = ("<g/>", "<path/>", "<text/>", "<rect/>", "<svg/>", "<use/>", "<a/>", "<b c='d'/>")


@COUNTS.recipe(*HEAVY, "malformed")
def small_elements(rng: Random) -> str:
    return document(rng, filled(rng.choice(_SMALL), room(rng, 50_000)) + shape(rng))


@COUNTS.recipe(*HEAVY)
def hidden_elements(rng: Random) -> str:
    """They are built all the same."""
    inside = filled(f'<g a="{rng.randrange(10)}"/>', room(rng, 50_000))
    return document(rng, f'<g display="none">{inside}</g>' + shape(rng))


@COUNTS.recipe(*HEAVY)
def full_canvas_shapes(rng: Random) -> str:
    """Fill rate: each one paints every pixel."""
    rect = rng.choice(("<rect width='100' height='100'/>", "<circle r='150'/>"))
    group = f'<g fill="{colour(rng)}" fill-opacity=".{rng.randint(1, 9)}">'
    return document(rng, f"{group}{filled(rect, room(rng, 35_000))}</g>")


@COUNTS.recipe(*ODD)
def attributes_of_one_element(rng: Random) -> str:
    count = room(rng) // 16
    attributes = " ".join(f'a{i}="{name(rng)}"' for i in range(count))
    return document(rng, f"<g {attributes}/>" + shape(rng))


@COUNTS.recipe(*ODD)
def one_long_attribute(rng: Random) -> str:
    return document(rng, f'<g data-x="{filled(name(rng), room(rng))}"/>' + shape(rng))


@COUNTS.recipe(*HEAVY)
def many_names(rng: Random) -> str:
    start = rng.getrandbits(20)
    return document(rng, "".join(f'<g id="n{start + i}"/>' for i in range(room(rng) // 20)))


@PARSING.recipe(*REFUSED, "malformed")
def numbers_after_close(rng: Random) -> str:
    """`z` takes no numbers and cairosvg waits for ever until it does. Models do write this."""
    x, y = rng.randint(0, 99), rng.randint(0, 99)
    end = rng.choice(
        (f"z{x} {y}", f"Z {x},{y}", f"z-{x}", f"z .{x}", "z1", f"z e{x}", "Z+5", "z,1")
    )
    return document(rng, f'<path d="M{x} {y}h9v9{end}"/>' + shape(rng))


@PARSING.recipe(*REFUSED, "malformed")
def numbers_after_close_elsewhere(rng: Random) -> str:
    x, y = rng.randint(0, 99), rng.randint(0, 99)
    d = f"M{x} {y}h9v9z{x}"
    how = rng.choice(
        (
            f'<g d="{d}"><path/></g>',
            f"<style>path{{d:{d}}}</style><path/>",
            f'<path style="d:{d}"/>',
            f'<clipPath id="c"><path d="{d}"/></clipPath><rect width="9" height="9" '
            'clip-path="url(#c)"/>',
            f'<path id="p" d="{d}"/><text><textPath href="#p">x</textPath></text>',
        )
    )
    return document(rng, how + shape(rng))


def _repeats(element: str, piece: str, low: int = 15_000) -> Make:
    """One attribute that repeats `piece`."""

    def write(rng: Random) -> str:
        value = filled(piece, room(rng, low)) + name(rng)
        return document(rng, element.replace("@", value) + shape(rng))

    return write


_GRADIENT = '<linearGradient id="g"><stop @/></linearGradient><rect fill="url(#g)" {s}/>'
_SIZE = 'width="9" height="9"'

# Regular expressions that begin anew at each piece and run to the end of the string.
for _name, _element, _piece in (
    ("fill-rgb", f'<rect {_SIZE} fill="@"/>', "rgb("),
    ("fill-rgba", f'<rect {_SIZE} fill="@"/>', "rgba("),
    ("stroke-rgb", f'<rect {_SIZE} stroke="@"/>', "rgb("),
    ("stop-color-rgba", _GRADIENT.replace("@", 'stop-color="@"').replace("{s}", _SIZE), "rgba("),
    ("style-rgb", f'<rect {_SIZE} style="fill:@"/>', "rgb("),
    ("transform-word", '<g transform="@"/>', "a"),
    ("transform-open", '<g transform="@"/>', "a("),
    ("gradient-transform", '<linearGradient id="g" gradientTransform="@"/>'
     f'<rect {_SIZE} fill="url(#g)"/>', "a"),
    ("pattern-transform", f'<pattern id="p" {_SIZE} patternTransform="@"><g/></pattern>'
     f'<rect {_SIZE} fill="url(#p)"/>', "b("),
    ("clip-rect", '<g clip="@"/>', "rect("),
):  # fmt: skip
    PARSING.add(_name, _repeats(_element, _piece), *REFUSED, "malformed")
for _name, _element, _piece in (
    ("fill-url", f'<rect {_SIZE} fill="@"/>', "url("),
    ("mask-url", '<g mask="@"/>', "url("),
    ("href-url", '<use href="#@"/>', "url("),
    ("d-implicit", '<path d="M0 0L@"/>', "1 1 "),
    ("d-explicit", '<path d="M0 0@"/>', "L1 1"),
    ("d-dots", '<path d="M0 0L@"/>', ".1"),
    ("d-signs", '<path d="M@"/>', "-"),
    ("d-close", '<path d="M0 0@"/>', "z"),
    ("d-flags", '<path d="M0 0a1 1 0 @"/>', "01"),
    ("points", '<polyline points="@"/>', "1 1 "),
    ("points-signs", '<polyline points="@"/>', "-1"),
    ("dash-list", f'<rect {_SIZE} stroke="red" stroke-dasharray="@"/>', "1px "),
    ("view-box-list", '<svg viewBox="@"/>', "1 "),
    ("transform-word-bracket", '<g transform="@ (1)"/>', "_"),
    ("transform-list", '<g transform="@"/>', "scale(1)"),
    ("font-words", '<text font="@">a</text>', "a "),
    ("style-declarations", '<g style="@"/>', "a:b;"),
    ("style-words", '<g style="fill:@"/>', "a "),
    ("style-brackets", '<g style="fill:@"/>', "("),
    ("class-words", "<style>.a{fill:red}</style><g class='@'/>", "a "),
    ("aspect-words", '<svg viewBox="0 0 9 9" preserveAspectRatio="@"/>', "xMid "),
    ("rotate-words", '<text rotate="@">abc</text>', "1 "),
):
    PARSING.add(_name, _repeats(_element, _piece), *ODD)
