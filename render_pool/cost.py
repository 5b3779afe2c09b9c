"""How much work a document is to draw, counted without drawing it. Linear in the document.

    steps = stylesheets + nodes built + elements drawn + what each reference draws again

A step is about a tenth of a millisecond of processor time on a slow core; the weights were
measured with one kind of element at a time (cairosvg 2.9.1). References multiply: what a `use`, a
pattern, a marker, a mask or a clip path draws is counted wherever it is drawn, and paints and
markers that children inherit are counted for each child. So the work of an element is linear in
the paints and markers that it inherits (`_Work`), and is counted once however often the element is
referred to. A reference that leads back to itself has no count.

What can't be known is guessed from what attacks are made of (lengths, depths, repetitions), never
from what pictures are made of: an ordinary picture has some hundred steps.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from render_pool import geometry
from render_pool.embedded import embedded_png, pixels
from render_pool.outline import Element, Outline
from render_pool.stylesheet import Rule, Rules, declarations

_SHAPES = frozenset({"circle", "ellipse", "line", "path", "polygon", "polyline", "rect"})
_TEXTS = frozenset({"text", "textPath", "a", "tspan"})
_PAINTED = _SHAPES | _TEXTS | {"image", "svg", "use"}
_NOT_DRAWN = frozenset(
    {"clipPath", "defs", "filter", "linearGradient", "marker", "mask", "pattern"}
    | {"radialGradient", "symbol"}
)
_PAINTS = ("fill", "stroke")
_MARKERS = ("marker", "marker-start", "marker-mid", "marker-end")
_LAYERS = ("mask", "clip-path", "filter")
_REFERRING = frozenset((*_PAINTS, *_MARKERS, *_LAYERS))
_NOT_INHERITED = frozenset({"class", "clip-path", "filter", "href", "id", "mask", "opacity"}) | {
    "style",
    "transform",
    "viewBox",
}
_FRAGMENT = re.compile(r"#([^\s\"')#]+)")
_OPACITY = re.compile(r"(?:^|[;\s])opacity\s*:")

# Steps
_BUILD = 0.35
_DRAW = 0.5
_PAINT = 1.0
_LETTER = 0.6
_USE = 4.0
_GRADIENT = 1.0
_PATTERN = 18.0
_CLIP = 4.0
_MASK = 8.0
_MARKER = 1.5
_LOOK_UP = 1 / 1300
"""For each element of the document, wherever a reference is followed by searching it."""
_STYLE = 1 / 15
"""A character of a style attribute or sheet."""
_SELECTOR = 1.2
_PATH = 1 / 22
"""A character of path data or points."""
_SEARCHED = 2.5e-5
"""The square of the length of an attribute that patterns search which may start anywhere."""
_MAX_MATCHES = 300_000
"""Pairs of a rule and an element."""


class TooCostly(Exception):
    """The work has no bound: a reference that leads back to itself, or a stylesheet's product."""


@dataclass(frozen=True, slots=True)
class _Work:
    """own + fill * F + stroke * S + marker * M steps, where F, S and M are the steps of the fill,
    the stroke and the markers that the element inherits."""

    own: float = 0.0
    fill: float = 0.0
    stroke: float = 0.0
    marker: float = 0.0

    def plus(self, other: "_Work") -> "_Work":
        return _Work(
            self.own + other.own,
            self.fill + other.fill,
            self.stroke + other.stroke,
            self.marker + other.marker,
        )

    def given(self, fill: float | None, stroke: float | None, marker: float | None) -> "_Work":
        """The same where an inherited paint has become known: None where it has not."""
        known = (
            (self.fill * fill if fill else 0.0)
            + (self.stroke * stroke if stroke else 0.0)
            + (self.marker * marker if marker else 0.0)
        )
        return _Work(
            self.own + known,
            self.fill if fill is None else 0.0,
            self.stroke if stroke is None else 0.0,
            self.marker if marker is None else 0.0,
        )


def steps(document: Outline, view: tuple[float, float], num_pixels: int) -> float:
    """Steps to draw `document`, whose root shows `view` (width, height in its own units) on
    `num_pixels`. Raises TooCostly."""
    try:
        return _Counter(document, view, num_pixels).total()
    except RecursionError:
        raise TooCostly("a chain of references without end") from None


class _Counter:
    def __init__(self, document: Outline, view: tuple[float, float], num_pixels: int) -> None:
        self._elements = document.elements
        self._view = view
        self._num_pixels = num_pixels
        self._ids: dict[str, list[int]] = {}
        for place, element in enumerate(self._elements):
            if "id" in element.attributes:
                self._ids.setdefault(element.attributes["id"], []).append(place)
        self._rules = Rules(self._elements)
        self._candidates = self._matching_rules()
        self._refs = [self._references(place) for place in range(len(self._elements))]
        self._inherited, self._dash, self._is_clip = self._from_above()
        self._build = self._nodes()
        self._known: dict[int, _Work] = {}
        self._visiting: set[int] = set()

    def total(self) -> float:
        drawn = self._drawn(0).given(0.0, 0.0, 0.0).own
        sheets = self._rules.num_characters * _STYLE + self._rules.num_selectors * _SELECTOR
        return drawn + self._build[0] * _BUILD + sheets

    # what refers to what

    def _matching_rules(self) -> list[tuple[Rule, ...]]:
        """The rules that may match each element."""
        found, num_pairs = [], 0
        for element in self._elements:
            rules = tuple(self._rules.candidates(element))
            num_pairs += len(rules)
            if num_pairs > _MAX_MATCHES:
                raise TooCostly("a stylesheet that applies to everything")
            found.append(rules)
        return found

    def _references(self, place: int) -> dict[str, list[str]]:
        """{property: ids} of an element's own references, by attribute, style and stylesheet."""
        found: dict[str, list[str]] = {}
        attributes = self._elements[place].attributes
        for name in attributes.keys() & _REFERRING:
            value = attributes[name]
            if "#" in value and "(" in value:
                found.setdefault(name, []).extend(_FRAGMENT.findall(value))
        style = attributes.get("style", "")
        if ("#" in style and "(" in style) or "\\" in style:
            for name, value in declarations(style):
                if name in _REFERRING and "(" in value:
                    found.setdefault(name, []).extend(_FRAGMENT.findall(value))
        for rule in self._candidates[place]:
            for name, ids in rule.references:
                found.setdefault(name, []).extend(ids)
        return found

    def _targets(self, ids: Sequence[str]) -> Iterator[int]:
        for name in ids:
            yield from self._ids.get(name, ())

    def _linked(self, element: Element) -> Iterator[int]:
        return self._targets(_FRAGMENT.findall(element.attributes.get("href", "")))

    def _from_above(self) -> tuple[list[float], list[float], list[bool]]:
        """By element: steps for reading long attributes that it inherits, the length of its dash
        pattern (0: none), and whether it is inside of a clip path."""
        searched: list[float] = []
        dash: list[float] = []
        is_clip: list[bool] = []
        for element in self._elements:
            has_parent = element.parent >= 0
            long = searched[element.parent] if has_parent else 0.0
            dashes = dash[element.parent] if has_parent else 0.0
            for name, value in element.attributes.items():
                if len(value) > 40 and name not in _NOT_INHERITED:
                    long += _reading(name, value)
            for place_dash in (
                element.attributes.get("stroke-dasharray"),
                *(
                    value
                    for name, value in declarations(element.attributes.get("style", ""))
                    if name == "stroke-dasharray"
                ),
            ):
                if place_dash is not None:
                    dashes = geometry.total(place_dash)
            searched.append(long)
            dash.append(dashes)
            is_clip.append(element.tag == "clipPath" or (has_parent and is_clip[element.parent]))
        return searched, dash, is_clip

    # building the tree

    def _nodes(self) -> list[float]:
        """Nodes to build for each element with all that is in it.

        The children of text and of links are built twice, and so are theirs.
        """
        elements = self._elements
        build = [0.0] * len(elements)
        again = [0.0] * len(elements)
        children = [0.0] * len(elements)
        num_attributes = [0] * len(elements)
        num_children = Counter(element.parent for element in elements)
        for place, element in enumerate(elements):
            above = num_attributes[element.parent] if element.parent >= 0 else 0
            num_attributes[place] = above + len(element.attributes)
        for place in range(len(elements) - 1, -1, -1):
            element = elements[place]
            siblings = num_children[element.parent]
            matching = sum(
                rule.steps(element.depth, siblings, len(elements))
                for rule in self._candidates[place]
            )
            style = len(element.attributes.get("style", "")) * _STYLE
            own = 1.0 + num_attributes[place] / 40 + (style + matching) / _BUILD
            is_text = element.tag in _TEXTS and element.tag != "tspan"
            build[place] = own + (again[place] if is_text else children[place])
            if element.parent >= 0:
                again[element.parent] += build[place] + again[place] + 1
                children[element.parent] += build[place]
        return build

    # drawing

    def _drawn(self, place: int) -> _Work:
        """Steps to draw an element with all that is in it."""
        if place in self._known:
            return self._known[place]
        if place in self._visiting:
            raise TooCostly(f"#{self._elements[place].attributes.get('id', '')[:40]} draws itself")
        self._visiting.add(place)
        end = self._elements[place].end
        # Children come after their parents: from the back, each one's own children are complete.
        inside = [_Work()] * (end - place)
        for at in range(end - 1, place - 1, -1):
            element = self._elements[at]
            if at > place and element.tag in _NOT_DRAWN:
                continue  # drawn where it is referred to
            work = self._one(at, inside[at - place])
            inside[at - place] = work
            if at > place:
                above = element.parent - place
                inside[above] = inside[above].plus(work)
        self._visiting.discard(place)
        self._known[place] = inside[0]
        return inside[0]

    def _one(self, place: int, inside: _Work) -> _Work:
        """One element with its children, whose work is `inside`."""
        element, references = self._elements[place], self._refs[place]
        is_painted = element.tag in _PAINTED
        paints = 1.0 if is_painted else 0.0
        own = _Work(self._own(place), paints, paints, self._vertices(place))
        work = inside.plus(own)
        if element.tag in ("use", "tref"):
            work = work.plus(self._used(element))
        work = work.given(
            self._paint(place, "fill"), self._paint(place, "stroke"), self._markers(place)
        )
        return work.plus(_Work(self._layers(element, references)))

    def _own(self, place: int) -> float:
        """Steps of one element alone: its attributes, numbers, letters and pixels."""
        element = self._elements[place]
        found = _DRAW + self._inherited[place]
        found += sum(rule.values for rule in self._candidates[place])
        style = element.attributes.get("style", "")
        if len(style) > 200:
            found += max(len(value) for _, value in declarations(style)) ** 2 * _SEARCHED
        for name in _NOT_INHERITED & element.attributes.keys():
            if len(element.attributes[name]) > 40:
                found += _reading(name, element.attributes[name])
        if element.tag in _PAINTED:
            found += _PAINT
        if element.tag in _SHAPES:
            found += self._outlined(place)
        elif element.tag in _TEXTS:
            found += self._letters(element)
        elif element.tag == "image":
            png = embedded_png(element.attributes.get("href", ""))
            found += pixels(png) / 10_000 if png else 0.0
        return found

    def _outlined(self, place: int) -> float:
        """Steps for a shape's pixels, its dashes, and where a long line crosses itself."""
        element = self._elements[place]
        found = geometry.share(element, self._view) * self._num_pixels / 100_000
        if dash := self._dash[place]:
            found += geometry.perimeter(element, self._view) / dash * 0.01
        return found + geometry.crossings(element, self._view) * 0.1

    def _letters(self, element: Element) -> float:
        num_letters = len(element.text)
        per_letter = _LETTER + (2.0 if "rotate" in element.attributes else 0.0)
        found = 4.0 if {"font-family", "font"} & element.attributes.keys() else 1.0
        for target in self._linked(element):
            path = self._elements[target].attributes.get("d", "")
            per_letter += len(path) / 400  # each letter walks along the flattened path
            found += 2 * len(path) * _PATH
        return found + num_letters * per_letter

    def _vertices(self, place: int) -> float:
        """Places of an element at which a marker may be drawn."""
        count = geometry.vertices(self._elements[place])
        # Within a clip path each marker draws the whole path once more.
        return count * (1 + count) if self._is_clip[place] else count

    def _used(self, element: Element) -> _Work:
        """What a `use` draws: its target is looked up, built and drawn anew."""
        work = _Work(_USE + len(self._elements) * _LOOK_UP)
        targets = list(self._linked(element))
        if targets:
            work = work.plus(_Work(max(self._build[target] for target in targets) * _BUILD))
            drawn = [self._drawn(target) for target in targets]
            work = work.plus(max(drawn, key=lambda one: (one.own, one.fill, one.marker)))
        return work

    def _paint(self, place: int, name: str) -> float | None:
        """Steps of the element's own paint; None where it inherits one."""
        element, references = self._elements[place], self._refs[place]
        if name in references:
            share = geometry.share(element, self._view)
            return max(
                (self._server(target, share) for target in self._targets(references[name])),
                default=0.0,
            )
        return None if _inherits(element, name) else 0.0

    def _markers(self, place: int) -> float | None:
        references = self._refs[place]
        ids = [name for marker in _MARKERS for name in references.get(marker, ())]
        if not ids:
            return None
        contents = [_MARKER + self._content(target) for target in self._targets(ids)]
        return max(contents, default=0.0)

    def _server(self, place: int, share: float) -> float:
        """Steps to paint with a gradient or a pattern, once, so much of the page."""
        element = self._elements[place]
        painted = share * self._num_pixels
        if element.tag == "pattern":
            return _PATTERN + self._content(place) + painted / 20_000
        found, chain = _GRADIENT, {place}
        while True:
            element = self._elements[place]
            found += (element.end - place) * 0.03
            found += painted / (4_000 if element.tag == "radialGradient" else 90_000)
            following = [target for target in self._linked(element) if target not in chain]
            if not following:
                return found
            found += self._build[place] * _BUILD + len(self._elements) / 200
            place, painted = following[0], 0.0
            chain.add(place)

    def _content(self, place: int) -> float:
        """Steps to draw what is inside of a pattern, marker, mask or clip path, with the paints
        and markers that it inherits where it stands."""
        work = self._drawn(place)
        at = self._elements[place].parent
        while at >= 0 and (work.fill or work.stroke or work.marker):
            work = work.given(
                self._paint(at, "fill") if work.fill else None,
                self._paint(at, "stroke") if work.stroke else None,
                self._markers(at) if work.marker else None,
            )
            at = self._elements[at].parent
        if self._elements[place].tag == "pattern":
            for target in list(self._linked(self._elements[place]))[:1]:
                if target not in self._visiting:
                    work = work.plus(_Work(self._content(target) + len(self._elements) / 200))
        return work.own

    def _layers(self, element: Element, references: dict[str, list[str]]) -> float:
        """Steps for masks, clip paths, filters and groups with an opacity."""
        found = 0.0
        share = geometry.share(element, self._view)
        for target in self._targets(references.get("filter", ())):
            found += (self._elements[target].end - target) * (0.3 + self._num_pixels / 250_000)
        for target in self._targets(references.get("mask", ())):
            found += _MASK + self._content(target) + max(share, 0.3) * self._num_pixels / 7_000
        for target in self._targets(references.get("clip-path", ())):
            found += _CLIP + self._content(target) + self._clip_edges(target)
        attributes = element.attributes
        has_opacity = "opacity" in attributes or _OPACITY.search(attributes.get("style", ""))
        if "mask" in references or "filter" in references or has_opacity:
            found += self._num_pixels / 100_000
        return found

    def _clip_edges(self, place: int) -> float:
        """Steps to intersect a clip path with the one around it: edges times edges."""
        end = self._elements[place].end
        edges = sum(geometry.vertices(self._elements[at]) for at in range(place, end))
        return edges * edges / 160


def _reading(name: str, value: str) -> float:
    """Steps to read a long attribute, for each element that has or inherits it."""
    if name in ("d", "points"):
        return len(value) * _PATH + len(value) ** 2 * 1.5e-7  # repetitions copy what is left
    if name in ("class", "href", "id", "style"):
        return 0.0
    return len(value) ** 2 * _SEARCHED


def _inherits(element: Element, name: str) -> bool:
    """Whether the element takes its paint from its parent."""
    value = element.attributes.get(name)
    if value is not None and value.strip() != "inherit":
        return False
    style = element.attributes.get("style", "")
    return name not in style or all(
        value.strip() == "inherit" for key, value in declarations(style) if key == name
    )
