"""SGLang's router, as far as it goes without one (the rest: `tests/contract/test_router.py`)."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from engine.config import LayoutConfig
from engine.errors import ConfigError
from engine.layout import check_layout, router_host, router_url
from engine.routing import ServerPool
from engine.server_link import ServerLink
from engine.servers.router import check_router, check_routers
from engine.servers.spec import ServerSpec, command_line, write_keys
from engine.weights import publish
from tests.contract.conftest import Hosted
from tests.engine.server_process import KEY, free_port, request, tiny_dir, tiny_module

SPEC = ServerSpec(
    kind="router",
    model_dirs={},
    ports={"solver": 4000},
    workers=("http://127.0.0.1:4001", "http://127.0.0.1:4002"),
    max_running=64,
    api_key="secret",
)


def layout(**routers: str) -> LayoutConfig:
    return LayoutConfig.model_validate(
        {
            "learners": [{"ranks": [0], "policies": ["a", "b"]}],
            "servers": [{"rank": 1, "policies": ["a"]}, {"rank": 2, "policies": ["a", "b"]}],
            "routers": routers,
        }
    )


def test_its_command_tells_the_servers_and_no_key(tmp_path: Path) -> None:
    keys = write_keys(SPEC, tmp_path / "keys.yaml")
    command = command_line(SPEC, keys)
    assert command[0] == sys.executable
    options = json.loads(command[3])
    assert options["worker_urls"] == list(SPEC.workers)
    assert options["disable_retries"] is True
    assert options["balance_abs_threshold"] == 8
    assert command[-2:] == ["--config", str(keys)]
    assert not any("secret" in word for word in command)


def test_a_router_needs_servers() -> None:
    with pytest.raises(ConfigError, match="servers behind it"):
        ServerSpec(kind="router", model_dirs={}, ports={"solver": 4000})


def test_a_policys_router_runs_where_its_first_servers_do() -> None:
    good = layout(b="127.0.0.1:4000")
    check_layout(good, ("a", "b"), world=3)
    assert router_host(good, "b").rank == 2
    assert router_url(good, "b") == "http://127.0.0.1:4000"
    assert router_url(good, "a") is None
    with pytest.raises(ConfigError, match="no servers of 'c'"):
        check_layout(layout(c="127.0.0.1:4000"), ("a", "b"), world=3)
    with pytest.raises(ValueError, match="pattern"):
        layout(b="4000")


def test_what_a_router_can_not_do_is_refused_only_where_there_is_one() -> None:
    not_with = {"x: too slow": False, "elastic.enabled: they stay": True}
    check_routers(layout(), not_with)
    with pytest.raises(ConfigError, match=r"^layout.routers: not with elastic.enabled: they stay$"):
        check_routers(layout(a="127.0.0.1:4000"), not_with)


def test_an_interpreter_without_the_package_is_told_what_to_install(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(ConfigError, match=r"routers.a: .*sglang-router==0.3.2"):
        check_router("a", str(bare))
    with pytest.raises(ConfigError, match="does not run"):
        check_router("a", str(tmp_path / "nothing"))


def test_requests_go_to_the_router_while_any_server_behind_it_is_ready() -> None:
    async def scene() -> None:
        pool = ServerPool("policy", max_concurrency=2, router="r")
        events: list[str] = []
        pool.on_event = lambda level, text: events.append(text)
        pool.mark_ready("a", 1)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                assert await stack.enter_async_context(pool.place(b"1", 10, avoid="r")) == "r"
            third = asyncio.create_task(stack.enter_async_context(pool.place(b"1", 10)))
            await asyncio.sleep(0)
            assert not third.done()
            pool.mark_ready("b", 1)  # room for two more
            assert await third == "r"
            assert pool.demand == 30
            assert pool.ready == {"a": 1, "b": 1}
            assert pool.stats()["servers"]["r"]["running"] == 3
        pool.mark_unready("a")
        async with pool.place(b"1", 10) as url:
            assert url == "r"
        pool.mark_unready("r", "connection refused")  # so none can be reached
        assert pool.ready == {}
        waits = asyncio.create_task(stack.enter_async_context(pool.place(b"1", 10)))
        await asyncio.sleep(0)
        assert not waits.done()
        pool.mark_ready("b", 2)
        assert await waits == "r"
        assert "b is gone: its router is: connection refused" in events[2]
        assert "b is back" in events[3]

    asyncio.run(scene())


def test_a_server_behind_a_router_generates_nothing_before_it_is_filled() -> None:
    hosted = Hosted(
        ServerSpec(
            kind="embedded",
            model_dirs={"tiny": tiny_dir()},
            ports={"tiny": free_port()},
            api_key=KEY,
            starts_paused=True,
        )
    )
    try:
        assert request(hosted.url, "/ready")[0] == 503
        link = ServerLink(hosted.url, key=KEY)
        link.connect(timeout_s=300)
        weights = list(tiny_module(0).state_dict().items())
        assert not publish(weights, [link], version=12, timeout_s=300).failed
        link.close()
        assert request(hosted.url, "/ready")[0] == 200
    finally:
        hosted.close()
