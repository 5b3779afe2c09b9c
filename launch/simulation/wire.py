"""Messages between the engine and the learners, without a socket: both ends in one process."""

import asyncio
from collections.abc import Mapping
from typing import Any

from engine.transport import Message


class Wire:
    """The engine's end (`engine.desk.Socket`); each learner has an inbox, and calls `tell`."""

    def __init__(self) -> None:
        self._to_engine: asyncio.Queue[tuple[bytes, Message]] = asyncio.Queue()
        self._inboxes: dict[bytes, asyncio.Queue[Message]] = {}

    async def receive(self) -> tuple[bytes, Message]:
        return await self._to_engine.get()

    async def send(
        self, peer: bytes, message: Mapping[str, Any], images: Mapping[str, bytes] | None = None
    ) -> None:
        self.inbox(peer).put_nowait(dict(message))

    def tell(self, peer: bytes, message: Message) -> None:
        """From a learner to the engine."""
        self._to_engine.put_nowait((peer, message))

    def inbox(self, peer: bytes) -> asyncio.Queue[Message]:
        return self._inboxes.setdefault(peer, asyncio.Queue())
