"""How much work a document is to draw, counted without drawing it. Linear in the document.

    steps = stylesheets + nodes built + elements drawn + what each reference draws again

A step is about a tenth of a millisecond of processor time on a slow core; the weights were
measured with one kind of element at a time (cairosvg 2.9.1). References multiply: what a `use`, a
pattern, a marker, a mask or a clip path draws is counted wherever it is drawn, and paints and
markers that children inherit are counted for each child. So the work of an element is linear in
the paints and markers that it inherits (`Work`), and is counted once however often the element is
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
from render_pool.reading import NOT_INHERITED, NOT_PASSED_ON, inherits, reading
from render_pool.stylesheet import (
    LAYERS,
    MARKERS,
    REFERRING,
    Rule,
    Rules,
    declarations,
    fragments,
    reference,
    referred,
)
from render_pool.work import Paint, Work

_SHAPES = frozenset({"circle", "ellipse", "line", "path", "polygon", "polyline", "rect"})
_TEXTS = frozenset({"text", "textPath", "a", "tspan"})
_PAINTED = _SHAPES | _TEXTS | {"image", "svg", "use"}
_NOT_DRAWN = frozenset(
    {"clipPath", "defs", "filter", "linearGradient", "marker", "mask", "pattern"}
    | {"radialGradient", "symbol"}
)
_OPACITY = re.compile(r"(?:^|[;\s])opacity\s*:")

# Steps
_BUILD = 0.35
_DRAW = 0.5
_PAINT = 1.0
_NAMED = 1.0
_LETTER = 0.6
_USE = 4.0
_GRADIENT = 1.0
_RADIAL = 1 / 4_000
"""A pixel."""
_LINEAR = 1 / 90_000
_PATTERN = 18.0
_CLIP = 4.0
_MASK = 14.0
_MARKER = 1.5
_LOOK_UP = 1 / 1300
"""For each element of the document, wherever a reference is followed by searching it."""
_STYLE = 1 / 15
"""A character of a style attribute or sheet."""
_SELECTOR = 1.2
_DASH = 0.005
_BLEND_IN_TILE = 5000.0
"""Cairo falls back to an image of print resolution."""
_MAX_SCALE = 1e5
_MAX_COMBINATORS = 30
_MAX_MATCHES = 300_000
"""Pairs of a rule and an element."""


class TooCostly(Exception):
    """The work has no bound: a reference that leads back to itself, or a stylesheet's product."""


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
        self._long, self._dash, self._stroke, self._is_clip = self._from_above()
        self._build = self._nodes()
        self._contents: dict[int, float] = {}
        self._paints: dict[int, Paint] = {}
        self._num_edges: dict[int, float] = {}
        self._is_round = any("round" in e.attributes.values() for e in self._elements)
        self._blends = {element.parent for element in self._elements if element.tag == "feBlend"}
        self._has_markers = any(name in refs for refs in self._refs for name in MARKERS)
        self._clipped, self._is_layered = self._layers_above()
        self._undrawn: list[int] = []
        """By element: the innermost of those around it, itself included, that isn't drawn where
        it stands; -1: none."""
        for place, element in enumerate(self._elements):
            above = self._undrawn[element.parent] if element.parent >= 0 else -1
            self._undrawn.append(place if element.tag in _NOT_DRAWN else above)
        self._known: dict[int, Work] = {}
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
            if name in REFERRING:
                if ids := reference(name, value):
                    found.setdefault(name, []).extend(ids)
            elif name == "style" and ("#" in value or "\\" in value):
                for key, ids in referred(value).items():
                    found.setdefault(key, []).extend(ids)
        for rule in self._candidates[place]:
            for name, ids in rule.references:
                found.setdefault(name, []).extend(ids)
        return found

    def _targets(self, ids: Sequence[str]) -> Iterator[int]:
        for name in ids:
            yield from self._ids.get(name, ())

    def _linked(self, element: Element) -> Iterator[int]:
        href = element.attributes.get("href")
        return self._targets(fragments(href)) if href else iter(())

    def _from_above(self) -> tuple[list[float], list[float], list[float], list[bool]]:
        """By element: steps for reading the long attributes that it has or inherits, the length of
        its dash pattern (0: none), the width of its stroke, and whether it is inside of a clip
        path."""
        long: list[float] = []
        dash: list[float] = []
        stroke: list[float] = []
        is_clip: list[bool] = []
        inherited: list[float] = []
        magnified: list[float] = []
        for element in self._elements:
            parent = element.parent
            above = inherited[parent] if parent >= 0 else 0.0
            dashes = dash[parent] if parent >= 0 else 0.0
            width = stroke[parent] if parent >= 0 else 1.0
            own = 0.0
            for name, value in element.attributes.items():
                if name == "stroke-dasharray":
                    dashes = geometry.total(value)
                elif name == "stroke-width":
                    width = geometry.total(value)
                elif name == "style" and "stroke-" in value:
                    styled = dict(declarations(value))
                    if "stroke-dasharray" in styled:
                        dashes = geometry.total(styled["stroke-dasharray"])
                    if "stroke-width" in styled:
                        width = geometry.total(styled["stroke-width"])
                if len(value) > 40:
                    if name in NOT_INHERITED:
                        own += reading(name, value)
                    else:
                        above += reading(name, value)
            scale = magnified[parent] if parent >= 0 else 1.0
            if "font-size" in element.attributes:
                scale *= geometry.em(element.attributes["font-size"])
            if "transform" in element.attributes:
                scale *= geometry.magnification(element.attributes["transform"])
            if not scale < _MAX_SCALE:
                raise TooCostly("magnified without end")
            magnified.append(scale)
            inherited.append(above)
            long.append(own + above)
            dash.append(dashes)
            stroke.append(width)
            is_clip.append(element.tag == "clipPath" or (parent >= 0 and is_clip[parent]))
        return long, dash, stroke, is_clip

    def _layers_above(self) -> tuple[list[float], list[bool]]:
        """By element: steps that the clip paths around it add to each thing drawn, and whether
        a group with an opacity, mask or filter is around it."""
        clipped: list[float] = []
        is_layered: list[bool] = []
        is_layer: list[bool] = []
        for place, element in enumerate(self._elements):
            parent, references = element.parent, self._refs[place]
            clips = clipped[parent] if parent >= 0 else 0.0
            for target in self._targets(references.get("clip-path", ())):
                clips += 0.7 + self._edges(target) * 0.1
            clipped.append(clips)
            is_layered.append(parent >= 0 and is_layer[parent])
            is_layer.append(is_layered[place] or self._has_layer(place))
        return clipped, is_layered

    def _has_layer(self, place: int) -> bool:
        """Whether an element is drawn on a page of its own first."""
        attributes, references = self._elements[place].attributes, self._refs[place]
        if "mask" in references or "filter" in references:
            return True
        if self._elements[place].end == place + 1:  # a leaf is merely painted paler
            return False
        return (
            "opacity" in attributes
            or _OPACITY.search(attributes.get("style", "")) is not None
            or any(rule.has_opacity for rule in self._candidates[place])
        )

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

    def _drawn(self, place: int) -> Work:
        """Steps to draw an element with all that is in it."""
        if place in self._known:
            return self._known[place]
        if place in self._visiting:
            raise TooCostly(f"#{self._elements[place].attributes.get('id', '')[:40]} draws itself")
        self._visiting.add(place)
        end = self._elements[place].end
        # Children come after their parents: from the back, each one's own children are complete.
        works: list[Work | None] = [None] * (end - place)
        for at in range(end - 1, place - 1, -1):
            element = self._elements[at]
            work = works[at - place] or Work()
            works[at - place] = None
            if self._undrawn[at] <= place:
                self._add(at, work)
            elif self._is_met(at, place):
                # Its content is drawn where it is referred to, but its own effects are, here.
                work.fills = work.strokes = 1.0
                self._give(at, work)
                work.own += _DRAW + self._layers(at, 0.0)
            else:
                continue
            if at > place:
                above = element.parent - place
                if works[above] is None:
                    works[above] = work
                else:
                    works[above].add(work)  # type: ignore[union-attr]
        self._visiting.discard(place)
        self._known[place] = work
        return work

    def _is_met(self, at: int, place: int) -> bool:
        """Whether drawing `place` comes across `at`, which isn't drawn where it stands."""
        parent = self._elements[at].parent
        is_outermost = self._undrawn[at] == at and self._undrawn[parent] <= place
        return is_outermost and self._elements[at].tag != "defs"

    def _add(self, place: int, work: Work) -> None:
        """Add one element's steps to those of its children."""
        element = self._elements[place]
        tag = element.tag
        share = geometry.share(element, self._view) if tag in _SHAPES else 0.0
        work.own += _DRAW + self._long[place] + ("id" in element.attributes) * _NAMED
        for rule in self._candidates[place]:
            work.own += rule.values
        if tag in _PAINTED:
            work.own += _PAINT + self._clipped[place]
            work.fills += 1.0
            work.fills_area += share
            work.strokes += 1.0
            work.strokes_area += share
        if tag in _SHAPES:
            work.own += self._outlined(place, share)
            work.markers += self._vertices(place) if self._has_markers else 0.0
        elif tag in _TEXTS:
            work.own += self._letters(place)
        elif tag == "svg":
            work.own += (element.end - place) * 0.006  # definitions are looked for in all of it
        elif tag == "image":
            png = embedded_png(element.attributes.get("href", ""))
            work.own += pixels(png) / 10_000 if png else 0.0
        elif tag in ("use", "tref"):
            self._add_used(place, work)
        self._give(place, work)
        work.own += self._layers(place, share)

    def _give(self, place: int, work: Work) -> None:
        """An element's own paints and markers for what it draws with what is in it."""
        element, references = self._elements[place], self._refs[place]
        if "fill" in references:
            work.give_fill(self._paint(references["fill"]))
        elif not inherits(element, "fill"):
            work.give_fill(None)
        if "stroke" in references:
            work.give_stroke(self._paint(references["stroke"]))
        elif not inherits(element, "stroke"):
            work.give_stroke(None)
        markers = self._markers(references) if references else None
        if markers is not None:
            work.give_markers(markers)

    def _outlined(self, place: int, share: float) -> float:
        """Steps for a shape's pixels, its dashes, and where a long line crosses itself."""
        element = self._elements[place]
        found = share * self._num_pixels / 100_000
        if dash := self._dash[place]:
            per_dash = _DASH * (4 if self._is_round else 1) * (1 if element.tag == "line" else 2.4)
            # Wide ones overlap.
            per_dash *= 1 + self._stroke[place] / max(self._view) * 150
            found += geometry.perimeter(element, self._view) / dash * per_dash
        return found + geometry.crossings(element, self._view) * 0.1

    def _letters(self, place: int) -> float:
        element = self._elements[place]
        attributes = element.attributes
        found = 1.0
        if "font-size" in attributes or "font-family" in attributes or "font" in attributes:
            found += 4.0
        if "transform" in attributes and "rotate" in attributes["transform"]:
            found += 4.0
        if element.tag == "tspan" and ("x" in attributes or "y" in attributes):
            found += 3.0
        per_letter = _LETTER + (2.0 if "rotate" in attributes else 0.0)
        followed = element if "href" in attributes else self._elements[max(element.parent, 0)]
        for target in self._linked(followed):
            # Whatever has "path" in its name may be followed: it is drawn before, twice.
            if "path" in self._elements[target].tag.lower():
                path = self._elements[target].attributes.get("d", "")
                per_letter += len(path) / 400  # each letter walks along the flattened path
                found += 2 * self._content(target)
        return found + len(element.text) * per_letter

    def _vertices(self, place: int) -> float:
        """Places of an element at which a marker may be drawn."""
        count = geometry.vertices(self._elements[place])
        # Within a clip path each marker draws the whole path once more.
        return count * (1 + count) if self._is_clip[place] else count

    def _add_used(self, place: int, work: Work) -> None:
        """What a `use` draws: its target is looked up, built and drawn anew."""
        element = self._elements[place]
        work.own += _USE + len(self._elements) * _LOOK_UP
        href = element.attributes.get("href", "")
        targets = list(self._linked(element))
        if not any(fragments(href)):
            # A `use` of nothing is one of the whole document, if it has any attribute at all.
            targets = [0] if self._has_attributes(place) else []
        for target in targets:
            if self._elements[target].tag in _NOT_DRAWN and self._is_inherited(target, place):
                # Drawn so, it is defined anew, as one that has itself for its paint or marker.
                raise TooCostly(f"#{href.partition('#')[2][:40]} draws itself")
        if targets:
            work.own += max(self._build[target] for target in targets) * _BUILD
            drawn = [self._drawn(target) for target in targets]
            work.add(max(drawn, key=lambda one: (one.own, one.fills, one.markers)))

    def _is_inherited(self, target: int, place: int) -> bool:
        """Whether an element has or inherits a paint or marker that is `target`."""
        while place >= 0:
            for name, ids in self._refs[place].items():
                if name not in LAYERS and target in self._targets(ids):
                    return True
            place = self._elements[place].parent
        return False

    def _has_attributes(self, place: int) -> bool:
        """Whether an element has an attribute, or inherits one."""
        if self._elements[place].attributes or self._candidates[place]:
            return True
        at = self._elements[place].parent
        while at >= 0:
            if self._elements[at].attributes.keys() - NOT_PASSED_ON:
                return True
            at = self._elements[at].parent
        return False

    def _paint(self, ids: Sequence[str]) -> Paint:
        """The costliest of the gradients and patterns of that name."""
        return max(map(self._server, self._targets(ids)), default=Paint(0.0, 0.0))

    def _markers(self, references: dict[str, list[str]]) -> float | None:
        ids = [name for marker in MARKERS for name in references.get(marker, ())]
        if not ids:
            return None
        contents = [_MARKER + self._content(target) for target in self._targets(ids)]
        return max(contents, default=0.0)

    def _server(self, place: int) -> Paint:
        """What it costs to paint with a gradient or a pattern."""
        if place not in self._paints:
            element = self._elements[place]
            if element.tag == "pattern":
                paint = Paint(_PATTERN + self._content(place), self._num_pixels / 20_000)
            else:
                per_page = _RADIAL if element.tag == "radialGradient" else _LINEAR
                paint = Paint(self._gradient(place), self._num_pixels * per_page)
            self._paints[place] = paint
        return self._paints[place]

    def _gradient(self, place: int) -> float:
        """Steps to read a gradient with all those that it refers to."""
        found, chain = _GRADIENT, {place}
        while True:
            end = self._elements[place].end
            found += (end - place) * 0.03 + sum(self._long[place:end])
            following = [t for t in self._linked(self._elements[place]) if t not in chain]
            if not following:
                return found
            found += self._build[place] * _BUILD + len(self._elements) / 200
            place = following[0]
            chain.add(place)

    def _content(self, place: int) -> float:
        """Steps to draw what is inside of a pattern, marker, mask or clip path, with the paints
        and markers that it inherits where it stands."""
        if place in self._contents:
            return self._contents[place]
        work, at = self._drawn(place).copy(), self._elements[place].parent
        while at >= 0 and (work.fills or work.strokes or work.markers):
            self._give(at, work)
            at = self._elements[at].parent
        found = work.own
        if self._elements[place].tag in ("pattern", "mask"):
            if self._blends and any(
                target in self._blends
                for at in range(place, self._elements[place].end)
                for target in self._targets(self._refs[at].get("filter", ()))
            ):
                found += _BLEND_IN_TILE
            for target in list(self._linked(self._elements[place]))[:1]:
                if target not in self._visiting:
                    found += self._content(target) + len(self._elements) / 200
        self._contents[place] = found
        return found

    def _layers(self, place: int, share: float) -> float:
        """Steps for masks, clip paths, filters and groups with an opacity."""
        found, references = 0.0, self._refs[place]
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
        if self._has_layer(place):
            # Pages within pages are new memory, others are the same again.
            found += self._num_pixels / (12_500 if self._is_layered[place] else 50_000)
        return found

    def _edges(self, place: int) -> float:
        """Edges of a clip path."""
        if place not in self._num_edges:
            inside = self._elements[place : self._elements[place].end]
            self._num_edges[place] = sum(map(geometry.vertices, inside))
        return self._num_edges[place]
