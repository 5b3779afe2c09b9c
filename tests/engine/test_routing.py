"""Which server a request goes to, and who waits."""

import asyncio
import json
import re
from contextlib import AsyncExitStack

import pytest

from engine.routing import SUSPECT_S, ServerPool


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def ready_pool(*urls: str, max_concurrency: int = 100) -> ServerPool:
    pool = ServerPool("policy", max_concurrency=max_concurrency)
    for url in urls:
        pool.mark_ready(url, 1)
    return pool


def test_the_least_loaded_server_is_taken() -> None:
    async def scene() -> None:
        pool = ready_pool("a", "b")
        async with pool.place(b"1", 100) as first, pool.place(b"2", 10) as second:
            assert {first, second} == {"a", "b"}
            async with pool.place(b"3", 1) as third:
                assert third == second

    asyncio.run(scene())


def test_a_prefix_keeps_its_server_until_that_one_is_overloaded() -> None:
    async def scene() -> None:
        pool = ready_pool("a", "b")
        async with AsyncExitStack() as stack:
            places = [await stack.enter_async_context(pool.place(b"1", 10)) for _ in range(40)]
        assert len(set(places[:32])) == 1
        assert len(set(places)) == 2

    asyncio.run(scene())


def test_the_server_to_avoid_is_taken_where_there_is_no_other() -> None:
    async def scene() -> None:
        pool = ready_pool("a", "b")
        async with pool.place(b"1", 1, avoid="a") as url:
            assert url == "b"
        pool.mark_unready("b")
        async with pool.place(b"1", 1, avoid="a") as url:
            assert url == "a"
        assert pool.ready == {"a": 1}

    asyncio.run(scene())


def test_a_server_that_failed_is_the_last_choice_until_it_is_ready_again() -> None:
    async def scene() -> None:
        pool = ready_pool("a", "b")
        pool.report_failure("a")
        async with pool.place(b"1", 100) as first, pool.place(b"2", 1) as second:
            assert (first, second) == ("b", "b")
        pool.mark_ready("a", 2)
        async with pool.place(b"1", 100) as first, pool.place(b"2", 1) as second:
            assert (first, second) == ("b", "a")

    asyncio.run(scene())


def test_a_server_that_failed_is_trusted_again_after_a_while() -> None:
    now_s = [50.0]

    async def scene() -> None:
        pool = ServerPool("policy", max_concurrency=9, clock=lambda: now_s[0])
        for url in ("a", "b"):
            pool.mark_ready(url, 1)
        pool.report_failure("a")
        for passed_s, expected in ((0.0, "b"), (SUSPECT_S - 0.1, "b"), (0.2, "a")):
            now_s[0] += passed_s
            async with pool.place(b"1", 100) as first, pool.place(b"2", 1) as second:
                assert expected in (first, second)
                assert (first == second) is (expected == "b")

    asyncio.run(scene())


def test_waiters_are_served_in_order_and_cancelled_ones_hold_nothing() -> None:
    async def scene() -> None:
        pool = ready_pool("a", max_concurrency=1)
        order: list[int] = []

        async def take(number: int) -> None:
            async with pool.place(b"", 1):
                order.append(number)

        async with pool.place(b"", 1):
            tasks = [asyncio.create_task(take(number)) for number in range(5)]
            await settle()
            assert pool.stats()["waiting"] == 5
            tasks[1].cancel()
            await settle()
            tasks[0].cancel()  # and the place falls free in the same moment
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        await asyncio.wait_for(asyncio.gather(*tasks[2:]), 300)
        assert order == [2, 3, 4]
        assert pool.stats()["servers"]["a"] == {"version": 1, "running": 0, "outstanding": 0}

    asyncio.run(scene())


def test_a_place_given_to_a_cancelled_waiter_is_passed_on() -> None:
    async def scene() -> None:
        pool = ready_pool("a", max_concurrency=1)

        async def take() -> None:
            async with pool.place(b"", 1):
                pass

        async with pool.place(b"", 1):
            first, second = asyncio.create_task(take()), asyncio.create_task(take())
            await settle()
        first.cancel()  # its place was granted a moment ago, but it did not run yet
        await asyncio.wait_for(second, 300)
        assert first.cancelled()
        assert pool.stats()["servers"]["a"]["running"] == 0

    asyncio.run(scene())


def test_an_unready_server_gets_nothing() -> None:
    async def scene() -> None:
        pool = ready_pool("a")
        pool.mark_unready("a")
        pool.mark_unready("never seen")
        waiting = asyncio.create_task(pool.place(b"", 1).__aenter__())
        await settle()
        assert not waiting.done()
        pool.mark_ready("b", 2)
        assert await asyncio.wait_for(waiting, 300) == "b"

    asyncio.run(scene())


def test_servers_that_come_and_go_are_events_each_told_once() -> None:
    pool, told = ready_pool(), list[tuple[str, str]]()
    pool.on_event = lambda level, text: told.append((level, text))
    pool.mark_ready("a", 3)
    pool.mark_ready("a", 4)
    for _ in range(3):  # every request that was there finds out by itself
        pool.mark_unready("a", "killed")
    pool.mark_ready("a", 5)
    pool.mark_unready("a")  # what the caller tells in its own words
    assert [level for level, _ in told] == ["info", "warning", "info"]
    first, gone, back = (text for _, text in told)
    assert first == "policy: a serves version 3"
    assert gone == "policy: a is gone: killed"
    assert re.fullmatch(r"policy: a is back after \d+\.\d s, with version 5", back)


def test_who_would_avoid_a_server_does_not_keep_others_from_it() -> None:
    async def scene() -> None:
        pool = ready_pool("a", "b", max_concurrency=1)
        async with pool.place(b"1", 1, avoid="a") as url:
            assert url == "b"
            async with pool.place(b"2", 1, avoid="a") as url:
                assert url == "a", "the only one with room"

    asyncio.run(scene())


def test_a_server_that_runs_few_requests_gets_few() -> None:
    async def scene() -> None:
        pool = ready_pool("a", "b", max_concurrency=3)
        pool.set_limit("a", 1)
        pool.set_limit("b", 100)  # our own bound holds as well
        pool.set_limit("never seen", 1)
        async with AsyncExitStack() as stack:
            for i in range(4):
                await stack.enter_async_context(pool.place(b"%d" % i, 10))
            servers = pool.stats()["servers"]
            assert (servers["a"]["running"], servers["b"]["running"]) == (1, 3)
            waiting = asyncio.create_task(stack.enter_async_context(pool.place(b"5", 10)))
            await settle()
            assert not waiting.done()
            pool.set_limit("a", 2)
            assert await waiting == "a"

    asyncio.run(scene())


def test_a_server_that_was_away_still_runs_as_few() -> None:
    async def scene() -> None:
        pool = ready_pool("a", max_concurrency=3)
        pool.set_limit("a", 1)
        pool.remove("a")
        pool.mark_ready("a", 9)
        async with AsyncExitStack() as stack:
            async with pool.place(b"1", 10):
                waiting = asyncio.create_task(stack.enter_async_context(pool.place(b"2", 10)))
                await settle()
                assert not waiting.done()
            assert await waiting == "a"

    asyncio.run(scene())


def test_what_another_process_has_at_the_servers_counts() -> None:
    async def scene() -> None:
        pool, other = ready_pool("a", "b"), ready_pool("a", "b")
        for tokens in (100, 250):
            async with other.place(b"1", 500):
                other.counts["tokens"] += tokens
                pool.hear("other", **json.loads(json.dumps(other.tell())))
                busy = [u for u, s in pool.stats()["servers"].items() if s["outstanding"] == 500]
                async with pool.place(b"%d" % tokens, 10) as url:
                    assert [url] != busy
        pool.hear("other", **other.tell())
        pool.counts["tokens"] += 7
        assert pool.stats()["tokens"] == 357
        assert {s["running"] for s in pool.stats()["servers"].values()} == {0}
        told = {"counts": {"tokens": 5}, "waiting": 3, "servers": {"gone": [1, 1]}}
        pool.hear("a third", **told)
        assert (pool.stats()["tokens"], pool.stats()["waiting"]) == (362, 3)

    asyncio.run(scene())


def test_a_prefix_leaves_a_server_that_another_process_has_overloaded() -> None:
    async def scene() -> None:
        pool = ServerPool("solver", max_concurrency=4)
        for url in ("one", "two"):
            pool.mark_ready(url, 1)
        async with pool.place(b"prefix", 10) as home:
            pass
        pool.hear("other", counts={}, waiting=0, servers={home: [3, 10_000]})
        async with pool.place(b"prefix", 10) as url:
            assert url != home

    asyncio.run(scene())


def test_who_waits_is_woken_when_a_server_is_trusted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else happens then: the other server is full, and nobody leaves it."""
    monkeypatch.setattr("engine.routing.SUSPECT_S", 0.1)

    async def scene() -> None:
        pool = ready_pool("a", "b", max_concurrency=1)
        pool.report_failure("a")
        async with (
            pool.place(b"1", 1) as first,
            asyncio.timeout(300),
            pool.place(b"2", 1) as second,
        ):
            assert (first, second) == ("b", "a")

    asyncio.run(scene())
