"""The measurements that a run makes of itself: the base, the development curve, the result.

All ask the run's own samplers, so they measure what the servers serve. The held-out split is
measured twice, before the first step and after the last, and decides nothing; the curve uses the
development split.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from engine.monitor.observed import ObservedSampler
from engine.rundir import RunDir
from engine.tasks import concurrently
from engine.types import Renderer, Sampler
from evals.benchmark import Unit
from evals.heldout import HeldoutResult, compare
from evals.intervals import mean_interval
from evals.scenes.splits import Split
from launch.config import RootConfig, recipes_of, settings_of

log = logging.getLogger(__name__)


class Log(Protocol):
    def __call__(self, kind: str, record: Mapping[str, Any]) -> None: ...


def counting(sampler: Sampler, count: Callable[[int], None]) -> Sampler:
    """A sampler that tells how many tokens it sampled; the untrainable (greedy) ones too."""
    return ObservedSampler(
        sampler, lambda rollouts: count(sum(len(rollout.token_ids) for rollout in rollouts))
    )


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
        self._measures = {
            name: recipe.measure
            for name, recipe in recipes_of(config).items()
            if recipe.measure is not None
        }
        self._dev = run.path / "dev-first.json"
        self._before = run.path / "heldout-before.json"
        self._after = run.path / "heldout-after.json"

    def wants_before(self, steps: Mapping[str, int]) -> bool:
        """True where the base has not been measured and all policies still are the base."""
        wanted = self._config.eval.heldout_items > 0 and not self._before.exists()
        return bool(self._measures) and wanted and not any(steps.values())

    async def before(self) -> None:
        await self._heldout(self._before, step=0, majority_items=self._config.eval.majority_items)

    async def after(self) -> None:
        await self._heldout(self._after, step=self._config.run.steps, majority_items=0)

    async def dev(self, step: int) -> None:
        """One point of the development curve."""
        cfg = self._config.eval
        kept = _kept(self._dev)
        result, keep = await self._measure(kept, split="dev", items=cfg.dev_items, majority_items=0)
        if not kept:  # by the first point; a run that is resumed goes on with it
            self._dev.write_text(json.dumps({"kept": keep}))
        self._record("dev", {"step": step, "means": result.means()})

    def results(self, steps: Mapping[str, int]) -> dict[str, Any] | None:
        """`compare(before, after)`, or None where one of them was not measured: `after` is that of
        all the steps that are asked for, and a run that is to make more has not got it yet."""
        if not (self._before.exists() and self._after.exists()):
            return None
        before, after = (json.loads(path.read_text()) for path in (self._before, self._after))
        wanted = self._config.run.steps
        if after.get("step") != wanted or any(step < wanted for step in steps.values()):
            return None
        return compare(HeldoutResult.from_json(before), HeldoutResult.from_json(after))

    async def _heldout(self, path: Path, *, step: int, majority_items: int) -> None:
        cfg = self._config.eval
        started = time.monotonic()
        kept = _kept(self._before) if path != self._before else {}
        result, kept = await self._measure(
            kept, split="heldout", items=cfg.heldout_items, majority_items=majority_items
        )
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(result.to_json() | {"kept": kept, "step": step}))
        temporary.replace(path)
        seconds = time.monotonic() - started
        told = {"when": path.stem, "step": step, "means": result.means(), "ci95": ci95(result)}
        self._record("heldout", {**told, "seconds": seconds})

    async def _measure(
        self, kept: Mapping[str, Any], *, split: Split, items: int, majority_items: int
    ) -> tuple[HeldoutResult, dict[str, Any]]:
        """All recipes at once; with what each wants to be given the next time."""

        async def one(name: str) -> tuple[HeldoutResult, Any]:
            return await measures[name](
                self._samplers,
                self._renderer,
                settings_of(self._config)[name],
                split=split,
                items=items,
                samples=self._config.eval.samples,
                majority_items=majority_items,
                kept=kept.get(name),
            )

        measures = self._measures
        found = await concurrently(one, measures)
        values = {key: column for result, _ in found for key, column in result.values.items()}
        keep = {name: data for name, (_, data) in zip(measures, found, strict=True)}
        return HeldoutResult(split, 0, values), keep


def ci95(result: HeldoutResult) -> dict[str, list[float]]:
    """{measure: [low, high]} of its means over the items."""
    found = {}
    for name, values in result.values.items():
        units = [Unit(str(item), v) for item, v in enumerate(values) if v is not None]
        if (interval := mean_interval(units)) is not None:
            found[name] = [interval.low, interval.high]
    return found


def _kept(path: Path) -> dict[str, Any]:
    """What the recipes wanted to be given again; {} where nothing was measured before."""
    return json.loads(path.read_text()).get("kept", {}) if path.exists() else {}
