"""What every view of a run shows: one plain value, made once a second."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Stages = tuple[tuple[str, int], ...]
"""A funnel: (stage, number), in the order in which a stream passes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamView:
    ready: int = 0
    leased: int = 0
    trained: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    age_mean: float | None = None
    """Of what was trained, in steps."""
    age_max: int | None = None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    name: str
    phase: str
    elapsed_s: float
    games: Mapping[str, Any]
    """started, finished, in_flight, dropped {reason: number}."""
    streams: Mapping[str, StreamView]
    policies: Mapping[str, PolicyView]
    busy: Mapping[str, float] = field(default_factory=dict)
    """Fraction of the recent time that each server, learner and the renderer worked."""
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What parts count of their own accord, by part; kept with the record."""
    lines: Sequence[str] = ()
    """The same in words, a line each."""
    events: Sequence[tuple[str, str]] = ()
    """(level, text), newest last."""

    def record(self) -> dict[str, Any]:
        """For `metrics.jsonl`, without what has a line of its own."""
        data = asdict(self)
        for key in ("name", "events", "lines"):
            del data[key]
        return data


def stages(funnel: Mapping[str, int], names: tuple[str, str]) -> Stages:
    """A stream's row of `Buffer.funnel` with the recipe's words for its rollouts in `names`:
    one that was sampled, and one that passed the gate of its role."""
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
