"""Benchmarks beside self-play: new weights of one policy are evaluated while training goes on.

    a step is due -> launch/evaluate.py --while-training asks the servers -> results.json -> a point

The evaluation is a process of its own and the command that a user would give: pictures, rules and
answers that somebody made up for it cannot hold up the engine, and what goes wrong with it costs a
point of the curve, never the run. Its answers are kept as they come, in `runs/NAME/evals/step-N`.
"""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine import children
from engine.rundir import RunDir, record_pid
from engine.tasks import Signal
from evals.config import LiveEvalsConfig

log = logging.getLogger(__name__)

RECORD = "benchmarks"
"""Kind of a point's line in `metrics.jsonl`."""
TRIES = 3
"""Of one evaluation that leaves rows without an answer; each asks for the rest only."""
_BAD_INPUT = 2
_COMMAND = Path(__file__).with_name("evaluate.py")


class LiveEvals:
    """Evaluates what becomes due, one step after the other."""

    def __init__(
        self,
        cfg: LiveEvalsConfig,
        run: RunDir,
        *,
        base: Path,
        cache: Path,
        total_steps: int,
        served: Callable[[], Mapping[str, int]],
        step_of: Callable[[int], int],
        changes: Signal,
        record: Callable[[str, Mapping[str, Any]], None],
        on_event: Callable[[str, str], None],
    ) -> None:
        """`served`: {url: version} of the servers that take requests; `changes`: notified whenever
        that may have changed; `step_of`: the step that a version contains."""
        self._cfg = cfg
        self._run = run
        self._base = base
        self._cache = cache
        self._total_steps = total_steps
        self._served = served
        self._step_of = step_of
        self._changes = changes
        self._record = record
        self._on_event = on_event
        self._points = {step: told for step in _steps(run) if (told := _read(cfg, run, step))}
        self._last: int | None = None
        self._running: int | None = None
        self._is_over = asyncio.Event()

    async def run(self) -> None:
        """Evaluate until the last step is done, or there is no sense in it."""
        try:
            while self._last != self._total_steps:
                seen = self._changes.count
                version = min(self._served().values(), default=None)
                if version is None or not self._is_due(self._step_of(version)):
                    await self._changes.beyond(seen)
                elif not await self._evaluate(version):
                    return
        finally:
            self._is_over.set()

    async def finished(self) -> None:
        """Wait until the last step is evaluated."""
        await self._is_over.wait()

    def line(self) -> str:
        """For the terminal; empty before there is anything."""
        parts = []
        if self._points:
            step = max(self._points)
            scores = self._points[step]["scores"]
            shown = ", ".join(f"{name} {100 * s['estimate']:.1f}" for name, s in scores.items())
            parts.append(f"{self._cfg.policy} of step {step}: {shown or 'no score'}")
        if self._running is not None:
            parts.append(f"step {self._running} is being evaluated")
        return f"benchmarks: {'; '.join(parts)}" if parts else ""

    def _is_due(self, step: int) -> bool:
        # After a restart the last one is what is on the disk, up to the step that was restored.
        done = [old for old in self._points if old <= step]
        last = max(done, default=None) if self._last is None else self._last
        if last is None:
            return True
        every = self._cfg.every
        return step // every > last // every or (step == self._total_steps != last)

    async def _evaluate(self, version: int) -> bool:
        """One point; False where no evaluation can succeed."""
        step = self._running = self._step_of(version)
        began_s = time.monotonic()
        # Versions are of one attempt; the same step may have other weights in the next.
        name = f"{self._run.path.name} {self._cfg.policy} of step {step}, version {version}"
        try:
            for _ in range(TRIES):
                status = await self._ask(step, name)
                if status in (0, _BAD_INPUT):
                    break
        finally:
            self._running = None
        self._last = step
        point = _read(self._cfg, self._run, step)
        if status == _BAD_INPUT or point is None:
            why = children.last_lines(self._log_of(step), 3)
            self._on_event("warning", f"benchmarks of step {step} failed: {why}")
            return status != _BAD_INPUT
        # Servers that play go on to newer weights meanwhile.
        newest = max(self._served().values(), default=version)
        point |= {"to_step": self._step_of(newest)}
        point |= {"policy": self._cfg.policy, "seconds": round(time.monotonic() - began_s, 1)}
        self._points[step] = point
        self._record(RECORD, point)
        return True

    async def _ask(self, step: int, name: str) -> int:
        """Run the command to its end; its exit status."""
        while not (urls := sorted(self._served())):
            await self._changes.beyond(self._changes.count)
        process = children.spawn(
            self._command(step, name, urls),
            log=self._log_of(step),
            env={"EVAL_API_KEY": self._run.key.read_text()},
        )
        record_pid(self._run, process.pid)
        try:
            return await asyncio.to_thread(process.wait)
        finally:
            children.end(process)

    def _command(self, step: int, name: str, urls: list[str]) -> list[str]:
        cfg = self._cfg
        options: dict[str, Any] = {
            "--model": self._base,
            "--name": name,
            "--regime": cfg.regime,
            "--data": cfg.data,
            "--out": _folder(self._run, step),
            "--cache": self._cache,
            "--concurrency": cfg.concurrency,
            "--limit": cfg.limit,
            "--max-new-tokens": cfg.max_new_tokens,
            "--judge": cfg.judge,
            "--judge-model": cfg.judge_model,
            "--against": _folder(self._run, 0) if step and 0 in self._points else None,
        }
        given = [(name, str(value)) for name, value in options.items() if value is not None]
        return [
            *(sys.executable, str(_COMMAND), "--while-training"),
            *(part for pair in given for part in pair),
            *("--server", *urls),
            *("--benchmarks", *cfg.benchmarks),
        ]

    def _log_of(self, step: int) -> Path:
        return self._run.logs / f"evals-{step}.log"


def _folder(run: RunDir, step: int) -> Path:
    return run.evals / f"step-{step:08d}"


def _steps(run: RunDir) -> list[int]:
    return sorted(int(path.name[5:]) for path in run.evals.glob("step-[0-9]*"))


def _read(cfg: LiveEvalsConfig, run: RunDir, step: int) -> dict[str, Any] | None:
    """{step, scores, overall, missing} of an evaluation; None where it has not ended.

    `scores`: {benchmark: {title, estimate, low, high, rows}}, in shares; `missing`: rows.
    """
    try:
        told = json.loads((_folder(run, step) / cfg.regime / "results.json").read_text())
    except (OSError, ValueError):
        return None
    scores = {}
    for name, one in told["benchmarks"].items():
        measures = one["measures"]
        score = measures["aggregates"].get(measures["headline"])
        if score is not None:
            ends = {key: score[key] for key in ("estimate", "low", "high")}
            scores[name] = {"title": one["title"], "rows": measures["scored"], **ends}
    return {
        "step": step,
        "scores": scores,
        "overall": told["overall"],
        "missing": sum(one["measures"]["missing"] for one in told["benchmarks"].values()),
    }
