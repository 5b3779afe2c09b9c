"""The one thread that computes: steps all models in turn, and runs what others ask of it."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch

from engine.servers.embedded.request import Progress
from engine.servers.embedded.scheduler import Scheduler

R = TypeVar("R")
Deliveries = list[tuple[Callable[[Progress], None], Progress]]


class Worker(threading.Thread):
    """Owns the schedulers. Everything that touches one goes through `post` or `call`."""

    def __init__(self, schedulers: Sequence[Scheduler], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="rollout-worker", daemon=True)
        self.finished: asyncio.Future[None] = loop.create_future()
        """Done when the thread ends; holds the exception that ended it, if one did."""
        self._schedulers = tuple(schedulers)
        self._loop = loop
        self._inbox: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    def post(self, action: Callable[[], object]) -> None:
        """Run `action` on the worker thread between two steps. It must not raise."""
        self._inbox.put(action)

    def call(self, action: Callable[[], R]) -> asyncio.Future[R]:
        """Like `post`; the result or the exception of `action` becomes the future's."""
        outcome: Future[R] = Future()

        def run() -> None:
            try:
                outcome.set_result(action())
            except Exception as error:  # noqa: BLE001  it is raised where it is awaited
                outcome.set_exception(error)

        self._inbox.put(run)
        return asyncio.wrap_future(outcome, loop=self._loop)

    def stop(self) -> None:
        """End the thread after the current step."""
        self._inbox.put(None)

    def run(self) -> None:
        torch.set_num_threads(1)  # holds for the calling thread only
        failure: BaseException | None = None
        try:
            with torch.inference_mode():
                while self._serve_inbox():
                    self._step()
        except BaseException as error:  # noqa: BLE001  the main thread must hear of it
            failure = error
        self._tell(lambda: self._set_finished(failure))

    def _serve_inbox(self) -> bool:
        """Run all that was asked, waiting for more only when no model has work."""
        idle = not any(scheduler.has_work for scheduler in self._schedulers)
        try:
            while True:
                action = self._inbox.get(block=idle)
                if action is None:
                    return False
                action()
                idle = False
        except Empty:
            return True

    def _step(self) -> None:
        deliveries: Deliveries = []
        for scheduler in self._schedulers:
            scheduler.step()
            deliveries += scheduler.outbox
            scheduler.outbox.clear()
        if deliveries:
            self._tell(lambda: _deliver(deliveries))

    def _tell(self, callback: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    def _set_finished(self, failure: BaseException | None) -> None:
        if self.finished.done():
            return
        if failure is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(failure)


def _deliver(deliveries: Deliveries) -> None:
    for deliver, progress in deliveries:
        deliver(progress)
