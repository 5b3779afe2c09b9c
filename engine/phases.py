"""The sequential schedule: one stream trains at a time, and all others are frozen meanwhile.

A gate (`engine.stages.Gate`) that opens the streams of a recipe one after the other, each for a
number of steps, as the papers' scripts do with whole processes. With `max_age` 0, which belongs to
it, every step waits for its games and every game for the step before it: barriers.

The stream that has had the fewest phases is the one that trains. So where a restart sets policies
back to different steps, those that lost some make them first. A batch that came to nothing counts
as a step: what is gathered for a phase may hold nothing more to train on.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


class Phases:
    """Structurally an `engine.stages.Gate`."""

    def __init__(self, streams: Sequence[str], steps: int) -> None:
        """`streams` in the order in which they train; `steps` of a phase."""
        self._streams = tuple(streams)
        self._steps = steps
        self._done: Counter[str] = Counter()
        """Steps of each stream."""
        self._finished: frozenset[str] = frozenset()

    @property
    def stream(self) -> str:
        """Which trains now."""
        left = [one for one in self._streams if one not in self._finished] or self._streams
        return min(left, key=self._phases_of)

    @property
    def number(self) -> int:
        """Phases that this stream has had before."""
        return self._phases_of(self.stream)

    @property
    def steps_left(self) -> int:
        """Of this phase."""
        return self._steps - self._done[self.stream] % self._steps

    def open_streams(self, finished: frozenset[str] = frozenset()) -> frozenset[str]:
        self._finished = finished
        return frozenset({self.stream})

    def tick(self, measured: Mapping[str, Mapping[str, float]]) -> str | None:
        before = self.stream
        self._done[before] += 1
        return None if self.stream == before else f"{self.stream} phase"

    def numbers(self) -> dict[str, float]:
        return {f"trains {stream}": float(stream == self.stream) for stream in self._streams}

    def state(self) -> Any:
        return dict(self._done)

    def restore(self, state: Any, own: Mapping[str, Any]) -> None:
        self._done = Counter({stream: own[stream].get(stream, 0) for stream in self._streams})

    def _phases_of(self, stream: str) -> int:
        return self._done[stream] // self._steps
