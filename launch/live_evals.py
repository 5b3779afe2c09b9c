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
"""Of one evaluation that leaves rows without an answer or a verdict; each asks for the rest."""
PAUSE_S = 10.0
"""Between two of them; each then waits until servers take requests."""
MAX_FAILED = 3
"""Evaluations in a row that come to nothing: there is no sense in more."""
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
        self._points: dict[int, dict[str, Any]] = {}
        self._last: int | None = None
        self._failed = 0
        self._running: int | None = None
        self._is_over = asyncio.Event()

    async def run(self) -> None:
        """Evaluate until the last step is done, or there is no sense in it."""
        try:
            await self._remember()
            while self._last != self._total_steps and self._failed < MAX_FAILED:
                seen = self._changes.count
                version = min(self._served().values(), default=None)
                if version is None or not self._is_due(self._step_of(version)):
                    await self._changes.beyond(seen)
                else:
                    await self._evaluate(version)
            if self._failed >= MAX_FAILED:
                self._on_event("warning", f"benchmarks: {MAX_FAILED} in a row failed: no more")
        finally:
            self._is_over.set()

    async def _remember(self) -> None:
        """What an attempt before has evaluated, up to the step with which this one begins: weights
        of later steps were thrown away, whatever is on the disk."""
        while not (versions := self._served().values()):
            await self._changes.beyond(self._changes.count)
        begun = self._step_of(min(versions))
        found = {step: _read(self._cfg, self._run, step) for step in _steps(self._run)}
        self._points = {s: told for s, told in found.items() if told is not None and s <= begun}
        self._last = max(self._points, default=None)

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
        every = self._cfg.every
        return (
            self._last is None
            or step // every > self._last // every
            or (step == self._total_steps != self._last)
        )

    async def _evaluate(self, version: int) -> None:
        """One point, or an event that says why there is none."""
        step = self._running = self._step_of(version)
        began_s = time.monotonic()
        # Versions are of one attempt; the same step may have other weights in the next.
        name = f"{self._run.path.name} {self._cfg.policy} of step {step}, version {version}"
        try:
            why = await self._asked(step, name)
            point = _read(self._cfg, self._run, step, name)
        except Exception as error:  # a full disk, say: nothing of it may end the run
            log.exception("an evaluation fails")
            why, point = f"{type(error).__name__}: {error}", None
        self._running, self._last = None, step
        if point is None:
            self._failed += 1
            self._on_event("warning", f"benchmarks of step {step} failed: {why}")
            return
        self._failed = 0
        # Servers go on to newer weights meanwhile.
        newest = max(self._served().values(), default=version)
        point |= {"to_step": max(step, self._step_of(newest))}
        point |= {"policy": self._cfg.policy, "seconds": round(time.monotonic() - began_s, 1)}
        self._points[step] = point
        self._record(RECORD, point)

    async def _asked(self, step: int, name: str) -> str:
        """Run the command until it has all answers, or so many times; its last words."""
        try:
            async with asyncio.timeout(self._cfg.deadline_s):  # of all of them together
                for number in range(TRIES):
                    if number:
                        await asyncio.sleep(PAUSE_S)
                    if await self._ask(step, name) == 0:
                        break
        except TimeoutError:
            return f"not done within evals.deadline_s, {self._cfg.deadline_s:g} s"
        return children.last_lines(self._log_of(step), 3)

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
    found = (path.name.removeprefix("step-") for path in run.evals.glob("step-*"))
    return sorted(int(step) for step in found if step.isdecimal())


def is_evaluated(cfg: LiveEvalsConfig, run: RunDir, step: int) -> bool:
    """Whether a step has its point, or no benchmark is wanted."""
    return not cfg.benchmarks or _read(cfg, run, step) is not None


def _read(
    cfg: LiveEvalsConfig, run: RunDir, step: int, name: str | None = None
) -> dict[str, Any] | None:
    """{step, scores, overall, missing} of an evaluation; None where it has not ended, or is of
    other weights than those of this name.

    `scores`: {benchmark: {title, estimate, low, high, rows}}, in shares; `missing`: rows.
    """
    path = _folder(run, step) / cfg.regime / "results.json"
    try:
        told = json.loads(path.read_text())
        return _point(step, told) if name in (None, told["model"]) else None
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is no result of an evaluation: %r", path, error)
        return None


def _point(step: int, told: Mapping[str, Any]) -> dict[str, Any]:
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
