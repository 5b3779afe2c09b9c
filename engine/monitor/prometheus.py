"""The snapshot of a run, and its servers' own metrics, in Prometheus' text format.

`METRICS` is the one list of names: the collector reads the snapshot by it, and the documentation
is written from it. Nothing is registered anywhere: each call makes the text anew from a value.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from engine.monitor.snapshot import PolicyView, Snapshot, Station, StreamView

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MAX_LABEL = 120
"""Characters of a label's value: some come from models."""
AGES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
"""Buckets of ages, in steps: the same for all runs, so that they can be added up."""

Values = Iterator[tuple[tuple[str, ...], Any]]
"""(values of the labels after `run`, number); of a histogram {value: how often}."""


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    """Ends with the unit, where the name does not say it all."""
    labels: tuple[str, ...]
    read: Callable[[Snapshot], Values] | None = None
    """None: not of a snapshot."""


def _run(
    name: str, kind: Literal["counter", "gauge"], help_: str, of: Callable[[Snapshot], float]
) -> Metric:
    def read(snapshot: Snapshot) -> Values:
        yield (), of(snapshot)

    return Metric(name, kind, help_, ("run",), read)


def _stream(
    name: str,
    kind: Literal["counter", "gauge", "histogram"],
    help_: str,
    of: Callable[[StreamView], Any],
) -> Metric:
    """Absent where `of` is None, as below."""

    def read(snapshot: Snapshot) -> Values:
        for stream, view in snapshot.streams.items():
            if (value := of(view)) is not None:
                yield (stream,), value

    return Metric(name, kind, help_, ("run", "stream"), read)


def _policy(name: str, help_: str, of: Callable[[PolicyView], float | None]) -> Metric:
    def read(snapshot: Snapshot) -> Values:
        for policy, view in snapshot.policies.items():
            if (value := of(view)) is not None:
                yield (policy,), value

    return Metric(name, "gauge", help_, ("run", "policy"), read)


def _station(name: str, help_: str, of: Callable[[Station], float | None]) -> Metric:
    def read(snapshot: Snapshot) -> Values:
        for station, view in snapshot.stations.items():
            if (value := of(view)) is not None:
                yield (station,), value

    return Metric(name, "gauge", help_, ("run", "station"), read)


def _games_dropped(snapshot: Snapshot) -> Values:
    for reason, number in snapshot.games.get("dropped", {}).items():
        yield (reason,), number


def _groups_dropped(snapshot: Snapshot) -> Values:
    for stream, view in snapshot.streams.items():
        for reason, number in view.dropped.items():
            yield (stream, reason), number


def _funnel(snapshot: Snapshot) -> Values:
    for stream, view in snapshot.streams.items():
        for stage, number in view.funnel:
            undone = sum(view.undone.values()) if stage == "trained" else 0
            yield (stream, stage), number + undone


def _ages(view: StreamView) -> Mapping[int, int] | None:
    ages = {*view.ages, *view.undone}
    return {age: view.ages.get(age, 0) + view.undone.get(age, 0) for age in ages} or None


def _busy(snapshot: Snapshot) -> Values:
    for part, share in snapshot.busy.items():
        yield (part,), share


def _parts(snapshot: Snapshot) -> Values:
    for part, values in snapshot.parts.items():
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield (part, name), value


def _phase(snapshot: Snapshot) -> Values:
    yield (snapshot.phase,), 1


def _bottleneck(snapshot: Snapshot) -> Values:
    if snapshot.bottleneck.part:
        yield (snapshot.bottleneck.part,), 1


def _alarms(snapshot: Snapshot) -> Values:
    for name in snapshot.alarm_names:
        yield (name,), 0
    for alarm in snapshot.alarms:
        yield (alarm.name,), 1


SCRAPE_FAILED = Metric(
    "streamzero_server_scrape_failed",
    "gauge",
    "1 where a server did not answer, or what it told could not be read, else 0.",
    ("policy", "server"),
)

METRICS: tuple[Metric, ...] = (
    _run("streamzero_elapsed_seconds", "gauge", "Wall time, all attempts.", lambda s: s.elapsed_s),
    Metric("streamzero_phase", "gauge", "1 for the phase of now.", ("run", "phase"), _phase),
    _run("streamzero_paused", "gauge", "1 while no game is admitted.", lambda s: int(s.is_paused)),
    Metric(
        "streamzero_bottleneck",
        "gauge",
        "1 for the part that limits the rate of steps; absent where none does.",
        ("run", "part"),
        _bottleneck,
    ),
    Metric(
        "streamzero_alarm",
        "gauge",
        "Alarms of this name that ring now.",
        ("run", "name"),
        _alarms,
    ),
    # games
    _run(
        "streamzero_games_started_total",
        "counter",
        "Games that were admitted.",
        lambda s: s.games.get("started", 0),
    ),
    _run(
        "streamzero_games_finished_total",
        "counter",
        "Games that were played to their end.",
        lambda s: s.games.get("finished", 0),
    ),
    Metric(
        "streamzero_games_dropped_total",
        "counter",
        "Games that were given up, by reason.",
        ("run", "reason"),
        _games_dropped,
    ),
    _run(
        "streamzero_games_in_flight",
        "gauge",
        "Games that are played now.",
        lambda s: s.games.get("in_flight", 0),
    ),
    _run(
        "streamzero_games_finished_per_second",
        "gauge",
        "Games finished per second, of the recent time.",
        lambda s: s.games_per_min / 60,
    ),
    # streams
    _stream(
        "streamzero_stream_ready_groups",
        "gauge",
        "Groups that wait for a batch.",
        lambda v: v.ready,
    ),
    _stream("streamzero_stream_leased_groups", "gauge", "Groups in a batch.", lambda v: v.leased),
    _stream(
        "streamzero_stream_trained_groups_total",
        "counter",
        "Groups that were trained on; those that a restart undid count each time.",
        lambda v: v.trained + sum(v.undone.values()),
    ),
    Metric(
        "streamzero_stream_dropped_groups_total",
        "counter",
        "Groups that were not trained on, by reason.",
        ("run", "stream", "reason"),
        _groups_dropped,
    ),
    Metric(
        "streamzero_stream_funnel_total",
        "counter",
        "What reached each stage: rollouts sampled and usable (in the game's own words), then "
        "groups, kept, trained.",
        ("run", "stream", "stage"),
        _funnel,
    ),
    _stream(
        "streamzero_stream_submitted_groups_per_second",
        "gauge",
        "Groups submitted per second, of the recent time.",
        lambda v: v.submitted_per_s,
    ),
    _stream(
        "streamzero_stream_trained_groups_per_second",
        "gauge",
        "Groups trained on per second, of the recent time.",
        lambda v: v.trained_per_s,
    ),
    _stream(
        "streamzero_stream_age_mean_steps",
        "gauge",
        "Mean age of what was trained, in steps; absent before.",
        lambda v: v.age_mean,
    ),
    _stream(
        "streamzero_stream_age_max_steps",
        "gauge",
        "Largest age of what was trained, in steps; absent before.",
        lambda v: v.age_max,
    ),
    _stream(
        "streamzero_stream_age_steps",
        "histogram",
        "Ages of the groups that were trained on, in steps; those that a restart undid count each "
        "time.",
        _ages,
    ),
    # policies
    _policy(
        "streamzero_policy_step", "Optimiser steps made; a restart may undo some.", lambda v: v.step
    ),
    _policy(
        "streamzero_policy_target_steps", "Steps after which the run ends.", lambda v: v.total_steps
    ),
    _policy(
        "streamzero_policy_version", "Version of the weights on the servers.", lambda v: v.version
    ),
    _policy(
        "streamzero_policy_reward",
        "Mean reward of recent groups, also of those that were dropped; absent before.",
        lambda v: v.reward,
    ),
    _policy(
        "streamzero_policy_generated_tokens_per_second",
        "Tokens sampled per second, of the recent time.",
        lambda v: v.generated_per_s,
    ),
    _policy(
        "streamzero_policy_trained_tokens_per_second",
        "Sampled tokens trained on per second, of the recent time.",
        lambda v: v.trained_per_s,
    ),
    _policy(
        "streamzero_policy_steps_per_second",
        "Optimiser steps per second, of the recent time.",
        lambda v: v.steps_per_min / 60,
    ),
    _policy(
        "streamzero_policy_waiting",
        "1 while its next step waits for something.",
        lambda v: int(bool(v.waits_for)),
    ),
    _policy(
        "streamzero_policy_starved_ratio",
        "Share of the recent time in which its learner had nothing to train on; absent where it "
        "is not known.",
        lambda v: v.starved,
    ),
    _policy(
        "streamzero_policy_starved_seconds",
        "For so long its learner has had nothing to train on.",
        lambda v: v.starved_s,
    ),
    _policy(
        "streamzero_policy_mfu_ratio",
        "Model FLOPs utilisation of the last step; absent where the device's peak is not known.",
        lambda v: v.mfu,
    ),
    # stations
    _station("streamzero_station_units", "Ready servers, or worker processes.", lambda v: v.units),
    _station(
        "streamzero_station_outstanding_requests",
        "Requests under way, queued ones included.",
        lambda v: v.outstanding,
    ),
    _station(
        "streamzero_station_queued_requests",
        "Requests that no unit has begun.",
        lambda v: v.queued,
    ),
    _station(
        "streamzero_station_answered_requests_per_second",
        "Requests answered per second, of the recent time.",
        lambda v: v.per_s,
    ),
    _station(
        "streamzero_station_wait_ratio",
        "Share of the games' waiting, recently, that was at this station.",
        lambda v: v.wait_share,
    ),
    _station(
        "streamzero_station_busy_ratio",
        "Share of the recent time in which its units worked (SGLang's servers: how full they "
        "were); absent where they do not tell.",
        lambda v: v.busy,
    ),
    # parts
    Metric(
        "streamzero_part_busy_ratio",
        "gauge",
        "Share of the recent time in which servers, learner groups, the renderer and the engine's "
        "own processes worked.",
        ("run", "part"),
        _busy,
    ),
    Metric(
        "streamzero_part_value",
        "gauge",
        "What a part counts of its own accord, under its own name.",
        ("run", "part", "name"),
        _parts,
    ),
    SCRAPE_FAILED,
)


def exposition(snapshot: Snapshot) -> bytes:
    """All of `METRICS` that the snapshot has, labelled with the run's name.

    Labels that become the same (two alarms of one name, reasons that UTF-8 cannot tell apart) are
    one series of their sum: a series that came twice would spoil the whole scrape.
    """
    return _text(
        _family(metric, _summed(metric, snapshot)) for metric in METRICS if metric.read is not None
    )


def names_markdown() -> str:
    """`METRICS` as a table, for people."""
    rows = ["| Metric | Kind | Labels | |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(rows) + "\n"


def merged_servers(texts: Mapping[tuple[str, str], str | None]) -> bytes:
    """The servers' own metrics as one text: {(policy, url): the server's}, with the labels `policy`
    and `server`; a server's own labels of these names become `exported_...`, as in Prometheus.
    None: it did not answer.

    Names stay, but a counter without `_total` gets it. Where servers disagree about a name's type,
    the first one's counts, and the others' are left out. A text that is not there, or cannot be
    read, is left out and told by `streamzero_server_scrape_failed`.
    """
    merged: dict[str, Family] = {}
    series: dict[str, list[Sample]] = {}
    told: set[Any] = set()
    failed: dict[tuple[str, ...], float] = {}
    for (policy, server), text in texts.items():
        own = {"policy": _label(policy), "server": _label(server)}
        if text is None:
            failed[own["policy"], own["server"]] = 1
            continue
        try:
            families = [_checked(family) for family in text_string_to_metric_families(_utf8(text))]
        except (ValueError, LookupError, TypeError, OverflowError):  # the parser's, on bad text
            failed[own["policy"], own["server"]] = 1
            continue
        failed.setdefault((own["policy"], own["server"]), 0)
        for family in families:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            kept = merged.setdefault(name, Family(family.name, family.documentation, family.type))
            if kept.type == family.type:
                series.setdefault(name, []).extend(_new_samples(family.samples, own, told))
    for name, samples in series.items():
        merged[name].samples = samples
    return _text([*merged.values(), _family(SCRAPE_FAILED, failed)])


@dataclass(frozen=True, slots=True)
class _Families:
    """What the library's writer wants in place of a registry."""

    families: Sequence[Family]

    def collect(self) -> Iterable[Family]:
        return self.families


def _text(families: Iterable[Family]) -> bytes:
    return generate_latest(_Families([family for family in families if family.samples]))


def _summed(metric: Metric, snapshot: Snapshot) -> dict[tuple[str, ...], Any]:
    assert metric.read is not None
    run = _label(snapshot.name)
    values: dict[tuple[str, ...], Any] = {}
    for labels, value in metric.read(snapshot):
        key = (run, *map(_label, labels))
        if metric.kind == "histogram":
            counts = values.setdefault(key, {})
            for age, number in value.items():
                counts[age] = counts.get(age, 0) + number
        else:
            values[key] = values.get(key, 0) + value
    return values


def _family(metric: Metric, values: Mapping[tuple[str, ...], Any]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, counts in values.items():
            total = sum(value * number for value, number in counts.items())
            histogram.add_metric(labels, _buckets(counts), total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _buckets(counts: Mapping[int, int]) -> list[tuple[str, float]]:
    """How many are at most each of `AGES`, and how many there are."""
    buckets: list[tuple[str, float]] = [
        (f"{bound:.1f}", sum(number for age, number in counts.items() if age <= bound))
        for bound in AGES
    ]
    return [*buckets, ("+Inf", sum(counts.values()))]


def _label(text: str) -> str:
    """As a label's value. What had to be cut ends with a hash, to be told from its like."""
    clean = _utf8(text)
    if len(clean) <= MAX_LABEL:
        return clean
    mark = hashlib.sha256(clean.encode()).hexdigest()[:8]
    return f"{clean[: MAX_LABEL - 9]}~{mark}"


def _utf8(text: str) -> str:
    """Without what UTF-8 cannot encode (lone surrogates)."""
    return text.encode("utf-8", "replace").decode()


def _checked(family: Family) -> Family:
    """A parsed family that can be written again. Raises ValueError or OverflowError for numbers
    that cannot; types of other formats than this one become untyped."""
    for sample in family.samples:
        float(sample.value)
        if sample.timestamp is not None and not math.isfinite(float(sample.timestamp)):
            raise ValueError(f"the time of {sample.name} is no number")
    if family.type not in ("counter", "gauge", "histogram", "summary"):
        family.type = "unknown"
    return family


def _new_samples(
    samples: Iterable[Sample], own: Mapping[str, str], told: set[Any]
) -> Iterator[Sample]:
    """With the labels `own`; the first of each series in the whole text, whatever its family."""
    for sample in samples:
        theirs = {f"exported_{n}" if n in own else n: v for n, v in sample.labels.items()}
        labels = {**theirs, **own}
        key = (sample.name, frozenset(labels.items()))
        if key not in told:
            told.add(key)
            yield sample._replace(labels=labels)
