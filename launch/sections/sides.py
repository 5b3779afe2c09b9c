"""What a comparison sets side by side: a run, or the runs of one label."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launch.charts import Points
from launch.sections.run import Run


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    runs: Sequence[Run]
    """At least one."""
    configs: Sequence[Mapping[str, Any]]
    """Of each run: {"a.b": value} of its `config.yaml`; empty where there is none."""


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def values_of(side: Side, measure: Callable[[Run], float | None]) -> list[float]:
    """Of the runs that have it."""
    return [value for run in side.runs if (value := measure(run)) is not None]


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The one value, or mean [least, most]; empty where there is none."""
    if not values:
        return ""
    told = form(sum(values) / len(values))
    least, most = form(min(values)), form(max(values))
    return told if least == most else f"{told} [{least}, {most}]"


def curves(sides: Sequence[Side], points: Callable[[Run], Points]) -> dict[str, Points]:
    """{side: its line}: of several runs their mean at each x that all have, of those that
    have any."""
    return {side.name: _mean_line([points(run) for run in side.runs]) for side in sides}


def by_minute(points: Points) -> list[tuple[float, float]]:
    """Means over whole minutes, so that lines of different runs have the same x."""
    minutes: dict[int, list[float]] = {}
    for x, y in points:
        minutes.setdefault(int(x), []).append(y)
    return [(float(minute), sum(ys) / len(ys)) for minute, ys in minutes.items()]


def _mean_line(lines: Sequence[Points]) -> Points:
    if len(lines) == 1:
        return lines[0]
    tables = [dict(line) for line in lines if line]
    if not tables:
        return []
    common = set(tables[0]).intersection(*tables[1:])
    return [(x, sum(table[x] for table in tables) / len(tables)) for x in sorted(common)]
