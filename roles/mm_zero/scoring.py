"""From replies to rewards and groups; only comparing answers is awaited."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.types import Group, Invalid, Picture, Rollout, version_range
from rewards.coder import coder_reward
from rewards.diversity import Card
from rewards.grading import Votes
from rewards.leak import is_answer_printed
from rewards.pictures import thumbnail
from rewards.proposer import proposer_reward, unparsable_reward
from rewards.reward import Reward, Score
from rewards.solver import solver_reward
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.filters import coder_filter, easy_filter, solver_filter
from roles.mm_zero.memory import Memory, card_of
from roles.mm_zero.outcome import Answers, Attempt, Drawing, Replies, Solved
from roles.mm_zero.parsing import Proposal
from roles.mm_zero.rules import RULES, Count
from roles.table import Grader


async def judge_picture(
    proposal: Proposal, judges: Replies, own: Replies, cfg: MMZeroConfig, grader: Grader
) -> Solved:
    """How readable the picture is, how hard its question, and what the solver's answers earn.

    `judges` vote; `own` are to be trained. They are the same replies unless the judge is pinned.
    """
    rules, least = RULES[cfg.rules], cfg.filters.min_valid

    async def count(question: str, replies: tuple[Rollout, ...]) -> Count:
        found = await rules.count(grader, texts(replies), f"{proposal.caption}\n{question}")
        return found.with_quorum(least)

    easy = await count(proposal.easy_question, judges.easy)
    hard = await count(proposal.hard_question, judges.hard)
    solvability = await rules.solvability(grader, texts(judges.easy), proposal)
    if not easy.votes.has_quorum(least):
        solvability = 0.0
    score = Score(solvability, rules.difficulty(proposal, hard.votes))
    asked = [
        ("hard", proposal.hard_question, own.hard, hard, _hard_drop(easy, hard, cfg)),
        ("easy", proposal.easy_question, own.easy, easy, _easy_drop(easy, cfg)),
    ]
    asked = asked if cfg.train_easy else asked[:1]
    answers = tuple([await _answers(*one, cfg, grader) for one in asked])
    return Solved(judges, easy.votes, hard.votes, score, answers)


def _hard_drop(easy: Count, hard: Count, cfg: MMZeroConfig) -> str | None:
    """Why the answers to the hard question do not train the solver; None where they do."""
    if not RULES[cfg.rules].has_label(hard.label):
        return "no_votes"
    least, band = cfg.filters.min_easy_share, cfg.filters.hard_band
    return solver_filter(easy.label, hard.label, min_easy_share=least, hard_band=band)


def _easy_drop(easy: Count, cfg: MMZeroConfig) -> str | None:
    """The same for the easy question's own answers, where those are trained."""
    if not RULES[cfg.rules].has_label(easy.label):
        return "no_votes"
    return easy_filter(easy.label, min_easy_share=cfg.filters.min_easy_share)


async def _answers(
    level: str,
    question: str,
    rollouts: tuple[Rollout, ...],
    count: Count,
    drop: str | None,
    cfg: MMZeroConfig,
    grader: Grader,
) -> Answers:
    """Right is what the majority of the votes says (TTRL, arXiv:2504.16084)."""
    replies, votes = texts(rollouts), count.label
    label = votes.majority if cfg.label == "majority" else random_label(votes, replies)
    rewards = await answer_rewards(rollouts, label, cfg, grader)
    return Answers(level, question, rollouts, rewards, label, votes, drop)


async def answer_rewards(
    rollouts: Sequence[Rollout], label: str | None, cfg: MMZeroConfig, grader: Grader
) -> tuple[Reward, ...]:
    """What answers earn where `label` is the right one, in the order of `rollouts`."""
    rules, replies = RULES[cfg.rules], texts(rollouts)
    return tuple(
        solver_reward(is_correct=is_correct, is_well_formed=rules.is_well_formed(reply))
        for is_correct, reply in zip(
            await rules.correct(grader, replies, label), replies, strict=True
        )
    )


def random_label(votes: Votes, replies: Sequence[str]) -> str | None:
    """One of the answers given, each as likely as the other however often it was given; None where
    the vote has no outcome.

    Drawn by a hash of the replies, so that a game can be scored again; they were sampled, and
    no two pictures have the same.
    """
    given = sorted(votes.counts) if votes.majority is not None else []
    lot = hashlib.blake2b("\0".join(replies).encode("utf-8", "surrogatepass"), digest_size=8)
    return given[int.from_bytes(lot.digest()) % len(given)] if given else None


def coder_rewards(drawings: Sequence[Drawing], cfg: MMZeroConfig) -> tuple[Reward, ...]:
    """In the order of `drawings`."""
    weights = cfg.coder_weights
    return tuple(
        coder_reward(drawing.svg, drawing.score, weights, is_leaked=drawing.is_leaked)
        for drawing in drawings
    )


def coder_drop(
    drawings: Sequence[Drawing], rewards: Sequence[Reward], cfg: MMZeroConfig
) -> str | None:
    """Why these drawings do not train the coder; None where they do."""
    return coder_filter(
        [reward.total for reward in rewards],
        num_rendered(drawings),
        band=cfg.filters.coder_band,
        spread=cfg.filters.coder_spread,
    )


def num_rendered(drawings: Iterable[Drawing]) -> int:
    """How many of them became a picture."""
    return sum(isinstance(drawing.picture, Picture) for drawing in drawings)


def num_answered(rollouts: Iterable[Rollout], cfg: MMZeroConfig) -> int:
    """How many of the solver's replies hold an answer."""
    return sum(map(RULES[cfg.rules].has_answer, texts(rollouts)))


def is_leaked(svg: str, proposal: Proposal) -> bool:
    """True where the picture prints an answer that nothing else gives: neither the caption nor the
    questions, nor the easy answer, which the picture has to show."""
    given = (proposal.caption, proposal.easy_question, proposal.easy_answer, proposal.hard_question)
    return is_answer_printed(svg, proposal.hard_answer, given="\n".join(given))


async def proposer_rewards(
    topic: str, attempts: Sequence[Attempt], cfg: MMZeroConfig, memory: Memory
) -> tuple[Reward, ...]:
    """In the order of `attempts`; the valid proposals enter `memory`."""
    valid = [a for a in attempts if isinstance(a.proposal, Proposal)]
    repetitions = iter(await memory.repetition(topic, [_card(attempt, cfg) for attempt in valid]))
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
    usable: int,
    extra: Mapping[str, Any],
) -> Group:
    """A group whose rewards depend on its own rollouts and on those of `judges`.

    `usable`: how many of the rollouts passed the role's own form check (parsed, rendered,
    answered).
    """
    own = tuple(rollouts)
    return Group(
        stream=stream,
        game=game,
        rollouts=own,
        rewards=tuple(reward.total for reward in rewards),
        terms=tuple(reward.terms for reward in rewards),
        versions=version_range((*own, *judges)),
        extra={"usable": usable, **extra},
    )


def texts(rollouts: Iterable[Rollout]) -> list[str]:
    return [rollout.text for rollout in rollouts]


def _card(attempt: Attempt, cfg: MMZeroConfig) -> Card:
    proposal = attempt.proposal
    assert isinstance(proposal, Proposal)
    pictures = [d.picture for d in attempt.drawings if isinstance(d.picture, Picture)]
    is_seen = bool(pictures) and cfg.diversity.image_penalty > 0
    return card_of(proposal, cfg, thumbnail(pictures[0].png) if is_seen else None)
