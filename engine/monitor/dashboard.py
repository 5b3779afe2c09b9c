"""The dashboard's HTTP server: part of the engine's process, made to cost it little.

    GET  /                    the page             GET  /static/...      its parts
    GET  /events              server-sent events: "history" once, then "snapshot" and "points"
    GET  /gallery?role=...    games, as HTML       GET  /game/N          one, a permanent link
    GET  /image/HASH.png      a rendered picture   GET  /trace/N.json    a game's timeline
    GET  /filters             what the gallery can be filtered by
    GET  /metrics             for Prometheus       GET  /metrics/servers what rollout servers tell
    GET  /control, POST /control/ACTION            with the token, where the config allows it

Once a second `show` takes and encodes one snapshot for all who watch, and none where nobody does:
then one is taken when somebody comes. What reads the buffer does so in a thread, with a
connection of its own, one request at a time. Model text reaches a browser as JSON, which the page
shows as text, or escaped in HTML; a drawing's SVG only as the PNG that was rendered from it.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from engine.errors import EngineError
from engine.monitor import prometheus
from engine.monitor.access import bearer, guard, is_authorised, is_loopback
from engine.monitor.config import MonitorConfig
from engine.monitor.curves import Curves
from engine.monitor.shared import Shared
from engine.monitor.snapshot import Snapshot
from engine.monitor.stream import EventStream, encoded

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
STATIC = (
    "base.js",
    "flow.js",
    "charts.js",
    "app.js",
    "app.css",
    "icon.svg",
    "vendor/uPlot.iife.min.js",
    "vendor/uPlot.min.css",
    "vendor/uPlot-LICENSE.txt",
)
NUM_PORTS = 20
"""Ports that are tried from the configured one on."""
SERVERS_S = 1.0
FILTERS_S = 5.0
"""How old an answer may be that costs the servers, or a look at all games."""
CLOSE_S = 1.0
"""How long a browser may take to hear of the end."""


class Library(Protocol):
    """What the run keeps, for people to look at. Called in a thread; raises KeyError for what is
    not there."""

    def gallery(self, query: Mapping[str, str]) -> str:
        """HTML of the games that a query wants; ValueError says what is wrong with it."""
        ...

    def game(self, number: int) -> str:
        """A whole HTML page."""
        ...

    def image(self, name: str) -> bytes: ...

    def trace(self, number: int) -> dict[str, Any]: ...

    def filters(self) -> dict[str, list[str]]: ...


Action = Callable[[Mapping[str, Any]], Awaitable[str]]
"""Does what the control was asked for and says what it did; ValueError for a bad request."""


class Dashboard:
    """Use as an async context manager; raises EngineError where no port can be had."""

    def __init__(
        self,
        cfg: MonitorConfig,
        *,
        token: str,
        curves: Curves,
        library: Library,
        server_texts: Callable[[], Awaitable[Mapping[tuple[str, str], str | None]]],
        actions: Mapping[str, Action],
        port: int | None = None,
    ) -> None:
        """`server_texts`: {(policy, url): its /metrics, or None}. `port` is tried before the
        config's: that of the attempt before, for which browsers look."""
        self._cfg = cfg
        self._token = token
        self._curves = curves
        self._library = library
        self._server_texts = server_texts
        self._of_servers = Shared(self._merged, SERVERS_S)
        self._reasons = Shared(lambda: self._read(library.filters), FILTERS_S)
        self._actions = actions if cfg.control else {}
        self._ports = [
            *([] if port is None else [port]),
            *([0] if cfg.port == 0 else range(cfg.port, min(cfg.port + NUM_PORTS, 65536))),
        ]
        self._look: Callable[[], Snapshot] | None = None
        self._first_event = b""
        self._stream = EventStream(self._first)
        self._reading = asyncio.Semaphore(1)
        self.port = 0

    @property
    def url(self) -> str:
        """For a person: with the token, where one is asked."""
        # What listens everywhere is reached here; asyncio's `::` takes no IPv4.
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._cfg.host, self._cfg.host)
        name = f"[{name}]" if ":" in name else name
        asked = "" if is_loopback(self._cfg.host) else f"?token={self._token}"
        return f"http://{name}:{self.port}/{asked}"

    async def __aenter__(self) -> "Dashboard":
        needs_token = not is_loopback(self._cfg.host)
        check = guard(
            host=self._cfg.host,
            allowed_hosts=self._cfg.allowed_hosts,
            token=self._token if needs_token else None,
        )
        app = web.Application(middlewares=[check], client_max_size=4096)
        app.add_routes(
            [
                web.get("/", _file("index.html")),
                *(web.get(f"/static/{name}", _file(name)) for name in STATIC),
                web.get("/events", self._stream.handle),
                web.get("/gallery", self._gallery),
                web.get("/game/{number:[0-9]{1,18}}", self._game),
                web.get("/image/{name:[0-9a-f]{1,128}}.png", self._image),
                web.get("/trace/{number:[0-9]{1,18}}.json", self._trace),
                web.get("/filters", self._filters),
                web.get("/metrics", self._metrics),
                web.get("/metrics/servers", self._metrics_of_servers),
                web.get("/control", self._control),
                web.post("/control/{action}", self._act),
            ]
        )
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_S
        )
        await self._runner.setup()
        try:
            self.port = await self._listen()
        except BaseException:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stream.close()
        await self._runner.cleanup()

    def show(self, look: Callable[[], Snapshot]) -> None:
        """To everybody who watches: once a second. `look` takes the snapshot of this second; it
        stays good until the next call, for who comes meanwhile."""
        self._look = look
        self._first_event = b""
        if self._stream.num_clients:
            event = self._told(look())
            new = self._curves.take_new()
            if new is None:
                event += encoded("history", {"charts": self._curves.all()})
            elif new:
                event += encoded("points", {"charts": new})
            self._stream.send(event)

    def _first(self) -> bytes:
        """What a new client gets: the same for all who come within a second."""
        if not self._first_event:
            if self._stream.num_clients == 1:
                self._curves.take_new()  # new to others only; there are none
            self._first_event = encoded("history", {"charts": self._curves.all()})
            if self._look is not None:
                self._first_event += self._told(self._look())
        return self._first_event

    def _told(self, snapshot: Snapshot) -> bytes:
        told = {field.name: getattr(snapshot, field.name) for field in fields(snapshot)}
        return encoded("snapshot", told | {"time_s": time.time()})

    async def _listen(self) -> int:
        error: OSError | None = None
        for port in self._ports:
            site = web.TCPSite(self._runner, self._cfg.host, port, reuse_address=True)
            try:
                await site.start()
            except OSError as failed:
                error = failed
                await site.stop() if site in self._runner.sites else None
                continue
            return int(self._runner.addresses[0][1])
        raise EngineError(
            f"monitor.port: none of {self._ports[0]}..{self._ports[-1]} on {self._cfg.host} can be "
            f"had ({error}); choose another, or 0 for any"
        )

    async def _read(self, read: Callable[[], Any]) -> Any:
        async with self._reading:
            try:
                return await asyncio.to_thread(read)
            except KeyError:
                raise web.HTTPNotFound(text="there is no such thing in this run\n") from None
            except ValueError as error:
                raise web.HTTPBadRequest(text=f"{error}\n") from None

    async def _gallery(self, request: web.Request) -> web.Response:
        html = await self._read(lambda: self._library.gallery(request.query))
        return _html(html)

    async def _game(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        return _html(await self._read(lambda: self._library.game(number)))

    async def _image(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        png = await self._read(lambda: self._library.image(name))
        # Its name is its content's hash: it never changes.
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return web.Response(body=png, content_type="image/png", headers=headers)

    async def _trace(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        trace = await self._read(lambda: self._library.trace(number))
        headers = {"Content-Disposition": f'attachment; filename="game-{number}.json"'}
        return web.json_response(trace, headers=headers)

    async def _filters(self, _: web.Request) -> web.Response:
        return web.json_response(await self._reasons())

    async def _metrics(self, _: web.Request) -> web.Response:
        if self._look is None:
            raise web.HTTPServiceUnavailable(text="no snapshot yet\n")
        body = prometheus.exposition(self._look())
        return web.Response(body=body, headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def _metrics_of_servers(self, _: web.Request) -> web.Response:
        body = await self._of_servers()
        return web.Response(body=body, headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def _merged(self) -> bytes:
        return await asyncio.to_thread(prometheus.merged_servers, await self._server_texts())

    async def _control(self, _: web.Request) -> web.Response:
        return web.json_response({"enabled": bool(self._actions), "actions": list(self._actions)})

    async def _act(self, request: web.Request) -> web.Response:
        action = self._actions.get(request.match_info["action"])
        if action is None:
            error = "there is no such action, or monitor.control is off"
            return web.json_response({"error": error}, status=404)
        # The header alone: a browser sends cookies also for other pages' requests.
        if not (bearer(request) and is_authorised(request, self._token)):
            error = "wrong or no token; it lies in the run's folder: dashboard-token"
            return web.json_response({"error": error}, status=401)
        try:
            asked = json.loads(await request.text() or "{}")
            if not isinstance(asked, dict):
                raise ValueError("want a JSON object")
            done = await action(asked)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        log.info("control: %s: %s", request.match_info["action"], done)
        return web.json_response({"done": done})


def _file(name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def send(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(PAGE / name)

    return send


def _html(text: str) -> web.Response:
    # Model text may hold lone surrogates, which UTF-8 can't.
    body = text.encode("utf-8", errors="xmlcharrefreplace")
    return web.Response(body=body, content_type="text/html", charset="utf-8")
