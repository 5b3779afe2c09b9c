"""The engine: one asyncio process that streams games into batches. Read this file first.

    admit    waits for a slot (admission)          starts a game: one task each (engine.games)
    game     waits for samplers and the renderer   submits groups -> buffer, admission
    serve    waits for the learners' messages      marks rows trained, servers routable (desk)
    answer   waits for a change                    leases a batch for a parked learner
    measure  waits for the dev curve's next step   plays no game, only asks the samplers
    watch    once a second                         a snapshot to the views and metrics.jsonl
    drain    waits until someone asks for it       ends admission; all trained: learners save, stop
    beside   waits for what it needs               benchmarks, servers that move between policies

Everything that may let a game start or a policy step ends in `changes.notify()`, the one signal on
which `admit` and `answer` wait. No decision polls and no queue is unbounded: games are bounded by
admission, requests by the samplers' semaphores, renders by the pool's workers, batches by the few
open requests of a policy.

Who dies. A server or a render worker: its parent starts another, games wait or are dropped by name.
This process or a rank: the attempt ends, and the next one begins with the last whole checkpoint of
each policy and the buffer's rows. That undoes at most `run.checkpoint_every` steps of a policy,
and those that were made while its last checkpoint was still being written; their groups are ready
again, and so is everything that was submitted (`Buffer.restore`).

Order of the end. Healthy: all policies have published their last step -> the games left are
played out -> the held-out set is measured -> `bye` to the learners. Stopped (Ctrl-C): a learner
group has saved and says so -> games in flight are cancelled as dropped[stopped] -> the others are
told to stop, and waited for -> `bye`. Drained:
nothing is admitted, what there is is played and trained, the learners are told to save and stop,
and then as after Ctrl-C. Crash: the first exception of any task cancels all others and leaves
`run` as itself. A pause, and a drain that has not ended, are forgotten by the next attempt.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from engine.admission import Admission
from engine.desk import Desk
from engine.games import Games
from engine.tasks import Signal, first_of

WATCH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the engine calls, given by `launch`."""

    measure_before: Callable[[], Awaitable[None]] | None
    """The held-out measurement of the base; no step is made until it is done."""
    measure_dev: Callable[[int], Awaitable[None]] | None
    """One point of the development curve, at a step."""
    measure_after: Callable[[], Awaitable[None]] | None
    dev_every: int
    watch: Callable[["Engine"], Awaitable[None]]
    """Called once a second."""
    beside: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    """By name: what goes on beside play until it is done, or cancelled at the end."""
    finish: Callable[[], Awaitable[None]] | None = None
    """Awaited after the last game: evaluations of the last weights that are not done."""


@dataclass(slots=True, kw_only=True)
class Engine:
    """The live parts of one run; `run` drives them."""

    desk: Desk
    games: Games
    admission: Admission
    hooks: Hooks
    changes: Signal
    stopped_s: float = 0.0
    """How long learner groups may take to stop, all of them together."""
    phase: str = "measuring the base"
    holds_steps: bool = True
    is_paused: bool = False
    """No game is admitted until `resume`."""
    is_draining: bool = False
    _last_curve: int = 0
    _is_measuring: bool = False
    """A point of the development curve."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Play until every policy has made its steps, or until told to stop. Raises the first
        exception of any task."""
        try:
            async with asyncio.TaskGroup() as tasks:
                own = [
                    tasks.create_task(coroutine, name=name)
                    for name, coroutine in (
                        ("serve", self.desk.serve(self.admission)),
                        ("answer", self._answer()),
                        ("admit", self._admit(tasks)),
                        ("watch", self._watch()),
                        ("measure", self._measure()),
                        ("drain", self._drain()),
                    )
                ]
                own += [
                    tasks.create_task(_awaited(beside), name=name)
                    for name, beside in self.hooks.beside.items()
                ]
                await self._until_over()
                await self._wind_down(tasks)
                for task in own:
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from failures
        await self.hooks.watch(self)

    # what a person may ask for meanwhile

    def pause(self) -> None:
        """Start no game until `resume`; those in flight go on, and what is ready is trained."""
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False
        self.changes.notify()

    async def save(self) -> None:
        """Have every policy write a checkpoint."""
        await self.desk.tell_all("save")

    def drain(self) -> None:
        """Start no game any more, play and train what there is, then save and stop: a resumed run
        goes on from there, and nothing is played twice."""
        if self.phase not in ("measuring the base", "self-play"):
            return  # it is at its end already
        self.is_draining = True
        self.phase = "draining"
        self.changes.notify()

    async def _drain(self) -> None:
        while not self.is_draining:
            seen = self.changes.count
            await self.changes.beyond(seen)
        self.admission.stop()
        self.changes.notify()
        while not self.admission.is_drained:
            seen = self.changes.count
            await self.changes.beyond(seen)
        await self.desk.tell_to_stop()

    async def _until_over(self) -> None:
        while True:
            seen = self.changes.count
            if self.admission.is_finished or self.desk.is_stopping:
                return
            await self.changes.beyond(seen)

    async def _wind_down(self, tasks: asyncio.TaskGroup) -> None:
        self.admission.stop()
        ending = tasks.create_task(self._play_out(), name="play out")
        ending.add_done_callback(lambda _: self.changes.notify())
        while True:
            seen = self.changes.count
            if ending.done() or self.desk.is_stopping:
                break
            await self.changes.beyond(seen)
        if not ending.done():  # told to stop, maybe while the last games or the result took long
            self.phase = "stopping"
            for task in (ending, *self._tasks):
                task.cancel()
            while waiting := {task for task in (ending, *self._tasks) if not task.done()}:
                await asyncio.wait(waiting)
            self.games.end_unstarted()
            await self._until_all_saved()
        self.phase = "done"
        await self.desk.tell_all("bye")

    async def _until_all_saved(self) -> None:
        """Rank 0 ends with the engine, and with it the store of ranks that may still save."""
        await self.desk.tell_to_stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self.stopped_s - self.desk.stopped_after_s)):
                while not self.desk.has_stopped:
                    seen = self.changes.count
                    await self.changes.beyond(seen)

    async def _play_out(self) -> None:
        self.phase = "playing out the last games"
        while self._tasks:
            await asyncio.wait(self._tasks)
        while self._is_measuring:
            seen = self.changes.count
            await self.changes.beyond(seen)
        if self.hooks.measure_after is not None:
            self.phase = "measuring the result"
            await self.hooks.measure_after()
        if self.hooks.finish is not None:
            self.phase = "evaluating the last weights"
            await self.hooks.finish()

    async def _admit(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            seen = self.changes.count
            while not self.is_paused and (recipe := self.admission.next_recipe()) is not None:
                game = self.games.start(recipe)
                task = tasks.create_task(self.games.run(game), name=f"game {game}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await self.changes.beyond(seen)

    async def _answer(self) -> None:
        while True:
            seen = self.changes.count
            if not self.holds_steps and await self.desk.answer(self.admission):
                self.changes.notify()  # what was consumed may have opened slots
            await self.changes.beyond(seen)

    async def _measure(self) -> None:
        if self.hooks.measure_before is not None:
            await self.hooks.measure_before()
        self.holds_steps = False
        if self.phase == "measuring the base":
            self.phase = "self-play"
        self._last_curve = min(self.desk.steps.values())
        self.changes.notify()
        while self.hooks.measure_dev is not None:
            seen = self.changes.count
            step = min(self.desk.steps.values())
            if step // self.hooks.dev_every > self._last_curve // self.hooks.dev_every:
                self._last_curve = step
                self._is_measuring = True
                await self.hooks.measure_dev(step)
                self._is_measuring = False
                self.changes.notify()
            else:
                await self.changes.beyond(seen)

    async def _watch(self) -> None:
        while True:
            await self.hooks.watch(self)
            await asyncio.sleep(WATCH_S)


async def _awaited(function: Callable[[], Awaitable[None]]) -> None:
    await function()
