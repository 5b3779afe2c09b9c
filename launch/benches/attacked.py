"""Ordinary pictures among hostile documents: what attacks cost, lose and leave behind.

Rounds alternate between ordinary pictures alone and the same number of other ones with attacks
mixed in, three of ten texts, evenly of all families and all different. Each round of either kind
runs with a pool of its own: two workers, a deadline of two seconds, no cache.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from engine.types import Invalid
from launch.benches.render import CALLERS, Ratio, drive, kernel_cpu_s
from render_pool.config import RenderConfig
from render_pool.corpus import attacks, ordinary
from render_pool.pool import RenderPool

_WORKERS = 2
_HOSTILE = 0.3
"""Share of the texts."""
_PER_FAMILY = 20
_WARM = 500
"""Texts before memory is first looked at."""

Text = str | bytes


@dataclass(slots=True)
class Traffic:
    """What came of one stream of texts."""

    num_drawn: int = 0
    lost: list[str] = field(default_factory=list)
    """Why ordinary pictures were not drawn."""
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Attacks by family and outcome."""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """Of this process, the template and the workers."""

    @property
    def per_s(self) -> float:
        return self.num_drawn / self.wall_s

    @property
    def cpu_ms(self) -> float:
        """For each ordinary picture that was drawn."""
        return 1000 * self.cpu_s / max(1, self.num_drawn)


def run(options: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    asyncio.run(_measure(options))


async def _measure(options: argparse.Namespace) -> None:
    alone: list[Traffic] = []
    mixed: list[Traffic] = []
    pictures = ordinary.stream(options.seed, options.side)
    hostile = attacks.stream(options.seed)
    for number in range(options.rounds):
        texts = list(islice(pictures, options.pictures))
        others = list(islice(hostile, round(len(texts) * _HOSTILE / (1 - _HOSTILE))))
        mixture = _shuffled(number, texts, others)
        kinds = [(alone, _shuffled(number, texts, [])), (mixed, mixture)]
        for results, stream in kinds if number % 2 else reversed(kinds):
            results.append(await _traffic(options, stream))
    _print_traffic(options, alone, mixed)
    await _print_families(options)
    if options.renders:
        await _print_memory(options)


def _shuffled(seed: int, texts: list[str], others: list[attacks.Attack]) -> list[tuple[str, Text]]:
    """(family, text) in an order drawn at random; the family of an ordinary text is ""."""
    stream: list[tuple[str, Text]] = [("", text) for text in texts]
    stream += [(attack.family, attack.text) for attack in others]
    random.Random(seed).shuffle(stream)
    return stream


async def _traffic(options: argparse.Namespace, stream: list[tuple[str, Text]]) -> Traffic:
    async with _pool(options) as pool:
        traffic = Traffic()
        await _draw_all(pool, iter(ordinary_warmth(options)), Traffic())
        wall, own, theirs = time.perf_counter(), time.process_time(), kernel_cpu_s(pool)
        await _draw_all(pool, iter(stream), traffic)
        traffic.wall_s = time.perf_counter() - wall
        traffic.cpu_s = time.process_time() - own + kernel_cpu_s(pool) - theirs
        return traffic


def ordinary_warmth(options: argparse.Namespace) -> list[tuple[str, Text]]:
    """A few pictures that no measurement draws: by them the workers are forked."""
    return [("", text) for text in islice(ordinary.stream(options.seed + 1, options.side), 8)]


def _pool(options: argparse.Namespace, workers: int = _WORKERS) -> RenderPool:
    return RenderPool(
        RenderConfig(workers=workers, side=options.side, cache_entries=0, deadline_s=2.0)
    )


async def _draw_all(pool: RenderPool, stream: Iterator[tuple[str, Text]], traffic: Traffic) -> None:
    async def one(item: tuple[str, Text]) -> None:
        family, text = item
        result = await pool.render(text)
        if family:
            outcome = result.reason if isinstance(result, Invalid) else "picture"
            traffic.outcomes[family, outcome] += 1
        elif isinstance(result, Invalid):
            traffic.lost.append(f"{result.reason}: {result.detail}")
        else:
            traffic.num_drawn += 1

    await drive(one, stream, CALLERS * _WORKERS)


def _print_traffic(options: argparse.Namespace, alone: list[Traffic], mixed: list[Traffic]) -> None:
    pairs = list(zip(alone, mixed, strict=True))
    lost = [why for traffic in alone + mixed for why in traffic.lost]
    print(
        f"{options.pictures} ordinary pictures in each of {options.rounds} rounds, alone and with "
        f"{_HOSTILE:.0%} attacks among the texts; medians\n"
    )
    for name, rounds in (("alone", alone), ("mixed", mixed)):
        per_s = statistics.median(traffic.per_s for traffic in rounds)
        cpu = statistics.median(traffic.cpu_ms for traffic in rounds)
        print(f"{name:<8}{per_s:8.1f} ordinary pictures/s{cpu:9.2f} CPU ms per ordinary picture")
    print(f"\n{'':<56} {'':6}   goal")
    print(Ratio("mixed / alone, ordinary pictures per second",
                statistics.median(b.per_s / a.per_s for a, b in pairs), 0.60))  # fmt: skip
    print(Ratio("alone / mixed, CPU per ordinary picture",
                statistics.median(a.cpu_ms / b.cpu_ms for a, b in pairs), 0.60))  # fmt: skip
    print(f"{'ordinary pictures lost':<56} {len(lost):6d}   0     {'MISSED' if lost else 'met'}")
    for why, times in Counter(lost).most_common(5):
        print(f"    {times} x {why}")
    _print_outcomes(mixed)


def _print_outcomes(mixed: list[Traffic]) -> None:
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for traffic in mixed:
        for (family, outcome), num in traffic.outcomes.items():
            outcomes[family][outcome] += num
    print("\noutcomes by family")
    for family, times in sorted(outcomes.items()):
        print(f"  {family:<24}" + ", ".join(f"{n} {what}" for what, n in times.most_common()))


async def _print_families(options: argparse.Namespace) -> None:
    """What one attack of each family costs, one after the other on one worker."""
    families: dict[str, list[Text]] = defaultdict(list)
    hostile = attacks.stream(options.seed + 1)
    for attack in islice(hostile, _PER_FAMILY * len(attacks.FAMILIES)):
        families[attack.family].append(attack.text)
    costs: list[tuple[float, float, float, str]] = []
    async with _pool(options, workers=1) as pool:
        for family, texts in families.items():
            wall, cpu = time.perf_counter(), kernel_cpu_s(pool)
            slowest = 0.0
            for text in texts:
                began = time.perf_counter()
                await pool.render(text)
                slowest = max(slowest, time.perf_counter() - began)
            mean_cpu = 1000 * (kernel_cpu_s(pool) - cpu) / len(texts)
            mean_wall = 1000 * (time.perf_counter() - wall) / len(texts)
            costs.append((mean_cpu, mean_wall, 1000 * slowest, family))
    costs.sort(reverse=True)
    print(f"\nten costliest families, ms per attack of {_PER_FAMILY}: CPU, wall, slowest")
    for mean_cpu, mean_wall, slowest, family in costs[:10]:
        print(f"  {family:<24}{mean_cpu:9.1f}{mean_wall:9.1f}{slowest:9.1f}")
    mean = statistics.mean(mean_cpu for mean_cpu, *_ in costs)
    print(f"  {'mean of all families':<24}{mean:9.1f}")


async def _print_memory(options: argparse.Namespace) -> None:
    """Growth of this process over many texts, which are made on the way."""
    pictures = ordinary.stream(options.seed + 2, options.side)
    hostile = attacks.stream(options.seed + 2)
    rng = random.Random(options.seed)

    def mixture(num: int) -> Iterator[tuple[str, Text]]:
        for _ in range(num):
            if rng.random() < _HOSTILE:
                attack = next(hostile)
                yield attack.family, attack.text
            else:
                yield "", next(pictures)

    async with _pool(options) as pool:
        traffic = Traffic()
        await _draw_all(pool, mixture(_WARM), traffic)
        before = _resident_mb()
        await _draw_all(pool, mixture(options.renders), traffic)
        growth = _resident_mb() - before
    print()
    name = f"MB that this process grew by over {options.renders} texts"
    print(Ratio(name, growth, 50.0, at_most=True))
    print(f"{'ordinary pictures lost':<56} {len(traffic.lost):6d}")


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:", 1)[1].split()[0]) / 1024
