"""What is kept of a game for people to look at: the gallery, the report, label checks."""

from collections.abc import Sequence
from typing import Any

from engine.types import Invalid
from rewards.reward import Reward
from roles.mm_zero.outcome import Attempt, Drawing, Vote
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
    hard = _vote(solved.hard) | {"rewards": [reward.total for reward in solved.rewards]}
    return entry | {
        "picture": _picture_key(index, number),
        "solvability": solved.score.solvability,
        "difficulty": solved.score.difficulty,
        "easy": _vote(solved.easy),
        "hard": hard,
        "drop": solved.drop,
    }


def _vote(vote: Vote) -> dict[str, Any]:
    return {
        "majority": vote.votes.majority,
        "share": vote.votes.share,
        "counts": dict(vote.votes.counts),
        "replies": [rollout.text for rollout in vote.rollouts],
    }


def _earned(reward: Reward) -> dict[str, Any]:
    return {"reward": reward.total, "terms": dict(reward.terms)}


def _reason(invalid: Invalid) -> str:
    return f"{invalid.reason}: {invalid.detail}" if invalid.detail else invalid.reason


def _picture_key(proposal: int, drawing: int) -> str:
    return f"picture/{proposal}/{drawing}"
