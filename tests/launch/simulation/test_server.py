"""A simulated server against closed forms of continuous batching."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from launch.simulation.clock import run_virtually
from launch.simulation.cores import Cores
from launch.simulation.server import Server
from launch.simulation.service_times import ServerTimes

T = TypeVar("T")
TIMES = ServerTimes(step_s=0.01, row_s=0.002, prompt_s=0.5, request_s=0.05, update_s=3.0)


def on_server(main: Callable[[Server], Awaitable[T]], times: ServerTimes = TIMES) -> T:
    async def begin() -> T:
        server = Server(times, Cores())
        server.versions = {"a": 1, "b": 1}
        return await main(server)

    return run_virtually(begin())


async def ends(server: Server, *asked: tuple[float, str, int, object]) -> list[float]:
    """When requests (begin, policy, tokens, prefix) are answered."""

    async def one(begin_s: float, policy: str, tokens: int, prefix: object) -> float:
        await asyncio.sleep(begin_s)
        await server.generate(policy, tokens, prefix)
        return asyncio.get_running_loop().time()

    return await asyncio.gather(*(one(*request) for request in asked))


def test_one_request_takes_its_prompt_and_its_steps() -> None:
    (end,) = on_server(lambda server: ends(server, (0, "a", 100, "p")))
    assert end == pytest.approx(0.55 + 100 * 0.012)


def test_a_kept_prompt_is_not_computed_again() -> None:
    first, second = on_server(lambda s: ends(s, (0, "a", 100, "p"), (10, "a", 100, "p")))
    assert second - 10 == pytest.approx(first - 0.5)


def test_rows_share_the_steps() -> None:
    times = ServerTimes(step_s=0.01, row_s=0.002)
    short, long = on_server(lambda s: ends(s, (0, "a", 50, "p"), (0, "a", 150, "p")), times)
    # 50 steps of two rows, then 100 of one.
    assert (short, long) == pytest.approx((50 * 0.014, 50 * 0.014 + 100 * 0.012))


def test_who_joins_slows_the_others_down_and_is_slowed_down() -> None:
    times = ServerTimes(step_s=0.01, row_s=0.002)
    first, late = on_server(lambda s: ends(s, (0, "a", 100, "p"), (0.6, "a", 100, "p")), times)
    # 50 tokens alone, 50 steps together, the other's 50 alone.
    assert first == pytest.approx(0.6 + 50 * 0.014)
    assert late == pytest.approx(0.6 + 50 * 0.014 + 50 * 0.012)


def test_each_policy_has_a_step_of_its_own() -> None:
    times = ServerTimes(step_s=0.01, row_s=0.002)
    both = on_server(lambda s: ends(s, (0, "a", 100, "p"), (0, "b", 100, "p")), times)
    assert both == pytest.approx([100 * 0.024] * 2)


def test_an_update_keeps_what_was_sampled_and_computes_it_anew() -> None:
    async def main(server: Server) -> tuple[float, list[int]]:
        task = asyncio.create_task(server.generate("a", 100, "p"))
        await asyncio.sleep(0.55 + 40 * 0.012)
        server.pause("a")
        await server.work(server.times.update_s)
        server.resume("a", 2)
        request = await task
        return asyncio.get_running_loop().time(), request.versions

    end, versions = on_server(main)
    assert end == pytest.approx(0.55 + 40 * 0.012 + 3.0 + 0.5 + 60 * 0.012)
    assert versions == [1, 2]


def test_a_paused_policy_does_not_hold_up_the_other() -> None:
    async def main(server: Server) -> tuple[float, bool]:
        server.pause("a")
        waits = asyncio.create_task(server.generate("a", 10, "p"))
        await server.generate("b", 100, "p")
        at_s, is_done = asyncio.get_running_loop().time(), waits.done()
        server.resume("a", 2)
        await waits
        return at_s, is_done

    at_s, is_done = on_server(main)
    assert at_s == pytest.approx(0.55 + 100 * 0.012)
    assert not is_done


def test_an_interrupted_request_says_what_is_left() -> None:
    async def main(server: Server) -> float:
        task = asyncio.create_task(server.generate("a", 100, "p"))
        await asyncio.sleep(0.55 + 40 * 0.012)
        server.interrupt("a")
        return (await task).left

    assert on_server(main) == pytest.approx(60)


def test_an_interrupt_ends_requests_that_wait_for_their_prompt_or_for_weights() -> None:
    async def main(server: Server) -> tuple[float, float, float, float]:
        loop = asyncio.get_running_loop()
        comes = asyncio.create_task(server.generate("a", 100, "p"))
        await asyncio.sleep(0.2)
        server.interrupt("a")
        left = (await comes).left
        ended_s = loop.time()
        server.pause("a")
        paused = asyncio.create_task(server.generate("a", 100, "p"))
        await asyncio.sleep(10)
        server.interrupt("a")
        left_paused = (await paused).left
        server.resume("a", 2)
        began_s = loop.time()
        await server.generate("a", 100, "p")
        return ended_s, left, left_paused, loop.time() - began_s

    ended_s, left, left_paused, alone_s = on_server(main)
    assert ended_s == pytest.approx(0.2)
    assert left == left_paused == 100
    assert alone_s == pytest.approx(0.55 + 100 * 0.012), "nobody else is in the batch"


def test_a_cancelled_request_leaves_the_batch() -> None:
    async def main(server: Server) -> float:
        gone = asyncio.create_task(server.generate("a", 1000, "p"))
        stays = asyncio.create_task(server.generate("a", 100, "p"))
        await asyncio.sleep(0.6 + 50 * 0.014)
        gone.cancel()
        await stays
        return asyncio.get_running_loop().time()

    assert on_server(main) == pytest.approx(0.6 + 50 * 0.014 + 50 * 0.012)


def test_an_answer_comes_between_two_steps() -> None:
    async def main(server: Server) -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        await server.answer()
        idle_s = loop.time()
        task = asyncio.create_task(server.generate("a", 100, "p"))
        await asyncio.sleep(1.0)
        began_s = loop.time()
        await server.answer(2.0)
        took_s = loop.time() - began_s
        await task
        return idle_s, took_s

    assert on_server(main) == pytest.approx((0.0, 2 * 0.012))


def test_a_saturated_server_gives_what_its_steps_allow() -> None:
    """64 callers that ask again at once: n / (a + b n) tokens per second."""
    times, tokens, rounds = ServerTimes(step_s=0.01, row_s=0.0005), 50, 20

    async def main(server: Server) -> float:
        async def caller(name: int) -> None:
            for _ in range(rounds):
                await server.generate("a", tokens, name)

        await asyncio.gather(*(caller(name) for name in range(64)))
        return 64 * rounds * tokens / asyncio.get_running_loop().time()

    assert on_server(main, times) == pytest.approx(64 / (0.01 + 0.0005 * 64), rel=1e-6)
