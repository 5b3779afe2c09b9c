"""Engine <-> learner groups over ZMQ: a msgpack header and raw frames; never a pickle.

The engine binds a ROUTER; rank 0 of each learner group connects a DEALER. A message is a map with
a `kind`, and pictures by content hash, each sent once as a frame of its own (`engine.wire`). The
socket lies in a folder that only this user can enter.
"""

from collections.abc import Mapping
from typing import Any

import zmq
import zmq.asyncio

from engine.errors import TransportError
from engine.wire import from_frames, to_frames

Message = dict[str, Any]
Images = dict[str, bytes]
LINGER_MS = 2000


class EngineSocket:
    """The engine's end. Peers are known by their ZMQ identity."""

    def __init__(self, address: str) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        # A peer that comes back under its old name takes over from its dead self.
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.bind(address)

    async def receive(self) -> tuple[bytes, Message]:
        """(peer, message). Raises TransportError for what no learner of ours sends."""
        peer, *frames = await self._socket.recv_multipart()
        message, _ = from_frames(frames)
        return peer, _checked(message)

    async def send(
        self, peer: bytes, message: Mapping[str, Any], images: Mapping[str, bytes] | None = None
    ) -> None:
        await self._socket.send_multipart([peer, *to_frames(message, images or {})])

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class LearnerSocket:
    """A learner group's end; blocking, used by one thread."""

    def __init__(self, address: str, identity: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.setsockopt(zmq.IDENTITY, identity.encode())
        self._socket.connect(address)

    def send(self, message: Mapping[str, Any]) -> None:
        self._socket.send_multipart(to_frames(message, {}))

    def receive(self, timeout_s: float) -> tuple[Message, Images] | None:
        """The next message and its pictures, or None after `timeout_s`."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        message, images = from_frames(self._socket.recv_multipart())
        return _checked(message), images

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def _checked(message: Message) -> Message:
    if not isinstance(message.get("kind"), str):
        raise TransportError("a message without a kind")
    return message
