"""Win rate in "who is the spy?" against a frozen reference (paper, Fig. 6).

Half of the games our model plays the civilians and the voters against the reference's spy, half it
plays the spy against the reference's civilians and voters. Civilians win where the spy is found.
The reference plays all of these games against itself too: what a pair alone decides cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import GameDropped
from engine.tasks import concurrently
from evals.benchmark import Unit
from evals.intervals import mean_interval
from evals.statistics import Difference, difference
from render_pool.pairs.source import Pairs
from roles.table import Sampler, Table
from roles.vision_zero.config import VOTER, VisionZeroConfig
from roles.vision_zero.players import Players
from roles.vision_zero.recipe import play_replica, spy_seat

SIDES = ("civilians", "spy")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One game of a match."""

    side: str
    """What our model played: "civilians" or "spy"."""
    won: float | None
    """By our model, 0 or 1; None: the game was lost for a named reason."""
    reference_won: float | None
    """The same side of the same game, played by the reference."""


async def play_match(
    ours: Mapping[str, Sampler],
    reference: Mapping[str, Sampler],
    pairs: Pairs,
    table: Table,
    cfg: VisionZeroConfig,
    games: int,
) -> list[Outcome]:
    """`games` games, each on a pair of its own; samplers by role. `table`: all but the samplers."""
    cfg = cfg.model_copy(
        update={"clue_credit": cfg.clue_credit.model_copy(update={"turns": "terminal"})}
    )

    async def found(number: int, samplers: Mapping[str, Sampler]) -> float | None:
        spy = spy_seat(number, cfg.num_players)
        try:
            pair = await pairs.pair(number)
            seats = Players.at(replace(table, samplers=samplers), cfg, pair, spy)
            return float((await play_replica(seats)).final.is_found(spy))
        except GameDropped:
            return None

    async def one(number: int) -> Outcome:
        side = SIDES[number % 2]
        mixed = {
            role: ours[role] if (role == "spy") == (side == "spy") else reference[role]
            for role in ("civilian", "spy", VOTER)
        }
        # The seat must not go with the side: games 2 k and 2 k + 1 have one.
        won, self_play = await concurrently(
            lambda samplers: found(number // 2, samplers), [mixed, reference]
        )
        return Outcome(side, _wins(won, side), _wins(self_play, side))

    return list(await concurrently(one, range(games)))


def _wins(found: float | None, side: str) -> float | None:
    return None if found is None else found if side == "civilians" else 1.0 - found


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """{"civilians" | "spy" | "all": {games, win_rate, ci95, reference, gain, gain_ci95}}.

    `ci95` is of the win rate (Wilson), `gain_ci95` of the difference to the reference in the same
    games (paired bootstrap). A side without games is left out.
    """
    found = {}
    for side in (*SIDES, "all"):
        own = [outcome for outcome in outcomes if side in ("all", outcome.side)]
        units = [Unit(str(i), o.won) for i, o in enumerate(own) if o.won is not None]
        interval = mean_interval(units)
        change = _gain(own)
        if interval is None or change is None:
            continue
        found[side] = {
            "games": len(units),
            "win_rate": interval.estimate,
            "ci95": [interval.low, interval.high],
            "reference": change.before,
            "gain": change.delta,
            "gain_ci95": [change.low, change.high],
        }
    return found


def _gain(outcomes: Sequence[Outcome]) -> Difference | None:
    if not outcomes:
        return None
    return difference([o.reference_won for o in outcomes], [o.won for o in outcomes])
