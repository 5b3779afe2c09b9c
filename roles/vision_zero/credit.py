"""From clues and votes to rewards, advantages and groups."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.types import Group, Invalid, Rollout, version_range
from rewards.spy import clue_rewards, round_deltas
from roles.vision_zero.config import VOTER, CreditConfig, VisionZeroConfig
from roles.vision_zero.outcome import Poll, Replica
from roles.vision_zero.rules import RULES


@dataclass(frozen=True, slots=True)
class TurnCredit:
    """What one clue earned."""

    value: float
    """Its share of the zero-sum reward (paper, Eq. 1)."""
    advantage: float
    """Against its baseline, scaled, less the penalty of an unreadable reply."""
    penalty: float
    """At least 0: what being unreadable cost."""


Credit = tuple[tuple[TurnCredit, ...], ...]
"""[replicas][turns], in the order of `Replica.turns`."""


def turn_values(replica: Replica, spy: int, cfg: CreditConfig) -> tuple[float, ...]:
    """Each turn's part of the reward; over the seats of a round they sum to 0."""
    received = [
        poll.ballots.shares if cfg.votes == "shares" else tuple(map(float, poll.ballots.seats))
        for poll in replica.polls
    ]
    beta = cfg.weight
    if cfg.turns == "terminal":
        final = clue_rewards(received[-1], spy, beta=beta, lam=beta)
        return tuple(final[turn.seat - 1] for turn in replica.turns)
    by_round = round_deltas(received, spy, beta=beta, lam=beta)
    return tuple(by_round[turn.round - 1][turn.seat - 1] for turn in replica.turns)


def clue_groups(
    game: int, replicas: Sequence[Replica], spy: int, credit: Credit, drop: str | None
) -> list[Group]:
    """The civilians' turns and the spy's, of all replicas. Whole games: what is zero-sum stays so
    in a batch."""
    judges = [rollout for replica in replicas for rollout in replica.rollouts]
    played = [
        (turn, earned)
        for replica, row in zip(replicas, credit, strict=True)
        for turn, earned in zip(replica.turns, row, strict=True)
    ]
    groups = []
    for stream in ("civilian", "spy"):
        own = [(turn, earned) for turn, earned in played if (turn.seat == spy) == (stream == "spy")]
        groups.append(
            _group(
                stream,
                game,
                [turn.rollout for turn, _ in own],
                [{"votes": earned.value, "invalid": -earned.penalty} for _, earned in own],
                judges=judges,
                advantages=[earned.advantage for _, earned in own],
                usable=sum(not isinstance(turn.clue, Invalid) for turn, _ in own),
                drop=drop,
            )
        )
    return groups


def vote_group(game: int, poll: Poll, cfg: VisionZeroConfig, drop: str | None) -> Group:
    """The votes on one transcript; their advantages are relative to each other."""
    return _group(
        VOTER,
        game,
        poll.rollouts,
        [reward.terms for reward in poll.rewards],
        judges=(),
        advantages=RULES[cfg.rules].vote_advantages([reward.total for reward in poll.rewards]),
        usable=sum(not isinstance(vote, Invalid) for vote in poll.votes),
        drop=drop,
    )


def _group(
    stream: str,
    game: int,
    rollouts: Iterable[Rollout],
    terms: Sequence[Mapping[str, float]],
    *,
    judges: Iterable[Rollout],
    advantages: Sequence[float] | None,
    usable: int,
    drop: str | None,
) -> Group:
    own = tuple(rollouts)
    return Group(
        stream=stream,
        game=game,
        rollouts=own,
        rewards=tuple(sum(row.values()) for row in terms),
        terms=tuple(terms),
        advantages=None if advantages is None else tuple(advantages),
        versions=version_range((*own, *judges)),
        extra={"usable": usable, "drop": drop},
    )
