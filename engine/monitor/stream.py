"""Server-sent events to many browsers: each event is encoded once, and a slow reader is let go.

A client has a short queue. Who does not read fast enough for it is disconnected, comes back by
itself and gets everything anew; so no client can make the engine hold more than its queue.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from engine.metrics import to_json

MAX_CLIENTS = 64
QUEUE = 8
"""Events: some seconds."""


def encoded(event: str, data: Any) -> bytes:
    """One event. Numbers that JSON does not know become null, lone surrogates escapes."""
    text = to_json(data, (",", ":"))
    return f"event: {event}\ndata: {text}\n\n".encode()


class EventStream:
    """Events to whoever listens. `first` makes what a new client gets before all others."""

    def __init__(self, first: Callable[[], bytes]) -> None:
        self._first = first
        self._clients: dict[asyncio.Queue[bytes | None], asyncio.BaseTransport | None] = {}

    @property
    def num_clients(self) -> int:
        return len(self._clients)

    def send(self, event: bytes) -> None:
        """To all; never waits."""
        for queue, transport in list(self._clients.items()):
            if queue.full():
                self._clients.pop(queue)
                _abort(transport)  # ends the write that nobody reads
            else:
                queue.put_nowait(event)

    def close(self) -> None:
        """The clients get what is queued for them, then the end."""
        for queue, transport in self._clients.items():
            if queue.full():
                _abort(transport)
            else:
                queue.put_nowait(None)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A client, for as long as it stays."""
        if len(self._clients) >= MAX_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_CLIENTS} browsers are watching already\n")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)
        self._clients[queue] = request.transport
        try:
            await response.write(self._first())
            while (event := await queue.get()) is not None:
                await response.write(event)
        except ConnectionError:
            pass  # it went away, or was let go
        finally:
            self._clients.pop(queue, None)
        return response


def _abort(transport: asyncio.BaseTransport | None) -> None:
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
