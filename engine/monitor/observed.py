"""A game's sampler and renderer, watched: who waits where, and the game's own timeline.

    timeline   {"started_s": unix, "samples": [[role, start_ms, ms, tokens, version, server]],
                "pictures": [[start_ms, ms, outcome]]}

times in ms after `started_s`; `version` is that of the last token, `server` an index into
"servers". It goes with the game's notes, a few kB, so that any game can be looked at later.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from engine.monitor.waiting import Waiting
from engine.types import Invalid, Message, Picture, Rollout, SamplingParams

RENDERER = "renderer"
"""The renderer's name as a station."""
TIMELINE = "timeline"
"""The note's key."""


class Sampler(Protocol):
    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]: ...


class Renderer(Protocol):
    async def render(self, svg: str) -> Picture | Invalid: ...


class Timeline:
    """What happened in one game, in the form above."""

    def __init__(self) -> None:
        self.started_s = time.time()
        self._servers: dict[str, int] = {}
        self.note: dict[str, Any] = {
            "started_s": round(self.started_s, 3),
            "servers": [],
            "samples": [],
            "pictures": [],
        }

    def sampled(self, role: str, rollouts: Sequence[Rollout]) -> None:
        origin_s, add = self.started_s, self.note["samples"].append
        for rollout in rollouts:
            server = self._servers.get(rollout.server)
            if server is None:
                server = self._servers[rollout.server] = len(self._servers)
                self.note["servers"].append(rollout.server)
            begun_s = rollout.started_s
            add(
                [
                    role,
                    int((begun_s - origin_s) * 1e3),
                    int((rollout.finished_s - begun_s) * 1e3),
                    len(rollout.token_ids),
                    rollout.segments[-1].version,
                    server,
                ]
            )

    def rendered(self, started_s: float, result: Picture | Invalid) -> None:
        outcome = result.reason if isinstance(result, Invalid) else "picture"
        begun_ms = int((started_s - self.started_s) * 1e3)
        self.note["pictures"].append([begun_ms, int((time.time() - started_s) * 1e3), outcome])


class ObservedSampler:
    """A role's sampler within one game; its station is the policy that serves it."""

    def __init__(self, sampler: Sampler, role: str, waiting: Waiting, timeline: Timeline) -> None:
        self._sampler = sampler
        self._role = role
        self._waiting = waiting
        self._timeline = timeline

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        self._waiting.enter(self._role)
        try:
            rollouts = await self._sampler.sample(messages, n=n, params=params, images=images)
        finally:
            self._waiting.leave(self._role)
        self._timeline.sampled(self._role, rollouts)
        return rollouts


class ObservedRenderer:
    """The renderer within one game."""

    def __init__(self, renderer: Renderer, waiting: Waiting, timeline: Timeline) -> None:
        self._renderer = renderer
        self._waiting = waiting
        self._timeline = timeline

    async def render(self, svg: str) -> Picture | Invalid:
        started_s = time.time()
        self._waiting.enter(RENDERER)
        try:
            result = await self._renderer.render(svg)
        finally:
            self._waiting.leave(RENDERER)
        self._timeline.rendered(started_s, result)
        return result
