"""All that a report is made from."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.errors import ConfigError
from engine.metrics import read_metrics
from engine.records import Records
from engine.rundir import RunDir
from launch.recipe import RECIPES, STREAMS, funnel_of
from launch.sections.proposals import Proposed, read_proposals

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    name: str
    summary: Record | None
    """None: the run has not ended, or goes on again."""
    records: Sequence[Record]
    """The lines of `metrics.jsonl`."""
    buffer: Records
    proposals: Sequence[Proposed]
    """Of games evenly spread over the run, oldest first."""
    words: Mapping[str, tuple[str, str]]
    """{stream: what its rollouts are called in the funnel, and those that passed}"""

    def of_kind(self, kind: str) -> list[Record]:
        return [row for row in self.records if row["kind"] == kind]


@contextmanager
def opened(folder: Path, num_games: int = 0) -> Iterator[Run]:
    """The run of a folder, with the proposals of so many of its games. Raises ConfigError where
    there is none."""
    run = RunDir(folder)
    if not run.database.exists():
        raise ConfigError(f"{run.path}: no run here ({run.database.name} is missing)")
    try:
        summary = json.loads(run.summary.read_text()) if run.summary.exists() else None
    except ValueError as error:
        raise ConfigError(f"{run.summary}: {error}") from None
    buffer = Records.open(run.database)
    try:
        if summary is not None and summary.get("attempts") != buffer.counters().get("attempts"):
            summary = None  # of an attempt that was stopped, before this one
        proposals = read_proposals(buffer.games_evenly(num_games)) if num_games else []
        name, words = run.path.resolve().name, funnel_of(_played(run))
        yield Run(name, summary, read_metrics(run.metrics), buffer, proposals, words)
    finally:
        buffer.close()


def _played(run: RunDir) -> list[str]:
    """The recipes of a run, as its configuration says; all, where it does not."""
    try:
        section = yaml.safe_load(run.config.read_text())["recipe"]
        return [one["name"] for one in section.get("recipes", [section])]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return [*RECIPES]


def in_order(streams: Iterable[str]) -> list[str]:
    """As the recipe names them, so that a stream has one colour in all charts; others behind."""
    return sorted(streams, key=lambda stream: ([*STREAMS, stream].index(stream), stream))
