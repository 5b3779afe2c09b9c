"""What a run measures: the lines of `metrics.jsonl`, rates, and rolling means over groups.

Each line is one JSON object with `t` (unix seconds) and `kind`. Kinds and their other keys:

    step     policy, step, skipped, reason, num_groups, reward, age_mean, age_max, judge_age_max,
             metrics {name: value} of the learner
    groups   games (finished), streams {stream: GroupMeter.means()}: all that was submitted, also
             what was dropped; signs {sign: mean} and play {chart: {series: mean}} of recent games
    engine   a snapshot (`engine.monitor.snapshot`): phase, games, games_per_min, streams, policies,
             stations, bottleneck, busy {part: fraction}, ...
    costs    running totals: engine_cpu_s, machine_busy_s (of all cores), servers [{policy, url,
             counters of /metrics}]
    dev      step, means {measure: value}
    heldout  when, step, means, ci95 {measure: [low, high]} of these means
    benchmarks  policy, step, to_step (of the newest weights that answered), scores {benchmark:
             {title, estimate, low, high, rows}}, overall {mean: the same}, missing, seconds
    event    level ("info" | "warning"), text

Metric code decides nothing.
"""

import json
import math
import os
import random
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import orjson

from engine.types import Group, has_signal

MAX_SILENCE_S = 600.0
"""After so long without anything new, and twice as long as usual, a rate is 0."""
MAX_READ = 4 << 20
"""Bytes of a metrics file that `read_steps` reads at most: some hours of a small run."""
_NEAR = 64 << 10
_TIME = re.compile(rb'\{"t": ?([\d.]+),')
_STEP = re.compile(rb'"kind": ?"step"')


class MetricLog:
    """Appends lines to `metrics.jsonl`; each one is with the system when `write` returns."""

    def __init__(self, path: Path) -> None:
        is_torn = _last_byte(path) not in (b"", b"\n")
        self._file = path.open("ab")
        if is_torn:
            self._file.write(b"\n")  # a crash tore the last line: don't let it eat the next

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        """Numbers that JSON does not know (NaN, infinity) become null."""
        line = {"t": round(time.time(), 3), "kind": kind, **record}
        self._file.write(to_json(line) + b"\n")
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


def _last_byte(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        return file.read()


def iter_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines of a metrics file, one after the other: a long run has some hundred MB of
    them a day. Torn ones are left out. No file: no lines."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "kind" in record:
                yield record


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """`iter_metrics`, all in memory."""
    return list(iter_metrics(path))


def read_steps(path: Path, since_s: float) -> list[dict[str, Any]]:
    """The lines of kind "step" from unix time `since_s` on, of the next `MAX_READ` bytes.

    Where they begin is found by halving, for lines are in the order of their times: what this
    reads does not grow with the run. (A clock that was set back may hide some.)
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        low, high = 0, file.seek(0, os.SEEK_END)
        while high - low > _NEAR:
            middle = (low + high) // 2
            at_s = _time_after(file, middle)
            if at_s is not None and at_s < since_s:
                low = middle
            else:
                high = middle
        file.seek(low)
        lines = file.read(MAX_READ).split(b"\n")
    found = []
    for line in lines:
        if _STEP.search(line, 0, 80):
            with suppress(ValueError):  # cut off, or torn
                row = json.loads(line)
                if row["t"] >= since_s:
                    found.append(row)
    return found


def _time_after(file: BinaryIO, place: int) -> float | None:
    """Of the first whole line behind a place in the file."""
    file.seek(place)
    file.readline()
    time_ = _TIME.match(file.readline(80))
    return float(time_.group(1)) if time_ else None


class RateMeter:
    """The rate of a growing total, over the last `window_s` seconds; where the total grows less
    often than that, from the last time but one that it grew to the last."""

    def __init__(self, window_s: float = 20.0) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, float]] = deque()
        """Moments at which the total had grown, with the total; and the very first one."""

    def rate(self, total: float, now_s: float) -> float:
        """Units per second, given the total now; 0 until it has grown. A silence that is longer
        than usual counts as time, so the rate falls while nothing comes."""
        points = self._points
        if not points or (now_s > points[-1][0] and total != points[-1][1]):
            points.append((now_s, total))
        while len(points) > 2 and points[1][0] <= now_s - self._window_s:
            points.popleft()
        if len(points) < 2:
            return 0.0
        (first_s, first), (last_s, last) = points[0], points[-1]
        if len(points) > 2:  # a long silence before them is no part of the window
            first_s = max(first_s, points[1][0] - self._window_s)
        usual_s = (last_s - first_s) / (len(points) - 1)
        silence_s = now_s - last_s
        if silence_s > max(MAX_SILENCE_S, 2 * usual_s):
            return 0.0
        return (last - first) / (last_s - first_s + max(0.0, silence_s - usual_s))


class GroupMeter:
    """Means over recent groups of each stream, whatever became of them: over the last `window` of
    a random sample. It has all where there are few, else about `most` between two calls of `means`
    (by the number between the last two): more would hardly make the means better."""

    def __init__(self, window: int = 200, most: int = 40) -> None:
        self._window = window
        self._most = most
        self._streams: dict[str, _Recent] = {}
        self._uniform = random.Random(0).random

    def add(self, group: Group) -> None:
        """Called for every group, so it only puts down what `means` needs (never the rollouts: they
        are large). The rest is done there."""
        recent = self._streams.get(group.stream)
        if recent is None:
            recent = self._streams[group.stream] = _Recent(self._window)
        recent.num_new += 1
        if recent.share < 1.0 and self._uniform() >= recent.share:
            return
        rollouts = group.rollouts
        tokens = sum(map(len, map(_TOKEN_IDS, rollouts)))
        truncated = [*map(_FINISH, rollouts)].count("length")
        recent.rewards.append(sum(group.rewards) / len(rollouts))
        recent.new.append(
            (group.rewards, tokens, truncated, group.advantages, group.terms, group.extra)
        )

    def reward(self, stream: str) -> float | None:
        """The mean of a stream's rewards alone: cheap. None where there is no group."""
        recent = self._streams.get(stream)
        return sum(recent.rewards) / len(recent.rewards) if recent else None

    def means(self) -> dict[str, dict[str, float]]:
        """{stream: {reward, kept, tokens, truncated, term/..., extra/..., num_groups}}.

        `kept` is the share that a filter or zero variance did not take.
        """
        streams: dict[str, dict[str, float]] = {}
        for stream, recent in self._streams.items():
            for group in recent.new:
                row = _measures(*group)
                recent.rows.append((tuple(row), tuple(row.values())))
            recent.new.clear()
            recent.share = min(1.0, self._most / max(1, recent.num_new))
            recent.num_new = 0
            streams[stream] = _means(recent.rows) | {"num_groups": len(recent.rows)}
        return streams


_TOKEN_IDS, _FINISH = attrgetter("token_ids"), attrgetter("finish")
_Kept = tuple[
    Sequence[float],
    int,
    int,
    Sequence[float] | None,
    Sequence[Mapping[str, float]],
    Mapping[str, Any],
]
"""Rewards, tokens and truncated rollouts (sums), advantages, terms, extra."""


class _Recent:
    """The newest groups of a stream: as they came, and as rows of numbers."""

    __slots__ = ("new", "num_new", "rewards", "rows", "share")

    def __init__(self, window: int) -> None:
        self.share = 1.0
        """Of the groups that come, those that are looked at."""
        self.num_new = 0
        """Groups that came, looked at or not."""
        self.rewards: deque[float] = deque(maxlen=window)
        self.new: deque[_Kept] = deque(maxlen=window)
        self.rows: deque[_Row] = deque(maxlen=window)


_Row = tuple[tuple[str, ...], tuple[float, ...]]
"""(names, their values)."""


def _means(rows: Iterable[_Row]) -> dict[str, float]:
    """By name, over the rows that have it. Most rows have the same names, so whole columns of
    them are summed at once."""
    alike: dict[tuple[str, ...], list[tuple[float, ...]]] = {}
    for names, values in rows:
        alike.setdefault(names, []).append(values)
    sums: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for names, table in alike.items():
        for name, column in zip(names, zip(*table, strict=True), strict=True):
            sums[name] = sums.get(name, 0.0) + sum(column)
            numbers[name] = numbers.get(name, 0) + len(column)
    return {name: sums[name] / numbers[name] for name in sorted(sums)}


def _measures(
    rewards: Sequence[float],
    tokens: int,
    truncated: int,
    advantages: Sequence[float] | None,
    terms: Sequence[Mapping[str, float]],
    extra: Mapping[str, Any],
) -> dict[str, float]:
    number = len(rewards)
    kept = has_signal(rewards, advantages) and extra.get("drop") is None
    row = {
        "reward": sum(rewards) / number,
        "kept": float(kept),
        "tokens": tokens / number,
        "truncated": truncated / number,
    }
    sums: dict[str, float] = {}
    for own in terms:
        for name, value in own.items():
            sums[name] = sums.get(name, 0.0) + value
    for name, value in sums.items():
        row[f"term/{name}"] = value / len(terms)
    for name, value in extra.items():
        if type(value) in (int, float):  # JSON's numbers; a bool is none
            row[f"extra/{name}"] = float(value)
    return row


def to_json(value: Any) -> bytes:
    """`finite(value)` as one compact line of UTF-8. What only the standard library can write (lone
    surrogates, integers of more than 64 bits), it writes, at its own pace."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:
        return json.dumps(finite(value), separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def finite(value: Any) -> Any:
    """`value` for JSON: null instead of NaN and infinity, keys as text, dataclasses as objects."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if is_dataclass(value):
        return finite({field.name: getattr(value, field.name) for field in fields(value)})
    return value
