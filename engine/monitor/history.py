"""What a run keeps of its records in memory, for alarms: little, however long the run is."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

FIRST, NEWEST = 50, 50
"""Records of a kind that are kept, and of a policy where it has its own: alarms compare how things
are with how they were at first."""
MAX_BETWEEN = 100
"""Of the engine, so many in between, evenly: what a slow stream did of late is older than the
newest records."""
MAX_UNREAD = 64
_ENGINE = "engine"
STEP_METRICS = (
    "entropy",
    "grad_norm",
    "ess",
    "k3",
    "masked_fraction",
    "probe_gap",
    "sampler_gap",
)
"""Of a learner, those that alarms look at."""


class History:
    """The first and the newest records of each kind, what alarms look at of them."""

    def __init__(self) -> None:
        self._unread: deque[Record] = deque()
        """That came since somebody asked: one by one, between other work, costs more."""
        self._first: dict[tuple[str, str], list[Record]] = {}
        self._newest: dict[tuple[str, str], deque[Record]] = {}
        self._between: list[Record] = []
        self._stride = 1
        self._num_left = 0
        """Of the engine's, those that are no longer among the newest."""

    def add(self, record: Record) -> None:
        """A line of `metrics.jsonl`, in the order in which they are written. It must not be changed
        any more."""
        self._unread.append(record)
        if len(self._unread) >= MAX_UNREAD:
            self._read()

    def _read(self) -> None:
        while self._unread:
            self._sort_in(self._unread.popleft())

    def _sort_in(self, record: Record) -> None:
        key = record["kind"], str(record.get("policy", ""))
        first = self._first.setdefault(key, [])
        if len(first) < FIRST:
            first.append(essence(record))
            return
        newest = self._newest.setdefault(key, deque(maxlen=NEWEST))
        if len(newest) == NEWEST and record["kind"] == _ENGINE:
            self._leave(newest[0])
        newest.append(essence(record))

    def _leave(self, record: Record) -> None:
        self._num_left += 1
        if self._num_left % self._stride == 0:
            self._between.append(record)
        if len(self._between) > MAX_BETWEEN:
            self._between = self._between[1::2]
            self._stride *= 2

    def records(self) -> tuple[Record, ...]:
        """In the order in which they came, of each kind and policy."""
        self._read()
        return tuple(
            record
            for key, first in self._first.items()
            for records in (
                first,
                self._between if key[0] == _ENGINE else (),
                self._newest.get(key, ()),
            )
            for record in records
        )


def essence(record: Record) -> dict[str, Any]:
    """What is looked at of a record of a step, of the engine or of costs; others are whole."""
    kind = record["kind"]
    if kind == "step":
        names = ("t", "policy", "step", "skipped", "num_groups")
        metrics = record.get("metrics") or {}
        metrics = {name: metrics[name] for name in STEP_METRICS if name in metrics}
        return {"kind": "step", **_only(record, names), "metrics": metrics}
    if kind == _ENGINE:
        streams = {n: _only(v, ("ready", "funnel")) for n, v in _views(record, "streams")}
        policies = {n: _only(v, ("starved",)) for n, v in _views(record, "policies")}
        return {"kind": "engine", "t": record["t"], "streams": streams, "policies": policies}
    if kind == "costs":
        return {"kind": "costs", **_only(record, ("t", "engine_cpu_s"))}
    return dict(record)


def _only(row: Record, names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _views(record: Record, name: str) -> list[tuple[str, Record]]:
    return list((record.get(name) or {}).items())
