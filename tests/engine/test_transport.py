"""The engine's socket beyond one node: who has the run's key comes in, nobody else, and nothing
can be read on the way."""

import asyncio
import socket
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
import zmq
import zmq.utils.monitor

from engine.errors import TransportError
from engine.transport import EngineSocket, LearnerSocket, key_pair
from engine.wire import content_hash
from tests.engine.server_process import free_port

KEY, OTHER_KEY = "a" * 64, "b" * 64
PIXELS = b"pixels of a picture"
NAME = content_hash(PIXELS)
WAIT_S = 300.0
FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


@pytest.fixture
def address() -> str:
    return f"tcp://127.0.0.1:{free_port()}"


def within(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, WAIT_S))


async def exchange(engine: EngineSocket, learner: LearnerSocket) -> tuple[Any, Any]:
    """A message each way; what came."""
    learner.send({"kind": "hello", "step": 3})
    peer, asked = await engine.receive()
    await engine.send(peer, {"kind": "batch", "picture": NAME}, {NAME: PIXELS})
    return asked, await asyncio.to_thread(learner.receive, WAIT_S)


def test_messages_and_pictures_pass_between_those_who_have_the_key(address: str) -> None:
    async def scene() -> None:
        engine, learner = EngineSocket(address, KEY), LearnerSocket(address, "one", KEY)
        try:
            asked, answered = await exchange(engine, learner)
        finally:
            learner.close()
            engine.close()
        assert asked == {"kind": "hello", "step": 3}
        assert answered == ({"kind": "batch", "picture": NAME}, {NAME: PIXELS})

    within(scene())


def stranger(context: zmq.Context[Any], kind: str) -> zmq.Socket[Any]:
    """A peer that lacks the key, or knows only one half of what it takes."""
    peer = context.socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    if kind == "plain":
        return peer
    if kind == "another run's learner":
        own, server = key_pair(OTHER_KEY, "learner"), key_pair(OTHER_KEY, "engine").public
    else:  # it has found out the engine's public key, and brings a key pair of its own
        own, server = key_pair(OTHER_KEY, "learner"), key_pair(KEY, "engine").public
    peer.curve_secretkey, peer.curve_publickey, peer.curve_serverkey = (
        own.secret,
        own.public,
        server,
    )
    return peer


@pytest.mark.parametrize("kind", ["plain", "another run's learner", "a key of its own"])
def test_a_peer_without_the_key_is_refused(address: str, kind: str) -> None:
    async def scene() -> None:
        engine, context = EngineSocket(address, KEY), zmq.Context()
        peer = stranger(context, kind)
        events = peer.get_monitor_socket(FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        learner = LearnerSocket(address, "one", KEY)
        try:
            peer.connect(address)
            peer.send_multipart([b"\x81\xa4kind\xa5hello"])
            seen = await asyncio.to_thread(events.poll, int(WAIT_S * 1000))
            assert seen, "the handshake neither fails nor succeeds"
            event = zmq.utils.monitor.recv_monitor_message(events)["event"]
            assert event & FAILED, event
            # What the engine hears first is the learner, who comes last.
            asked, _ = await exchange(engine, learner)
            assert asked["step"] == 3
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.receive(), 0.05)
        finally:
            context.destroy(linger=0)
            learner.close()
            engine.close()

    within(scene())


def test_a_learner_tells_nothing_to_who_only_pretends_to_be_the_engine(address: str) -> None:
    """Who took over the engine's address could else answer with batches of its own."""
    context = zmq.Context()
    pretender = context.socket(zmq.ROUTER)
    pretender.setsockopt(zmq.LINGER, 0)
    own = key_pair(OTHER_KEY, "engine")
    pretender.curve_secretkey, pretender.curve_publickey = own.secret, own.public
    pretender.curve_server = True
    events = pretender.get_monitor_socket(FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    pretender.bind(address)
    learner = LearnerSocket(address, "one", KEY)
    try:
        learner.send({"kind": "hello"})
        assert events.poll(int(WAIT_S * 1000))
        assert zmq.utils.monitor.recv_monitor_message(events)["event"] & FAILED
        assert not pretender.poll(50)
        assert learner.receive(0.05) is None
    finally:
        context.destroy(linger=0)
        learner._socket.setsockopt(zmq.LINGER, 0)
        learner.close()


class Wire:
    """A relay before the engine that keeps all bytes that pass."""

    def __init__(self, target: int) -> None:
        self.bytes = bytearray()
        self._target = target
        self._ends: tuple[socket.socket, ...] = ()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target), WAIT_S)
        self._ends = (near, far)
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def cut(self) -> None:
        for end in self._ends:
            end.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self.bytes += data
                sink.sendall(data)
        except OSError:
            return


@pytest.mark.parametrize("is_guarded", [True, False])
def test_nothing_can_be_read_on_the_way(is_guarded: bool) -> None:
    """Against the same exchange over a plain socket, where all of it can."""

    async def scene() -> bytes:
        port = free_port()
        wire = Wire(port)
        if is_guarded:
            engine: Any = EngineSocket(f"tcp://127.0.0.1:{port}", KEY)
            learner: Any = LearnerSocket(f"tcp://127.0.0.1:{wire.port}", "one", KEY)
            _, answered = await exchange(engine, learner)
            assert answered[1] == {NAME: PIXELS}
        else:
            context = zmq.Context()
            engine, learner = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
            engine.bind(f"tcp://127.0.0.1:{port}")
            learner.connect(f"tcp://127.0.0.1:{wire.port}")
            learner.send(b"hello")
            peer, _ = await asyncio.to_thread(engine.recv_multipart)
            engine.send_multipart([peer, PIXELS])
            await asyncio.to_thread(learner.recv)
        learner.close()
        engine.close()
        return bytes(wire.bytes)

    passed = within(scene())
    assert passed
    assert (PIXELS in passed) is not is_guarded
    assert (b"hello" in passed) is not is_guarded


def test_a_learner_whose_connection_broke_does_not_wait_for_what_is_lost() -> None:
    async def scene() -> None:
        port = free_port()
        wire = Wire(port)
        engine = EngineSocket(f"tcp://127.0.0.1:{port}", KEY)
        learner = LearnerSocket(f"tcp://127.0.0.1:{wire.port}", "one", KEY)
        await exchange(engine, learner)
        assert await asyncio.to_thread(learner.receive, 0.01) is None
        wire.cut()

        def wait() -> None:
            while True:  # as its owner does, until it raises
                learner.receive(0.01)

        with pytest.raises(TransportError, match="broke"):
            await asyncio.to_thread(wait)
        learner.close()
        engine.close()

    within(scene())


@pytest.mark.parametrize("key", [None, ""])
def test_a_socket_of_the_network_is_not_opened_without_a_key(address: str, key: str | None) -> None:
    for make in (lambda: EngineSocket(address, key), lambda: LearnerSocket(address, "one", key)):
        with pytest.raises(TransportError, match="needs the run's key"):
            make()


def test_the_key_pairs_are_of_the_run_and_of_the_end() -> None:
    pairs = [key_pair(key, end) for key in (KEY, OTHER_KEY) for end in ("engine", "learner")]  # type: ignore[arg-type]
    assert len({pair.secret for pair in pairs} | {pair.public for pair in pairs}) == 8
    assert key_pair(KEY, "engine") == pairs[0]
    assert all(zmq.curve_public(pair.secret) == pair.public for pair in pairs)
    assert all(KEY.encode() not in pair.secret for pair in pairs)
