"""A head and its branches over real sockets: games, servers, numbers, and what goes wrong."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.branch import Branch
from engine.branches import MISSED, Branches
from engine.errors import GameDropped, TransportError
from engine.games import Play
from engine.monitor.waiting import Waiting
from engine.routing import ServerPool
from engine.transport import BranchSocket, EngineSocket
from engine.types import Group
from engine.wire import encode_group
from tests.engine.make_groups import PNG, make_group

WAIT_S = 300.0
NUM_AT_ONCE = 5000
ONE, TWO, THREE = (f"http://127.0.0.1:{port}" for port in (1, 2, 3))


def within(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, WAIT_S))


def pools() -> dict[str, ServerPool]:
    return {"solver": ServerPool("solver", max_concurrency=4)}


@dataclass
class Club:
    """A head with its branches."""

    head: Branches
    pools: dict[str, ServerPool]
    """The head's."""
    branches: dict[str, Branch]
    waiting: Waiting
    events: list[tuple[str, str]]
    tasks: dict[str, "asyncio.Task[None]"] = field(default_factory=dict)

    async def play(self, game: int) -> tuple[list[Group], dict[str, Any]]:
        """What a game submits, and its notes."""
        groups: list[Group] = []
        notes: dict[str, Any] = {}
        await self.head.play("spy")(game, groups.append, notes.__setitem__)
        return groups, notes

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await asyncio.sleep(0)


@asynccontextmanager
async def club(
    folder: Path,
    plays: Mapping[str, Play],
    urls: Mapping[str, list[str]],
    *,
    deadline_s: float = WAIT_S,
) -> AsyncIterator[Club]:
    """`plays` and `urls`: of each branch."""
    address = f"ipc://{folder}/head.sock"
    socket, events = EngineSocket(address), []
    waiting, own = Waiting(), pools()
    head = Branches(
        socket,
        len(plays),
        pools=own,
        waiting=waiting,
        on_event=lambda *event: events.append(event),
    )
    own["solver"].on_event = lambda *event: events.append(event)
    sockets = {name: BranchSocket(address, name) for name in plays}
    branches = {
        name: Branch(
            socket=sockets[name],
            pools=pools(),
            urls=urls[name],
            waiting=Waiting(),
            renderer=lambda name=name: {"name": name},  # type: ignore[misc]
            deadline_s=deadline_s,
        )
        for name in plays
    }
    tasks = {
        name: asyncio.create_task(branch.run({"spy": plays[name]}))
        for name, branch in branches.items()
    }
    try:
        await head.gather()
        serving = asyncio.create_task(head.serve())
        yield Club(head, own, branches, waiting, events, tasks)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await head.close()
        await asyncio.gather(*tasks.values())
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for one in sockets.values():
            one.close()
        socket.close()


@asynccontextmanager
async def ends(
    folder: Path,
    *names: str,
    own: dict[str, ServerPool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[tuple[Branches, list[BranchSocket], Callable[..., "asyncio.Task[None]"]]]:
    """A head, sockets of branches to speak for, and what starts a task that ends with them."""
    address, tasks = f"ipc://{folder}/head.sock", list["asyncio.Task[None]"]()
    socket, sockets = EngineSocket(address), [BranchSocket(address, name) for name in names]
    head = Branches(
        socket,
        len(names),
        pools=own or {},
        waiting=Waiting(),
        on_event=lambda *_: None,
        clock=clock,
    )

    def start(awaitable: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        tasks.append(asyncio.create_task(awaitable))
        return tasks[-1]

    try:
        yield head, sockets, start
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in (*sockets, socket):  # one that is left open blocks for ever
            one.close()


async def submit_two(game: int, submit: Any, note: Any) -> None:
    submit(make_group(game, "solver", images=(PNG, b"another")))
    note("topic", {"words": ["a", "b"], "picture": PNG})
    submit(make_group(game, "solver", rewards=(0.5, 1.0), extra={"drop": "probe"}))
    note("timeline", {"samples": [("solver", 1, 2)], "png": "no picture"})


def test_a_game_is_played_elsewhere_and_its_groups_and_notes_come_here(tmp_path: Path) -> None:
    async def scene() -> None:
        async with club(tmp_path, {"a": submit_two}, {"a": [ONE]}) as it:
            groups, notes = await it.play(7)
        assert groups == [
            make_group(7, "solver", images=(PNG, b"another")),
            make_group(7, "solver", rewards=(0.5, 1.0), extra={"drop": "probe"}),
        ]
        assert notes == {
            "topic": {"words": ["a", "b"], "picture": PNG},
            "timeline": {"samples": [["solver", 1, 2]], "png": "no picture"},
        }

    within(scene())


def test_many_games_at_once_keep_apart(tmp_path: Path) -> None:
    async def play(game: int, submit: Any, note: Any) -> None:
        for _ in range(game % 5):
            await asyncio.sleep(0)
            submit(make_group(game, "solver"))
        note("game", game)

    async def scene() -> None:
        names = {"a": play, "b": play}
        async with club(tmp_path, names, {"a": [ONE], "b": [TWO]}) as it:
            ended = await asyncio.gather(*(it.play(game) for game in range(40)))
        for game, (groups, notes) in enumerate(ended):
            assert groups == [make_group(game, "solver")] * (game % 5)
            assert notes == {"game": game}

    within(scene())


def test_no_message_is_lost_where_many_games_start_at_once(tmp_path: Path) -> None:
    """More than ZeroMQ holds by default at both ends and on the way."""

    async def scene() -> None:
        async with ends(tmp_path, "a") as (head, (branch,), start):
            await branch.send({"kind": "hello", "urls": [ONE]})
            await head.gather()
            start(head.serve())
            play = head.play("spy" * 1000)
            for game in range(NUM_AT_ONCE):
                start(play(game, print, print))
            await asyncio.sleep(0)
            while head.num_unsent:
                await asyncio.sleep(0)
            for game in range(NUM_AT_ONCE):
                assert (await branch.receive())["game"] == game

    within(scene())


@pytest.mark.parametrize("came", [0, 1, 2])
def test_a_game_of_which_groups_were_lost_on_the_way_is_no_whole_one(
    came: int, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with ends(tmp_path, "a") as (head, (branch,), start):
            await branch.send({"kind": "hello", "urls": [ONE]})
            await head.gather()
            start(head.serve())
            submitted: list[Group] = []
            game = start(head.play("spy")(3, submitted.append, print))
            assert (await branch.receive())["kind"] == "play"
            header, images = encode_group(make_group(3))
            for _ in range(came):
                await branch.send({"kind": "group", "game": 3, "group": header}, images)
            told = {"reason": None, "detail": "", "notes": "{}", "groups": 2}
            await branch.send({"kind": "ended", "game": 3, **told})
            if came == 2:
                await game
            else:
                with pytest.raises(GameDropped, match=f"lost: {came} of 2 groups"):
                    await game
            assert len(submitted) == came

    within(scene())


def test_a_game_that_its_branch_never_heard_of_is_lost(tmp_path: Path) -> None:
    now = [0.0]

    async def hear(head: Branches, branch: BranchSocket, told: dict[str, Any]) -> None:
        await branch.send(told)
        while head.renderers() != [told["renderer"]]:
            await asyncio.sleep(0)

    async def scene() -> None:
        async with ends(tmp_path, "a", clock=lambda: now[0]) as (head, (branch,), start):
            await branch.send({"kind": "hello", "urls": [ONE]})
            await head.gather()
            start(head.serve())
            game = start(head.play("spy")(3, print, print))
            assert (await branch.receive())["kind"] == "play"
            told = {"kind": "told", "servers": {}, "queues": {}, "worked_s": 0.0, "there_s": 0.0}
            almost = [[]] * (MISSED - 1)
            for number, games in enumerate([*almost, [3], *almost]):
                await hear(head, branch, {**told, "games": games, "renderer": {"told": number}})
                now[0] += 1.0
            # Those that waited while the head stood still say nothing of what it did afterwards.
            now[0] -= 1.0
            for number in range(3 * MISSED):
                await hear(head, branch, {**told, "games": [], "renderer": {"late": number}})
            assert not game.done()
            now[0] += 1.0
            await branch.send({**told, "games": [], "renderer": {}})
            with pytest.raises(GameDropped, match="lost: its branch does not know of it"):
                await game
            assert await branch.receive() == {"kind": "cancel", "game": 3}, "should it come late"

    within(scene())


def test_games_go_where_there_are_fewest_for_each_server(tmp_path: Path) -> None:
    played: dict[str, list[int]] = {"a": [], "b": []}
    release = asyncio.Event()

    def playing(name: str) -> Play:
        async def play(game: int, submit: Any, note: Any) -> None:
            played[name].append(game)
            await release.wait()

        return play

    async def scene() -> None:
        plays = {name: playing(name) for name in played}
        async with club(tmp_path, plays, {"a": [ONE], "b": [TWO, THREE]}) as it:
            games = [asyncio.create_task(it.play(game)) for game in range(9)]
            await it.until(lambda: sum(map(len, played.values())) == 9)
            release.set()
            await asyncio.gather(*games)
        assert {name: len(games) for name, games in played.items()} == {"a": 3, "b": 6}

    within(scene())


def test_a_failure_of_a_game_is_its_own_here_too(tmp_path: Path) -> None:
    async def play(game: int, submit: Any, note: Any) -> None:
        note("topic", game)
        submit(make_group(game, "solver"))
        raise GameDropped("retries", "the server is gone")

    async def scene() -> None:
        notes: dict[str, Any] = {}
        groups: list[Group] = []
        async with club(tmp_path, {"a": play}, {"a": [ONE]}) as it:
            with pytest.raises(GameDropped) as caught:
                await it.head.play("spy")(3, groups.append, notes.__setitem__)
        assert (caught.value.reason, caught.value.detail) == ("retries", "the server is gone")
        assert notes == {"topic": 3}
        assert groups == [make_group(3, "solver")]

    within(scene())


def test_a_branch_keeps_the_deadline(tmp_path: Path) -> None:
    async def play(game: int, submit: Any, note: Any) -> None:
        note("topic", game)
        await asyncio.Event().wait()

    async def scene() -> None:
        notes: dict[str, Any] = {}
        async with club(tmp_path, {"a": play}, {"a": [ONE]}, deadline_s=0.05) as it:
            with pytest.raises(GameDropped, match="deadline"):
                await it.head.play("spy")(3, lambda group: None, notes.__setitem__)
        assert notes == {"topic": 3}

    within(scene())


def test_a_game_that_nobody_waits_for_ends_there_too(tmp_path: Path) -> None:
    ended: list[int] = []

    async def play(game: int, submit: Any, note: Any) -> None:
        note("begun", True)
        submit(make_group(game, "solver"))
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(game)

    async def scene() -> None:
        groups: list[Group] = []
        async with club(tmp_path, {"a": play}, {"a": [ONE]}) as it:
            playing = it.head.play("spy")(3, groups.append, lambda key, value: None)
            game = asyncio.ensure_future(playing)
            await it.until(lambda: bool(groups))
            game.cancel()
            await it.until(lambda: bool(ended))
            assert game.cancelled()
        assert ended == [3]

    within(scene())


def test_what_no_game_may_do_ends_the_branch(tmp_path: Path) -> None:
    async def play(game: int, submit: Any, note: Any) -> None:
        raise KeyError("a bug")

    async def scene() -> None:
        async with club(tmp_path, {"a": play}, {"a": [ONE]}) as it:
            game = asyncio.ensure_future(it.play(1))
            with pytest.raises(KeyError, match="a bug"):
                await it.tasks["a"]
            game.cancel()

    with pytest.raises(KeyError, match="a bug"):  # once more, from the club's end
        within(scene())


def test_servers_are_told_of_to_the_branch_that_asks_them(tmp_path: Path) -> None:
    async def scene() -> None:
        plays = {"a": submit_two, "b": submit_two}
        async with club(tmp_path, plays, {"a": [ONE], "b": [TWO]}) as it:
            servers = it.head.servers()["solver"]
            servers.mark_ready(ONE, 3)
            servers.mark_ready(TWO, 4)
            a, b = (branch.pools["solver"] for branch in it.branches.values())
            await it.until(lambda: bool(a.ready and b.ready))
            assert (a.ready, b.ready) == ({ONE: 3}, {TWO: 4})
            assert it.pools["solver"].ready == {ONE: 3, TWO: 4}
            servers.mark_unready(TWO, "it hangs")
            await it.until(lambda: not b.ready)
            assert it.pools["solver"].ready == {ONE: 3} == a.ready
            a.mark_unready(ONE, "it does not answer")  # as the branch found out by itself
            await it.until(lambda: not it.pools["solver"].ready)
            servers.mark_ready(ONE, 4)
            await it.until(lambda: a.ready == {ONE: 4})
        told = [text for level, text in it.events if level == "warning"]
        assert told == [
            f"solver: {TWO} is gone: it hangs",
            f"solver: {ONE} is gone: it does not answer",
        ]
        assert "solver: " + ONE + " is back" in it.events[-1][1]

    within(scene())


def test_a_branch_that_comes_late_hears_what_is_ready(tmp_path: Path) -> None:
    async def scene() -> None:
        own = pools()
        own["solver"].mark_ready(ONE, 5)
        async with ends(tmp_path, "a", own=own) as (head, (branch,), start):
            await branch.send({"kind": "hello", "urls": [ONE]})
            serving = start(head.run())
            told = await branch.receive()
            assert told == {"kind": "ready", "policy": "solver", "url": ONE, "version": 5}
            await branch.send({"kind": "hello", "urls": [ONE]})
            with pytest.raises(BaseExceptionGroup) as caught:
                await serving
            assert caught.group_contains(TransportError, match="anew within one attempt")

    within(scene())


def test_games_wait_until_all_branches_are_here(tmp_path: Path) -> None:
    async def scene() -> None:
        async with ends(tmp_path, "a", "b") as (head, (one, two), start):
            start(head.run())
            prepared = start(head.prepare(1))
            await one.send({"kind": "hello", "urls": [ONE]})
            while head.num_here < 1:
                await asyncio.sleep(0)
            assert not prepared.done()
            await two.send({"kind": "hello", "urls": [TWO]})
            await prepared
            start(head.play("spy")(1, print, print))
            assert (await one.receive())["kind"] == "play"

    within(scene())


def test_what_the_last_game_cost_is_told_before_its_end(tmp_path: Path) -> None:
    """Right after it the engine writes its summary."""

    async def play(game: int, submit: Any, note: Any) -> None:
        it.branches["a"].pools["solver"].counts["tokens"] += 60

    async def scene() -> None:
        nonlocal it
        async with club(tmp_path, {"a": play}, {"a": [ONE]}) as it:
            await it.play(1)
            assert it.pools["solver"].stats()["tokens"] == 60

    it: Club
    within(scene())


def test_the_head_knows_what_goes_on_in_its_branches(tmp_path: Path) -> None:
    asked = asyncio.Event()
    answer = asyncio.Event()

    async def scene() -> None:
        async def play(game: int, submit: Any, note: Any) -> None:
            pool, queue = it.branches["a"].pools["solver"], it.branches["a"].waiting.at("solver")
            queue.enter()
            async with pool.place(b"prefix", 100):
                pool.counts["tokens"] += 60
                asked.set()
                await answer.wait()
            queue.leave()
            pool.counts["tokens"] += 40

        async with club(tmp_path, {"a": play}, {"a": [ONE]}) as it:
            it.head.servers()["solver"].mark_ready(ONE, 1)
            game = asyncio.create_task(it.play(1))
            await asked.wait()
            own = it.pools["solver"]
            await it.until(lambda: own.stats()["tokens"] == 60)
            assert own.stats()["servers"][ONE] == {"version": 1, "running": 1, "outstanding": 100}
            assert it.waiting.reading("solver").now == 1
            assert list(it.head.renderers()) == [{"name": "a"}]
            assert 0 < it.head.worked()["a"][1] < WAIT_S
            answer.set()
            await game
            await it.until(lambda: own.stats()["tokens"] == 100)
            assert own.stats()["servers"][ONE]["outstanding"] == 0
            reading = it.waiting.reading("solver")
            assert (reading.now, reading.answered) == (0, 1)
            assert reading.waited_s > 0
            it.branches["a"].warn("a sampler warns")
            await it.until(lambda: ("warning", "a sampler warns") in it.events)

    within(scene())
