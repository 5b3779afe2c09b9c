"""What has become of one game so far: values that the recipe hands from stage to stage."""

from dataclasses import dataclass

from engine.types import Invalid, Picture, Rollout
from rewards.grading import Votes
from rewards.reward import Reward, Score
from roles.mm_zero.parsing import Proposal


@dataclass(frozen=True, slots=True)
class Vote:
    """The solver's answers to one question about one picture."""

    rollouts: tuple[Rollout, ...]
    votes: Votes


@dataclass(frozen=True, slots=True)
class Solved:
    """Both votes on one picture, and what they make of it."""

    easy: Vote
    hard: Vote
    score: Score
    rewards: tuple[Reward, ...]
    """Of the answers to the hard question."""
    drop: str | None
    """Why those do not train the solver."""

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        return self.easy.rollouts + self.hard.rollouts


@dataclass(frozen=True, slots=True)
class Drawing:
    """One reply of the coder; `solved` is None where its picture is Invalid."""

    rollout: Rollout
    svg: str | None
    picture: Picture | Invalid
    solved: Solved | None = None

    @property
    def score(self) -> Score | None:
        return self.solved.score if self.solved else None

    @property
    def judges(self) -> tuple[Rollout, ...]:
        return self.solved.rollouts if self.solved else ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One reply of the proposer and what was drawn from it."""

    rollout: Rollout
    proposal: Proposal | Invalid
    drawings: tuple[Drawing, ...] = ()
    coder_rewards: tuple[Reward, ...] = ()

    @property
    def judges(self) -> tuple[Rollout, ...]:
        return tuple(r for drawing in self.drawings for r in (drawing.rollout, *drawing.judges))
