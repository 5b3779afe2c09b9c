"""Server-sent events to many browsers: each event is encoded once, and a slow reader is let go.

An event is written straight to every client's connection: no task wakes up for it. What a client
has not read lies in its connection's buffer; who lets too much lie there is disconnected, comes
back by itself and gets everything anew. So no client can make the engine hold more than that. The
first event, all that was before, is large: over a slow link it may take a while.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from engine.metrics import to_json

MAX_CLIENTS = 64
MAX_UNREAD = 8
"""Events of the newest one's size that a client may leave unread: some seconds."""
MIN_UNREAD = 256 * 1024
"""Bytes that it may leave unread in any case."""
FIRST_S = 60.0
"""For so long, it may leave its first event unread besides."""


def encoded(event: str, data: Any) -> bytes:
    """One event. Numbers that JSON does not know become null, lone surrogates escapes."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), to_json(data))


@dataclass(slots=True, eq=False)
class _Client:
    transport: asyncio.WriteTransport
    is_chunked: bool
    """Of HTTP/1.1."""
    until_s: float
    """By when it must have read its first event, on the event loop's clock."""
    first: int = 0
    """Bytes of that, while it has not read it."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class EventStream:
    """Events to whoever listens. `first` makes what a new client gets before all others."""

    def __init__(self, first: Callable[[], bytes]) -> None:
        self._first = first
        self._clients: set[_Client] = set()

    @property
    def num_clients(self) -> int:
        return len(self._clients)

    def send(self, event: bytes) -> None:
        """To all; never waits."""
        most = max(MIN_UNREAD, MAX_UNREAD * len(event))
        now_s = asyncio.get_running_loop().time()
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        for client in list(self._clients):
            transport = client.transport
            unread = transport.get_write_buffer_size()
            if unread <= most or now_s > client.until_s:
                client.first = 0
            if transport.is_closing():
                self._let_go(client)
            elif unread > most + client.first:
                transport.abort()
                self._let_go(client)
            else:
                transport.write(chunk if client.is_chunked else event)

    def close(self) -> None:
        """The clients get what is written to them, then the end."""
        for client in list(self._clients):
            if client.transport.get_write_buffer_size():
                client.transport.abort()
            self._let_go(client)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A client, for as long as it stays."""
        if len(self._clients) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_CLIENTS} browsers are watching already\n")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        is_chunked = request.version >= (1, 1)
        if is_chunked:
            response.enable_chunked_encoding()
        await response.prepare(request)
        transport = request.transport
        if not isinstance(transport, asyncio.WriteTransport):
            return response  # it went away
        client = _Client(transport, is_chunked, until_s=asyncio.get_running_loop().time() + FIRST_S)
        self._clients.add(client)
        try:
            first = self._first()
            client.first = len(first)
            await response.write(first)
            await client.ended.wait()
        except ConnectionError:
            pass  # it went away, or was let go
        finally:
            self._clients.discard(client)
        return response

    def _let_go(self, client: _Client) -> None:
        self._clients.discard(client)
        client.ended.set()
