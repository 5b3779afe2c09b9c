"""Whose rules a game is scored by: the paper's as we read it, or the released code's.

Each rule is a short function; a preset chooses between two of them. Functions that compare
answers await the grader, because a hostile answer must not hold up the game.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.types import Invalid
from rewards.grading import Votes, boxed, tally
from rewards.released import votes as released_votes
from rewards.released.votes import NO_RESULT, boxed_or_none
from roles.mm_zero import parsing, released
from roles.mm_zero.parsing import Proposal
from roles.table import Grader

PARSERS: Mapping[str, Callable[[str], Proposal | Invalid]] = {
    "strict": parsing.parse_proposal,
    "lenient": parsing.parse_proposal_leniently,
    "release": released.parse_proposal,
    "release_inference": released.parse_proposal_at_inference,
}


@dataclass(frozen=True, slots=True)
class Count:
    """What the replies to one question come to."""

    votes: Votes
    """Its share is c, from which the difficulty follows."""
    label: Votes
    """Its majority is the silver label, its share the consistency that filters look at."""

    def with_quorum(self, least: float) -> "Count":
        """Nothing comes of a vote with a smaller share of valid ballots."""
        return Count(self.votes.with_quorum(least), self.label.with_quorum(least))


@dataclass(frozen=True, slots=True)
class Rules:
    """What the two presets do differently, one function each."""

    extract_svg: Callable[[str], str | None]
    """From a coder's reply to its code; None or "" where there is none."""
    is_well_formed: Callable[[str], bool]
    """Whether a solver's reply has the form that was asked for."""
    has_answer: Callable[[str], bool]
    """Whether a solver's reply holds an answer at all."""
    count: Callable[[Grader, Sequence[str], str], Awaitable[Count]]
    """(grader, replies, salt of ties) -> votes and label."""
    solvability: Callable[[Grader, Sequence[str], Proposal], Awaitable[float]]
    """(grader, replies to the easy question, proposal) -> s."""
    correct: Callable[[Grader, Sequence[str], str | None], Awaitable[tuple[bool, ...]]]
    """(grader, replies, label) -> which of them give the label."""
    difficulty: Callable[[Proposal, Votes], float]
    """(proposal, votes on its hard question) -> d."""
    has_label: Callable[[Votes], bool]
    """Whether the majority can label a question at all."""
    content_type: Callable[[Proposal], str]
    """What the diversity term counts a proposal as."""
    is_drawn: Callable[[Proposal], bool]
    """Whether the coder is asked at all."""


async def count(grader: Grader, replies: Sequence[str], salt: str) -> Count:
    """One vote over equivalence classes; its majority is the label."""
    answers = [parsing.parse_answer(reply) for reply in replies]
    forms = await grader.forms(answers)
    votes = tally(answers, salt=salt, form=forms.__getitem__)
    return Count(votes, votes)


async def solvability(grader: Grader, replies: Sequence[str], proposal: Proposal) -> float:
    """s: share of all answers, the invalid ones included, that equal the proposer's."""
    form = (await grader.forms([proposal.easy_answer]))[proposal.easy_answer]
    hits = await correct(grader, replies, form)
    return sum(hits) / len(hits)


async def correct(grader: Grader, replies: Sequence[str], label: str | None) -> tuple[bool, ...]:
    """Which replies give `label`, a canonical form; none do where there is no label."""
    answers = [parsing.parse_answer(reply) for reply in replies]
    forms = await grader.forms(answers)
    return tuple(
        answer is not None and bool(label) and forms[answer] == label for answer in answers
    )


def difficulty(_: Proposal, hard: Votes) -> float:
    """d = min(c, 1 - c): largest where the voters are split in half."""
    return hard.difficulty


def has_label(votes: Votes) -> bool:
    return votes.majority is not None


def content_type(proposal: Proposal) -> str:
    return proposal.content_type  # our parsers have looked at the caption


def is_drawn(_: Proposal) -> bool:
    return True  # our parsers let no empty caption or easy question through


async def count_as_released(grader: Grader, replies: Sequence[str], _: str) -> Count:
    """The services' vote for c, the labelling script's for the label (see roles/README.md)."""
    answers = [boxed_or_none(reply) for reply in replies]
    same = await _verdicts(grader, answers)
    return Count(
        released_votes.service_vote(answers, equal=same),
        released_votes.label_vote(answers, equal=same),
    )


async def solvability_as_released(
    grader: Grader, replies: Sequence[str], proposal: Proposal
) -> float:
    """-1 where there is no easy answer: the services skip such a question with that score."""
    if not proposal.easy_answer:
        return NO_RESULT
    answers, expected = [boxed_or_none(reply) for reply in replies], proposal.easy_answer
    return released_votes.solvability(
        answers, expected, equal=await _verdicts(grader, [*answers, expected])
    )


async def correct_as_released(
    grader: Grader, replies: Sequence[str], label: str | None
) -> tuple[bool, ...]:
    """Which replies, squeezed, give an answer that the release grades as the label."""
    answers = [released.parse_answer(reply) for reply in replies]
    if label is None:
        return (False,) * len(answers)
    verdicts = await grader.verdicts([(answer, label) for answer in answers])
    return tuple(verdicts[answer, label] for answer in answers)


def difficulty_as_released(proposal: Proposal, hard: Votes) -> float:
    """-1 without a hard question or answer: the services skip it with that score."""
    return hard.difficulty if proposal.hard_question and proposal.hard_answer else NO_RESULT


def content_type_as_released(proposal: Proposal) -> str:
    return released.content_type(proposal.content_type, proposal.caption)


def is_drawn_as_released(proposal: Proposal) -> bool:
    """The coder's service gives no code for an empty caption or easy question."""
    return bool(proposal.caption and proposal.easy_question)


async def _verdicts(grader: Grader, answers: Sequence[str]) -> Callable[[str, str], bool]:
    distinct = list(dict.fromkeys(answers))
    verdicts = await grader.verdicts([(a, b) for a in distinct for b in distinct])
    return lambda given, truth: verdicts[given, truth]


RULES: Mapping[str, Rules] = {
    "paper": Rules(
        extract_svg=parsing.extract_svg,
        is_well_formed=parsing.is_well_formed,
        has_answer=lambda reply: parsing.parse_answer(reply) is not None,
        count=count,
        solvability=solvability,
        correct=correct,
        difficulty=difficulty,
        has_label=has_label,
        content_type=content_type,
        is_drawn=is_drawn,
    ),
    "release": Rules(
        extract_svg=released.extract_svg,
        is_well_formed=released.is_well_formed,
        has_answer=lambda reply: boxed(reply) is not None,
        count=count_as_released,
        solvability=solvability_as_released,
        correct=correct_as_released,
        difficulty=difficulty_as_released,
        has_label=released.has_label,
        content_type=content_type_as_released,
        is_drawn=is_drawn_as_released,
    ),
}
