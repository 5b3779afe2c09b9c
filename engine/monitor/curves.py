"""The curves of a run, drawn from the records of `metrics.jsonl`.

A chart has series of points; each series keeps a bounded number of them, thinner with time. What
a restart undid disappears: a series whose x goes back loses what lay behind. Records are drawn when
somebody asks for points, or many at a time: one by one, between other work, takes twice as long.
"""

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_POINTS = 600
"""Of a series; then every second one goes, and every second new one is left out."""

MAX_UNDRAWN = 64
"""Records."""
MAX_NEW = 2000
"""Points that nobody has taken yet."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Chart:
    id: str
    section: str
    """"throughput", "learning" or "health"."""
    title: str
    unit: str = ""
    x: str = "step"
    """What its points stand over: "step", "minutes" or "game"."""


class Point(NamedTuple):
    chart: Chart
    series: str
    x: float
    y: float
    interval: Sequence[float] = ()
    """[low, high] of y, where it is known."""


Draw = Callable[[Record, float], Iterable[Point]]
"""The points of a record, given the unix time of the run's first."""


_WIDTH = 4
"""Numbers of a point in memory: x, y, and the ends of its interval, NaN where it has none."""


class _Series:
    """Points, as numbers one after the other: a run has dozens of series, and as objects their
    points would be a part of its memory that grows for hours."""

    __slots__ = ("_numbers", "seen", "stride")

    def __init__(self) -> None:
        self._numbers = array("d")
        self.stride = 1
        self.seen = 0

    def __len__(self) -> int:
        return len(self._numbers) // _WIDTH

    @property
    def last_x(self) -> float:
        """NaN where there is no point."""
        return self._numbers[-_WIDTH] if self._numbers else math.nan

    def append(self, told: Sequence[float]) -> None:
        """(x, y), or (x, y, low, high)."""
        self._numbers.extend((*told, math.nan, math.nan)[:_WIDTH])

    def pop(self) -> None:
        del self._numbers[-_WIDTH:]

    def thin(self) -> None:
        """Every second point goes."""
        self._numbers = array("d", (n for point in self._rows()[::2] for n in point))
        self.stride *= 2

    def points(self) -> list[tuple[float, ...]]:
        return [row[:2] if math.isnan(row[2]) else row for row in self._rows()]

    def _rows(self) -> list[tuple[float, ...]]:
        columns = (self._numbers[i::_WIDTH] for i in range(_WIDTH))
        return list(zip(*columns, strict=True))


class Curves:
    """All charts of a run. `draw` says what a record is worth; unknown records give nothing."""

    def __init__(self, draw: Draw, max_points: int = MAX_POINTS) -> None:
        self._draw = draw
        self._max_points = max_points
        self._charts: dict[str, Chart] = {}
        self._series: dict[str, dict[str, _Series]] = {}
        self._undrawn: deque[Record] = deque()
        self._new: list[Point] = []
        self._is_rewritten = False
        self._first_s: float | None = None

    def add(self, record: Record) -> None:
        """A record with its time `t`. It must not be changed any more."""
        self._undrawn.append(record)
        if len(self._undrawn) >= MAX_UNDRAWN:
            self._draw_all()

    def _draw_all(self) -> None:
        while self._undrawn:
            record = self._undrawn.popleft()  # one that can't be drawn is not tried again
            if self._first_s is None:
                self._first_s = float(record["t"])
            for point in self._draw(record, self._first_s):
                if _is_number(point.x) and _is_number(point.y):
                    self._add(point)
        if len(self._new) > MAX_NEW:
            self._new, self._is_rewritten = [], True

    def take_new(self) -> list[dict[str, Any]] | None:
        """The points since the last call, as charts; None: points have gone, or they are too many:
        look at `all`."""
        self._draw_all()
        new, self._new = self._new, []
        if self._is_rewritten:
            self._is_rewritten = False
            return None
        charts: dict[str, dict[str, Any]] = {}
        for point in new:
            told = charts.setdefault(point.chart.id, _described(point.chart))
            told["series"].setdefault(point.series, []).append([*_told(point)])
        return list(charts.values())

    def all(self) -> list[dict[str, Any]]:
        """Every chart: {id, section, title, unit, x, series {name: [[x, y]]}}; a point with an
        interval is [x, y, low, high]."""
        self._draw_all()
        return [
            _described(chart)
            | {"series": {name: own.points() for name, own in self._series[id_].items()}}
            for id_, chart in self._charts.items()
        ]

    def _add(self, point: Point) -> None:
        id_ = point.chart.id
        if id_ not in self._charts:
            self._charts[id_], self._series[id_] = point.chart, {}
        own = self._series[id_].get(point.series)
        if own is None:
            own = self._series[id_][point.series] = _Series()
        while own.last_x > point.x:
            own.pop()
            self._is_rewritten = True
        if own.last_x == point.x:  # nothing has moved on since
            own.pop()
            own.append(_told(point))
            return
        own.seen += 1
        if own.seen % own.stride:
            return
        own.append(_told(point))
        self._new.append(point)
        if len(own) > self._max_points:
            own.thin()


def _told(point: Point) -> tuple[float, ...]:
    if point.interval and len(point.interval) == 2 and all(map(_is_number, point.interval)):
        return (point.x, point.y, *point.interval)
    return (point.x, point.y)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _described(chart: Chart) -> dict[str, Any]:
    return {
        "id": chart.id,
        "section": chart.section,
        "title": chart.title,
        "unit": chart.unit,
        "x": chart.x,
        "series": {},
    }


# what the engine's own records are worth


def draw(record: Record, first_s: float) -> Iterator[Point]:
    """Of every kind of `engine.metrics` that is a curve, whatever the game."""
    minutes = (float(record["t"]) - first_s) / 60
    kind = record["kind"]
    if kind == "step":
        yield from _step(record)
    elif kind == "engine":
        yield from _engine(record, minutes)
    elif kind == "groups":
        yield from _groups(record, minutes)
    elif kind == "dev":
        for name, value in _numbers(record["means"]):
            chart, series = _measured("dev", "Development set, never trained on", name)
            yield Point(chart, series, record["step"], value)
    elif kind == "heldout":
        # Older records have no step: the base is that of the first.
        step = record.get("step", 0 if record["when"].endswith("before") else None)
        for name, value in _numbers(record["means"]):
            chart, series = _measured("heldout", "Held-out set, the base and the result", name)
            yield Point(chart, series, step, value, record.get("ci95", {}).get(name, ()))
    elif kind == "benchmarks":
        chart = Chart("benchmarks", "learning", f"Benchmarks, {record['policy']}", "share")
        for score in record["scores"].values():
            interval = (score.get("low"), score.get("high"))
            yield Point(chart, score["title"], record["step"], score["estimate"], interval)


def _measured(id_: str, title: str, name: str) -> tuple[Chart, str]:
    """Where `solver_hard_t1` is drawn: a chart for each first word, which is a role; else one."""
    role, _, rest = name.partition("_")
    if not rest:
        return Chart(id_, "learning", title, "share"), name
    return Chart(f"{id_}/{role}", "learning", f"{role}: {title}", "share"), rest.replace("_", " ")


_REWARD = Chart("reward", "learning", "Reward of what was trained")
_HEALTH = {
    "entropy": Chart("entropy", "health", "Entropy of the policies", "nats"),
    "grad_norm": Chart("grad_norm", "health", "Norm of the gradient"),
    "k3": Chart("kl", "health", "KL, behaviour policy to learner (k3)", "nats"),
    "reference_kl": Chart("reference_kl", "health", "KL, policy to its reference (k3)", "nats"),
    "ess": Chart("ess", "health", "Effective sample size", "share"),
    "ratio_max": Chart("ratio", "health", "Largest importance ratio"),
    "probe_gap": Chart("gap", "health", "Gap of log-probs, server and learner", "nats"),
    "clipped_fraction": Chart("clipped", "health", "Clipped tokens", "share"),
    "mfu": Chart("mfu", "throughput", "MFU of the learners", "share"),
}
_AGE = Chart("age", "health", "Age of what was trained, mean", "steps")
_TOKENS = Chart("tokens", "throughput", "Tokens per second, generated", "tokens/s", "minutes")
_TRAINED = Chart("trained", "throughput", "Tokens per second, trained", "tokens/s", "minutes")
_GAMES = Chart("games", "throughput", "Games per minute", "games/min", "minutes")
_BUSY = Chart("busy", "throughput", "Busy", "share", "minutes")
_STARVED = Chart("starved", "throughput", "Learner without work", "share", "minutes")
_KEPT = Chart("kept", "learning", "Groups that can be trained on", "share", "minutes")


def _step(record: Record) -> Iterator[Point]:
    if record.get("skipped"):
        return
    policy, step = record["policy"], record["step"]
    yield Point(_REWARD, policy, step, record["reward"])
    yield Point(_AGE, policy, step, record["age_mean"])
    metrics = record.get("metrics", {})
    for name, value in _numbers({name: metrics[name] for name in metrics if name in _HEALTH}):
        yield Point(_HEALTH[name], policy, step, value)


def _engine(record: Record, minutes: float) -> Iterator[Point]:
    for policy, view in record["policies"].items():
        yield Point(_TOKENS, policy, minutes, view["generated_per_s"])
        yield Point(_TRAINED, policy, minutes, view["trained_per_s"])
        if view.get("starved") is not None:
            yield Point(_STARVED, policy, minutes, view["starved"])
    if record.get("games_per_min") is not None:
        yield Point(_GAMES, "games", minutes, record["games_per_min"])
    for part, share in _numbers(record["busy"]):
        yield Point(_BUSY, part, minutes, share)


def _groups(record: Record, minutes: float) -> Iterator[Point]:
    for stream, means in record["streams"].items():
        terms = Chart(f"terms/{stream}", "learning", f"Reward terms, {stream}", "", "minutes")
        for name, value in _numbers(means):
            if name == "kept":
                yield Point(_KEPT, stream, minutes, value)
            elif name.startswith("term/"):
                yield Point(terms, name.removeprefix("term/"), minutes, value)
    if record.get("games") is not None:
        for title, series in record.get("play", {}).items():
            chart = Chart(f"play/{title}", "learning", title, "", "game")
            for name, value in _numbers(series):
                yield Point(chart, name, record["games"], value)


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if type(value) in (int, float):  # a bool is none
            yield name, float(value)
