"""A server moves to another policy: what becomes of its requests, and who is told."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from engine.elastic import Elastic, ElasticConfig
from engine.moves import Mover
from engine.routing import ServerPool
from engine.sampler import client_session

RULES = ElasticConfig(gain=0.2, patience_s=0, cooldown_s=0, smoothing_s=1e-9)


@dataclass(slots=True)
class Told:
    """Of the desk, what a mover uses."""

    moves: list[tuple[str, str, str]] = field(default_factory=list)
    claims: dict[str, str] = field(default_factory=dict)

    def claim(self, url: str, policy: str) -> None:
        self.claims[url] = policy

    async def release(self, url: str, source: str) -> None:
        self.moves.append((url, source, self.claims[url]))


@dataclass(slots=True)
class Place:
    """Two pools, three servers of which `b` can be interrupted, and a mover."""

    pools: dict[str, ServerPool]
    url: str
    told: Told
    events: list[tuple[str, str]]
    mover: Mover
    aborted: asyncio.Event
    aborts: list[str]


async def make(stack: AsyncExitStack) -> Place:
    aborted, aborts = asyncio.Event(), list[str]()

    async def abort(request: web.Request) -> web.Response:
        assert await request.json() == {"abort_all": True}
        aborts.append(request.path)
        aborted.set()
        return web.Response()

    app = web.Application()
    app.router.add_post("/abort_request", abort)
    server = await stack.enter_async_context(TestServer(app))
    session = await stack.enter_async_context(client_session())
    url = str(server.make_url("")).rstrip("/")
    pools = {name: ServerPool(name, max_concurrency=9) for name in ("coder", "solver")}
    pools["coder"].mark_ready(url, 3)
    pools["coder"].mark_ready("http://z", 3)  # the first in order moves, and this is the last
    pools["solver"].mark_ready("http://s", 5)
    told, events = Told(), []
    mover = Mover(
        elastic=Elastic(RULES),
        pools=pools,
        desk=told,  # type: ignore[arg-type]
        session=session,
        on_event=lambda level, text: events.append((level, text)),
    )
    return Place(pools, url, told, events, mover, aborted, aborts)


def run(scenario: Callable[[Place], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(25), AsyncExitStack() as stack:
            await scenario(await make(stack))

    asyncio.run(bounded())


def test_requests_in_flight_are_interrupted_before_the_learners_are_told() -> None:
    async def scenario(it: Place) -> None:
        async def request(prefix: bytes) -> None:
            async with it.pools["coder"].place(prefix, 10):
                await it.aborted.wait()
                assert not it.told.moves, "a request of the old policy is still there"
                assert it.told.claims == {it.url: "solver"}, "its learner may speak up meanwhile"

        async with asyncio.TaskGroup() as tasks, it.pools["solver"].place(b"y", 1000):
            for prefix in (b"a", b"b"):  # one to each of its servers
                tasks.create_task(request(prefix))
            while len(busy(it.pools["coder"])) < 2:
                await asyncio.sleep(0)
            await it.mover.look(1.0)
            assert it.told.moves == [(it.url, "coder", "solver")]
            assert it.pools["coder"].ready == {"http://z": 3}
            assert it.pools["solver"].ready == {"http://s": 5}, "not before it is filled"
            await it.mover.look(2.0)
            assert len(it.told.moves) == 1, "one at a time"
            it.pools["solver"].mark_ready(it.url, 6)
            await it.mover.look(3.0)
        assert "moves from coder (10 tokens to generate per server) to solver (1000)" in text(it, 0)
        assert "serves solver now" in text(it, 1)

    run(scenario)


def test_a_request_that_the_first_abort_did_not_meet_is_interrupted_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SGLang aborts what its scheduler has; what it still reads, or holds back in a pause, not."""
    monkeypatch.setattr("engine.moves.ABORT_EVERY_S", 0.01)

    async def scenario(it: Place) -> None:
        async def request() -> None:
            async with it.pools["coder"].place(b"x", 10):
                while len(it.aborts) < 3:
                    it.aborted.clear()
                    await it.aborted.wait()

        async with asyncio.TaskGroup() as tasks, it.pools["solver"].place(b"y", 1000):
            tasks.create_task(request())
            while not busy(it.pools["coder"]):
                await asyncio.sleep(0)
            await it.mover.look(1.0)
        assert it.told.moves == [(it.url, "coder", "solver")]

    run(scenario)


def test_a_server_whose_requests_do_not_end_stays_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.moves.DRAIN_TIMEOUT_S", 0.05)

    async def scenario(it: Place) -> None:
        coder, solver = it.pools["coder"], it.pools["solver"]
        async with coder.place(b"x", 10) as first, solver.place(b"y", 1000):
            assert first == it.url
            await it.mover.look(1.0)
            assert not it.told.moves, "that request would take the new weights for its policy's"
            assert it.told.claims == {it.url: "coder"}
            assert it.events[1][0] == "warning"
            assert "did not end in time" in text(it, 1)
            coder.mark_ready(it.url, 4)  # as its learner says
            assert busy(coder) == {it.url}, "the request is not forgotten"
            await it.mover.look(2.0)
            assert len(it.events) == 4, "the next move begins, and waits for that request, too"
            assert not it.told.moves
            coder.mark_ready(it.url, 4)
        monkeypatch.undo()
        async with solver.place(b"y", 1000):
            await it.mover.look(3.0)
        assert it.told.moves == [(it.url, "coder", "solver")]

    run(scenario)


def test_nothing_moves_without_need_and_a_dead_server_is_no_hindrance() -> None:
    async def scenario(it: Place) -> None:
        await it.mover.look(1.0)
        assert not it.told.moves
        it.pools["coder"].remove(it.url)
        it.pools["coder"].mark_ready("http://127.0.0.1:9", 3)  # nobody listens there
        async with it.pools["solver"].place(b"y", 1000):
            await it.mover.look(2.0)
        assert it.told.moves == [("http://127.0.0.1:9", "coder", "solver")]

    run(scenario)


def busy(pool: ServerPool) -> set[str]:
    servers: dict[str, Any] = pool.stats()["servers"]
    return {url for url, server in servers.items() if server["running"]}


def text(it: Place, number: int) -> str:
    return it.events[number][1]
