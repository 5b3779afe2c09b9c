"""A game's sampler and renderer, watched: who waits where, and the game's own timeline.

    timeline   {"started_s": unix, "samples": [[role, start_ms, ms, tokens, version, server]],
                "pictures": [[start_ms, ms, outcome]]}

times in ms after `started_s`; `version` is that of the last token, `server` an index into
"servers". It goes with the game's notes, a few kB, so that any game can be looked at later.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from engine.monitor.waiting import Queue, Waiting
from engine.types import Invalid, Message, Picture, Renderer, Rollout, Sampler, SamplingParams

RENDERER = "renderer"
"""The renderer's name as a station."""
ENGINE = "engine"
"""The engine's own process, among the parts of a run that are busy or not."""
TIMELINE = "timeline"
"""The note's key."""


class Timeline:
    """What happened in one game. While it is played, things are only put down; `note` has the form
    above, and is asked for once, at its end."""

    def __init__(self) -> None:
        self.started_s = time.time()
        self._samples: list[tuple[str, Sequence[Rollout]]] = []
        """The game keeps these rollouts anyway, until it ends."""
        self._pictures: list[tuple[float, float, str]] = []
        """(begun, ended, outcome)"""

    def sampled(self, role: str, rollouts: Sequence[Rollout]) -> None:
        self._samples.append((role, rollouts))

    def rendered(self, started_s: float, result: Picture | Invalid) -> None:
        outcome = result.reason if isinstance(result, Invalid) else "picture"
        self._pictures.append((started_s, time.time(), outcome))

    @property
    def note(self) -> dict[str, Any]:
        origin_s = self.started_s
        servers: dict[str, int] = {}
        samples = [
            (
                role,
                int((rollout.started_s - origin_s) * 1e3),
                int((rollout.finished_s - rollout.started_s) * 1e3),
                len(rollout.token_ids),
                rollout.segments[-1].version,
                servers.setdefault(rollout.server, len(servers)),
            )
            for role, rollouts in self._samples
            for rollout in rollouts
        ]
        pictures = [
            (int((started_s - origin_s) * 1e3), int((ended_s - started_s) * 1e3), outcome)
            for started_s, ended_s, outcome in self._pictures
        ]
        return {
            "started_s": round(origin_s, 3),
            "servers": list(servers),
            "samples": samples,
            "pictures": pictures,
        }


class ObservedSampler:
    """A sampler that tells of the rollouts that it gives, and lets it be seen how many requests
    wait for them."""

    def __init__(
        self,
        sampler: Sampler,
        tell: Callable[[Sequence[Rollout]], None],
        queue: Queue | None = None,
    ) -> None:
        """`queue`: that of the station that serves it; None: its requests are nobody's business."""
        self._sampler = sampler
        self._tell = tell
        self._queue = Queue(time.monotonic) if queue is None else queue

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        self._queue.enter()
        try:
            rollouts = await self._sampler.sample(messages, n=n, params=params, images=images)
        finally:
            self._queue.leave()
        self._tell(rollouts)
        return rollouts


class ObservedRenderer:
    """The renderer within one game."""

    def __init__(self, renderer: Renderer, waiting: Waiting, timeline: Timeline) -> None:
        self._renderer = renderer
        self._queue = waiting.at(RENDERER)
        self._timeline = timeline

    async def render(self, svg: str) -> Picture | Invalid:
        started_s = time.time()
        self._queue.enter()
        try:
            result = await self._renderer.render(svg)
        finally:
            self._queue.leave()
        self._timeline.rendered(started_s, result)
        return result


def observed(
    samplers: Mapping[str, Sampler],
    stations: Mapping[str, str],
    waiting: Waiting,
    timeline: Timeline,
) -> dict[str, ObservedSampler]:
    """The samplers of one game, by role. `stations`: by role, who serves it: its policy."""
    return {
        role: ObservedSampler(sampler, partial(timeline.sampled, role), waiting.at(stations[role]))
        for role, sampler in samplers.items()
    }
