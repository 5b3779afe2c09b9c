"""Servers of an evaluation's own: all started at once, heard whenever they are ready, missed."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from engine.errors import ConfigError, EngineError
from engine.routing import ServerPool
from engine.servers.host import ServerEvent
from engine.servers.spec import ServerSpec
from launch.evaluating import servers
from launch.evaluating.servers import serving
from launch.match import _trust_later

Play = Callable[[int, Callable[[str], None], asyncio.Event], Awaitable[None]]


def specs(count: int) -> list[ServerSpec]:
    return [
        ServerSpec(kind="embedded", model_dirs={"model": Path("m")}, ports={"model": 9000 + number})
        for number in range(count)
    ]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has each server do what a function says, in place of starting it."""

    def by(play: Play) -> None:
        async def serve(
            spec: ServerSpec, logs: Path, stop: asyncio.Event, tell: Callable[[ServerEvent], None]
        ) -> None:
            number = spec.ports["model"] - 9000
            await play(number, lambda kind: tell(ServerEvent(kind, 1)), stop)  # type: ignore[arg-type]

        monkeypatch.setattr(servers, "serve", serve)

    return by


def test_it_begins_when_all_are_ready_and_says_who_is_ready_again(
    tmp_path: Path, played: Callable[..., None]
) -> None:
    heard: list[str] = []

    async def scene() -> None:
        may_restart, has_restarted = asyncio.Event(), asyncio.Event()

        async def play(number: int, tell: Callable[[str], None], stop: asyncio.Event) -> None:
            tell("ready")
            await may_restart.wait()
            if number == 1:
                tell("died")
                tell("ready")
                has_restarted.set()
            await stop.wait()

        played(play)
        async with serving(specs(2), tmp_path, heard.append) as urls:
            assert sorted(heard) == sorted(urls)
            may_restart.set()
            await has_restarted.wait()
        assert heard[2:] == [urls[1]]

    asyncio.run(asyncio.wait_for(scene(), 20))


def test_one_that_cannot_start_ends_it_although_others_start_slowly(
    tmp_path: Path, played: Callable[..., None]
) -> None:
    async def play(number: int, tell: Callable[[str], None], stop: asyncio.Event) -> None:
        if number == 1:
            raise ConfigError("port in use")
        await stop.wait()  # never ready

    async def scene() -> None:
        played(play)
        async with serving(specs(2), tmp_path):
            raise AssertionError("it began")

    with pytest.raises(ConfigError, match="port in use"):
        asyncio.run(asyncio.wait_for(scene(), 20))


def test_one_that_died_for_good_is_told_at_the_end(
    tmp_path: Path, played: Callable[..., None]
) -> None:
    async def scene() -> None:
        may_die = asyncio.Event()

        async def play(number: int, tell: Callable[[str], None], stop: asyncio.Event) -> None:
            tell("ready")
            await may_die.wait()
            raise EngineError("died 6 times in 600 s")

        played(play)
        async with serving(specs(1), tmp_path):
            may_die.set()
            raise ConfigError("nothing has been answered")

    with pytest.raises(EngineError, match="died 6 times"):
        asyncio.run(asyncio.wait_for(scene(), 20))


def test_in_a_match_a_server_is_asked_again_after_a_connection_broke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No learner says there that it is back, and the process need not have ended."""
    monkeypatch.setattr("engine.routing.SUSPECT_S", 0.05)

    async def scene() -> None:
        pool = ServerPool("ours", max_concurrency=1)
        pool.on_gone = partial(_trust_later, pool)
        pool.mark_ready("http://x", 0)
        pool.mark_unready("http://x", "connection reset")
        assert pool.ready == {}
        async with asyncio.timeout(300), pool.place(b"", 1) as url:
            assert url == "http://x"

    asyncio.run(scene())
