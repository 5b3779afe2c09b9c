"""What has become of one game so far: values that the recipe hands from stage to stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.types import Invalid, Rollout
from rewards.reward import Reward
from rewards.spy import Ballots, Vote, is_found
from roles.vision_zero.transcript import Clue


@dataclass(frozen=True, slots=True)
class Turn:
    """One clue of one seat."""

    seat: int
    round: int
    rollout: Rollout
    clue: str | Invalid

    @property
    def public(self) -> Clue:
        """As all players see it."""
        return Clue(self.seat, self.round, self.clue if isinstance(self.clue, str) else None)


@dataclass(frozen=True, slots=True)
class Poll:
    """One vote of all voters, on the clues so far."""

    rollouts: tuple[Rollout, ...]
    votes: tuple[Vote, ...]
    ballots: Ballots
    rewards: tuple[Reward, ...]
    """Of the votes."""

    def is_found(self, spy: int) -> bool:
        return is_found(self.ballots, spy)


@dataclass(frozen=True, slots=True)
class Replica:
    """A pair played once."""

    turns: tuple[Turn, ...]
    """In the order in which they were spoken."""
    polls: tuple[Poll, ...]
    """After each round where each round is judged, else one, after the last."""

    @property
    def final(self) -> Poll:
        return self.polls[-1]

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        """Everything that was sampled."""
        clues = tuple(turn.rollout for turn in self.turns)
        return clues + tuple(rollout for poll in self.polls for rollout in poll.rollouts)

    def of_seat(self, seat: int) -> list[Turn]:
        return [turn for turn in self.turns if turn.seat == seat]


def transcript(turns: Sequence[Turn]) -> list[Clue]:
    return [turn.public for turn in turns]
