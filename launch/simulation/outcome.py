"""What came of a simulation, as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WASTED = ("too_old", "judges_too_old", "finished", "bad_batch")
"""Why a group is dropped that was good enough to be trained."""


@dataclass(frozen=True, slots=True)
class Look:
    """A simulation at one moment."""

    at_s: float
    steps: Mapping[str, int]
    """By policy."""
    games: int
    """That have ended."""
    groups: int
    """That are trained."""
    generated: int
    """Tokens."""
    trained: int
    """Sampled tokens of batches."""
    busy_s: Mapping[str, float]
    """By part, so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Rates and shares are those of the steady part of a simulation (`steady`)."""

    seconds: float
    """Of that part."""
    games_per_h: float
    groups_per_h: float
    steps_per_h: float
    """Of the slowest policy."""
    publish_s: float
    """Mean of a publication, over the whole simulation."""
    busy: Mapping[str, float]
    """{part: share of the time in which it had something to do}."""
    generated_per_trained: float
    """Tokens; what only judges counts as generated."""
    wasted: float
    """Share of the generated tokens whose groups were good, and yet dropped (`WASTED`), over the
    whole simulation; those lengths are taken as their streams' means."""
    ages: Mapping[str, Mapping[int, int]]
    """{stream: {age in steps: groups}} of all that was trained."""
    counts: Mapping[str, object]
    """As `Buffer.counts`."""

    def busy_of(self, kind: str) -> float:
        """The mean of the parts of a kind: "server", "learner", "render worker", "engine"."""
        own = [share for part, share in self.busy.items() if part.startswith(kind)]
        return sum(own) / len(own)

    @property
    def mean_age(self) -> float:
        pairs = [pair for ages in self.ages.values() for pair in ages.items()]
        return sum(age * n for age, n in pairs) / max(1, sum(n for _, n in pairs))

    @property
    def max_age(self) -> int:
        return max((age for ages in self.ages.values() for age in ages), default=0)


def steady(
    looks: Sequence[Look], *, warm_up: int, last: int | None, in_rounds: bool = False
) -> tuple[Look, Look]:
    """The first look after every policy has made `warm_up` steps, and the last one before one has
    made `last`: from there on fewer games start. `in_rounds`: policies take turns, and some may
    make fewer steps of a round's games than others, so the first is after the one that is ahead
    has begun its next round. Raises ValueError where nothing is between."""
    if in_rounds:
        warm = [look for look in looks if max(look.steps.values()) > warm_up]
    else:
        warm = [look for look in looks if min(look.steps.values()) >= warm_up]
    inside = [look for look in warm if last is None or max(look.steps.values()) <= last]
    if len(inside) < 2 or inside[-1].games == inside[0].games:
        raise ValueError(
            f"too short to tell: it takes more than {warm_up} steps of every policy; "
            "simulate more steps or seconds"
        )
    return inside[0], inside[-1]
