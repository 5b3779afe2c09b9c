"""Steps all models in turn, on the event loop's own thread.

A step lasts a few milliseconds; between two of them the loop serves whatever has arrived. With one
thread nothing is handed over, and no operation of a step waits for the interpreter's lock.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from engine.servers.embedded.scheduler import Scheduler

R = TypeVar("R")

_TURNS_PER_STEP = 4
"""A request passes the HTTP stack in a few turns of the loop; with fewer it would join late."""


class Worker:
    """The task that computes. Everything that touches a scheduler goes through `run`."""

    def __init__(self, schedulers: Sequence[Scheduler]) -> None:
        self._schedulers = tuple(schedulers)
        self._work = asyncio.Event()
        self._stopping = False
        self.alive = True

    def run(self, action: Callable[[], R]) -> R:
        """Do something between two steps, then step on."""
        with torch.inference_mode():
            result = action()
        self._work.set()
        return result

    def stop(self) -> None:
        """End `step_forever` after the current step."""
        self._stopping = True
        self._work.set()

    async def step_forever(self) -> None:
        """Step whatever has work, until stopped. An error here is a defect, and ends the server."""
        try:
            while not self._stopping:
                if not any(scheduler.has_work for scheduler in self._schedulers):
                    self._deliver()
                    self._work.clear()
                    await self._work.wait()
                with torch.inference_mode():
                    for scheduler in self._schedulers:
                        scheduler.step()
                self._deliver()
                for _ in range(_TURNS_PER_STEP):
                    await asyncio.sleep(0)
        finally:
            self.alive = False

    def _deliver(self) -> None:
        for scheduler in self._schedulers:
            for deliver, progress in scheduler.outbox:
                deliver(progress)
            scheduler.outbox.clear()
