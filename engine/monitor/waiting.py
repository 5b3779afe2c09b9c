"""Who waits where: how many requests of games are under way at each station, and for how long.

A station is what does work for games: the servers of a policy, or the renderer. The sum over time
of the requests that were under way says where games spend their time, whatever each one took.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Station:
    now: int = 0
    since_s: float = 0.0
    waited_s: float = 0.0
    answered: int = 0


class Waiting:
    """Kept by whoever asks a station; read once a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stations: dict[str, _Station] = {}

    def enter(self, station: str) -> None:
        """A request begins to wait; `leave` has to follow."""
        own = self._stations.get(station)
        if own is None:
            own = self._stations[station] = _Station()
        self._add(own, 1)

    def leave(self, station: str) -> None:
        """It has its answer, or has failed."""
        own = self._stations[station]
        self._add(own, -1)
        own.answered += 1

    def now(self, station: str) -> int:
        """Requests under way."""
        return self._stations[station].now if station in self._stations else 0

    def waited_s(self, station: str) -> float:
        """Seconds that requests have waited so far, summed over them: it never falls."""
        if (own := self._stations.get(station)) is None:
            return 0.0
        self._add(own, 0)
        return own.waited_s

    def answered(self, station: str) -> int:
        """Requests that have ended, however they did."""
        return self._stations[station].answered if station in self._stations else 0

    def _add(self, own: _Station, change: int) -> None:
        now_s = self._clock()
        own.waited_s += own.now * (now_s - own.since_s)
        own.since_s = now_s
        own.now += change
