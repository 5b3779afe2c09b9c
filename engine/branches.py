"""Several engine processes: the *head* keeps the books, its *branches* play the games.

One process asks some hundreds of GPUs for rollouts; where there are more, each node has a branch
with a renderer and rollout servers of its own (`layout.branches`). Admission, buffer, batches, the
learners and everything to look at stay with the head; from there a game is an `engine.games.Play`
like any other.

    branch                              head
    hello {urls}                    ->  once, as it begins: the servers that it asks
                                    <-  ready {policy, url, version}, unready {policy, url}
                                    <-  play {game, recipe}
    group {game, group} + pictures  ->  submitted at once
    ended {game, groups, reason,    ->  reason null: it was played to its end, and submitted so many
           detail, notes} + pictures    groups. Notes are JSON, with their pictures beside it
                                    <-  cancel {game}: nobody waits for it any more
    told {servers, queues, renderer, -> once a second and before the end of the last game
          worked_s, there_s, games}     there: for whoever looks at the run, and which it plays
    gone {policy, url, why}         ->  a server that did not answer
    warning {text}                  ->
                                    <-  bye

A branch that dies takes its rank with it, and so the attempt: its games are played anew by the
next one, as those of an engine that dies.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.desk import Servers
from engine.errors import GameDropped, TransportError
from engine.games import Play
from engine.monitor.waiting import Waiting
from engine.notes import from_json
from engine.routing import ServerPool
from engine.transport import Images, Message
from engine.types import Group
from engine.wire import decode_group

GRACE_S = 10.0
"""A branch ends a game at its deadline; the head waits so much longer for it to say so."""


MISSED = 10
"""A game that so many reports in a row of its branch do not name never arrived there, or its end
never here: a connection broke. Some seconds, in which messages may still be under way."""
APART_S = 0.5
"""Reports that are heard within it count as one: those that waited while the head stood still were
sent before the games that it begins as it goes on."""


class Socket(Protocol):
    """The head's end of the wire; `engine.transport.EngineSocket` is one."""

    async def receive_all(self) -> tuple[bytes, Message, Images]: ...

    async def send(self, peer: bytes, message: Mapping[str, Any]) -> None: ...


@dataclass(slots=True)
class _Game:
    submit: Callable[[Group], None]
    ended: "asyncio.Future[tuple[Message, Images]]"
    groups: int = 0
    """Submitted so far."""
    missed: int = 0
    """Reports of its branch in a row that do not name it."""


@dataclass(slots=True)
class _Branch:
    urls: frozenset[str]
    games: dict[int, _Game] = field(default_factory=dict)
    renderer: Mapping[str, Any] = field(default_factory=dict)
    worked_s: float = 0.0
    there_s: float = 0.0
    missed_s: float = -math.inf
    """When the newest report that counts against games was heard."""

    @property
    def load(self) -> float:
        """Games for each of its servers."""
        return len(self.games) / len(self.urls)


class Branches:
    """The head's side of all of them."""

    def __init__(
        self,
        socket: Socket,
        number: int,
        *,
        pools: Mapping[str, ServerPool],
        waiting: Waiting,
        on_event: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`pools`: the head's own, which hear what requests the branches have at their servers;
        `waiting`: who waits where, which hears what their games wait for."""
        self._socket = socket
        self._number = number
        self._pools = pools
        self._waiting = waiting
        self._on_event = on_event
        self._clock = clock
        self._branches: dict[bytes, _Branch] = {}
        self._here = asyncio.Event()
        """All of them are."""
        self._outbox: asyncio.Queue[tuple[bytes, Message]] = asyncio.Queue()
        """Bounded by admission: a few messages for a game, and for a server that comes or goes."""

    async def run(self) -> None:
        """Wait for all of them, and serve until cancelled. Beside the engine's other tasks: who
        stops the run meanwhile must be heard."""
        await self.gather()
        await self.serve()

    async def prepare(self, game: int) -> None:
        """Wait until all of them are here: till then a game's time does not run."""
        await self._here.wait()

    async def gather(self) -> None:
        """Wait for the hello of all of them. Raises TransportError."""
        while len(self._branches) < self._number:
            peer, message, images = await self._socket.receive_all()
            if peer in self._branches:
                self._receive(peer, message, images)
            elif message["kind"] == "hello":
                self._branches[peer] = _Branch(frozenset(message["urls"]))
            else:
                raise TransportError(f"a branch said {message['kind']!r} before hello")
        for policy, pool in self._pools.items():
            for url, version in pool.ready.items():
                self._tell(url, {"kind": "ready", "policy": policy, "url": url, "version": version})
        self._here.set()

    async def serve(self) -> None:
        """Send and receive until cancelled, or until a branch says what none of ours does."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            while True:
                self._receive(*await self._socket.receive_all())

    @property
    def num_here(self) -> int:
        """Branches that have said hello."""
        return len(self._branches)

    @property
    def num_unsent(self) -> int:
        """Messages that still wait to be sent."""
        return self._outbox.qsize()

    async def close(self) -> None:
        """Say goodbye. `serve` has ended."""
        while not self._outbox.empty():
            await self._socket.send(*self._outbox.get_nowait())
        for peer in self._branches:
            await self._socket.send(peer, {"kind": "bye"})

    def play(self, recipe: str) -> Play:
        """How a game of `recipe` is played: by the branch with the fewest games for its servers."""

        async def play(
            game: int, submit: Callable[[Group], None], note: Callable[[str, Any], None], /
        ) -> None:
            peer, branch = min(self._branches.items(), key=lambda row: row[1].load)
            ended = asyncio.get_running_loop().create_future()
            own = branch.games[game] = _Game(submit, ended)
            self._outbox.put_nowait((peer, {"kind": "play", "game": game, "recipe": recipe}))
            try:
                message, images = await ended
            finally:
                del branch.games[game]
                if own.missed or not ended.done() or ended.cancelled():
                    self._outbox.put_nowait((peer, {"kind": "cancel", "game": game}))
            for key, value in from_json(message["notes"], images).items():
                note(key, value)
            if message["reason"] is not None:
                raise GameDropped(message["reason"], message["detail"])
            if own.groups != message["groups"]:  # its connection broke, and came back
                detail = f"{own.groups} of {message['groups']} groups came from the branch"
                raise GameDropped("lost", detail)

        return play

    def servers(self) -> dict[str, Servers]:
        """By policy and follower, for the desk: what it tells of servers goes to the head's own
        pool, and on to the branches that ask them."""
        return {policy: _Both(policy, pool, self._tell) for policy, pool in self._pools.items()}

    def renderers(self) -> Sequence[Mapping[str, Any]]:
        """What the branches' renderers last told of themselves (`RenderPool.stats`)."""
        return [branch.renderer for branch in self._branches.values() if branch.renderer]

    def worked(self) -> Mapping[str, tuple[float, float]]:
        """{branch: (processor seconds that it has worked, seconds since it began)}."""
        return {
            peer.decode(errors="replace"): (branch.worked_s, branch.there_s)
            for peer, branch in self._branches.items()
            if branch.there_s > 0
        }

    async def _send(self) -> None:
        while True:
            await self._socket.send(*await self._outbox.get())

    def _tell(self, url: str, message: Message) -> None:
        """The branches that ask `url`."""
        for peer, branch in self._branches.items():
            if url in branch.urls:
                self._outbox.put_nowait((peer, message))

    def _receive(self, peer: bytes, message: Message, images: Images) -> None:
        branch, kind = self._branches.get(peer), message["kind"]
        if branch is None or kind == "hello":
            raise TransportError("a branch began anew within one attempt")
        if kind == "group":
            if (game := branch.games.get(message["game"])) is not None:
                game.groups += 1
                game.submit(decode_group(message["group"], images, keeps_encoded=True))
        elif kind == "ended":
            game = branch.games.get(message["game"])
            if game is not None and not game.ended.done():
                game.ended.set_result((message, images))
        elif kind == "told":
            branch.renderer = message["renderer"]
            branch.worked_s, branch.there_s = message["worked_s"], message["there_s"]
            self._miss(branch, frozenset(message["games"]))
            for policy, told in message["servers"].items():
                self._pools[policy].hear(peer, **told)
            for station, queue in message["queues"].items():
                self._waiting.hear(peer, station, **queue)
        elif kind == "gone":
            self._pools[message["policy"]].mark_unready(message["url"], message["why"])
        elif kind == "warning":
            self._on_event("warning", message["text"])
        else:
            raise TransportError(f"a branch sent {kind!r}")

    def _miss(self, branch: _Branch, there: frozenset[int]) -> None:
        now_s = self._clock()
        counts = now_s - branch.missed_s >= APART_S
        if counts:
            branch.missed_s = now_s
        for game, own in branch.games.items():
            own.missed = 0 if game in there else own.missed + int(counts)
            if own.missed >= MISSED and not own.ended.done():
                own.ended.set_exception(GameDropped("lost", "its branch does not know of it"))


@dataclass(frozen=True, slots=True)
class _Both:
    """Structurally `engine.desk.Servers`."""

    policy: str
    pool: ServerPool
    tell: Callable[[str, Message], None]

    def mark_ready(self, url: str, version: int) -> None:
        self.pool.mark_ready(url, version)
        said = {"kind": "ready", "policy": self.policy, "url": url, "version": version}
        self.tell(url, said)

    def mark_unready(self, url: str, why: str = "") -> None:
        self.pool.mark_unready(url, why)
        self.tell(url, {"kind": "unready", "policy": self.policy, "url": url})
