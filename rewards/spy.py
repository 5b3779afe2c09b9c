"""What clues and votes earn in "who is the spy?" (Vision-Zero, arXiv:2509.25541).

Seats are numbered from 1; whatever is listed by seat begins with seat 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.types import Invalid
from rewards.reward import Reward, reward

Vote = int | None | Invalid
"""A seat; None where the voter abstained (N/A); Invalid where no vote could be read."""


@dataclass(frozen=True, slots=True)
class Ballots:
    """The outcome of one vote."""

    seats: tuple[int, ...]
    """Votes that each seat received."""
    abstained: int
    invalid: int
    """Unreadable, or for a seat that is not at the table."""

    @property
    def total(self) -> int:
        """All voters, whatever they said."""
        return sum(self.seats) + self.abstained + self.invalid

    @property
    def shares(self) -> tuple[float, ...]:
        """Votes received / all voters, so that the scale does not depend on how many vote."""
        total = self.total
        return tuple(votes / total if total else 0.0 for votes in self.seats)

    @property
    def abstention(self) -> float:
        """Share of the voters who abstained, in [0, 1]."""
        return self.abstained / self.total if self.total else 0.0


def count_votes(votes: Sequence[Vote], num_players: int) -> Ballots:
    seats = [0] * num_players
    abstained = 0
    for vote in votes:
        if vote is None:
            abstained += 1
        elif not isinstance(vote, Invalid) and 1 <= vote <= num_players:
            seats[vote - 1] += 1
    return Ballots(tuple(seats), abstained, len(votes) - abstained - sum(seats))


def is_found(ballots: Ballots, spy: int) -> bool:
    """True where the spy has more votes than any other seat, and more than there are abstentions.

    A tie finds nobody (ours; the paper's argmax has no rule for ties).
    """
    others = [votes for seat, votes in enumerate(ballots.seats, start=1) if seat != spy]
    return ballots.seats[spy - 1] > max([*others, ballots.abstained])


def clue_rewards(
    received: Sequence[float], spy: int, *, beta: float = 0.8, lam: float = 0.8
) -> tuple[float, ...]:
    """Each seat's reward for its clues. They sum to 0. Source: paper, Eq. 1; released code.

    With v the votes received, n the number of civilians, v̄ the mean of their votes:
    the spy gets -beta (v_spy - v̄), a civilian (beta / n) (v_spy - v̄) - lam (v - v̄).

    `received` are vote shares (ours: beta = lam = .8) or counts (paper and released code: .1); at
    eight voters these are the same. Raises ValueError where the spy has no seat at the table or
    there is no civilian.
    """
    if len(received) < 2 or not 1 <= spy <= len(received):
        raise ValueError(f"the spy's seat is {spy}, at a table of {len(received)}")
    civilians = [votes for seat, votes in enumerate(received, start=1) if seat != spy]
    mean = math.fsum(civilians) / len(civilians)
    suspicion = received[spy - 1] - mean
    shared = beta / len(civilians) * suspicion
    # + 0.0: no -0.0 where nobody was voted for.
    return tuple(
        (-beta * suspicion if seat == spy else shared - lam * (votes - mean)) + 0.0
        for seat, votes in enumerate(received, start=1)
    )


def round_deltas(
    by_round: Sequence[Sequence[float]], spy: int, *, beta: float = 0.8, lam: float = 0.8
) -> tuple[tuple[float, ...], ...]:
    """[rounds][seats] what each round's clues added to the reward of their seat (ours).

    `by_round` holds what a vote after each round said. Before the first one nobody was voted for.
    Every round sums to 0 over the seats; over the rounds the deltas sum to `clue_rewards` of the
    last vote, which is linear in the votes.
    """
    before = [tuple(0.0 for _ in votes) for votes in by_round[:1]] + list(by_round[:-1])
    return tuple(
        clue_rewards(
            [now - then for now, then in zip(votes, earlier, strict=True)], spy, beta=beta, lam=lam
        )
        for votes, earlier in zip(by_round, before, strict=True)
    )


@dataclass(frozen=True, slots=True)
class DecisionWeights:
    """What a vote earns. The paper's Eq. 4 has abstain = -.5 and no format term."""

    right: float = 1.0
    abstain: float = -0.2
    wrong: float = -1.0
    format: float = 0.2
    """Charged where no vote could be read, on top of being wrong."""


def decision_reward(vote: Vote, spy: int, weights: DecisionWeights | None = None) -> Reward:
    """What one vote earns. Source: paper, Eq. 4; the format term is ours.

    Terms: decision, format.
    """
    weights = weights or DecisionWeights()
    if vote is None:
        decision = weights.abstain
    else:
        decision = weights.right if vote == spy else weights.wrong
    charged = weights.format if isinstance(vote, Invalid) else 0.0
    return reward(decision=decision, format=0.0 - charged)


def break_even(weights: DecisionWeights) -> float:
    """The chance of being right from which on a guess pays more than to abstain.

    .25 with the paper's numbers, which is what a voter has who knows nothing among four; .4 with
    ours. Raises ZeroDivisionError where right and wrong earn the same.
    """
    return (weights.abstain - weights.wrong) / (weights.right - weights.wrong)


def normalised(rewards: Sequence[float], *, eps: float = 1e-6, ddof: int = 1) -> tuple[float, ...]:
    """Group-relative advantages, (r - mean) / (std + eps); zeros where all are equal, or one alone.

    `ddof` 1 divides the variance by n - 1, as the learner does; 0 by n, as the released code does.
    """
    n = len(rewards)
    if n < 2 or all(value == rewards[0] for value in rewards):
        return (0.0,) * n
    mean = math.fsum(rewards) / n
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in rewards) / (n - ddof))
    return tuple((value - mean) / (std + eps) for value in rewards)
