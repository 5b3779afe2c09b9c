"""Games per second with servers that follow the demand, against a fixed split.

The engine's own pools, controller and mover; the servers are simulated (a GPU's would be the same
to them): each has so many places, in each of which a request gets its tokens at a fixed speed. A
game is one proposal, its drawings, and answers to each of them; the split gives every policy the
same number of servers. A moved server serves nobody while it is filled. All times are compressed:
what takes a second here takes half a minute there.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import aiohttp

from engine.elastic import Elastic, ElasticConfig
from engine.moves import Mover
from engine.routing import ServerPool

POLICIES = ("proposer", "coder", "solver")
PLACES = 16
TOKENS_PER_S = 4000.0
"""Of one place."""
TOKENS: Mapping[str, int] = MappingProxyType({"proposer": 300, "coder": 800, "solver": 600})
DRAWINGS = 4
RULES = ElasticConfig(enabled=True, gain=0.1, patience_s=1.0, cooldown_s=2.0, smoothing_s=0.5)


@dataclass(slots=True)
class Filling:
    """Stands for the desk and the learners: a moved server is ready after `fill_s`."""

    pools: Mapping[str, ServerPool]
    fill_s: float
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    claims: dict[str, str] = field(default_factory=dict)

    def claim(self, url: str, policy: str) -> None:
        self.claims[url] = policy

    async def release(self, url: str, source: str) -> None:
        async def fill() -> None:
            await asyncio.sleep(self.fill_s)
            self.pools[self.claims[url]].mark_ready(url, 1)

        task = asyncio.create_task(fill())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two runs")
    parser.add_argument("--servers", type=int, default=3, help="of each policy at first")
    parser.add_argument("--answers", type=int, default=16, help="to each drawing")
    parser.add_argument("--games", type=int, default=32, help="at the same time")
    parser.add_argument("--fill-s", type=float, default=0.5, help="what filling a server takes")


def run(options: argparse.Namespace) -> None:
    fixed, split, _ = asyncio.run(_measure(options, elastic=False))
    moved, ended, events = asyncio.run(_measure(options, elastic=True))
    print(f"a game: 1 proposal, {DRAWINGS} drawings, {DRAWINGS * options.answers} answers\n")
    print(f"{'':10}{'games/s':>9}  servers at the end")
    print(f"{'fixed':10}{fixed:9.2f}  {_shown(split)}")
    print(f"{'elastic':10}{moved:9.2f}  {_shown(ended)}")
    print(f"\nelastic / fixed, games per second   {moved / fixed:.2f}\n")
    print("\n".join(events))


def _shown(servers: Mapping[str, int]) -> str:
    return ", ".join(f"{policy} {servers[policy]}" for policy in POLICIES)


async def _measure(
    options: argparse.Namespace, *, elastic: bool
) -> tuple[float, Mapping[str, int], list[str]]:
    """(games per second, servers at the end, events); the second half of the time counts."""
    pools = {policy: ServerPool(policy, max_concurrency=PLACES) for policy in POLICIES}
    for policy, pool in pools.items():
        for number in range(options.servers):
            pool.mark_ready(f"http://127.0.0.1:1/{policy}-{number}", 1)
    events: list[str] = []
    done: Counter[bool] = Counter()
    began_s = time.monotonic()

    async def play(player: int) -> None:
        while True:
            await _game(pools, f"{player}-{done.total()}", options.answers)
            done[time.monotonic() - began_s > options.seconds / 2] += 1

    async with aiohttp.ClientSession() as session:
        mover = Mover(
            elastic=Elastic(RULES),
            pools=pools,
            desk=Filling(pools, options.fill_s),  # type: ignore[arg-type]
            session=session,
            on_event=lambda _, text: events.append(f"{time.monotonic() - began_s:5.1f} s  {text}"),
        )
        tasks = [asyncio.create_task(play(number)) for number in range(options.games)]
        if elastic:
            tasks.append(asyncio.create_task(_look_often(mover)))
        await asyncio.wait(tasks, timeout=options.seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
    owned = {policy: len(pool.ready) for policy, pool in pools.items()}
    return done[True] / (options.seconds / 2), owned, events


async def _look_often(mover: Mover) -> None:
    while True:
        await mover.look(time.monotonic())
        await asyncio.sleep(0.1)


async def _game(pools: Mapping[str, ServerPool], name: str, answers: int) -> None:
    await _request(pools, "proposer", name)

    async def draw(number: int) -> None:
        await _request(pools, "coder", f"{name}-{number}")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(answers):
                tasks.create_task(_request(pools, "solver", f"{name}-{number}"))

    async with asyncio.TaskGroup() as tasks:
        for number in range(DRAWINGS):
            tasks.create_task(draw(number))


async def _request(pools: Mapping[str, ServerPool], policy: str, prefix: str) -> None:
    async with pools[policy].place(prefix.encode(), TOKENS[policy]):
        await asyncio.sleep(TOKENS[policy] / TOKENS_PER_S)
