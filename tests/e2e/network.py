"""A network that can fail between a run and its servers: it goes on taking bytes, and passes none.

Proxies in a thread of their own, one before each port of a server. Whose connection it is shows in
its first request: samplers ask for rollouts, learners for everything else. (A learner's probe asks
for a rollout too; it is counted among the samplers' requests.)
"""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Literal

Side = Literal["sampler", "learner"]
SIDES: tuple[Side, ...] = ("sampler", "learner")
_SAMPLERS = ("/generate", "/ready", "/abort_request", "/metrics", "/server_info")
_CHUNK = 65_536


class Network:
    """See the module's docstring. Its methods may be called by any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: dict[Side, asyncio.Event] = {side: asyncio.Event() for side in SIDES}
        for gate in self._open.values():
            gate.set()

    def swallow(self, *sides: Side) -> None:
        """From now on nothing that these send, or are sent, arrives."""
        for side in sides:
            self._loop.call_soon_threadsafe(self._open[side].clear)

    def let_through(self, *sides: Side) -> None:
        """Everything arrives, also what was held back."""
        for side in sides:
            self._loop.call_soon_threadsafe(self._open[side].set)

    async def connect(
        self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve one connection to its end."""
        with suppress(OSError):
            first = await reader.read(_CHUNK)
            path = [*first.split(b" ", 2), b"", b""][1].decode(errors="replace")
            gate = self._open["sampler" if path.startswith(_SAMPLERS) else "learner"]
            await gate.wait()
            from_server, to_server = await asyncio.open_connection("127.0.0.1", target)
            to_server.write(first)
            ways = [
                asyncio.create_task(_pass_on(reader, to_server, gate)),
                asyncio.create_task(_pass_on(from_server, writer, gate)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            to_server.close()
        writer.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            await gate.wait()
            writer.write(data)
            await writer.drain()
        await gate.wait()  # an end is not to be seen either


@contextmanager
def network(ports: Mapping[int, int]) -> Iterator[Network]:
    """Proxies from the ports that they listen on to those of servers."""
    loop = asyncio.new_event_loop()
    net = Network(loop)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    servers: list[asyncio.Server] = []

    async def listen() -> None:
        for port, target in ports.items():
            handle = partial(net.connect, target)
            servers.append(await asyncio.start_server(handle, "127.0.0.1", port))

    async def end() -> None:
        for server in servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        asyncio.run_coroutine_threadsafe(listen(), loop).result(10.0)
        yield net
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(300)
        loop.close()


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody uses now."""
    for first in range(20_000 + 7 * (threading.get_native_id() % 1000), 32_000, count):
        if all(is_free(first + i) for i in range(count)):
            return first
    raise AssertionError("no free ports")


def is_free(port: int) -> bool:
    """True where a server could listen on `port` of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
