"""What a server's /metrics tells, also when it was cut off; sums that keep to their price."""

import asyncio
import itertools
from types import SimpleNamespace

import pytest

from engine.metrics import RateMeter
from engine.monitor.prometheus import merged_servers
from engine.routing import ServerPool
from launch import probing
from launch.probing import BUSY, CACHE, IDLE_EVERY_S, PROBE_EVERY_S, RUNNING, YOUNG_S, Probe, _value
from launch.snapshots import Paced


@pytest.mark.parametrize(
    "text, value",
    [
        (f'{RUNNING}{{model="a b"}} 3.0', 3.0),
        (f'{RUNNING}{{model="a"}} 3.0 1700000000', 3.0),
        (f"{RUNNING} 2\n{RUNNING}_more 9", 2.0),
        (f'{RUNNING}{{a="1"}} 1\n{RUNNING}{{a="2"}} 2', 3.0),
        (f'{RUNNING}{{model_name="/m', None),
        (f'{RUNNING}{{a="1"}} ', None),
        (f'{RUNNING}{{a="1"}} b', None),
        ("", None),
    ],
)
def test_a_sample_is_read_or_passed_over(text: str, value: float | None) -> None:
    assert _value(text, RUNNING) == value
    assert _value(text, BUSY) is None


def test_sums_are_taken_as_often_as_their_price_allows() -> None:
    now, taken = [0.0], [0]

    def compute() -> int:
        now[0] += 0.1
        taken[0] += 1
        return taken[0]

    sums = Paced(compute, lambda: now[0], lambda: now[0])
    meter = RateMeter()
    rates = []
    while now[0] < 600:
        _, at_s = sums()
        rates.append(meter.rate(10 * at_s, at_s))
        now[0] += 1.0
    assert taken[0] * 0.1 < 0.004 * 600
    assert rates[-1] == pytest.approx(10.0)
    assert all(rate == pytest.approx(10.0) for rate in rates if rate)


@pytest.mark.parametrize(("dear", "longest_s"), [({3}, 1), ({3, 5}, 1), ({3, 4}, 34), ({}, 1)])
def test_one_dear_look_holds_nothing_up(dear: set[int], longest_s: float) -> None:
    now, taken = [0.0], [0]

    def compute() -> int:
        taken[0] += 1
        now[0] += 0.01 if taken[0] in dear else 0.0001
        return taken[0]

    sums = Paced(compute, lambda: now[0], lambda: now[0])
    looked = [0.0]
    while taken[0] < 10:
        _, at_s = sums()
        if at_s > looked[-1]:
            looked.append(at_s)
        now[0] += 0.1
    waits = [after - before for before, after in itertools.pairwise(looked)]
    assert max(waits) == pytest.approx(longest_s, abs=1)


class Servers:
    """Two policies' servers, and a probe that hears what `said` has by url."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.said: dict[str, str | None] = {}
        self.pools = {name: ServerPool(name, max_concurrency=1) for name in ("a", "b")}
        monkeypatch.setattr(probing, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.probe = Probe(self.pools, None)  # type: ignore[arg-type]

        async def text(url: str) -> str | None:
            return self.said[url]

        monkeypatch.setattr(self.probe, "_text", text)

    def busy(self) -> dict[str, tuple[float, float]]:
        self.now_s += PROBE_EVERY_S
        found = asyncio.run(self.probe.busy())
        assert found is not None
        return found


def test_a_server_that_was_started_again_goes_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(monkeypatch)
    servers.pools["a"].mark_ready("http://x", 1)
    found = []
    # Started again it counts from 0; then it does not answer once.
    for worked_s in (50.0, 52.0, 54.0, 1.0, None, 7.0):
        servers.said["http://x"] = None if worked_s is None else f"{BUSY} {worked_s}"
        found.append(servers.busy())
    every = PROBE_EVERY_S
    assert found[0] == {}, "what it worked before it was seen is nobody's"
    assert [one["a"] for one in found[1:]] == [
        (2.0, every), (4.0, 2 * every), (5.0, 3 * every), (5.0, 3 * every), (11.0, 5 * every),
    ]  # fmt: skip


def test_what_work_costs_is_kept_of_those_that_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(monkeypatch)
    for url in ("http://x", "http://y"):
        servers.pools["a"].mark_ready(url, 1)
    servers.said["http://x"] = "sglang:decode_steps_total 7\nsglang:other 1"
    servers.said["http://y"] = "sglang:prefills_total 2"
    servers.busy()
    told = {
        ("a", "http://x"): {"decode_steps_total": 7.0},
        ("a", "http://y"): {"prefills_total": 2.0},
    }
    assert servers.probe.costs == told
    servers.pools["a"].remove("http://y")
    servers.busy()
    assert servers.probe.costs.keys() == {("a", "http://x")}


def test_a_server_that_moves_brings_no_work_along(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(monkeypatch)
    for policy, worked_s in (("a", 0), ("a", 3), ("b", 6), ("b", 7), ("a", 8), ("a", 9)):
        for name, pool in servers.pools.items():
            if name == policy:
                pool.mark_ready("http://x", 1)
            else:
                pool.remove("http://x")
        servers.said["http://x"] = f"{BUSY} {worked_s}"
        found = servers.busy()
    assert found == {"a": (4.0, 2 * PROBE_EVERY_S), "b": (1.0, PROBE_EVERY_S)}


def test_a_server_that_tells_only_what_runs_worked_as_far_as_it_was_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One request of four keeps it at work, yet three more would take it no longer."""
    servers = Servers(monkeypatch)
    pool = servers.pools["a"] = ServerPool("a", max_concurrency=9)
    pool.mark_ready("http://x", 1)
    pool.set_limit("http://x", 4)
    for running, cache in ((4, 0.1), (1, 0.125), (0, 0.0), (8, 0.5), (1, 0.75)):
        servers.said["http://x"] = f"{RUNNING} {running}\n{CACHE} {cache}"
        found = servers.busy()
    assert found == {"a": ((0.25 + 0 + 1 + 0.75) * PROBE_EVERY_S, 4 * PROBE_EVERY_S)}


def test_a_dead_server_is_told_as_one_that_could_not_be_scraped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Servers(monkeypatch)
    pool = servers.pools["a"]
    for url in ("http://x", "http://y"):
        pool.mark_ready(url, 1)
        servers.said[url] = "up 1\n"
    asyncio.run(servers.probe.texts())
    servers.said["http://x"] = None
    pool.mark_unready("http://x", "killed")
    text = merged_servers(asyncio.run(servers.probe.texts())).decode()
    assert 'streamzero_server_scrape_failed{policy="a",server="http://x"} 1.0' in text
    assert 'streamzero_server_scrape_failed{policy="a",server="http://y"} 0.0' in text
    pool.remove("http://x")  # it is another policy's: none of its own any more
    assert asyncio.run(servers.probe.texts()) == {("a", "http://y"): "up 1\n"}


def test_after_the_first_minute_servers_are_asked_less_often_while_nobody_watches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Servers(monkeypatch)

    def asked(seconds: float, *, is_watched: bool) -> int:
        number = 0
        for _ in range(int(seconds)):
            servers.now_s += 1.0
            number += asyncio.run(servers.probe.busy(is_watched)) is not None
        return number

    assert asked(YOUNG_S - 1, is_watched=False) == (YOUNG_S - 1) // PROBE_EVERY_S
    assert asked(60, is_watched=False) == 60 // IDLE_EVERY_S
    assert asked(60, is_watched=True) == 60 // PROBE_EVERY_S


def test_a_run_shorter_than_the_pause_between_two_questions_tells_what_its_servers_worked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Servers(monkeypatch)
    assert asyncio.run(servers.probe.busy()) is None, "nobody serves yet"
    for late_s, url in enumerate(("http://x", "http://y")):
        servers.pools["a"].mark_ready(url, 1)
        servers.said = dict.fromkeys(("http://x", "http://y"), f"{BUSY} {10.0 + late_s}")
        assert asyncio.run(servers.probe.busy()) is not None, "who is new is asked at once"
        assert asyncio.run(servers.probe.busy()) is None
        servers.now_s += 1.0
    servers.said = {"http://x": f"{BUSY} 11.5", "http://y": f"{BUSY} 11.25"}
    assert asyncio.run(servers.probe.busy_at_end()) == {"a": (1.5 + 0.25, 3.0)}


def test_how_full_a_server_is_at_the_end_says_nothing_of_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = Servers(monkeypatch)
    servers.pools["a"].mark_ready("http://x", 1)
    servers.said["http://x"] = f"{RUNNING} 1\n{CACHE} 0"
    servers.busy()
    found = servers.busy()
    assert found == {"a": (PROBE_EVERY_S, PROBE_EVERY_S)}
    servers.now_s += PROBE_EVERY_S
    servers.said["http://x"] = f"{RUNNING} 0\n{CACHE} 0"
    assert asyncio.run(servers.probe.busy_at_end()) == found
