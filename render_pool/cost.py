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
_SEARCHED_NAMES = _REFERRING | {
    *("clip", "color", "flood-color", "font", "gradientTransform", "href", "lighting-color"),
    *("patternTransform", "stop-color", "transform", "transform-origin"),
}
_FRAGMENT = re.compile(r"#([^\s\"')#]+)")
_OPACITY = re.compile(r"(?:^|[;\s])opacity\s*:")

# Steps
_BUILD = 0.35
_DRAW = 0.5
_PAINT = 1.0
_NAMED = 0.3
_LETTER = 0.6
_USE = 4.0
_GRADIENT = 1.0
_PATTERN = 18.0
_CLIP = 4.0
_MASK = 14.0
_MARKER = 1.5
_LOOK_UP = 1 / 1300
"""For each element of the document, wherever a reference is followed by searching it."""
_STYLE = 1 / 15
"""A character of a style attribute or sheet."""
_SELECTOR = 1.2
_NUMBER = 0.06
"""A number of path data, points or a dash pattern."""
_PIXELS_OF_GROUP = 50_000
_SEARCHED = 5e-5
"""The square of the length of an attribute that patterns search which may start anywhere."""
_BLEND_IN_TILE = 5000.0
"""Cairo falls back to an image of print resolution."""
_MAX_SCALE = 1e5
_MAX_COMBINATORS = 30
_MAX_MATCHES = 300_000
"""Pairs of a rule and an element."""


class TooCostly(Exception):
    """The work has no bound: a reference that leads back to itself, or a stylesheet's product."""


class _Work:
    """own + fill * F + stroke * S + marker * M steps, where F, S and M are the steps of the fill,
    the stroke and the markers that the element inherits."""

    __slots__ = ("fill", "marker", "own", "stroke")

    def __init__(
        self, own: float = 0.0, fill: float = 0.0, stroke: float = 0.0, marker: float = 0.0
    ) -> None:
        self.own = own
        self.fill = fill
        self.stroke = stroke
        self.marker = marker

    def add(self, other: "_Work") -> None:
        self.own += other.own
        self.fill += other.fill
        self.stroke += other.stroke
        self.marker += other.marker

    def give(self, fill: float | None, stroke: float | None, marker: float | None) -> None:
        """An inherited paint has become known: None where it has not."""
        if fill is not None:
            self.own += self.fill * fill if fill else 0.0
            self.fill = 0.0
        if stroke is not None:
            self.own += self.stroke * stroke if stroke else 0.0
            self.stroke = 0.0
        if marker is not None:
            self.own += self.marker * marker if marker else 0.0
            self.marker = 0.0


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
        self._long, self._dash, self._is_clip = self._from_above()
        self._build = self._nodes()
        self._is_round = any("round" in e.attributes.values() for e in self._elements)
        self._blends = {element.parent for element in self._elements if element.tag == "feBlend"}
        self._has_markers = any(name in refs for refs in self._refs for name in _MARKERS)
        self._clipped = self._clips_above()
        self._known: dict[int, _Work] = {}
        self._visiting: set[int] = set()

    def total(self) -> float:
        drawn = self._drawn(0).own
        sheets = self._rules.num_characters * _STYLE + self._rules.num_selectors * _SELECTOR
        return drawn + self._build[0] * _BUILD + sheets

    # what refers to what

    def _matching_rules(self) -> list[tuple[Rule, ...]]:
        """The rules that may match each element."""
        if not self._rules.num_selectors:
            return [()] * len(self._elements)
        if self._rules.longest > _MAX_COMBINATORS:
            raise TooCostly("a selector without end")
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
        for name, value in self._elements[place].attributes.items():
            if name in _REFERRING:
                if "(" in value and "#" in value:
                    found.setdefault(name, []).extend(_FRAGMENT.findall(value))
            elif name == "style" and (("(" in value and "#" in value) or "\\" in value):
                for key, part in declarations(value):
                    if key in _REFERRING and "(" in part:
                        found.setdefault(key, []).extend(_FRAGMENT.findall(part))
        for rule in self._candidates[place]:
            for name, ids in rule.references:
                found.setdefault(name, []).extend(ids)
        return found

    def _targets(self, ids: Sequence[str]) -> Iterator[int]:
        for name in ids:
            yield from self._ids.get(name, ())

    def _linked(self, element: Element) -> Iterator[int]:
        href = element.attributes.get("href")
        return self._targets(_FRAGMENT.findall(href)) if href else iter(())

    def _from_above(self) -> tuple[list[float], list[float], list[bool]]:
        """By element: steps for reading the long attributes that it has or inherits, the length of
        its dash pattern (0: none), and whether it is inside of a clip path."""
        long: list[float] = []
        dash: list[float] = []
        is_clip: list[bool] = []
        inherited: list[float] = []
        magnified: list[float] = []
        for element in self._elements:
            parent = element.parent
            above = inherited[parent] if parent >= 0 else 0.0
            dashes = dash[parent] if parent >= 0 else 0.0
            own = 0.0
            for name, value in element.attributes.items():
                if name == "stroke-dasharray":
                    dashes = geometry.total(value)
                elif name == "style" and "stroke-dasharray" in value:
                    dashes = geometry.total(dict(declarations(value)).get("stroke-dasharray", ""))
                if len(value) > 40:
                    if name in _NOT_INHERITED:
                        own += _reading(name, value)
                    else:
                        above += _reading(name, value)
            scale = magnified[parent] if parent >= 0 else 1.0
            if "transform" in element.attributes:
                scale *= geometry.magnification(element.attributes["transform"])
                if not scale < _MAX_SCALE:
                    raise TooCostly("magnified without end")
            magnified.append(scale)
            inherited.append(above)
            long.append(own + above)
            dash.append(dashes)
            is_clip.append(element.tag == "clipPath" or (parent >= 0 and is_clip[parent]))
        return long, dash, is_clip

    def _clips_above(self) -> list[float]:
        """By element: steps that the clip paths around it add to each thing drawn."""
        found: list[float] = []
        for place, element in enumerate(self._elements):
            above = found[element.parent] if element.parent >= 0 else 0.0
            for target in self._targets(self._refs[place].get("clip-path", ())):
                above += 0.7 + self._edges(target) * 0.1
            found.append(above)
        return found

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
            own = 1.0 + num_attributes[place] / 40
            if "style" in element.attributes:
                own += len(element.attributes["style"]) * _STYLE / _BUILD
            for rule in self._candidates[place]:
                siblings = num_children[element.parent]
                own += rule.steps(element.depth, siblings, len(elements)) / _BUILD
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
        works: list[_Work | None] = [None] * (end - place)
        for at in range(end - 1, place - 1, -1):
            element = self._elements[at]
            if at > place and element.tag in _NOT_DRAWN:
                continue  # drawn where it is referred to
            work = works[at - place] or _Work()
            works[at - place] = None
            self._add(at, work)
            if at > place:
                above = element.parent - place
                if works[above] is None:
                    works[above] = work
                else:
                    works[above].add(work)  # type: ignore[union-attr]
        self._visiting.discard(place)
        self._known[place] = work
        return work

    def _add(self, place: int, work: _Work) -> None:
        """Add one element's steps to those of its children."""
        element, references = self._elements[place], self._refs[place]
        tag = element.tag
        share = geometry.share(element, self._view) if tag in _SHAPES else 0.0
        work.own += _DRAW + self._long[place] + ("id" in element.attributes) * _NAMED
        for rule in self._candidates[place]:
            work.own += rule.values
        if tag in _PAINTED:
            work.own += _PAINT
            work.fill += 1.0
            work.stroke += 1.0
            work.own += self._clipped[place]
        if tag in _SHAPES:
            work.own += self._outlined(place, share)
            work.marker += self._vertices(place) if self._has_markers else 0.0
        elif tag in _TEXTS:
            work.own += self._letters(element)
        elif tag == "svg":
            work.own += (element.end - place) * 0.006  # definitions are looked for in all of it
        elif tag == "image":
            png = embedded_png(element.attributes.get("href", ""))
            work.own += pixels(png) / 10_000 if png else 0.0
        elif tag in ("use", "tref"):
            self._add_used(element, work)
        if "fill" in references:
            work.give(self._paint(references["fill"], share), None, None)
        elif not _inherits(element, "fill"):
            work.fill = 0.0
        if "stroke" in references:
            work.give(None, self._paint(references["stroke"], share), None)
        elif not _inherits(element, "stroke"):
            work.stroke = 0.0
        if references:
            work.give(None, None, self._markers(references))
        work.own += self._layers(element, references, share)

    def _outlined(self, place: int, share: float) -> float:
        """Steps for a shape's pixels, its dashes, and where a long line crosses itself."""
        element = self._elements[place]
        found = share * self._num_pixels / 100_000
        if dash := self._dash[place]:
            per_dash = 0.25 if self._is_round else 0.06
            found += geometry.perimeter(element, self._view) / dash * per_dash
        return found + geometry.crossings(element, self._view) * 0.1

    def _letters(self, element: Element) -> float:
        num_letters = len(element.text)
        per_letter = _LETTER + (2.0 if "rotate" in element.attributes else 0.0)
        attributes = element.attributes
        found = 1.0
        if "font-size" in attributes or "font-family" in attributes or "font" in attributes:
            found += 4.0
        if "transform" in attributes and "rotate" in attributes["transform"]:
            found += 4.0
        for target in self._linked(element):
            path = self._elements[target].attributes.get("d", "")
            per_letter += len(path) / 400  # each letter walks along the flattened path
            found += 2 * _reading("d", path)
        return found + num_letters * per_letter

    def _vertices(self, place: int) -> float:
        """Places of an element at which a marker may be drawn."""
        count = geometry.vertices(self._elements[place])
        # Within a clip path each marker draws the whole path once more.
        return count * (1 + count) if self._is_clip[place] else count

    def _add_used(self, element: Element, work: _Work) -> None:
        """What a `use` draws: its target is looked up, built and drawn anew."""
        work.own += _USE + len(self._elements) * _LOOK_UP
        targets = list(self._linked(element))
        if targets:
            work.own += max(self._build[target] for target in targets) * _BUILD
            drawn = [self._drawn(target) for target in targets]
            work.add(max(drawn, key=lambda one: (one.own, one.fill, one.marker)))

    def _paint(self, ids: Sequence[str], share: float) -> float:
        """Steps to paint so much of the page with a gradient or pattern."""
        return max((self._server(target, share) for target in self._targets(ids)), default=0.0)

    def _markers(self, references: dict[str, list[str]]) -> float | None:
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
            found += (element.end - place) * 0.03 + self._long[place]
            found += painted / (2_000 if element.tag == "radialGradient" else 90_000)
            following = [target for target in self._linked(element) if target not in chain]
            if not following:
                return found
            found += self._build[place] * _BUILD + len(self._elements) / 200
            place, painted = following[0], 0.0
            chain.add(place)

    def _content(self, place: int) -> float:
        """Steps to draw what is inside of a pattern, marker, mask or clip path, with the paints
        and markers that it inherits where it stands."""
        drawn = self._drawn(place)
        work = _Work(drawn.own, drawn.fill, drawn.stroke, drawn.marker)
        at = self._elements[place].parent
        while at >= 0 and (work.fill or work.stroke or work.marker):
            references, element = self._refs[at], self._elements[at]
            if "fill" in references:
                work.give(self._paint(references["fill"], 0.0), None, None)
            elif not _inherits(element, "fill"):
                work.fill = 0.0
            if "stroke" in references:
                work.give(None, self._paint(references["stroke"], 0.0), None)
            elif not _inherits(element, "stroke"):
                work.stroke = 0.0
            work.give(None, None, self._markers(references))
            at = element.parent
        if self._elements[place].tag in ("pattern", "mask"):
            if self._blends and any(
                target in self._blends
                for at in range(place, self._elements[place].end)
                for target in self._targets(self._refs[at].get("filter", ()))
            ):
                work.own += _BLEND_IN_TILE
            for target in list(self._linked(self._elements[place]))[:1]:
                if target not in self._visiting:
                    work.own += self._content(target) + len(self._elements) / 200
        return work.own

    def _layers(self, element: Element, references: dict[str, list[str]], share: float) -> float:
        """Steps for masks, clip paths, filters and groups with an opacity."""
        found = 0.0
        if references:
            for target in self._targets(references.get("filter", ())):
                num_parts = self._elements[target].end - target
                found += num_parts * (0.3 + self._num_pixels / 250_000)
                if target in self._blends:
                    found += self._num_pixels / 7_000
            for target in self._targets(references.get("mask", ())):
                found += _MASK + self._content(target)
                found += max(share, 0.3) * self._num_pixels / 7_000
            for target in self._targets(references.get("clip-path", ())):
                # Edges meet the edges of the clip path around this one.
                found += _CLIP + self._content(target) + self._edges(target) ** 2 / 160
            if "mask" in references or "filter" in references:
                found += self._num_pixels / _PIXELS_OF_GROUP
        attributes = element.attributes
        if "opacity" in attributes or _OPACITY.search(attributes.get("style", "")):
            found += self._num_pixels / _PIXELS_OF_GROUP
        return found

    def _edges(self, place: int) -> float:
        """Edges of a clip path."""
        end = self._elements[place].end
        return sum(geometry.vertices(self._elements[at]) for at in range(place, end))


def _reading(name: str, value: str) -> float:
    """Steps to read a long attribute, for each element that has or inherits it."""
    if name in ("d", "points", "stroke-dasharray"):
        minus = value.count("-")
        num_numbers = minus * (5.0 if minus > len(value) / 4 else 1.0)
        num_numbers += value.count(" ") + value.count(",") + value.count(".") / 2
        return num_numbers * _NUMBER + len(value) ** 2 * 1.5e-7  # repetitions copy the rest
    if name == "href" and value.startswith("data:"):
        return len(value) / 2000
    if name == "style":
        longest = max(len(part) for _, part in declarations(value))
        return longest**2 * _SEARCHED if longest > 40 else 0.0
    if name in _SEARCHED_NAMES:
        return len(value) ** 2 * _SEARCHED
    return len(value) / 2000


def _inherits(element: Element, name: str) -> bool:
    """Whether the element takes its paint from its parent."""
    value = element.attributes.get(name)
    if value is not None and value != "inherit":
        return False
    style = element.attributes.get("style")
    return (
        style is None
        or name not in style
        or all(value.strip() == "inherit" for key, value in declarations(style) if key == name)
    )
