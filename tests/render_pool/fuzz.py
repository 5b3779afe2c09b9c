"""Mutations of real documents through a real, audited pool: none may break it.

    python tests/render_pool/fuzz.py --count 50000 --seed 1 --out /tmp/fuzz

Case `n` of a seed is always the same document: an ordinary one or an attack, changed one to four
times as a tree (subtrees copied, moved, spliced from another document; attributes swapped, numbers
replaced, references rewired) or as text. Prints the outcomes by reason, the dearest cases, and
whatever ended a worker; the documents of these are written to the folder. The exit status is 1
where a worker crashed or the pool raised: nothing explains that.
"""

import argparse
import asyncio
import copy
import io
import itertools
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

from PIL import Image

from engine.types import Invalid
from render_pool import cost
from render_pool.config import RenderConfig
from render_pool.corpus import attacks, ordinary
from render_pool.extract import find_svg, source
from render_pool.outline import outline
from render_pool.pool import RenderPool
from render_pool.reasons import REASONS

SIDE = 96
ENDED = ("timeout", "memory", "crashed")
"""Outcomes of documents that were too much for their worker."""
UNEXPLAINED = ("crashed", "raised")
_MAX_ALIKE = 40
"""Documents of one outcome that are written."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HREF = f"{{{_XLINK}}}href"
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _XLINK)

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
TOKEN = re.compile(r"<[^>]*>|[^<]+|<")
_NUMBERS = (
    "0 -0 1 -1 .5 1e-9 1e-300 5e-324 1e9 1e15 1e300 1e400 -1e300 65536 32767 32768 2147483648 "
    "-2147483649 9007199254740993 nan inf -inf 1_000 0x10 1e 1e5em 100000% -50% 3ex 9e99px 1/2 "
    "\u0663"
)
NUMBERS = tuple(_NUMBERS.split())
VALUES = (
    *("inherit", "currentColor", "none", "", " ", "auto", "url(#", "url()", "url(#)", "#", "red;"),
    *("url('#a') red", "rgb(1,2", "rgb(nan,1,1)", "hsl(1,2%,3%)", "#12", "#zzzzzz", "M", "M0", "z"),
    *(
        "M0 0z1 1",
        "M0 0A1e-300 5 0 0 1 9 9",
        "scale(0)",
        "scale(1e300)",
        "matrix(1 2 3)",
        "rotate()",
    ),
    *("0 0 0 0", "0 0 9", "nan nan nan nan", "1 1e9", "0,0,0", "1e-9 1e-9", "\\75rl(#a)", "a;b:c"),
    *("data:image/png;base64,AA", "https://x.y/z", "javascript:1", "font:1px", "expression(1)"),
)
PAINTS = (
    "fill",
    "stroke",
    "mask",
    "clip-path",
    "filter",
    "marker-start",
    "marker-mid",
    "marker-end",
)
SPELLINGS = ("url(#{})", "url(#{})", "#{}", "url('#{}') red", "x.svg#{}", "url(#\t{})")
_TAGS = (
    "g a use text tspan textPath tref pattern mask clipPath marker symbol svg switch defs filter "
    "linearGradient radialGradient stop image path rect circle polyline feOffset feFlood feBlend "
    "style"
)
TAGS = tuple(_TAGS.split())

Tree = ET.Element
Change = Callable[[random.Random, Tree, Tree], None]


@cache
def parents() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(ordinary documents, attacks) to begin with; the long ones are rare enough as they are."""
    plain = [*ordinary.FIXED.values(), *itertools.islice(ordinary.stream(5), 200)]
    hostile = [case.text for case in attacks.cases() if isinstance(case.text, str)]
    return tuple(plain), tuple(text for text in hostile if len(text) < 1 << 17)


def case(seed: int, number: int) -> str | bytes:
    rng = random.Random(f"{seed} {number}")
    text, other = _parent(rng), _parent(rng)
    if rng.random() < 0.8:
        text = _changed(rng, text, other)
    if rng.random() < 0.25:
        return rng.choice(_TEXT_CHANGES)(rng, text, other)
    return text


def cases(seed: int, count: int) -> Iterator[str | bytes]:
    return (case(seed, number) for number in range(count))


def _parent(rng: random.Random) -> str:
    plain, hostile = parents()
    for _ in range(4):
        text = rng.choice(plain if rng.random() < 0.7 else hostile)
        if len(text) < 12_000 or rng.random() < 0.1:
            break
    return text


# trees


def _changed(rng: random.Random, text: str, other: str) -> str:
    try:
        tree, second = (ET.fromstring(find_svg(one) or "") for one in (text, other))
    except (ET.ParseError, UnicodeEncodeError):
        return text
    for _ in range(rng.randint(1, 4)):
        rng.choice(_TREE_CHANGES)(rng, tree, second)
    try:
        return ET.tostring(tree, encoding="unicode")
    except RecursionError:  # as deep as some attacks are
        return text


def _any(rng: random.Random, tree: Tree) -> Tree:
    return rng.choice(list(tree.iter()))


def _insert(rng: random.Random, tree: Tree, new: Tree) -> None:
    where = _any(rng, tree)
    where.insert(rng.randint(0, len(where)), new)


def _copy_subtree(rng: random.Random, tree: Tree, _: Tree) -> None:
    _insert(rng, tree, copy.deepcopy(_any(rng, tree)))


def _splice(rng: random.Random, tree: Tree, other: Tree) -> None:
    _insert(rng, tree, copy.deepcopy(_any(rng, other)))


def _take_children(rng: random.Random, tree: Tree, other: Tree) -> None:
    for child in other:
        tree.append(copy.deepcopy(child))


def _remove(rng: random.Random, tree: Tree, _: Tree) -> None:
    parent = _any(rng, tree)
    if len(parent):
        parent.remove(rng.choice(list(parent)))


def _wrap(rng: random.Random, tree: Tree, _: Tree) -> None:
    parent = _any(rng, tree)
    new = ET.Element(f"{{{_SVG}}}{rng.choice(TAGS)}")
    if rng.random() < 0.5:
        new.set("id", _name(rng, tree))
    for child in list(parent):
        parent.remove(child)
        new.append(child)
    parent.append(new)


def _rename(rng: random.Random, tree: Tree, _: Tree) -> None:
    _any(rng, tree).tag = f"{{{_SVG}}}{rng.choice(TAGS)}"


def _set_value(rng: random.Random, tree: Tree, _: Tree) -> None:
    element = _any(rng, tree)
    if element.attrib:
        element.set(rng.choice(list(element.attrib)), rng.choice((*VALUES, *NUMBERS)))


def _swap_values(rng: random.Random, tree: Tree, other: Tree) -> None:
    one, two = _any(rng, tree), _any(rng, rng.choice((tree, other)))
    if one.attrib and two.attrib:
        name, key = rng.choice(list(one.attrib)), rng.choice(list(two.attrib))
        value = one.attrib[name]
        one.set(name, two.attrib[key])
        two.set(key, value)


def _copy_attributes(rng: random.Random, tree: Tree, other: Tree) -> None:
    one, two = _any(rng, tree), _any(rng, rng.choice((tree, other)))
    for name, value in two.attrib.items():
        one.set(name, value)


def _set_number(rng: random.Random, tree: Tree, _: Tree) -> None:
    element = _any(rng, tree)
    numeric = [name for name, value in element.attrib.items() if NUMBER.search(value)]
    if numeric:
        name = rng.choice(numeric)
        found = rng.choice(list(NUMBER.finditer(element.attrib[name])))
        value = element.attrib[name]
        element.set(name, value[: found.start()] + rng.choice(NUMBERS) + value[found.end() :])


def _repeat_value(rng: random.Random, tree: Tree, _: Tree) -> None:
    element = _any(rng, tree)
    if element.attrib:
        name = rng.choice(list(element.attrib))
        element.set(name, element.attrib[name] * rng.choice((2, 3, 20, 200)))


def _name(rng: random.Random, tree: Tree) -> str:
    names = [element.attrib["id"] for element in tree.iter() if "id" in element.attrib]
    return rng.choice([*names, *names, "a", "none"])


def _rewire(rng: random.Random, tree: Tree, _: Tree) -> None:
    element = _any(rng, tree)
    if rng.random() < 0.4:
        element.set("id", _name(rng, tree))
    elif element.tag.endswith(("use", "Gradient", "pattern", "textPath", "tref", "image", "mask")):
        element.set(rng.choice((_HREF, "href")), f"#{_name(rng, tree)}")
    else:
        element.set(rng.choice(PAINTS), rng.choice(SPELLINGS).format(_name(rng, tree)))


def _use(rng: random.Random, tree: Tree, _: Tree) -> None:
    element = _any(rng, tree)
    for _unused in range(rng.choice((1, 1, 2, 5, 30))):
        ET.SubElement(element, f"{{{_SVG}}}use", {_HREF: f"#{_name(rng, tree)}"})
    element.set("id", _name(rng, tree) if rng.random() < 0.5 else "fresh")


def _style(rng: random.Random, tree: Tree, _: Tree) -> None:
    selector = rng.choice(
        ("*", "g *", "g > *", "* ~ *", ":nth-child(2n)", "text,tspan", "#a", "svg")
    )
    body = f"{rng.choice(PAINTS)}:url(#{_name(rng, tree)});opacity:{rng.choice(NUMBERS)}"
    style = ET.Element(f"{{{_SVG}}}style")
    style.text = f"{selector}{{{body}}}"
    tree.insert(0, style)


_TREE_CHANGES: tuple[Change, ...] = (
    *(_copy_subtree, _splice, _splice, _take_children, _remove, _wrap, _wrap, _rename, _set_value),
    *(_swap_values, _copy_attributes, _set_number, _set_number, _repeat_value, _rewire, _rewire),
    *(_use, _style),
)


# text


def _flip(rng: random.Random, text: str, _: str) -> bytes:
    data = bytearray(text.encode(errors="replace"))
    for _unused in range(rng.choice((1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _truncate(rng: random.Random, text: str, _: str) -> str:
    return text[: rng.randint(0, len(text))] + rng.choice(("", "", "</svg>", "'/></svg>"))


def _swap_tokens(rng: random.Random, text: str, _: str) -> str:
    tokens = TOKEN.findall(text)
    if len(tokens) > 3:
        one, two = (rng.randrange(1, len(tokens) - 1) for _unused in range(2))
        tokens[one], tokens[two] = tokens[two], tokens[one]
    return "".join(tokens)


def _join(rng: random.Random, text: str, other: str) -> str:
    return text[: rng.randint(0, len(text))] + other[rng.randint(0, len(other)) :]


def _repeat_piece(rng: random.Random, text: str, _: str) -> str:
    start = rng.randint(0, len(text))
    end = min(len(text), start + rng.choice((1, 10, 100)))
    return text[:start] + text[start:end] * rng.choice((2, 10, 300)) + text[end:]


def _renumber(rng: random.Random, text: str, _: str) -> str:
    rate = rng.choice((0.01, 0.1, 0.5))
    return NUMBER.sub(lambda m: rng.choice(NUMBERS) if rng.random() < rate else m[0], text)


_TEXT_CHANGES: tuple[Callable[[random.Random, str, str], str | bytes], ...] = (
    *(_flip, _truncate, _swap_tokens, _join, _repeat_piece, _renumber, _renumber),
)


# the run


@dataclass
class Report:
    """Outcomes, and the cases worth a look."""

    outcomes: Counter[str] = field(default_factory=Counter)
    ended: list[tuple[str, int, str]] = field(default_factory=list)
    """(outcome, number, detail)."""
    dearest: list[tuple[float, int, str]] = field(default_factory=list)
    """(processor seconds of the worker, number, outcome)."""
    cpu_s: float = 0.0

    def add(self, number: int, outcome: str, detail: str, cpu_s: float) -> None:
        self.outcomes[outcome] += 1
        self.cpu_s += cpu_s
        self.dearest = sorted([*self.dearest, (cpu_s, number, outcome)], reverse=True)[:12]
        if outcome in (*ENDED, "raised"):
            self.ended.append((outcome, number, detail))

    @property
    def unexplained(self) -> list[tuple[str, int, str]]:
        return [one for one in self.ended if one[0] in UNEXPLAINED]


def config(**changes: float) -> RenderConfig:
    given = {"workers": 1, "side": SIDE, "cpu_s": 1.0, "deadline_s": 4.0, "cache_entries": 0}
    return RenderConfig.model_validate(given | changes)


async def fuzz(
    texts: Iterable[str | bytes], lanes: int = 2, cfg: RenderConfig | None = None
) -> Report:
    """Draw them all; `lanes` pools of one worker, so that times belong to documents."""
    report, numbered = Report(), enumerate(texts)

    async def lane() -> None:
        async with RenderPool(cfg or config(), audit=True) as pool:
            for number, text in numbered:
                before_s = pool.stats()["cpu_s"]
                outcome, detail = await drawn(pool, text)
                report.add(number, outcome, detail, pool.stats()["cpu_s"] - before_s)

    await asyncio.gather(*(lane() for _ in range(lanes)))
    return report


async def drawn(pool: RenderPool, text: str | bytes) -> tuple[str, str]:
    """(outcome, detail) of a document; pictures are looked at."""
    try:
        result = await pool.render(text)
        if isinstance(result, Invalid):
            assert result.reason in REASONS
            return result.reason, result.detail
        with Image.open(io.BytesIO(result.png)) as picture:
            picture.load()
            assert (picture.mode, picture.size) == ("RGB", (result.width, result.height))
        return "picture", ""
    except Exception as error:  # noqa: BLE001  any at all is what is looked for
        return "raised", f"{type(error).__name__}: {error}"


def steps(text: str | bytes) -> str:
    """The estimate of a document, for people."""
    svg = source(text, 1 << 16)
    document = svg if isinstance(svg, Invalid) else outline(svg)
    if isinstance(document, Invalid):
        return document.reason
    try:
        return f"{cost.steps(document, (SIDE, SIDE), SIDE * SIDE):.0f} steps"
    except cost.TooCostly as error:
        return str(error)


def write(report: Report, seed: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    written: Counter[str] = Counter()
    for outcome, number, _ in report.ended:
        written[outcome] += 1
        if written[outcome] <= _MAX_ALIKE:
            text = case(seed, number)
            data = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
            (folder / f"{outcome}-{seed}-{number}.svg").write_bytes(data)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("/tmp/fuzz"))
    given = parser.parse_args(arguments)
    began = time.monotonic()
    report = asyncio.run(fuzz(cases(given.seed, given.count)))
    took_s = time.monotonic() - began
    print(
        f"{given.count} cases of seed {given.seed} in {took_s:.0f} s, {report.cpu_s:.0f} s of work"
    )
    for outcome, count in report.outcomes.most_common():
        print(f"{count:7d}  {outcome}")
    print("dearest:", ", ".join(f"#{n} {s:.2f} s ({o})" for s, n, o in report.dearest))
    for outcome, number, detail in report.ended:
        print(f"{outcome} #{number} ({detail}); estimate: {steps(case(given.seed, number))}")
    write(report, given.seed, given.out)
    return 1 if report.unexplained else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
