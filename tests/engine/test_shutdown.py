"""The ends of a run: stopped in any phase, or with the exception of a measurement."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.admission import AdmissionRules, StreamRule
from engine.branches import Branches
from engine.buffer import Buffer
from engine.conservation import violations
from engine.games import Games
from engine.loop import Engine, Hooks
from engine.monitor.waiting import Waiting
from engine.transport import EngineSocket
from engine.types import Group, Segment
from tests.engine.fakes import FakeLearner, FakeRun, make_rollout

AT_ONCE_S = 25.0
"""A stop needs milliseconds, but the machine may stand still; a game's deadline is 30 s here."""


async def watch_nothing(engine: Engine) -> None:
    return None


def hooks(**measurements: Any) -> Hooks:
    wanted: dict[str, Any] = {
        "measure_before": None,
        "measure_dev": None,
        "measure_after": None,
        **measurements,
    }
    return Hooks(**wanted, dev_every=1, watch=watch_nothing)


def run_of(folder: Path, *, steps: int = 3, play: Any = None, **changes: Any) -> FakeRun:
    """One policy, one game per step; an unfinished game that gets too old is left behind."""
    rules = AdmissionRules(
        streams={"a": StreamRule(policy="a", max_age=1)},
        games_per_step=1,
        total_steps=steps,
        too_old="drop",
    )
    return FakeRun(
        buffer=Buffer.open(folder / "run.db"),
        rules=rules,
        folder=folder,
        play=play or quick_game,
        learner=FakeLearner(f"ipc://{folder}/engine.sock", ("a",), random.Random(0)),
        **changes,
    )


async def quick_game(run: FakeRun, game: int, submit: Callable[[Group], None]) -> None:
    """One group that can be trained, as soon as the server has weights."""
    while not (version := run.servers["a"].version):
        await asyncio.sleep(0)
    rollouts = tuple(make_rollout("a", token=k, segments=(Segment(0, version),)) for k in (1, 2))
    submit(Group(stream="a", game=game, rollouts=rollouts, rewards=(0.0, 1.0)))


async def second_game_hangs(run: FakeRun, game: int, submit: Callable[[Group], None]) -> None:
    if game == 2:
        await asyncio.Event().wait()
    await quick_game(run, game, submit)


async def until(holds: Callable[[], object]) -> None:
    """Let the engine run until `holds()`; fails after a while."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


async def stopped(run: FakeRun, when: Callable[[], object]) -> None:
    """Run, say `stopping` once `when()` holds, and see the engine end at once and say bye."""
    engine = asyncio.create_task(run.run())
    try:
        await until(lambda: engine.done() or when())
        assert not engine.done(), engine
        run.learner.wants_stop.set()
        await asyncio.wait_for(asyncio.shield(engine), AT_ONCE_S)
        assert run.learner.heard_bye.is_set()
    finally:
        engine.cancel()
        await asyncio.gather(engine, return_exceptions=True)


def phase_is(run: FakeRun, phase: str) -> Callable[[], bool]:
    return lambda: run.engine is not None and run.engine.phase == phase


def test_a_stop_ends_the_last_games(tmp_path: Path) -> None:
    """All steps are made, a game is still on, and it would go on until its deadline."""
    run = run_of(tmp_path, play=second_game_hangs)
    asyncio.run(stopped(run, phase_is(run, "playing out the last games")))
    counts = run.buffer.counts()
    assert counts["games"]["dropped"] == {"stopped": 1}
    assert counts["games"]["in_flight"] == 0
    assert counts["groups"]["a"]["trained"] == 3
    assert not violations(counts)


def two_groups(folder: Path, *, stopped_s: float) -> FakeRun:
    """The second learner group saves as long as its test likes."""
    run = run_of(folder, play=second_game_hangs, stopped_s=stopped_s)
    run.rules = replace(run.rules, streams={p: StreamRule(policy=p, max_age=1) for p in ("a", "b")})
    other = FakeLearner(run.learner.address, ("b",), random.Random(0), stops_when_told=False)
    run.others = (other,)
    return run


def test_bye_is_said_when_the_last_learner_group_has_saved(tmp_path: Path) -> None:
    async def scene() -> None:
        run = two_groups(tmp_path, stopped_s=60.0)
        (other,) = run.others
        engine = asyncio.create_task(run.run())
        try:
            await until(lambda: run.buffer.counts()["games"]["in_flight"])
            run.learner.wants_stop.set()
            await until(other.told_to_stop.is_set)
            assert not run.learner.told_to_stop.is_set()
            for _ in range(20):
                await asyncio.sleep(0.005)  # that is enough to end, where nobody waits
            assert not engine.done()
            assert not run.learner.heard_bye.is_set()
            other.wants_stop.set()
            await asyncio.wait_for(asyncio.shield(engine), AT_ONCE_S)
            assert run.learner.heard_bye.is_set()
            assert other.heard_bye.is_set()
        finally:
            engine.cancel()
            await asyncio.gather(engine, return_exceptions=True)

    asyncio.run(scene())


def test_a_learner_group_that_never_stops_is_not_waited_for_without_end(tmp_path: Path) -> None:
    run = two_groups(tmp_path, stopped_s=0.05)
    asyncio.run(stopped(run, lambda: run.buffer.counts()["games"]["in_flight"]))
    assert run.others[0].told_to_stop.is_set()


def test_a_stop_is_heard_while_a_branch_has_not_come_yet(tmp_path: Path) -> None:
    begun: list[int] = []

    async def scene() -> None:
        socket = EngineSocket(f"ipc://{tmp_path}/branches.sock")
        branches = Branches(socket, 1, pools={}, waiting=Waiting(), on_event=lambda *_: None)

        async def play(run: FakeRun, game: int, submit: Callable[[Group], None]) -> None:
            begun.append(game)
            await branches.prepare(game)

        run = run_of(tmp_path, play=play, hooks=hooks(beside={"branches": branches.run}))
        try:
            await stopped(run, lambda: begun)
        finally:
            socket.close()
        counts = run.buffer.counts()
        assert counts["games"]["dropped"] == {"stopped": counts["games"]["started"]}
        assert not violations(counts)

    asyncio.run(scene())


def test_a_stop_ends_the_measurement_of_the_result(tmp_path: Path) -> None:
    cancelled: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append("result")

    run = run_of(tmp_path, hooks=hooks(measure_after=endless))
    asyncio.run(stopped(run, phase_is(run, "measuring the result")))
    assert cancelled == ["result"]
    assert run.buffer.counts()["games"]["dropped"] == {}
    assert not violations(run.buffer.counts())


def test_a_stop_ends_the_measurement_of_the_base(tmp_path: Path) -> None:
    run = run_of(tmp_path, hooks=hooks(measure_before=asyncio.Event().wait))
    asyncio.run(stopped(run, lambda: run.buffer.counts()["games"]["finished"]))
    counts = run.buffer.counts()
    assert not run.learner.batches
    assert counts["games"]["in_flight"] == 0
    assert not violations(counts)


class StoppedAtTheStart(Games):
    """The stop comes in the turn of the loop in which a game starts, before its task's first."""

    stop: Callable[[], None]

    def start(self, recipe: str) -> int:
        game = super().start(recipe)
        self.stop()
        self.on_change()
        return game


def test_a_game_that_never_had_a_turn_is_not_left_in_flight(tmp_path: Path) -> None:
    played: list[int] = []

    async def play(run: FakeRun, game: int, submit: Callable[[Group], None]) -> None:
        played.append(game)

    def make(**fields: Any) -> Games:
        games = StoppedAtTheStart(**fields)
        games.stop = lambda: setattr(run.engine.desk, "is_stopping", True)
        return games

    run = run_of(tmp_path, play=play, make_games=make)
    asyncio.run(asyncio.wait_for(run.run(), AT_ONCE_S))
    games = run.buffer.counts()["games"]
    assert not played, "the stop came too late for this test"
    assert games["started"] > 0
    assert games == {
        "started": games["started"],
        "finished": 0,
        "dropped": {"stopped": games["started"]},
        "in_flight": 0,
    }


def test_no_step_is_made_while_the_base_is_measured_but_games_are_played(tmp_path: Path) -> None:
    measured = asyncio.Event()

    async def before() -> None:
        await measured.wait()

    async def scenario(run: FakeRun) -> None:
        engine = asyncio.create_task(run.run())
        try:
            await until(lambda: run.engine is not None)
            assert run.engine is not None
            admission, desk = run.engine.admission, run.engine.desk
            await until(lambda: admission.ready("a") is not None and "a" in desk.waiting)
            for _ in range(20):  # whatever wakes up now must not answer the learner
                run.engine.changes.notify()
                await asyncio.sleep(0)
            assert admission.ready("a") is not None
            assert run.buffer.counts()["groups"]["a"]["leased"] == 0
            assert run.engine.phase == "measuring the base"
            measured.set()
            await asyncio.wait_for(asyncio.shield(engine), 15.0)
        finally:
            engine.cancel()
            await asyncio.gather(engine, return_exceptions=True)

    run = run_of(tmp_path, hooks=hooks(measure_before=before))
    asyncio.run(scenario(run))
    assert len(run.learner.batches) == 3


@pytest.mark.parametrize("which", ["measure_before", "measure_dev", "measure_after"])
def test_an_error_in_a_measurement_ends_the_run_with_it(tmp_path: Path, which: str) -> None:
    async def fail(*_: int) -> None:
        raise ZeroDivisionError(which)

    run = run_of(tmp_path, steps=4, play=second_game_hangs, hooks=hooks(**{which: fail}))
    if which == "measure_after":
        run.play = quick_game
    with pytest.raises(ZeroDivisionError, match=which):
        asyncio.run(asyncio.wait_for(run.run(), 15.0))
    assert not run.learner.heard_bye.is_set()
    assert not violations(run.buffer.counts())


def test_the_development_curve_has_a_point_for_every_step_it_is_due(tmp_path: Path) -> None:
    points: list[int] = []

    async def dev(step: int) -> None:
        points.append(step)

    asyncio.run(asyncio.wait_for(run_of(tmp_path, hooks=hooks(measure_dev=dev)).run(), 15.0))
    # A point may be skipped where two steps are made meanwhile, never doubled.
    assert points
    assert points == sorted(set(points))
    assert set(points) <= {1, 2, 3}


def test_the_last_point_of_the_development_curve_is_waited_for(tmp_path: Path) -> None:
    points: list[int] = []

    async def dev(step: int) -> None:
        run.engine.changes.notify()  # type: ignore[union-attr]
        await asyncio.sleep(0.2)
        points.append(step)

    run = run_of(tmp_path, hooks=hooks(measure_dev=dev))
    asyncio.run(asyncio.wait_for(run.run(), 15.0))
    assert points[-1] == 3
