"""What is kept of a game for people to look at: the gallery, the report, label checks."""

from collections.abc import Sequence
from typing import Any

from engine.types import Invalid, Rollout
from rewards.grading import Votes
from rewards.reward import Reward
from roles.mm_zero.outcome import Attempt, Drawing
from roles.table import Note


def note_game(
    note: Note, topic: str, attempts: Sequence[Attempt], rewards: Sequence[Reward]
) -> None:
    """Notes "topic", "proposals" (one JSON list) and each "picture/<proposal>/<drawing>" (PNG)."""
    note("topic", topic)
    proposals = [
        _attempt(index, attempt, reward)
        for index, (attempt, reward) in enumerate(zip(attempts, rewards, strict=True))
    ]
    note("proposals", proposals)
    for i, attempt in enumerate(attempts):
        for k, drawing in enumerate(attempt.drawings):
            if not isinstance(drawing.picture, Invalid):
                note(_picture_key(i, k), drawing.picture.png)


def _attempt(index: int, attempt: Attempt, reward: Reward) -> dict[str, Any]:
    entry: dict[str, Any] = {"text": attempt.rollout.text} | _earned(reward)
    if isinstance(attempt.proposal, Invalid):
        return entry | {"invalid": _reason(attempt.proposal)}
    entry |= {"proposal": attempt.proposal.as_dict()}
    drawings = zip(attempt.drawings, attempt.coder_rewards, strict=True)
    return entry | {
        "drawings": [_drawing(index, k, *drawing) for k, drawing in enumerate(drawings)]
    }


def _drawing(index: int, number: int, drawing: Drawing, reward: Reward) -> dict[str, Any]:
    entry: dict[str, Any] = {"svg": drawing.svg} | _earned(reward)
    if isinstance(drawing.picture, Invalid):
        return entry | {"text": drawing.rollout.text, "invalid": _reason(drawing.picture)}
    solved = drawing.solved
    assert solved is not None, "a picture is solved before it is noted"
    trained = solved.answers[0]
    hard = _vote(solved.hard, solved.judges.hard) | {
        "label": trained.label,
        "rewards": [reward.total for reward in trained.rewards],
        "terms": [dict(reward.terms) for reward in trained.rewards],
    }
    return entry | {
        "picture": _picture_key(index, number),
        "leak": drawing.is_leaked,
        "solvability": solved.score.solvability,
        "difficulty": solved.score.difficulty,
        "easy": _vote(solved.easy, solved.judges.easy),
        "hard": hard,
        "drop": trained.drop,
    }


def _vote(votes: Votes, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    return {
        "majority": votes.majority,
        "share": votes.share,
        "counts": dict(votes.counts),
        "replies": [rollout.text for rollout in rollouts],
    }


def _earned(reward: Reward) -> dict[str, Any]:
    return {"reward": reward.total, "terms": dict(reward.terms)}


def _reason(invalid: Invalid) -> str:
    return f"{invalid.reason}: {invalid.detail}" if invalid.detail else invalid.reason


def _picture_key(proposal: int, drawing: int) -> str:
    return f"picture/{proposal}/{drawing}"
