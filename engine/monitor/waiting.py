"""Who waits where: how many requests of games are under way at each station, and for how long.

A station is what does work for games: the servers of a policy, or the renderer. The sum over time
of the requests that were under way says where games spend their time, whatever each one took.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """Of a queue at a moment."""

    now: int
    """Requests under way."""
    answered: int
    """Requests that have ended, however they did."""
    waited_s: float
    """Seconds that requests have waited so far, summed over them: it never falls."""


class Queue:
    """The requests at one station. Kept by whoever asks the station, read once a second."""

    __slots__ = ("_begun_s", "_clock", "answered", "now")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.now = 0
        """Requests under way."""
        self.answered = 0
        """Requests that have ended, however they did."""
        self._begun_s = 0.0
        """When each one under way began, summed, less what those that ended have waited."""

    def enter(self) -> None:
        """A request begins to wait; `leave` has to follow."""
        self.now += 1
        self._begun_s += self._clock()

    def leave(self) -> None:
        """It has its answer, or has failed."""
        self.now -= 1
        self.answered += 1
        self._begun_s -= self._clock()

    @property
    def waited_s(self) -> float:
        """Seconds that requests have waited so far, summed over them: it never falls."""
        return self.now * self._clock() - self._begun_s


class Waiting:
    """The queues of all stations."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queues: dict[str, Queue] = {}
        self._heard: dict[str, dict[Hashable, Reading]] = {}
        """By station, what was told of queues elsewhere."""

    def at(self, station: str) -> Queue:
        """That of a station; whoever asks it often keeps it."""
        if station not in self._queues:
            self._queues[station] = Queue(self._clock)
        return self._queues[station]

    def reading(self, station: str) -> Reading:
        """Of the queue there, and of those that others keep."""
        own, elsewhere = self.at(station), self._heard.get(station, {}).values()
        return Reading(
            own.now + sum(one.now for one in elsewhere),
            own.answered + sum(one.answered for one in elsewhere),
            own.waited_s + sum(one.waited_s for one in elsewhere),
        )

    def tell(self) -> dict[str, dict[str, float]]:
        """{station: reading} as plain data, for the `hear` of another process."""
        return {station: asdict(self.reading(station)) for station in self._queues}

    def hear(
        self, teller: Hashable, station: str, *, now: int, answered: int, waited_s: float
    ) -> None:
        """What `teller` says of its own queue at a station, in place of what it said before."""
        self._heard.setdefault(station, {})[teller] = Reading(now, answered, waited_s)
