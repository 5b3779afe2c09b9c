"""How an evaluation goes: a bar per benchmark in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from evals.benchmark import Benchmark
from evals.intervals import wilson
from evals.records import Record
from evals.runner import Outcome

_LINE_S = 10.0
_NAMED = 5
"""Rows that are named as they are skipped; the report has them all."""


@dataclass(slots=True)
class _Running:
    """Scores so far."""

    total: int
    done: int = 0
    scored: int = 0
    credit: float = 0.0
    skipped: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    began_s: float = field(default_factory=time.monotonic)
    said_s: float = field(default_factory=time.monotonic)

    def score(self) -> str:
        """Running score with its 95 % interval, in percent. Rows come in random order."""
        if not self.scored:
            return "no score"
        low, high = wilson(self.credit, self.scored)
        return f"{100 * self.credit / self.scored:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    def rest_s(self) -> float:
        spent_s = time.monotonic() - self.began_s
        return spent_s * (self.total - self.done) / max(1, self.done)


class Shown:
    """An `evals.runner.Watcher`. A context manager: the bars belong to the terminal meanwhile."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._running: dict[str, _Running] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[score]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> "Shown":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)

    def began(self, benchmark: Benchmark, rows: int, samples: int) -> None:
        self._running[benchmark.name] = _Running(rows * samples)
        self._bars[benchmark.name] = self._progress.add_task(
            benchmark.name, total=rows * samples, score=""
        )

    def scored(self, benchmark: Benchmark, record: Record) -> None:
        running = self._running[benchmark.name]
        if record["score"] is not None:
            running.scored += 1
            running.credit += record["score"]
        running.flags.update(record["flags"])
        self._advance(benchmark.name, running)

    def skipped(self, benchmark: Benchmark, row: str, why: str) -> None:
        running = self._running[benchmark.name]
        running.skipped += 1
        if running.skipped <= _NAMED:
            self.say(f"{benchmark.name}: skipped {row!r}: {why[:300]}")
        self._advance(benchmark.name, running, by=0)

    def finished(self, outcome: Outcome) -> None:
        running = self._running.pop(outcome.benchmark.name)
        self._progress.remove_task(self._bars.pop(outcome.benchmark.name))
        self.say(summary_line(outcome, running.score()))

    def _advance(self, name: str, running: _Running, by: int = 1) -> None:
        running.done += by
        self._progress.update(self._bars[name], advance=by, score=running.score())
        now_s = time.monotonic()
        if not self._console.is_terminal and now_s - running.said_s > _LINE_S:
            running.said_s = now_s
            self.say(
                f"{name}: {running.done} of {running.total}, {running.score()}, "
                f"{running.rest_s():.0f} s to go"
            )


def summary_line(outcome: Outcome, score: str) -> str:
    """One line on one benchmark: its score and what stands in its way."""
    flags = Counter(flag for record in outcome.records for flag in record["flags"])
    notes = [f"{count} {name}" for name, count in sorted(flags.items())]
    if outcome.refused:
        notes.append(f"{len(outcome.refused)} rows skipped")
    if outcome.missing:
        notes.append(f"{len(outcome.missing)} missing: the same command asks again")
    if outcome.kept:
        notes.append(f"{outcome.kept} from before")
    line = f"{outcome.benchmark.name}: {score} over {len(outcome.records)} answers"
    return line + (f" ({', '.join(notes)})" if notes else "")
