"""What is kept of a game for people to look at: the gallery, the report, the curves."""

from collections.abc import Sequence
from typing import Any

from engine.types import Invalid
from roles.table import Note, Pair
from roles.vision_zero.credit import Credit, TurnCredit
from roles.vision_zero.outcome import Poll, Replica, Turn

NOTE = "spy_game"
"""The note that holds a game."""


def note_game(
    note: Note,
    pair: Pair,
    spy: int,
    replicas: Sequence[Replica],
    credit: Credit,
    frozen: Poll | None = None,
) -> None:
    """Notes "topic", "picture/civilian", "picture/spy" (PNG) and NOTE (JSON): {pair, domain, view,
    spy, replicas: [{clues: [...], polls: [...]}]}, a poll's votes as {vote | invalid, text, reward}
    and whether its voters found the spy. `frozen`: the older voter's vote on the first replica."""
    note("topic", f"{pair.domain}, {pair.view}")
    note("picture/civilian", pair.civilian)
    note("picture/spy", pair.spy)
    game: dict[str, Any] = {"pair": pair.id, "domain": pair.domain, "view": pair.view, "spy": spy}
    rows = zip(replicas, credit, strict=True)
    game["replicas"] = [_replica(pair, spy, *row) for row in rows]
    if frozen is not None:
        game["frozen"] = _poll(frozen, spy)
    note(NOTE, game)


def _replica(
    pair: Pair, spy: int, replica: Replica, credit: Sequence[TurnCredit]
) -> dict[str, Any]:
    turns = zip(replica.turns, credit, strict=True)
    return {
        "clues": [_turn(pair, spy, *turn) for turn in turns],
        "polls": [_poll(poll, spy) for poll in replica.polls],
    }


def _turn(pair: Pair, spy: int, turn: Turn, earned: TurnCredit) -> dict[str, Any]:
    row: dict[str, Any] = {
        "seat": turn.seat,
        "round": turn.round,
        "is_spy": turn.seat == spy,
        "text": turn.rollout.text,
        "reward": earned.value - earned.penalty,
        "advantage": earned.advantage,
    }
    if isinstance(turn.clue, Invalid):
        return row | {"invalid": turn.clue.reason}
    return row | {"clue": turn.clue, "is_true": pair.is_true(turn.clue)}


def _poll(poll: Poll, spy: int) -> dict[str, Any]:
    votes = zip(poll.votes, poll.rollouts, poll.rewards, strict=True)
    return {
        "found": poll.is_found(spy),
        "received": list(poll.ballots.seats),
        "abstained": poll.ballots.abstained,
        "invalid": poll.ballots.invalid,
        "votes": [
            {
                "vote": vote.reason if isinstance(vote, Invalid) else vote,
                "text": rollout.text,
                "reward": reward.total,
            }
            for vote, rollout, reward in votes
        ],
    }
