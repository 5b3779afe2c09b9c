"""One pass over an SVG source: its elements, with what the checks need to know of each.

The parser is expat, fed with UTF-8 and without a prolog, so that there are no entities. Linear in
the source.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from engine.types import Invalid
from render_pool.reasons import Reason, invalid

MAX_ELEMENTS = 5000
MAX_DEPTH = 256

_NAMESPACES = frozenset({"", "http://www.w3.org/2000/svg"})
_XLINK_HREF = "http://www.w3.org/1999/xlink href"
_XML_BASE = "http://www.w3.org/XML/1998/namespace base"
_FETCHES = frozenset({"image", "use", "tref", "feImage"})


@dataclass(slots=True)
class Element:
    """One element of a document."""

    tag: str
    """Local name where it is SVG's or of no namespace; else "namespace name"."""
    attributes: dict[str, str]
    """Without namespaces, but for "namespace name" of foreign ones; `href` is xlink's too."""
    parent: int
    """Place of the parent in document order; -1 for the root."""
    depth: int
    end: int = 0
    """Place behind its last descendant."""
    text: str = ""
    """Characters directly inside, those between its children included."""


@dataclass(slots=True)
class Outline:
    """The elements of a document in document order."""

    elements: list[Element] = field(default_factory=list)

    @property
    def root(self) -> Element:
        return self.elements[0]

    def children(self, place: int) -> Iterator[int]:
        child, end = place + 1, self.elements[place].end
        while child < end:
            yield child
            child = self.elements[child].end


class _Refused(Exception):
    """Leaves expat from inside a callback."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.value = invalid(reason, detail)


class _Builder:
    def __init__(self) -> None:
        self.elements: list[Element] = []
        self._open: list[int] = []
        self._texts: list[list[str]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        place, depth = len(self.elements), len(self._open)
        if place >= MAX_ELEMENTS:
            raise _Refused("too_large", f"more than {MAX_ELEMENTS} elements")
        if depth >= MAX_DEPTH:
            raise _Refused("too_large", f"deeper than {MAX_DEPTH} elements")
        namespace, _, local = name.rpartition(" ")
        tag = local if namespace in _NAMESPACES else name
        if tag in _FETCHES:
            for key in ("href", _XLINK_HREF):
                if not _is_inside(tag, attributes.get(key, "")):
                    raise _Refused("forbidden", f"{tag} of {attributes[key][:40]!r}")
        if _XLINK_HREF in attributes:
            attributes["href"] = attributes.pop(_XLINK_HREF)
        if _XML_BASE in attributes:
            raise _Refused("forbidden", "xml:base")
        self.elements.append(Element(tag, attributes, self._open[-1] if self._open else -1, depth))
        self._open.append(place)
        self._texts.append([])

    def end(self, name: str) -> None:
        element = self.elements[self._open.pop()]
        element.end = len(self.elements)
        element.text = "".join(self._texts.pop())

    def characters(self, text: str) -> None:
        self._texts[-1].append(text)


def outline(svg: bytes) -> Outline | Invalid:
    """The elements of `svg`, or why it is refused: too_large, forbidden or malformed."""
    builder = _Builder()
    parser = expat.ParserCreate("UTF-8", " ")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    try:
        parser.Parse(svg, True)
    except _Refused as refused:
        return refused.value
    except (expat.ExpatError, ValueError) as error:
        return invalid("malformed", str(error)[:80])
    return Outline(builder.elements)


def _is_inside(tag: str, href: str) -> bool:
    """True for a reference into the document itself; pictures may also bring their own data."""
    href = href.strip()
    return (
        href.startswith("#") or not href or (tag == "image" and href.startswith("data:image/png"))
    )
