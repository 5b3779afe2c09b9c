"""Every hostile input through the real pool: the right answer, cheaply, and nothing reached.

The workers run audited: an attempt to open a file, to connect or to start a program ends them,
which would show as `crashed`. Times are processor times, since the machine may be busy.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pytest

from engine.types import Invalid
from render_pool.config import RenderConfig
from render_pool.corpus import attacks
from render_pool.corpus.attacks import Attack
from render_pool.pool import RenderPool
from render_pool.reasons import REASONS
from tests.processor_time import ATTEMPTS

pytestmark = pytest.mark.alone
CASES = {case.name: case for case in attacks.cases()}
MAX_WORKER_S = 0.9
"""For one input, on a slow and busy machine: what is hardly worth a picture is still drawn, within
the `cpu_s` that a worker has by default."""
MEAN_WORKER_S = 0.06
MAX_CALLER_S = 0.25
"""The caller's own part: it looks for the SVG in the text, and talks to the worker."""
WAIT_S = 60.0


@dataclass(frozen=True)
class Seen:
    """What became of one attack."""

    outcome: str
    detail: str
    worker_s: float
    caller_s: float

    @property
    def is_cheap(self) -> bool:
        return self.worker_s < MAX_WORKER_S and self.caller_s < MAX_CALLER_S


@dataclass(frozen=True)
class Run:
    """What became of all of them."""

    seen: dict[str, list[Seen]]
    """One for each attempt, of which the last is cheap, if any is."""
    kills: Counter[str]
    num_connections: int


async def attacked(pool: RenderPool, attack: Attack, port: int) -> Seen:
    text = attack.text
    if isinstance(text, str):
        text = text.replace("{port}", str(port))
    worker_s, caller_s = pool.stats()["cpu_s"], time.process_time()
    result = await pool.render(text)
    worker_s, caller_s = pool.stats()["cpu_s"] - worker_s, time.process_time() - caller_s
    if isinstance(result, Invalid):
        return Seen(result.reason, result.detail, worker_s, caller_s)
    return Seen("picture", "", worker_s, caller_s)


def connections(listener: socket.socket) -> int:
    """Connections that wait to be accepted."""
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """All cases, one after another, through one audited pool with one worker; those that were dear
    once more, through another one, which remembers nothing of them."""
    seen: dict[str, list[Seen]] = {name: [] for name in CASES}
    kills: Counter[str] = Counter()

    async def scene(port: int) -> None:
        # More than one may take: how much it is, is looked at below.
        cfg = RenderConfig(workers=1, cache_entries=0, deadline_s=WAIT_S, cpu_s=WAIT_S)
        names = list(CASES)
        for _ in range(ATTEMPTS):
            async with RenderPool(cfg, audit=True) as pool:
                for name in names:
                    seen[name].append(await attacked(pool, CASES[name], port))
                kills.update(pool.stats()["kills_by_reason"])
            names = [name for name in names if not seen[name][-1].is_cheap]
            if not names:
                break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(scene(listener.getsockname()[1]))
        yield Run(seen, kills, connections(listener))


@pytest.mark.parametrize("name", CASES)
def test_each_attack_is_answered_rightly_and_cheaply(run: Run, name: str) -> None:
    seen = run.seen[name]
    assert {one.outcome for one in seen} <= CASES[name].outcomes, seen
    assert seen[-1].is_cheap, seen


def test_all_attacks_together_are_cheap(run: Run) -> None:
    costs = [seen[-1].worker_s for seen in run.seen.values()]
    assert sum(costs) / len(costs) < MEAN_WORKER_S, sorted(costs)[-10:]


def test_no_attack_ends_a_worker(run: Run) -> None:
    assert run.kills == {}


def test_no_attack_connects(run: Run) -> None:
    assert sum("{port}" in str(case.text) for case in CASES.values()) >= 20
    assert run.num_connections == 0


def test_a_connection_would_be_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()
        assert connections(listener) == 1


def test_an_ordinary_picture_survives_every_attack() -> None:
    """One worker draws attacks and ordinary pictures in turn; none of these is lost or changed."""

    async def scene() -> None:
        cfg = RenderConfig(workers=1, cache_entries=0, deadline_s=WAIT_S)
        async with RenderPool(cfg, audit=True) as pool:
            ordinary = '<svg viewBox="0 0 9 9"><circle cx="4" cy="4" r="3" fill="red"/></svg>'
            first = await pool.render(ordinary)
            assert not isinstance(first, Invalid), first
            for attack in islice(attacks.stream(5), 3 * len(attacks.FAMILIES)):
                await attacked(pool, attack, 1)
                assert await pool.render(ordinary) == first, attack.name

    asyncio.run(scene())


def test_cases_are_many_and_of_every_family() -> None:
    cases = attacks.cases()
    assert cases == attacks.cases()
    assert len({case.name for case in cases}) == len(cases) >= 150
    assert {case.family for case in cases} == set(attacks.FAMILIES)
    for case in cases:
        assert case.outcomes <= {*REASONS, "picture"}, case.name
        assert not case.outcomes & {"timeout", "crashed"}, case.name


def test_the_stream_is_endless_distinct_even_and_reproducible() -> None:
    rounds, families = 20, attacks.FAMILIES
    first = list(islice(attacks.stream(3), rounds * len(families)))
    assert first == list(islice(attacks.stream(3), rounds * len(families)))
    assert Counter(attack.family for attack in first) == dict.fromkeys(families, rounds)
    texts = {attack.text for attack in first}
    others = {attack.text for attack in islice(attacks.stream(4), rounds * len(families))}
    assert len(texts | others) >= 2 * rounds * len(families) - 1  # an empty text may come twice
