"""Engine <-> learner groups over ZMQ: a msgpack header and raw frames; never a pickle.

The engine binds a ROUTER; rank 0 of each learner group connects a DEALER. A message is a map with
a `kind`, and pictures by content hash, each sent once as a frame of its own (`engine.wire`).

On one node the socket (ipc://) lies in a folder that only this user can enter. Between nodes it is
tcp://, encrypted and authenticated both ways (ZeroMQ's CURVE): both ends make their key pairs from
the run's key, so that who can't read that gets no further than the handshake.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from engine.errors import TransportError
from engine.wire import from_frames, to_frames

Message = dict[str, Any]
Images = dict[str, bytes]
LINGER_MS = 2000
HEARTBEAT_MS, SILENT_MS = 10_000, 60_000
"""How often a learner asks whether the other end of a tcp:// connection is there (by ZeroMQ's own
threads: a process that is busy answers), and after how long without an answer it is broken."""
_DOMAIN = "streamzero"
"""Whatever its name: without one ZeroMQ may skip the question who comes in."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Of CURVE, as ZeroMQ writes them (Z85)."""

    public: bytes
    secret: bytes


def key_pair(run_key: str, end: Literal["engine", "learner"]) -> KeyPair:
    """The key pair of one end of the run's sockets. Any 32 bytes are a secret of Curve25519."""
    secret = z85.encode(hmac.digest(run_key.encode(), f"curve {end}".encode(), hashlib.sha256))
    return KeyPair(zmq.curve_public(secret), secret)


class _OnlyLearners:
    """Answers ZeroMQ's question whether the owner of a public key may come in."""

    def __init__(self, run_key: str) -> None:
        self._public = key_pair(run_key, "learner").public

    def callback(self, domain: str, key: bytes) -> bool:
        return hmac.compare_digest(key, self._public)


class EngineSocket:
    """The engine's end. Peers are known by their ZMQ identity.

    `key`: the run's; tcp:// asks for it (TransportError without one). There it is to be made
    within a running event loop.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        guard = _guard(address, key)
        self._context = zmq.asyncio.Context()
        self._doorkeeper: AsyncioAuthenticator | None = None
        self._socket = self._context.socket(zmq.ROUTER)
        if guard is not None:
            self._doorkeeper = AsyncioAuthenticator(self._context)
            self._doorkeeper.start()
            self._doorkeeper.configure_curve_callback(_DOMAIN, _OnlyLearners(guard))
            own = key_pair(guard, "engine")
            self._socket.curve_secretkey, self._socket.curve_publickey = own.secret, own.public
            self._socket.curve_server = True
            self._socket.zap_domain = _DOMAIN.encode()
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        # At its mark a ROUTER would drop messages without a word. Admission bounds their number.
        self._socket.setsockopt(zmq.SNDHWM, 0)
        # A peer that comes back under its old name takes over from its dead self.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.bind(address)

    async def receive(self) -> tuple[bytes, Message]:
        """(peer, message). Raises TransportError for what no learner of ours sends."""
        peer, message, _ = await self.receive_all()
        return peer, message

    async def receive_all(self) -> tuple[bytes, Message, Images]:
        """(peer, message, its pictures)."""
        peer, *frames = await self._socket.recv_multipart()
        message, images = from_frames(frames)
        return peer, _checked(message), images

    async def send(
        self, peer: bytes, message: Mapping[str, Any], images: Mapping[str, bytes] | None = None
    ) -> None:
        await self._socket.send_multipart([peer, *to_frames(message, images or {})])

    def close(self) -> None:
        self._socket.close()
        if self._doorkeeper is not None:
            self._doorkeeper.stop()
        self._context.term()


class LearnerSocket:
    """A learner group's end; blocking, used by one thread. `key`: as of `EngineSocket`.

    ZeroMQ joins a connection that broke again, and says nothing of the messages that were on their
    way. Neither end would ever send them anew, so between nodes the first break is the last.
    """

    def __init__(self, address: str, identity: str, key: str | None = None) -> None:
        self._address = address
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._monitor: Any = None
        self._was_up = self._is_broken = False
        if address.startswith("tcp://"):
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENT_MS)
            self._monitor = self._socket.get_monitor_socket(
                zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
            )
        _connect(self._socket, address, identity, key)

    def send(self, message: Mapping[str, Any]) -> None:
        self._socket.send_multipart(to_frames(message, {}))

    def receive(self, timeout_s: float) -> tuple[Message, Images] | None:
        """The next message and its pictures, or None after `timeout_s`. Raises TransportError where
        there is none and the connection broke: some may be lost."""
        if not self._socket.poll(int(timeout_s * 1000)):
            has_broken = self._has_broken()
            if not self._socket.poll(0):  # what came before the break is here by now
                if has_broken:
                    raise TransportError(
                        f"{self._address}: the connection to the engine broke, and what was on its "
                        "way is lost: the attempt can't go on"
                    )
                return None
        message, images = from_frames(self._socket.recv_multipart())
        return _checked(message), images

    def close(self) -> None:
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close()
        self._socket.close()
        self._context.term()

    def _has_broken(self) -> bool:
        while self._monitor is not None and self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._was_up = True
            elif self._was_up:
                self._is_broken = True
        return self._is_broken


class BranchSocket:
    """A branch's end (`engine.branches`), on an event loop; to the engine it is one of those who
    know the run's key, as learners are. `key`: as of `EngineSocket`."""

    def __init__(self, address: str, identity: str, key: str | None = None) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        _connect(self._socket, address, identity, key)

    async def send(
        self, message: Mapping[str, Any], images: Mapping[str, bytes] | None = None
    ) -> None:
        await self._socket.send_multipart(to_frames(message, images or {}))

    async def receive(self) -> Message:
        message, _ = from_frames(await self._socket.recv_multipart())
        return _checked(message)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def _connect(socket: Any, address: str, identity: str, key: str | None) -> None:
    guard = _guard(address, key)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.IDENTITY, identity.encode())
    if guard is not None:
        own = key_pair(guard, "learner")
        socket.curve_secretkey, socket.curve_publickey = own.secret, own.public
        socket.curve_serverkey = key_pair(guard, "engine").public
    socket.connect(address)


def _guard(address: str, key: str | None) -> str | None:
    """The key that closes a socket of the network to others; None where it is not one."""
    if not address.startswith("tcp://"):
        return None
    if not key:
        raise TransportError(f"{address}: a socket that others can reach needs the run's key")
    return key


def _checked(message: Message) -> Message:
    if not isinstance(message.get("kind"), str):
        raise TransportError("a message without a kind")
    return message
