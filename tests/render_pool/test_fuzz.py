"""A short run of the fuzzer, and what its long runs found."""

import asyncio
from pathlib import Path

import pytest

from engine.types import Invalid
from render_pool.outline import outline
from tests.render_pool import fuzz

COUNT = 1500
CORPUS = {path.stem: path for path in sorted((Path(__file__).parent / "fuzz_corpus").glob("*.svg"))}
MAX_S = 0.9
"""Of a worker's processor time, for a document that was found once."""


@pytest.fixture(scope="module")
def replayed() -> dict[str, tuple[str, float]]:
    """{name: (outcome, processor seconds)} of what was found before."""

    async def scene() -> dict[str, tuple[str, float]]:
        found = {}
        async with fuzz.RenderPool(fuzz.config(), audit=True) as pool:
            for name, path in CORPUS.items():
                before_s = pool.stats()["cpu_s"]
                outcome, _ = await fuzz.drawn(pool, path.read_bytes())
                found[name] = outcome, pool.stats()["cpu_s"] - before_s
        return found

    return asyncio.run(scene())


@pytest.mark.parametrize("name", CORPUS)
def test_what_was_found_once_is_harmless(replayed: dict[str, tuple[str, float]], name: str) -> None:
    outcome, spent_s = replayed[name]
    assert outcome not in ("crashed", "timeout", "raised")
    assert spent_s < MAX_S


def test_a_short_run_breaks_nothing() -> None:
    report = asyncio.run(fuzz.fuzz(fuzz.cases(2, COUNT)))
    assert report.outcomes.total() == COUNT
    assert report.unexplained == []
    assert [one for one in report.ended if one[0] == "timeout"] == []
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
