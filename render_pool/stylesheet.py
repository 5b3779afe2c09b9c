"""What the checks need to know of a document's stylesheets: which rule may match an element, how
long a selector may search, and what a rule refers to. Roughly as CSS reads it, and linear."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from render_pool.outline import Element

_COMPOUND_ENDS = re.compile(r"[ >+~]")
_KEY = re.compile(r"(?P<kind>[#.]?)(?P<name>[\w-]+)")
_DROPPED = {ord(character): None for character in "\t\r\n"}

PAINTS = ("fill", "stroke")
MARKERS = ("marker", "marker-start", "marker-mid", "marker-end")
LAYERS = ("mask", "clip-path", "filter")
REFERRING = frozenset((*PAINTS, *MARKERS, *LAYERS))
"""Properties that may refer to an element of the document."""
_ESCAPE = re.compile(r"\\([0-9a-fA-F]{1,6})\s?")


@dataclass(frozen=True, slots=True)
class Rule:
    """One selector with the references of its declarations."""

    kind: str
    """What the last compound asks for: "#" an id, "." a class, "" a tag, "*" anything."""
    name: str
    combinators: int
    ancestors: int
    """Descendant combinators: each tries every ancestor."""
    siblings: int
    """Combinators and functions that try every sibling before."""
    subtrees: int
    """`:has()`, which tries everything below."""
    values: float
    """Steps that its long values cost each element that they are given to."""
    has_opacity: bool
    references: tuple[tuple[str, list[str]], ...]
    """(property, ids)."""

    def steps(self, depth: int, siblings: int, num_elements: int) -> float:
        """Steps to match it against an element at `depth` with so many siblings."""
        tries = float(math.comb(depth + self.ancestors, self.ancestors)) if self.ancestors else 1.0
        tries *= min(float(siblings) ** self.siblings, 1e12)
        tries *= min(float(num_elements) ** self.subtrees, 1e12)
        return 0.015 + tries * 0.0015


class Rules:
    """The rules of all `style` elements of a document."""

    def __init__(self, elements: Sequence[Element]) -> None:
        self._by_key: dict[tuple[str, str], list[Rule]] = {}
        self.num_characters = 0
        self.num_selectors = 0
        self.longest = 0
        """Combinators of a selector, at most."""
        for element in elements:
            if element.tag == "style":
                self.num_characters += len(element.text)
                for rule in _rules(element.text):
                    self.num_selectors += 1
                    self.longest = max(self.longest, rule.combinators)
                    self._by_key.setdefault((rule.kind, rule.name), []).append(rule)

    def candidates(self, element: Element) -> Iterator[Rule]:
        """Every rule that the last compound of its selector does not rule out."""
        if not self._by_key:
            return
        attributes = element.attributes
        yield from self._by_key.get(("*", ""), ())
        yield from self._by_key.get(("", element.tag.rpartition(" ")[2].lower()), ())
        if "id" in attributes:
            yield from self._by_key.get(("#", attributes["id"]), ())
        for name in set(attributes.get("class", "").split()):
            yield from self._by_key.get((".", name), ())


def _rules(sheet: str) -> Iterator[Rule]:
    sheet = _without_comments(sheet)
    if "\\" in sheet:
        sheet = unescape(sheet)
    for block in sheet.split("}"):
        prelude, _, body = block.rpartition("{")
        if not prelude:
            continue
        values = [value for _, _, value in (part.partition(":") for part in body.split(";"))]
        weight = len(values) * 0.008 + sum(len(value) / 22 for value in values if len(value) > 60)
        has_opacity = "opacity" in body
        references = tuple(referred(body).items()) if "#" in body else ()
        for selector in prelude.rpartition("{")[2].split(","):
            yield _rule(selector, weight, has_opacity, references)


def _rule(
    selector: str,
    values: float,
    has_opacity: bool,
    references: tuple[tuple[str, list[str]], ...],
) -> Rule:
    selector = " ".join(selector.split())
    for combinator in ">+~":
        selector = selector.replace(f" {combinator}", combinator)
        selector = selector.replace(f"{combinator} ", combinator)
    last = _COMPOUND_ENDS.split(selector)[-1]
    key = _KEY.match(last) or _KEY.search(last.partition(":")[0])
    if "(" in selector or "[" in selector or "\\" in selector or key is None:
        kind, name = "*", ""
    else:
        kind, name = key["kind"], key["name"]
        name = name if kind else name.lower()
    return Rule(
        kind=kind,
        name=name,
        combinators=len(_COMPOUND_ENDS.findall(selector)),
        ancestors=selector.count(" "),
        siblings=selector.count("~") + selector.count(":nth-"),
        subtrees=selector.count(":has(") + selector.count(" of "),
        values=values,
        has_opacity=has_opacity,
        references=references,
    )


def declarations(style: str) -> Iterator[tuple[str, str]]:
    """(property, value) of a style attribute."""
    for declaration in (unescape(style) if "\\" in style else style).split(";"):
        name, _, value = declaration.partition(":")
        yield name.strip().lower(), value


def fragments(value: str) -> list[str]:
    """The ids that a value may refer to, read as cairosvg reads it: what follows the first "#" of
    the outermost `url(...)`, or of the whole value, whatever characters it is made of."""
    start, end = value.find("url("), value.rfind(")")
    found = []
    if end > start + 4 >= 4:
        found.append(value[start + 4 : end])
    if not found or "\n" in value or "\r" in value:  # which `url(...)` does not reach across
        found.append(value)
    ids: list[str] = []
    for text in found:
        # A stylesheet drops the blanks around an address, an attribute keeps them.
        for address in (text.strip("'\""), text.strip(" \t\r\n'\"")):
            _, sign, after = address.partition("#")
            if sign and (name := after.translate(_DROPPED)) not in ids:
                ids.append(name)
    return ids


def reference(name: str, value: str) -> list[str]:
    """The ids that a property refers to; a colour is none."""
    if "#" not in value or (name in PAINTS and "url(" not in value):
        return []
    return fragments(value)


def referred(style: str) -> dict[str, list[str]]:
    """{property: ids} of the declarations of a style."""
    found: dict[str, list[str]] = {}
    for name, value in declarations(style):
        if name in REFERRING and (ids := reference(name, value)):
            found.setdefault(name, []).extend(ids)
    return found


def unescape(text: str) -> str:
    """CSS's hexadecimal escapes undone, with which a reference could be hidden."""
    return _ESCAPE.sub(lambda found: chr(min(int(found[1], 16), 0x10FFFF)), text)


def _without_comments(text: str) -> str:
    return "".join(
        part.partition("*/")[2] if at else part for at, part in enumerate(text.split("/*"))
    )
