"""The dashboard's server over the real engine with fakes: what it gives, to whom, and what not."""

import asyncio
import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, make_mocked_request
from prometheus_client.parser import text_string_to_metric_families

from engine import loop
from engine.monitor.access import is_authorised, read_or_make_token
from engine.monitor.config import MonitorConfig
from engine.monitor.curves import Curves, draw
from engine.monitor.dashboard import Dashboard
from engine.monitor.stream import MIN_UNREAD, EventStream
from launch import watching
from launch.snapshots import Snapshots
from tests.launch.staged import HOSTILE, WATCH_S, Staged, faster_looks

POLL_S = 0.05
TOKEN = {"Authorization": "Bearer right-token"}


def ask(
    url: str, *, headers: dict[str, str] | None = None, body: Any = None
) -> tuple[int, str, Any]:
    """(status, text, headers); POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def events(url: str, number: int, headers: dict[str, str] | None = None) -> list[tuple[str, Any]]:
    """The first server-sent events."""
    found = []
    request = urllib.request.Request(f"{url}events", headers=headers or {})
    with urllib.request.urlopen(request, timeout=300) as response:
        while len(found) < number:
            kind = response.readline().decode().removeprefix("event: ").strip()
            data = response.readline().decode().removeprefix("data: ")
            assert response.readline() == b"\n"
            found.append((kind, json.loads(data)))
    return found


def until(staged: Staged, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first of at most 400 snapshots for which something holds."""
    request = urllib.request.Request(f"{staged.url}events")
    with urllib.request.urlopen(request, timeout=300) as response:
        for _ in range(3 * 1200):
            line = response.readline().decode()
            if line.startswith('data: {"name"'):
                snapshot: dict[str, Any] = json.loads(line.removeprefix("data: "))
                if holds(snapshot):
                    return snapshot
    raise AssertionError("it never held")


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staged]:
    with pytest.MonkeyPatch.context() as patch:
        faster_looks(patch)
        settings = {"port": 0, "control": "true"}
        with Staged(tmp_path_factory.mktemp("staged"), settings=settings) as run:
            until(run, lambda snapshot: snapshot["games"]["finished"] >= 5)
            yield run


def test_events_begin_with_the_history_and_go_on_with_numbers_that_move(staged: Staged) -> None:
    until(staged, lambda snapshot: snapshot["elapsed_s"] > 30 * WATCH_S)  # and three records
    found = events(staged.url, 12)
    assert [kind for kind, _ in found[:2]] == ["history", "snapshot"]
    assert {chart["id"] for chart in found[0][1]["charts"]} >= {"reward", "tokens", "age"}
    finished = [data["games"]["finished"] for kind, data in found if kind == "snapshot"]
    assert finished == sorted(finished)
    until(staged, lambda snapshot: snapshot["games"]["finished"] > finished[0])
    kinds = (kind for _ in range(20) for kind, _ in events(staged.url, 20))
    assert any(kind == "points" for kind in kinds)


def test_metrics_are_what_a_scraper_reads(staged: Staged) -> None:
    status, text, headers = ask(f"{staged.url}metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    finished = families["streamzero_games_finished"].samples
    assert finished[0].value >= 5
    assert finished[0].labels == {"run": "staged"}
    assert ask(f"{staged.url}metrics/servers")[0] == 200  # nobody is at http://one


def test_a_game_has_a_permanent_link_its_picture_and_its_timeline(staged: Staged) -> None:
    status, page, headers = ask(f"{staged.url}game/1")
    assert status == 200
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    png = re.search(r'src="(/image/[0-9a-f]+\.png)"', page)
    assert png is not None
    with urllib.request.urlopen(f"{staged.url.rstrip('/')}{png.group(1)}") as response:
        assert response.headers["Content-Type"] == "image/png"
        assert response.read().startswith(b"\x89PNG")
    trace = json.loads(ask(f"{staged.url}trace/1.json")[1])
    rows = {event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert rows >= {"game 1", "sample solver", "render", "groups solver"}


@pytest.mark.parametrize("path", ["game/999999", "image/abc.png", "trace/999999.json", "game/x"])
def test_what_is_not_there_is_not_found(staged: Staged, path: str) -> None:
    assert ask(f"{staged.url}{path}")[0] == 404


@pytest.mark.parametrize(
    "path",
    ["static/../access.py", "static/%2e%2e/access.py", "static/app.py", "static//etc/passwd"],
)
def test_no_other_file_is_served(staged: Staged, path: str) -> None:
    assert ask(f"{staged.url}{path}")[0] == 404


def test_the_gallery_filters_and_says_what_is_wrong(staged: Staged) -> None:
    _, page, _ = ask(f"{staged.url}gallery?role=coder&min_reward=1.5&limit=2")
    assert page.count('<details class="game"') == 2
    assert HOSTILE not in page
    _, page, _ = ask(f"{staged.url}gallery?role=coder&min_reward=1.6")
    assert 'class="game"' not in page
    for query, field in (
        ("role=nobody", "role"), ("min_reward=high", "min_reward"), ("limit=0", "limit"),
        ("limit=1e9", "limit"), ("max_reward=NaN", "max_reward"),
    ):  # fmt: skip
        status, text, _ = ask(f"{staged.url}gallery?{query}")
        assert status == 400, query
        assert text.startswith(field)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example"]
)
def test_a_foreign_name_is_refused(staged: Staged, host: str) -> None:
    for path in ("", "events", "metrics", "image/aa.png"):
        assert ask(f"{staged.url}{path}", headers={"Host": host})[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:8620"])
def test_loopback_and_tunnels_are_known(staged: Staged, host: str) -> None:
    assert ask(f"{staged.url}metrics", headers={"Host": host})[0] == 200


def test_control_wants_the_token_in_the_header(staged: Staged) -> None:
    url = f"{staged.url}control/pause"
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Cookie": f"streamzero_token_{staged.url.split(':')[2].strip('/')}=right-token"},
    ):
        assert ask(url, headers=headers, body={})[0] == 401
    assert not until(staged, lambda _: True)["is_paused"]
    assert ask(f"{staged.url}control/explode", headers=TOKEN, body={})[0] == 404
    assert ask(f"{staged.url}control/log-level", headers=TOKEN, body={"level": "all"})[0] == 400
    assert ask(f"{staged.url}control/log-level", headers=TOKEN, body=["level"])[0] == 400


def test_pause_holds_admission_until_resume(staged: Staged) -> None:
    assert ask(f"{staged.url}control/pause", headers=TOKEN, body={})[0] == 200

    seen: list[int] = []

    def is_still(snapshot: dict[str, Any]) -> bool:
        """For a second: its sums may be a little older than the rest."""
        games = snapshot["games"]
        if (
            snapshot["is_paused"]
            and games["in_flight"] == 0
            and games["started"] == games["finished"]
        ):
            seen.append(games["started"])
        return len(seen) >= 20 and len(set(seen[-20:])) == 1

    still = until(staged, is_still)
    assert "Paused" in still["bottleneck"]["sentence"]
    later = [data for kind, data in events(staged.url, 8) if kind == "snapshot"][-1]
    assert later["games"]["started"] == still["games"]["started"]
    assert ask(f"{staged.url}control/resume", headers=TOKEN, body={})[0] == 200
    until(staged, lambda s: s["games"]["started"] > still["games"]["started"] + 5)


def test_control_is_off_by_default(tmp_path: Path) -> None:
    with Staged(tmp_path, settings={"port": 0}) as run:
        assert json.loads(ask(f"{run.url}control")[1])["enabled"] is False
        assert ask(f"{run.url}control/pause", headers=TOKEN, body={})[0] == 404


def test_another_address_asks_everybody_for_the_token(tmp_path: Path) -> None:
    with Staged(tmp_path, settings={"port": 0, "host": "0.0.0.0"}) as run:
        url = run.url.partition("?")[0]
        assert run.url == f"{url}?token=right-token"
        for path in ("", "metrics", "events", "game/1", "static/app.js"):
            assert ask(f"{url}{path}")[0] == 401
            assert ask(f"{url}{path}?token=wrong")[0] == 401
        assert ask(f"{url}metrics", headers=TOKEN)[0] == 200
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(run.url) as response:  # the cookie of the visit opens the page
            assert response.url == url
            assert "<title>" in response.read().decode()


class FakeLibrary:
    def __init__(self) -> None:
        self.looks = 0

    def filters(self) -> dict[str, list[str]]:
        self.looks += 1
        return {"roles": [], "reasons": []}


@asynccontextmanager
async def dashboard(
    library: Any = None, server_texts: Any = None, token: str = "x" * 32, **settings: Any
) -> AsyncIterator[Dashboard]:
    """One without a run."""
    cfg = MonitorConfig(port=0, **settings)
    async with Dashboard(
        cfg,
        token=token,
        curves=Curves(draw),
        library=library,
        server_texts=server_texts,
        actions={},
    ) as own:
        yield own


def test_what_is_dear_is_made_once_for_all_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    scrapes, library = 0, FakeLibrary()
    all_asked = asyncio.Event()

    async def texts() -> dict[tuple[str, str], str | None]:
        nonlocal scrapes
        scrapes += 1
        await all_asked.wait()
        return {("a", "http://x"): "up 1\n", ("a", "http://dead"): None}

    async def scene() -> None:
        async with dashboard(library, texts) as own, aiohttp.ClientSession(own.url) as session:
            asked = [asyncio.create_task(session.get("/metrics/servers")) for _ in range(9)]
            for path in ["/filters"] * 9:  # these answers came, so the others are under way
                async with session.get(path) as response:
                    assert response.status == 200
            all_asked.set()
            answers = [await task for task in asked]
            answers.append(await session.get("/metrics/servers"))
            for answer in answers:
                text = await answer.text()
                assert 'streamzero_server_scrape_failed{policy="a",server="http://dead"} 1' in text

    asyncio.run(asyncio.wait_for(scene(), 20))
    assert (scrapes, library.looks) == (1, 1)


def test_two_dashboards_of_one_host_keep_their_cookies_apart() -> None:
    async def scene() -> None:
        jar = aiohttp.CookieJar(unsafe=True)  # that of a browser: by host, whatever the port
        async with (
            dashboard(token="a" * 32, host="0.0.0.0") as one,
            dashboard(token="b" * 32, host="0.0.0.0") as other,
            aiohttp.ClientSession(cookie_jar=jar) as session,
        ):
            for own in (one, other, one, other):
                if own.port not in visited:
                    async with session.get(own.url) as response:
                        assert response.status == 200
                    visited.add(own.port)
                async with session.get(f"http://127.0.0.1:{own.port}/filters-not") as response:
                    assert response.status == 404, "known by its cookie"

    visited: set[int] = set()
    asyncio.run(asyncio.wait_for(scene(), 20))
    assert len(visited) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "127.0.0.1"])
def test_the_address_that_is_announced_works(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("NO IPv6 HERE")

    async def scene() -> None:
        jar = aiohttp.CookieJar(unsafe=True)  # else it keeps none of an address
        async with (
            dashboard(host=host) as own,
            aiohttp.ClientSession(cookie_jar=jar) as session,
            session.get(own.url) as response,
        ):
            assert response.status == 200

    asyncio.run(asyncio.wait_for(scene(), 20))


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_port_that_is_taken_is_passed_over(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Staged(tmp_path, settings={"port": port}) as run:
            assert run.dashboard is not None
            assert port < run.dashboard.port <= port + 20


@asynccontextmanager
async def slow_reader(first: bytes) -> AsyncIterator[EventStream]:
    """Events to a client that has begun to read the first, and then reads no more."""
    stream = EventStream(lambda: first)
    app = web.Application()
    app.router.add_get("/events", stream.handle)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(first[:3])
        yield stream
        writer.transport.abort()


def test_a_reader_that_does_not_read_is_let_go() -> None:
    """With a full socket it would have the engine keep its events for ever."""

    async def scene() -> None:
        async with slow_reader(b"x" * 1000) as stream:
            assert stream.num_clients == 1
            for _ in range(1000):
                stream.send(b"y" * (1 << 20))
                await asyncio.sleep(0)
                if not stream.num_clients:
                    break
            assert stream.num_clients == 0

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_who_reads_slowly_gets_its_first_event_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        async with slow_reader(b"x" * (16 << 20)) as stream:
            (client,) = stream._clients
            for _ in range(5):
                stream.send(b"y" * 1000)
                await asyncio.sleep(0)
            assert client.transport.get_write_buffer_size() > MIN_UNREAD
            assert stream.num_clients == 1
            monkeypatch.setattr(client, "until_s", 0.0)
            stream.send(b"y" * 1000)
            assert stream.num_clients == 0, "but not for ever"

    asyncio.run(asyncio.wait_for(scene(), 30))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_events_arrive_whole_and_in_order_behind_the_first_and_then_end(version: str) -> None:
    events = [f"event {number} ".encode() * 10**number for number in range(5)]

    async def scene() -> bytes:
        stream = EventStream(lambda: b"first ")
        app = web.Application()
        app.router.add_get("/events", stream.handle)
        async with TestServer(app) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            head = f"GET /events HTTP/{version}\r\nHost: localhost\r\n\r\n"
            writer.write(head.encode())
            await reader.readuntil(b"\r\n\r\n")
            while not stream.num_clients:
                await asyncio.sleep(0)
            for event in events:
                stream.send(event)
            reading = asyncio.ensure_future(_body(reader, is_chunked=version == "1.1"))
            while any(c.transport.get_write_buffer_size() for c in stream._clients):
                await asyncio.sleep(0)
            stream.close()
            assert stream.num_clients == 0
            found = await reading
            writer.close()
            return found

    assert asyncio.run(asyncio.wait_for(scene(), 30)) == b"first " + b"".join(events)


async def _body(reader: asyncio.StreamReader, *, is_chunked: bool) -> bytes:
    if not is_chunked:
        return await reader.read()
    found = b""
    while size := int(await reader.readline(), 16):
        found += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    return found


def test_a_page_of_another_site_may_link_but_not_load(staged: Staged) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert (
        ask(f"{staged.url}trace/1.json", headers={**foreign, "Sec-Fetch-Mode": "no-cors"})[0] == 403
    )
    assert ask(f"{staged.url}game/1", headers={**foreign, "Sec-Fetch-Mode": "navigate"})[0] == 200


def test_a_token_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "dashboard-token"
    path.write_text("")
    token = read_or_make_token(path)
    assert len(token) >= 32
    assert read_or_make_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_token_is_nobody_s() -> None:
    assert not is_authorised(make_mocked_request("GET", "/"), "")
    request = make_mocked_request("GET", "/", headers={"Authorization": "Bearer ÿ"})
    assert not is_authorised(request, "right-token")


def test_a_view_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faster_looks(monkeypatch)
    with Staged(tmp_path, settings={"port": 0}) as run:
        assert run.watcher is not None

        def broken(snapshot: Any) -> None:
            raise RuntimeError("a view")

        run.watcher.views.insert(0, broken)
        now = until(run, lambda _: True)["games"]["finished"]
        until(run, lambda snapshot: snapshot["games"]["finished"] > now + 5)


def test_who_comes_after_nobody_watched_gets_numbers_of_now_and_then_each_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WATCH_S", 0.5)
    monkeypatch.setattr(watching, "RECORD_EVERY_S", 1000.0)
    calls: list[tuple[str, Snapshots, float]] = []

    def counted(name: str) -> Callable[..., Any]:
        function = getattr(Snapshots, name)

        def call(self: Snapshots, *given: Any) -> Any:
            calls.append((name, self, time.monotonic()))
            return function(self, *given)

        return call

    for name in ("look", "take"):
        monkeypatch.setattr(Snapshots, name, counted(name))
    with Staged(tmp_path, settings={"port": 0}) as run:
        assert run.watcher is not None
        own = run.watcher._snapshots  # the module's run goes on beside it

        def times_of(name: str) -> list[float]:
            return [t for kind, of, t in calls if kind == name and of is own]

        deadline = time.monotonic() + 300
        while len(times_of("look")) < 4:
            assert time.monotonic() < deadline, "nobody looks"
            time.sleep(0.05)
        assert len(times_of("take")) == 1, "the first line on the terminal"
        elapsed_s = run.watcher._tally.elapsed_s
        found = [data for kind, data in events(run.url, 5) if kind == "snapshot"]
        times = [elapsed_s, *(snapshot["elapsed_s"] for snapshot in found)]
        assert all(before < after for before, after in pairwise(times)), "each taken anew"
        deadline = time.monotonic() + 300
        while sum(t > times_of("take")[-1] for t in times_of("look")) < 2:
            assert time.monotonic() < deadline, "snapshots for a client that is gone"
            time.sleep(0.05)
        number, elapsed_s = len(times_of("take")), run.watcher._tally.elapsed_s
        text = ask(f"{run.url}metrics")[1]
        families = {family.name: family for family in text_string_to_metric_families(text)}
        told_s = families["streamzero_elapsed_seconds"].samples[0].value
        assert told_s >= elapsed_s, "taken for it"
        assert len(times_of("take")) <= number + 1
