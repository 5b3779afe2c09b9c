"""The measurements that a run makes of itself: the base, the development curve, the result.

All ask the run's own samplers, so they measure what the servers serve. The held-out split is
measured twice, before the first step and after the last, and decides nothing; the curve uses the
development split.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.rundir import RunDir
from engine.types import Message, Rollout, SamplingParams
from evals.heldout import HeldoutResult, compare, measure
from launch.config import RootConfig
from roles.table import Renderer, Sampler

log = logging.getLogger(__name__)


class Log(Protocol):
    def __call__(self, kind: str, record: Mapping[str, Any]) -> None: ...


class Counting:
    """A sampler that tells how many tokens it sampled; the untrainable (greedy) ones too."""

    def __init__(self, sampler: Sampler, count: Callable[[int], None]) -> None:
        self._sampler = sampler
        self._count = count

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        rollouts = await self._sampler.sample(messages, n=n, params=params, images=images)
        self._count(sum(len(rollout.token_ids) for rollout in rollouts))
        return rollouts


class Measurements:
    """Makes and keeps the results of one run, in `heldout-before.json` and `heldout-after.json`."""

    def __init__(
        self,
        config: RootConfig,
        run: RunDir,
        samplers: Mapping[str, Sampler],
        renderer: Renderer,
        record: Log,
    ) -> None:
        self._config = config
        self._samplers = samplers
        self._renderer = renderer
        self._record = record
        self._before = run.path / "heldout-before.json"
        self._after = run.path / "heldout-after.json"

    def wants_before(self, steps: Mapping[str, int]) -> bool:
        """True where the base has not been measured and all policies still are the base."""
        wanted = self._config.eval.heldout_items > 0 and not self._before.exists()
        return wanted and not any(steps.values())

    async def before(self) -> None:
        await self._heldout(self._before, majority_items=self._config.eval.majority_items)

    async def after(self) -> None:
        await self._heldout(self._after, majority_items=0)

    async def dev(self, step: int) -> None:
        """One point of the development curve."""
        cfg = self._config.eval
        result = await measure(
            self._samplers,
            self._renderer,
            self._config.recipe,
            split="dev",
            items=cfg.dev_items,
            samples=cfg.samples,
            seed=0,
        )
        self._record("dev", {"step": step, "means": result.means()})

    def results(self) -> dict[str, Any] | None:
        """`compare(before, after)`, or None where one of them was not measured."""
        if not (self._before.exists() and self._after.exists()):
            return None
        before, after = (_read(path) for path in (self._before, self._after))
        return compare(before, after)

    async def _heldout(self, path: Path, *, majority_items: int) -> None:
        cfg = self._config.eval
        started = time.monotonic()
        result = await measure(
            self._samplers,
            self._renderer,
            self._config.recipe,
            split="heldout",
            items=cfg.heldout_items,
            samples=cfg.samples,
            majority_items=majority_items,
            seed=0,
        )
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(result.to_json()))
        temporary.replace(path)
        seconds = time.monotonic() - started
        self._record("heldout", {"when": path.stem, "means": result.means(), "seconds": seconds})


def _read(path: Path) -> HeldoutResult:
    return HeldoutResult.from_json(json.loads(path.read_text()))
