"""The render pool: processor time per picture, as ratios of medians from one interleaved run.

Every round draws its own slice of the ordinary corpus (charts, diagrams, tables, text, icons; 2.4
KB on average) with every arm, a dozen pictures at a time and in another order each time, without
the cache. One round before the first warms up and isn't counted. Arms:

  reference       what a worker of MM-Zero's released renderer does with one picture, called here
  reference pool  its whole pool, anew for each round: at least eight spawned processes
  limit           cairosvg's parsing and drawing and a copy to RGB, called here, and nothing else
  png 1, png 2    `RenderPool.render` with one worker, with two: checked pictures as PNG
  raw 1, raw 2    `RenderPool.pixels` likewise: checked pictures as RGB bytes

`worker` is the processor time that the pool's workers report, `parent` that of this process
meanwhile. Wall time depends on what else the machine does; processor time does less so.

With --attack, ordinary pictures alone against the same number of others among hostile documents:
three of ten texts are attacks, evenly of all families. See `launch/benches/attacked.py`.
"""

import argparse
import asyncio
import contextlib
import io
import os
import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from engine.types import Invalid
from render_pool import fonts
from render_pool.config import RenderConfig
from render_pool.corpus import ordinary
from render_pool.pool import RenderPool

Item = TypeVar("Item")

CALLERS = 4
"""Tasks that ask for pictures, for each worker."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py render`."""
    parser.add_argument("--pictures", type=int, default=60, help="ordinary pictures per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=640, help="pixels of the longer side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attack", action="store_true", help="measure among hostile documents")
    parser.add_argument(
        "--renders", type=int, default=0, help="with --attack: texts over which memory is watched"
    )


def run(options: argparse.Namespace) -> None:
    """Measure, and print the tables."""
    # The arms in this process and those that it starts draw with the pool's fonts.
    os.environ.update(fonts.environment())
    os.chdir(fonts.FOLDER)
    if options.attack:
        from launch.benches import attacked

        attacked.run(options)
    else:
        asyncio.run(_compare(options))


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds per picture."""

    worker: float
    parent: float
    wall: float

    @property
    def total(self) -> float:
        return self.worker + self.parent


@dataclass(frozen=True, slots=True)
class Ratio:
    """One line of the result: a number, and what it should be."""

    name: str
    value: float
    goal: float = 0.0
    at_most: bool = False

    def __str__(self) -> str:
        if not self.goal:
            return f"{self.name:<56} {self.value:6.2f}"
        is_met = self.value <= self.goal if self.at_most else self.value >= self.goal
        sign = "<=" if self.at_most else ">="
        return f"{self.name:<56} {self.value:6.2f}   {sign} {self.goal:<5g} {_verdict(is_met)}"


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


Arm = Callable[[list[str]], Awaitable[Cost]]

_FIELDS = ("worker", "parent", "wall")
_TURN = 12
"""Pictures that an arm draws before it is the next one's turn."""
_BATCHED = "reference pool"
"""The arm that draws the whole slice at once: it starts its processes for each batch."""


async def _compare(options: argparse.Namespace) -> None:
    documents = ordinary.stream(options.seed, options.side)
    async with contextlib.AsyncExitStack() as stack:
        arms: dict[str, Arm] = {
            "reference": _reference,
            _BATCHED: _reference_pool,
            "limit": _limit(options.side),
        }
        pools = []
        for workers in (1, 2):
            for kind in ("png", "raw"):
                pool = await stack.enter_async_context(_pool(options, workers))
                pools.append((pool, kernel_cpu_s(pool)))
                arms[f"{kind} {workers}"] = _ours(pool, workers, is_raw=kind == "raw")
        costs: dict[str, list[Cost]] = {name: [] for name in arms}
        for number in range(options.rounds + 1):
            texts = list(islice(documents, options.pictures))
            means = await _round(arms, texts, number)
            if number > 0:
                for name, cost in means.items():
                    costs[name].append(cost)
        reported = sum(pool.stats()["cpu_s"] for pool, _ in pools)
        counted = sum(kernel_cpu_s(pool) - before for pool, before in pools)
    _print_costs(costs, options)
    for ratio in ratios(costs):
        print(ratio)
    print(
        f"\nThe workers report {reported:.2f} s; the kernel counts {counted:.2f} s for them and "
        f"their template."
    )


async def _round(arms: dict[str, Arm], texts: list[str], number: int) -> dict[str, Cost]:
    """Each arm over all of `texts`, in turns of a few so that a busy moment meets them all."""
    parts: dict[str, list[tuple[int, Cost]]] = {name: [] for name in arms}
    for turn, start in enumerate(range(0, len(texts), _TURN)):
        some = texts[start : start + _TURN]
        names = [name for name in arms if name != _BATCHED]
        first = (number + turn) % len(names)
        for name in names[first:] + names[:first]:
            parts[name].append((len(some), await arms[name](some)))
    parts[_BATCHED].append((len(texts), await arms[_BATCHED](texts)))
    return {name: _mean(costs) for name, costs in parts.items()}


def _mean(parts: list[tuple[int, Cost]]) -> Cost:
    num = sum(n for n, _ in parts)
    return Cost(*(sum(n * getattr(cost, field) for n, cost in parts) / num for field in _FIELDS))


def _pool(options: argparse.Namespace, workers: int) -> RenderPool:
    return RenderPool(RenderConfig(workers=workers, side=options.side, cache_entries=0))


async def _reference(texts: list[str]) -> Cost:
    from launch.benches import reference

    wall, cpu = time.perf_counter(), time.process_time()
    for text in texts:
        reference.body(text)
    return _cost(len(texts), worker_s=time.process_time() - cpu, began=wall)


async def _reference_pool(texts: list[str]) -> Cost:
    from launch.benches import reference

    wall, cpu, children = time.perf_counter(), time.process_time(), _children_s()
    reference.batch(texts)
    return _cost(
        len(texts),
        worker_s=_children_s() - children,
        parent_s=time.process_time() - cpu,
        began=wall,
    )


def _limit(side: int) -> Arm:
    """Parsing, drawing and copying without any check: what no pool around cairosvg can undercut."""
    from cairosvg.parser import Tree
    from cairosvg.surface import PNGSurface
    from PIL import Image

    class Raster(PNGSurface):
        def finish(self) -> None:
            self.cairo.flush()

    async def limit(texts: list[str]) -> Cost:
        sources = [(text.encode(), *_drawn_size(text, side)) for text in texts]
        wall, cpu = time.perf_counter(), time.process_time()
        for svg, width, height in sources:
            surface = Raster(
                Tree(bytestring=svg), None, 96,
                output_width=width, output_height=height, background_color="white",
            )  # fmt: skip
            surface.finish()
            data, stride = surface.cairo.get_data(), surface.cairo.get_stride()
            Image.frombuffer("RGB", (width, height), data, "raw", "BGRX", stride, 1).tobytes()
        return _cost(len(texts), worker_s=time.process_time() - cpu, began=wall)

    return limit


def _drawn_size(text: str, side: int) -> tuple[int, int]:
    """Width and height that the corpus writes into a document, in pixels."""
    width, height = (int(text.split(f' {name}="', 1)[1].split('"', 1)[0]) for name in _SIDES)
    if max(width, height) != side:
        raise ValueError(f"{width} x {height} in place of {side}")
    return width, height


_SIDES = ("width", "height")


def _ours(pool: RenderPool, workers: int, *, is_raw: bool) -> Arm:
    async def ours(texts: list[str]) -> Cost:
        refused: list[Invalid] = []
        draw = pool.pixels if is_raw else pool.render

        async def one(text: str) -> None:
            result = await draw(text)
            if isinstance(result, Invalid):
                refused.append(result)

        wall, cpu, spent = time.perf_counter(), time.process_time(), pool.stats()["cpu_s"]
        await drive(one, texts, CALLERS * workers)
        cost = _cost(
            len(texts),
            worker_s=pool.stats()["cpu_s"] - spent,
            parent_s=time.process_time() - cpu,
            began=wall,
        )
        if refused:
            raise SystemExit(f"{len(refused)} ordinary pictures were refused: {refused[0]}")
        return cost

    return ours


async def drive(do: Callable[[Item], Awaitable[None]], items: Iterable[Item], callers: int) -> None:
    """`do` to each of `items`, `callers` at a time."""
    rest = iter(items)

    async def caller() -> None:
        for item in rest:
            await do(item)

    await asyncio.gather(*(caller() for _ in range(callers)))


def _cost(num: int, *, worker_s: float, began: float, parent_s: float = 0.0) -> Cost:
    wall_s = time.perf_counter() - began
    return Cost(*(1000 * seconds / num for seconds in (worker_s, parent_s, wall_s)))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kernel_cpu_s(pool: RenderPool) -> float:
    """Processor seconds of a pool's template and of all of its workers, ended ones included."""
    if pool.pid is None:
        raise ValueError("the pool is closed")
    children = Path(f"/proc/{pool.pid}/task/{pool.pid}/children").read_text().split()
    ticks = sum(_ticks(int(pid), (11, 12)) for pid in children)
    return (ticks + _ticks(pool.pid, (11, 12, 13, 14))) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int, places: tuple[int, ...]) -> int:
    """Fields of /proc/PID/stat, counted from the state: utime, stime, cutime, cstime."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:  # it ended a moment ago
        return 0
    return sum(int(fields[place]) for place in places)


def ratios(costs: dict[str, list[Cost]]) -> list[Ratio]:
    """The numbers that count: each the median over the rounds."""

    def median(of: Callable[[dict[str, Cost]], float]) -> float:
        names = list(costs)
        rounds = zip(*costs.values(), strict=True)
        return statistics.median(of(dict(zip(names, one, strict=True))) for one in rounds)

    return [
        Ratio("reference / ours, PNG (worker + parent)",
              median(lambda c: c["reference"].total / c["png 2"].total), 1.3),
        Ratio("reference / ours, raw (worker + parent)",
              median(lambda c: c["reference"].total / c["raw 2"].total), 1.9),
        Ratio("limit / ours, PNG (worker)",
              median(lambda c: c["limit"].worker / c["png 2"].worker), 0.60),
        Ratio("limit / ours, raw (worker)",
              median(lambda c: c["limit"].worker / c["raw 2"].worker), 0.85),
        Ratio("two workers / one, PNG (worker)",
              median(lambda c: c["png 2"].worker / c["png 1"].worker), 1.1, at_most=True),
        Ratio("two workers / one, raw (worker)",
              median(lambda c: c["raw 2"].worker / c["raw 1"].worker), 1.1, at_most=True),
        Ratio("parent / worker, PNG, two workers",
              median(lambda c: c["png 2"].parent / c["png 2"].worker), 0.20, at_most=True),
        Ratio("parent / worker, raw, two workers",
              median(lambda c: c["raw 2"].parent / c["raw 2"].worker), 0.20, at_most=True),
        Ratio("reference / limit (no pool around cairosvg gains more)",
              median(lambda c: c["reference"].worker / c["limit"].worker)),
        Ratio("reference pool / ours, PNG, two workers (wall)",
              median(lambda c: c["reference pool"].wall / c["png 2"].wall)),
        Ratio("reference pool / ours, PNG, two workers (all CPU)",
              median(lambda c: c["reference pool"].total / c["png 2"].total)),
    ]  # fmt: skip


def _print_costs(costs: dict[str, list[Cost]], options: argparse.Namespace) -> None:
    text = io.StringIO()
    print(
        f"{options.pictures} pictures of {options.side} px in each of {options.rounds} rounds; "
        f"milliseconds per picture, medians\n\n{'':<16}{'worker':>9}{'parent':>9}{'wall':>9}",
        file=text,
    )
    for name, rounds in costs.items():
        medians = (statistics.median(getattr(cost, field) for cost in rounds) for field in _FIELDS)
        print(f"{name:<16}" + "".join(f"{value:9.2f}" for value in medians), file=text)
    print(text.getvalue())
    print(f"{'medians of ratios within a round':<56} {'':6}   goal")
