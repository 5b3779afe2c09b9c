"""Interrupted requests, and who is interrupted where servers move."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.types import SamplingParams
from launch.simulation.clock import run_virtually
from launch.simulation.cores import Cores, Process
from launch.simulation.players import SimulatedSampler
from launch.simulation.server import Server
from launch.simulation.service_times import ServerTimes
from launch.simulation.world import _Session, build, temporary_buffer
from tests.launch.simulation.test_run import config, times

URL = "http://1/a"


class OneServer:
    """In the place of a pool: notes the tokens that each request asks room for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.counts: Counter[str] = Counter()

    @asynccontextmanager
    async def place(self, prefix: bytes, tokens: int) -> AsyncIterator[str]:
        self.asked.append(tokens)
        yield URL


def test_an_interrupted_request_asks_for_what_it_may_still_say() -> None:
    async def main() -> list[int]:
        server, pool = Server(ServerTimes(step_s=1.0, row_s=0.0), Cores()), OneServer()
        server.versions = {"a": 1}
        sampler = SimulatedSampler(
            role="solver",
            policy="a",
            pool=pool,  # type: ignore[arg-type]
            servers={URL: server},
            script=None,  # type: ignore[arg-type]
            engine=Process(Cores()),
            request_s=0.0,
            timeout_s=1000.0,
        )
        params = SamplingParams(max_new_tokens=500, temperature=1.0, top_p=1.0)
        task = asyncio.create_task(sampler._generate(200, b"p", params, []))
        for tokens in (40, 30):
            await asyncio.sleep(tokens)
            server.interrupt("a")
        await task
        return pool.asked

    assert run_virtually(main()) == [500, 460, 430]


def test_a_server_that_has_moved_lets_go_of_what_it_serves_now() -> None:
    hosts = [
        f"{{rank: {rank}, policies: [{policy}], kind: sglang}}"
        for rank, policy in enumerate(("proposer", "proposer", "coder", "solver"), 1)
    ]
    elastic = config(f"layout.servers=[{', '.join(hosts)}]", "elastic.enabled=true")
    url = "http://1/proposer"

    async def main() -> float:
        with temporary_buffer() as buffer:
            world = build(elastic, times(server={"step_s": 1.0}), buffer, 0)
            (learner,) = world.learners
            learner._versions["coder"] = 1
            inbox = world.wire.inbox(learner.peer)
            messages: list[dict[str, Any]] = [
                {"kind": "release", "policy": "proposer", "url": url},
                {"kind": "assign", "policy": "coder", "url": url},
                {"kind": "bye"},
            ]
            for message in messages:
                inbox.put_nowait(message)
            await learner._receive()
            task = asyncio.create_task(world.servers[url].generate("coder", 100, b"p"))
            await asyncio.sleep(40)
            await _Session(world).post(f"{url}/abort_request")
            return (await task).left

    assert run_virtually(main()) == pytest.approx(60)
