"""Processes that share the cores of a machine, each of them one thread wide.

Processor sharing: of b busy processes each gets min(1, cores / b) of a core. On a machine of GPUs
the cores are no matter, and every process has its own. A GPU that several processes share is a core
to them. Who needs several things, as a learner does that has ranks on several GPUs, is as fast as
the slowest of them lets it be; what it then leaves of the others nobody else gets.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable


class Cores:
    """The cores of one machine, or a GPU: one. `math.inf`: as many as are wanted."""

    def __init__(self, number: float = math.inf) -> None:
        self._number = number
        self._busy: dict[Processor, None] = {}  # in the order of their coming: deterministic
        self.speed = 1.0
        """CPU seconds per second of each busy processor."""

    def enter(self, processor: "Processor") -> None:
        self._busy[processor] = None
        self._share()

    def leave(self, processor: "Processor") -> None:
        del self._busy[processor]
        self._share()

    def _share(self) -> None:
        speed = min(1.0, self._number / len(self._busy)) if self._busy else 1.0
        if speed == self.speed:
            return
        for processor in self._busy:
            processor.settle()
        self.speed = speed
        for processor in self._busy:
            processor.arm()


class Processor:
    """What one process gets of its machine: a clock of CPU seconds, and one event on it."""

    def __init__(self, *cores: Cores) -> None:
        """`cores`: all that it needs at once, at least one."""
        self._cores = cores
        self._loop = asyncio.get_running_loop()
        self._seen_s = self._loop.time()
        self._used_s = 0.0
        self._due_s = 0.0
        self._on_due: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.busy_s = 0.0
        """Seconds in which it had something to do."""

    @property
    def is_busy(self) -> bool:
        return self._on_due is not None

    @property
    def speed(self) -> float:
        """CPU seconds per second, while it is busy."""
        return min(cores.speed for cores in self._cores)

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far."""
        self.settle()
        return self._used_s

    def settle(self) -> None:
        """Bring the clock up to date."""
        now_s = self._loop.time()
        if self._on_due is not None:
            self.busy_s += now_s - self._seen_s
            self._used_s += (now_s - self._seen_s) * self.speed
        self._seen_s = now_s

    def after(self, cpu_s: float, on_due: Callable[[], None]) -> None:
        """Be busy, and call back after so many CPU seconds; replaces what was to be called."""
        self.settle()
        was_busy, self._on_due = self.is_busy, on_due
        self._due_s = self._used_s + cpu_s
        if was_busy:
            self.arm()
            return
        for cores in self._cores:
            cores.enter(self)
        if self._timer is None:  # else it was armed with the others
            self.arm()

    def rest(self) -> None:
        """Nothing to do now."""
        if not self.is_busy:
            return
        self.settle()
        self._on_due = None
        self._disarm()
        for cores in self._cores:
            cores.leave(self)

    def arm(self) -> None:
        """Set the timer by the speed of now."""
        self._disarm()
        left_s = max(0.0, self._due_s - self._used_s) / self.speed
        self._timer = self._loop.call_at(self._seen_s + left_s, self._fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self.settle()
        self._used_s = max(self._used_s, self._due_s)  # no event is early by a rounding
        on_due, self._timer = self._on_due, None
        assert on_due is not None, "a timer is disarmed when its processor rests"
        on_due()


class Process:
    """Does one thing after the other, in the order of asking."""

    def __init__(self, *cores: Cores) -> None:
        self.processor = Processor(*cores)
        self._jobs: deque[tuple[float, asyncio.Future[None] | None]] = deque()

    async def work(self, cpu_s: float) -> None:
        """So many CPU seconds of work, behind all that was asked for before."""
        done = asyncio.get_running_loop().create_future()
        self._add(cpu_s, done)
        await done

    def charge(self, cpu_s: float) -> None:
        """The same, for whoever does not wait for it."""
        if cpu_s > 0:
            self._add(cpu_s, None)

    def _add(self, cpu_s: float, done: asyncio.Future[None] | None) -> None:
        self._jobs.append((cpu_s, done))
        if len(self._jobs) == 1:
            self.processor.after(cpu_s, self._finish)

    def _finish(self) -> None:
        _, done = self._jobs.popleft()
        if done is not None and not done.done():
            done.set_result(None)
        if self._jobs:
            self.processor.after(self._jobs[0][0], self._finish)
        else:
            self.processor.rest()
