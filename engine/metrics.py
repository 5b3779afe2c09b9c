"""What a run measures: the lines of `metrics.jsonl`, rates, and rolling means over groups.

Each line is one JSON object with `t` (unix seconds) and `kind`. Kinds and their other keys:

    step     policy, step, skipped, reason, num_groups, reward, age_mean, age_max, judge_age_max,
             metrics {name: value} of the learner
    groups   games (finished), streams {stream: GroupMeter.means()}: all that was submitted, also
             what was dropped; signs {sign: mean} and play {chart: {series: mean}} of recent games
    engine   a snapshot (`engine.monitor.snapshot`): phase, games, games_per_min, streams, policies,
             stations, bottleneck, busy {part: fraction}, ...
    dev      step, means {measure: value}
    heldout  when, means
    benchmarks  policy, step, to_step (of the newest weights that answered), scores {benchmark:
             {title, estimate, low, high, rows}}, overall {mean: the same}, missing, seconds
    event    level ("info" | "warning"), text

Metric code decides nothing.
"""

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.types import Group


class MetricLog:
    """Appends lines to `metrics.jsonl`; each one is with the system when `write` returns."""

    def __init__(self, path: Path) -> None:
        old = path.read_bytes() if path.exists() else b""
        is_torn = old != b"" and not old.endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if is_torn:
            self._file.write("\n")  # a crash tore the last line: don't let it eat the next

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Numbers that JSON does not know (NaN, infinity) become null."""
        line = {"t": round(time.time(), 3), "kind": kind, **record}
        self._file.write(json.dumps(finite(line)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; torn ones are left out. No file: no lines."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "kind" in record:
            records.append(record)
    return records


class RateMeter:
    """The rate of a growing total over the last `window_s` seconds."""

    def __init__(self, window_s: float = 20.0) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, float]] = deque()

    def rate(self, total: float, now_s: float) -> float:
        """Units per second, given the total now. 0 until two moments are known; a moment that is
        told again adds nothing."""
        if not self._points or now_s > self._points[-1][0]:
            self._points.append((now_s, total))
        while len(self._points) > 2 and self._points[1][0] <= now_s - self._window_s:
            self._points.popleft()
        (first_s, first), (last_s, last) = self._points[0], self._points[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


class GroupMeter:
    """Means over the last `window` groups of each stream, whatever became of them."""

    def __init__(self, window: int = 200) -> None:
        self._window = window
        self._rows: dict[str, deque[dict[str, float]]] = {}
        self._rewards: dict[str, deque[float]] = {}

    def add(self, group: Group) -> None:
        number = len(group.rollouts)
        row = {
            "reward": sum(group.rewards) / number,
            "kept": float(group.extra.get("drop") is None and group.has_signal),
            "tokens": sum([len(rollout.token_ids) for rollout in group.rollouts]) / number,
            "truncated": [r.finish for r in group.rollouts].count("length") / number,
        }
        for name in {name for terms in group.terms for name in terms}:
            row[f"term/{name}"] = sum([terms.get(name, 0.0) for terms in group.terms]) / number
        for name, value in group.extra.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                row[f"extra/{name}"] = float(value)
        self._rows.setdefault(group.stream, deque(maxlen=self._window)).append(row)
        self._rewards.setdefault(group.stream, deque(maxlen=self._window)).append(row["reward"])

    def reward(self, stream: str) -> float | None:
        """The mean of a stream's rewards alone: cheap. None where there is no group."""
        rewards = self._rewards.get(stream)
        return sum(rewards) / len(rewards) if rewards else None

    def means(self) -> dict[str, dict[str, float]]:
        """{stream: {reward, kept, tokens, truncated, term/..., extra/..., num_groups}}.

        `kept` is the share that a filter or zero variance did not take.
        """
        streams: dict[str, dict[str, float]] = {}
        for stream, rows in self._rows.items():
            names = sorted({name for row in rows for name in row})
            streams[stream] = {
                name: _mean([row[name] for row in rows if name in row]) for name in names
            } | {"num_groups": len(rows)}
        return streams


def _mean(values: Any) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def finite(value: Any) -> Any:
    """`value` for JSON: null instead of NaN and infinity, keys as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
