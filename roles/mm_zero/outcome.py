"""What has become of one game so far: values that the recipe hands from stage to stage."""

from dataclasses import dataclass

from engine.types import Invalid, Picture, Rollout
from rewards.grading import Votes
from rewards.reward import Reward, Score
from roles.mm_zero.parsing import Proposal


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies to both questions about one picture."""

    easy: tuple[Rollout, ...]
    hard: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers that train the solver, and what they earn."""

    level: str
    """"easy" or "hard"."""
    question: str
    rollouts: tuple[Rollout, ...]
    rewards: tuple[Reward, ...]
    label: str | None
    """What counts as right."""
    votes: Votes
    """From which the label was taken."""
    drop: str | None
    """Why they do not train the solver."""


@dataclass(frozen=True, slots=True)
class Solved:
    """Both votes on one picture, and what they make of it."""

    judges: Replies
    easy: Votes
    hard: Votes
    score: Score
    answers: tuple[Answers, ...]
    """To the hard question first; to the easy one only where that is trained."""

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        return self.judges.easy + self.judges.hard


@dataclass(frozen=True, slots=True)
class Drawing:
    """One reply of the coder; `solved` is None where its picture is Invalid."""

    rollout: Rollout
    svg: str | None
    picture: Picture | Invalid
    solved: Solved | None = None
    is_leaked: bool = False
    """The picture prints the answer of the hard question."""

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
