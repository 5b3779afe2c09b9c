"""Whose turn it is: a bounded number of workers, shared out fairly between games."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable


class Turns:
    """`slots` turns at a time. Owners that wait are served in rotation, each one's requests in
    order: a game that asks for a hundred pictures delays another game's single one by one turn.

    At most `room` requests wait for a turn; further callers wait for room, in order of arrival.
    """

    def __init__(self, slots: int, room: int) -> None:
        self._free = slots
        self._room = asyncio.Semaphore(room)
        self._queues: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()
        self.num_waiting = 0
        """Callers without a turn."""

    async def take(self, owner: Hashable) -> None:
        """Return when it is the caller's turn; whoever returns from here must `give` it back."""
        self.num_waiting += 1
        try:
            async with self._room:
                await self._wait(owner)
        finally:
            self.num_waiting -= 1

    def give(self) -> None:
        """End a turn: the next in rotation gets it."""
        while self._queues:
            owner, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[owner] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _wait(self, owner: Hashable) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it came just now, too late
            raise
