"""The sequential schedule: one stream trains at a time, and all others are frozen meanwhile.

A gate (`engine.stages.Gate`) that opens the streams of a recipe one after the other, each for a
number of steps, as the papers' scripts do with whole processes. With `max_age` 0, which belongs to
it, every step waits for its games and every game for the step before it: barriers.
"""

from collections.abc import Sequence
from typing import Any


class Phases:
    """Structurally an `engine.stages.Gate`."""

    def __init__(self, streams: Sequence[str], steps: int) -> None:
        """`streams` in the order in which they train; `steps` of a phase."""
        self._streams = tuple(streams)
        self._steps = steps
        self.number = 0
        """Phases before this one."""
        self._done = 0
        """Steps of this phase that are made."""

    @property
    def stream(self) -> str:
        """Which trains now."""
        return self._streams[self.number % len(self._streams)]

    def open_streams(self, finished: frozenset[str] = frozenset()) -> frozenset[str]:
        if not finished.issuperset(self._streams):
            while self.stream in finished:
                self._next()
        return frozenset({self.stream})

    def tick(self) -> str | None:
        self._done += 1
        if self._done < self._steps:
            return None
        self._next()
        return f"{self.stream} phase"

    def numbers(self) -> dict[str, float]:
        return {f"trains {stream}": float(stream == self.stream) for stream in self._streams}

    def state(self) -> Any:
        return {"number": self.number, "done": self._done}

    def restore(self, state: Any) -> None:
        self.number, self._done = int(state["number"]), int(state["done"])

    def _next(self) -> None:
        self.number, self._done = self.number + 1, 0
