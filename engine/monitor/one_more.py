"""Where one more device would help most, from how busy the ones that are there have been. Pure.

A run goes as fast as its busiest kind of unit lets it. One more unit of a kind that has n takes the
share n / (n + 1) of its work off each; the rate may then rise until the busiest kind is as busy as
it was. That is an upper bound: what a unit waits for (games in flight, the window) is not in it.
Where kinds work in turn, as in a schedule with barriers, only the time of its own kind gets shorter
(Amdahl's law).
"""

from collections.abc import Sequence
from dataclasses import dataclass

MIN_BUSY = 0.6
"""Where no kind is busier, devices are not what limits the run."""
MIN_GAIN = 0.05
MIN_SHARE = 0.5
"""Of what one more unit could bring (1 / n): enough where that is less than `MIN_GAIN`."""


@dataclass(frozen=True, slots=True)
class Units:
    """Devices that do the same work."""

    name: str
    """What one of them is: "a server of solver", "a rank of learner"."""
    number: int
    busy: float
    """Share of the time that each of them worked, in the mean."""


@dataclass(frozen=True, slots=True)
class OneMore:
    """`name` is "" where none would help."""

    name: str
    gain: float
    """Of the rate, at most."""
    sentence: str


def one_more(kinds: Sequence[Units], *, in_turn: bool = False) -> OneMore | None:
    """Which kind should have one more; None: nothing is known. `in_turn`: none works while another
    does."""
    if not kinds:
        return None
    busiest, *others = sorted(kinds, key=lambda kind: -kind.busy)
    if busiest.busy < MIN_BUSY:
        return OneMore(
            "",
            0.0,
            f"One more device would not help: none is busy more than {busiest.busy:.0%} of the "
            f"time ({busiest.name}); the run waits for games (streams.games_per_step, max_age).",
        )
    after = busiest.busy * busiest.number / (busiest.number + 1)
    limit = max([after, *(other.busy for other in others)])
    gain = busiest.busy / limit - 1
    if in_turn:
        gain, others = 1 / (1 - (busiest.busy - after)) - 1, []
    if gain < min(MIN_GAIN, MIN_SHARE / busiest.number):
        second = others[0]  # nothing else keeps one from its whole share
        return OneMore(
            "",
            gain,
            f"One more device would help little: {busiest.name} ({busiest.busy:.0%} busy) and "
            f"{second.name} ({second.busy:.0%}) limit the run together.",
        )
    then = f", then {others[0].name} limits it" if others and limit > after else ""
    return OneMore(
        busiest.name,
        gain,
        f"One more device would help most as {busiest.name} ({busiest.busy:.0%} busy): up to "
        f"{gain:.0%} more games{then}.",
    )
