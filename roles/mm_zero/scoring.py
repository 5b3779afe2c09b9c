"""From replies to rewards and groups: pure functions around `rewards`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.types import Group, Invalid, Rollout, version_range
from rewards.diversity import Card, DiversityWindow
from rewards.grading import equal, tally
from rewards.proposer import proposer_reward, unparsable_reward
from rewards.reward import Reward, Score
from rewards.solver import solver_reward
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.filters import solver_filter
from roles.mm_zero.outcome import Attempt, Solved, Vote
from roles.mm_zero.parsing import Proposal, is_well_formed, parse_answer


def vote(rollouts: tuple[Rollout, ...], *, salt: str) -> Vote:
    return Vote(rollouts, tally([parse_answer(rollout.text) for rollout in rollouts], salt=salt))


def judge_picture(proposal: Proposal, easy: Vote, hard: Vote, cfg: MMZeroConfig) -> Solved:
    """How readable the picture is, how hard its question, and what the hard answers earn."""
    drop = solver_filter(
        easy.votes, hard.votes, min_easy_share=cfg.min_easy_share, hard_band=cfg.hard_band
    )
    score = Score(solvability(easy, proposal.easy_answer), hard.votes.difficulty)
    return Solved(easy, hard, score, answer_rewards(hard), drop)


def solvability(easy: Vote, expected: str) -> float:
    """s: share of all answers, the invalid ones included, that equal the proposer's."""
    hits = [equal(parse_answer(rollout.text), expected) for rollout in easy.rollouts]
    return sum(hits) / len(hits)


def answer_rewards(answers: Vote) -> tuple[Reward, ...]:
    """Right is what the answers' own majority says (TTRL, arXiv:2504.16084)."""
    return tuple(
        solver_reward(
            is_correct=answers.votes.supports(parse_answer(rollout.text)),
            is_well_formed=is_well_formed(rollout.text),
        )
        for rollout in answers.rollouts
    )


def proposer_rewards(
    attempts: Sequence[Attempt], cfg: MMZeroConfig, window: DiversityWindow
) -> tuple[Reward, ...]:
    """In the order of `attempts`; the valid proposals enter `window`."""
    valid = [attempt.proposal for attempt in attempts if isinstance(attempt.proposal, Proposal)]
    repetitions = iter(window.judge([_card(proposal) for proposal in valid]))
    weights = cfg.proposer_weights
    return tuple(
        unparsable_reward(weights)
        if isinstance(attempt.proposal, Invalid)
        else proposer_reward([d.score for d in attempt.drawings], next(repetitions), weights)
        for attempt in attempts
    )


def make_group(
    stream: str,
    game: int,
    rollouts: Iterable[Rollout],
    rewards: Sequence[Reward],
    *,
    judges: Iterable[Rollout],
    extra: Mapping[str, Any],
) -> Group:
    """A group whose rewards depend on its own rollouts and on those of `judges`."""
    own = tuple(rollouts)
    return Group(
        stream=stream,
        game=game,
        rollouts=own,
        rewards=tuple(reward.total for reward in rewards),
        terms=tuple(reward.terms for reward in rewards),
        versions=version_range((*own, *judges)),
        extra=extra,
    )


def _card(proposal: Proposal) -> Card:
    return Card(
        content_type=proposal.content_type,
        caption=proposal.caption,
        easy_question=proposal.easy_question,
        hard_question=proposal.hard_question,
    )
