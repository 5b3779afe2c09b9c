"""A branch: plays the games that the head gives it. The protocol: `engine.branches`."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from engine.errors import TransportError
from engine.games import Play, played
from engine.monitor.waiting import Waiting
from engine.notes import to_json
from engine.routing import ServerPool
from engine.tasks import first_of
from engine.transport import Images, Message
from engine.types import Group
from engine.wire import encode_group

TELL_S = 1.0


class Socket(Protocol):
    """The branch's end of the wire; `engine.transport.BranchSocket` is one."""

    async def receive(self) -> Message: ...

    async def send(self, message: Mapping[str, Any], images: Mapping[str, bytes]) -> None: ...


@dataclass(slots=True, kw_only=True)
class Branch:
    """The live parts of one; `run` drives them."""

    socket: Socket
    pools: Mapping[str, ServerPool]
    """By policy and by follower: of the servers that its games ask."""
    urls: Sequence[str]
    """Of all these servers."""
    waiting: Waiting
    renderer: Callable[[], Mapping[str, Any]]
    """What the renderer has to say of itself."""
    deadline_s: float
    """Of a game."""
    _plays: Mapping[str, Play] = field(default_factory=dict)
    _games: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _began_s: float = field(default_factory=time.monotonic)
    _before_s: float = field(default_factory=time.process_time)
    _outbox: asyncio.Queue[tuple[Message, Images]] = field(default_factory=asyncio.Queue)
    """Bounded by the games in flight."""

    async def run(self, plays: Mapping[str, Play]) -> None:
        """Play, by recipe, until the head says goodbye. Raises the first exception of any task."""
        self._plays = plays
        for policy, pool in self.pools.items():
            pool.on_gone = partial(self._say_gone, policy)
        self._say({"kind": "hello", "urls": list(self.urls)})
        try:
            async with asyncio.TaskGroup() as tasks:
                own = [tasks.create_task(self._send()), tasks.create_task(self._tell())]
                while (message := await self.socket.receive())["kind"] != "bye":
                    self._receive(message, tasks)
                for task in (*own, *self._games.values()):
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from failures

    def warn(self, text: str) -> None:
        """An event of the run."""
        self._say({"kind": "warning", "text": text})

    def _say_gone(self, policy: str, url: str, why: str) -> None:
        self._say({"kind": "gone", "policy": policy, "url": url, "why": why})

    def _receive(self, message: Message, tasks: asyncio.TaskGroup) -> None:
        kind = message["kind"]
        if kind == "play":
            game = message["game"]
            task = tasks.create_task(self._play(game, message["recipe"]), name=f"game {game}")
            self._games[game] = task
            task.add_done_callback(lambda _: self._games.pop(game, None))
        elif kind == "cancel":
            if (playing := self._games.get(message["game"])) is not None:
                playing.cancel()
        elif kind == "ready":
            self.pools[message["policy"]].mark_ready(message["url"], message["version"])
        elif kind == "unready":
            self.pools[message["policy"]].mark_unready(message["url"])
        else:
            raise TransportError(f"the head sent {kind!r}")

    async def _play(self, game: int, recipe: str) -> None:
        notes: dict[str, Any] = {}

        num_groups = 0

        def submit(group: Group) -> None:
            nonlocal num_groups
            num_groups += 1
            header, images = encode_group(group)
            self._say({"kind": "group", "game": game, "group": header}, images)

        playing = self._plays[recipe](game, submit, notes.__setitem__)
        reason, detail = await played(playing, self.deadline_s)
        text, images = to_json(notes)
        del self._games[game]
        if not self._games:  # after the run's last game nobody waits for another second
            self._say_numbers()
        told = {"groups": num_groups, "reason": reason, "detail": detail, "notes": text}
        self._say({"kind": "ended", "game": game, **told}, images)

    async def _tell(self) -> None:
        while True:
            self._say_numbers()
            await asyncio.sleep(TELL_S)

    def _say_numbers(self) -> None:
        servers = {policy: pool.tell() for policy, pool in self.pools.items()}
        told = {"servers": servers, "queues": self.waiting.tell(), "renderer": self.renderer()}
        own = {
            "worked_s": time.process_time() - self._before_s,
            "there_s": time.monotonic() - self._began_s,
        }
        self._say({"kind": "told", "games": list(self._games), **own, **told})

    def _say(self, message: Message, images: Mapping[str, bytes] | None = None) -> None:
        self._outbox.put_nowait((message, dict(images or {})))

    async def _send(self) -> None:
        while True:
            await self.socket.send(*await self._outbox.get())
