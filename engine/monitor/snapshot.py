"""What every view of a run shows: one plain value, made at most once a second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

Stages = tuple[tuple[str, int], ...]
"""A funnel: (stage, number), in the order in which a stream passes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamView:
    policy: str = ""
    """What its groups train."""
    ready: int = 0
    leased: int = 0
    trained: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    age_mean: float | None = None
    """Of what was trained, in steps."""
    age_max: int | None = None
    ages: Mapping[int, int] = field(default_factory=dict)
    """{age: groups} of what was trained."""
    undone: Mapping[int, int] = field(default_factory=dict)
    """{age: groups} of what was trained, and undone by a restart: for counters that never fall."""
    submitted_per_s: float = 0.0
    """Groups, of the recent time."""
    trained_per_s: float = 0.0
    """Groups, of the recent time."""
    is_open: bool = True
    """False while its recipe's gate trains other streams."""
    funnel: Stages = ()
    """Rollouts sampled and usable, then groups submitted, kept and trained; see `stages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    step: int
    total_steps: int
    version: int = 0
    reward: float | None = None
    """Mean over recent groups, also those that were dropped."""
    generated_per_s: float = 0.0
    """Tokens."""
    trained_per_s: float = 0.0
    """Sampled tokens that were trained on."""
    waits_for: str = ""
    """What its next step waits for; empty: it trains."""
    starved: float | None = None
    """Share of the recent time in which its learner had nothing to train on; None: not known."""
    starved_s: float = 0.0
    """For so long it has had nothing to train on; 0: it trains, or has finished."""
    steps_per_min: float = 0.0
    mfu: float | None = None
    """Model FLOPs utilisation of its last step; None where the device's peak is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Where games wait for work to be done: the servers of a policy, or the renderer."""

    kind: Literal["servers", "renderer"]
    units: int
    """Servers that are ready, or worker processes."""
    outstanding: int = 0
    """Requests under way, queued ones included."""
    queued: int = 0
    """Of these, those that no unit has begun."""
    per_s: float = 0.0
    """Requests answered, of the recent time."""
    wait_share: float = 0.0
    """Share of the time that games spent waiting, recently, at this station."""
    busy: float | None = None
    """Share of the recent time in which its units worked; None where they do not tell."""
    limit: str = ""
    """The setting that gives it more units."""


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What limits the rate of steps, in words."""

    part: str
    """"learner", a station's name, or "" where nothing does."""
    sentence: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should look at. Decides nothing."""

    name: str
    """One of a closed set, for machines: those in `alarms.NAMES`, and the game's own."""
    sentence: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    name: str
    phase: str
    elapsed_s: float
    games: Mapping[str, Any]
    """started, finished, in_flight, dropped {reason: number}."""
    streams: Mapping[str, StreamView]
    policies: Mapping[str, PolicyView]
    games_per_min: float = 0.0
    """Finished ones, of the recent time."""
    stations: Mapping[str, Station] = field(default_factory=dict)
    """In the order in which a game passes them."""
    bottleneck: Bottleneck = Bottleneck("", "")
    alarms: Sequence[Alarm] = ()
    alarm_names: Sequence[str] = ()
    """All that there are, whether they ring or not."""
    is_paused: bool = False
    """No game is admitted until someone says so."""
    busy: Mapping[str, float] = field(default_factory=dict)
    """Fraction of the recent time that each policy's servers, each learner group, the renderer and
    the engine's own processes worked."""
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What parts count of their own accord, by part; kept with the record."""
    lines: Sequence[str] = ()
    """The same in words, a line each."""
    events: Sequence[tuple[float, str, str]] = ()
    """(unix time, level, text), newest last."""

    def record(self) -> dict[str, Any]:
        """For `metrics.jsonl`, without what has a line of its own."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)
            if field.name not in ("name", "events", "lines", "alarms", "alarm_names")
        }


def _plain(value: Any) -> Any:
    """Views as dictionaries, what is in them as it is: a snapshot is never changed."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


def stages(funnel: Mapping[str, int], names: tuple[str, str]) -> Stages:
    """A stream's row of `Buffer.funnel` with the recipe's words for its rollouts in `names`:
    one that was sampled, and one that had the form that its role asks for."""
    sampled, usable = names
    return (
        (sampled, funnel.get("sampled", 0)),
        (usable, funnel.get("usable", 0)),
        *((name, funnel.get(name, 0)) for name in ("groups", "kept", "trained")),
    )


def age_stats(histogram: Mapping[int, int]) -> dict[str, float | None]:
    """{mean, p95, max} of {age: number}; None where there is nothing."""
    total = sum(histogram.values())
    if total == 0:
        return {"mean": None, "p95": None, "max": None}
    seen, p95 = 0, 0
    for age in sorted(histogram):
        seen += histogram[age]
        if seen >= 0.95 * total:
            p95 = age
            break
    mean = sum(age * number for age, number in histogram.items()) / total
    return {"mean": mean, "p95": p95, "max": max(histogram)}
