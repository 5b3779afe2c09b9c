"""A short run of the fuzzer, and what its long runs found."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.types import Invalid
from render_pool.outline import outline
from tests.render_pool import fuzz

COUNT = 1500
CORPUS = {path.stem: path for path in sorted((Path(__file__).parent / "fuzz_corpus").glob("*.svg"))}
MAX_S = 0.9
"""Of a worker's processor time, for a document that was found once."""


@dataclass(frozen=True)
class Drawn:
    """What became of a document."""

    outcome: str
    spent_s: float
    """Of its worker's processor time."""

    @property
    def is_unexplained(self) -> bool:
        return self.outcome in fuzz.UNEXPLAINED

    @property
    def is_slow(self) -> bool:
        return self.outcome == "timeout" or self.spent_s >= MAX_S


async def drawn(texts: Iterable[str | bytes]) -> list[Drawn]:
    """One after another through a pool of their own, which remembers nothing of them."""
    found = []
    async with fuzz.RenderPool(fuzz.config(), audit=True) as pool:
        for text in texts:
            before_s = pool.stats()["cpu_s"]
            outcome, _ = await fuzz.drawn(pool, text)
            found.append(Drawn(outcome, pool.stats()["cpu_s"] - before_s))
    return found


@pytest.fixture(scope="module")
def replayed() -> dict[str, Drawn]:
    """What becomes of what was found before, by name; the second time, of what is slow, since a
    machine that stands still makes anything slow once."""

    async def scene() -> dict[str, Drawn]:
        texts = {name: path.read_bytes() for name, path in CORPUS.items()}
        found = dict(zip(texts, await drawn(texts.values()), strict=True))
        slow = [name for name, one in found.items() if one.is_slow and not one.is_unexplained]
        again = await drawn(texts[name] for name in slow)
        return found | dict(zip(slow, again, strict=True))

    return asyncio.run(scene())


@pytest.mark.parametrize("name", CORPUS)
def test_what_was_found_once_is_harmless(replayed: dict[str, Drawn], name: str) -> None:
    found = replayed[name]
    assert not found.is_unexplained, found
    assert not found.is_slow, found


def test_a_short_run_breaks_nothing() -> None:
    report = asyncio.run(fuzz.fuzz(fuzz.cases(2, COUNT)))
    assert report.outcomes.total() == COUNT
    assert report.unexplained == []
    late = [number for outcome, number, _ in report.ended if outcome == "timeout"]
    again = asyncio.run(drawn(fuzz.case(2, number) for number in late))
    ended = [one for one in again if one.is_unexplained or one.outcome == "timeout"]
    assert ended == [], f"of the cases {late}, which were too late before"
    assert report.outcomes["picture"] > COUNT / 4, "mutations that leave nothing to draw"
    assert report.cpu_s / COUNT < 0.1


def test_a_case_is_the_same_every_time_and_most_are_well_formed() -> None:
    some = [fuzz.case(3, number) for number in range(100)]
    assert some == [fuzz.case(3, number) for number in range(100)]
    assert len(set(some)) > 90
    texts = [one.encode() for one in some if isinstance(one, str) and one.isascii()]
    formed = [not isinstance(outline(text), Invalid) for text in texts]
    assert sum(formed) > len(formed) / 2


def test_the_report_says_what_is_unexplained(tmp_path: Path) -> None:
    report = fuzz.Report()
    for number, outcome in enumerate(("picture", "timeout", "crashed", "raised", "memory")):
        report.add(number, outcome, "why", number / 10)
    assert report.unexplained == [("crashed", 2, "why"), ("raised", 3, "why")]
    assert report.dearest[0] == (0.4, 4, "memory")
    fuzz.write(report, 3, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "crashed-3-2.svg",
        "memory-3-4.svg",
        "raised-3-3.svg",
        "timeout-3-1.svg",
    ]
