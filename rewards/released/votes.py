r"""How the released code counts votes: twice, by two rules that differ in what a ballot is.

Answers are what `boxed_or_none` reads from a reply. They are put into clusters one by one, each
into that of the first representative that it agrees with, the representative being the first
answer of its cluster. So a vote depends on the order of its ballots (equality is not transitive).
Source: `start_vllm_server.py` (services) and `evaluate_imagefree.py` (labels) of the release.
"""

import re
from collections.abc import Sequence

from rewards.grading import Votes
from rewards.released.equality import Equal, either_way, grade_answer

NO_BALLOT = frozenset({"", "none", "n/a", "na", "null", "unknown", "-"})
"""What the services do not count, in lower case."""
FOLDED_CHARS = 120
"""The services compare no more than this of two answers before they ask for equality."""
NO_RESULT = -1.0
"""The score that a service gives where it has no answers at all; it leaks into rewards."""

_BOX = "\\boxed{"
_BRACES = re.compile(r"[{}]")


def boxed_or_none(text: str) -> str:
    r"""What the last `\boxed{...}` of `text` holds, stripped; "None" where it is not there or open.

    The same as `extract_boxed_content` of mathruler 0.1.0: every brace counts, also one behind a
    backslash.
    """
    start = text.rfind(_BOX)
    if start < 0:
        return "None"
    start += len(_BOX)
    depth = 1
    for brace in _BRACES.finditer(text, start):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[start : brace.start()].strip()
    return "None"


def service_vote(answers: Sequence[str], *, equal: Equal = grade_answer) -> Votes:
    """The vote that rewards are made of: c = largest cluster / valid ballots.

    Answers in `NO_BALLOT` are none. Two answers agree where they are the same text, where they
    are so when folded (lower case, single spaces, the first `FOLDED_CHARS`), where both contain
    "no " anywhere, or where they are equal in either direction.
    """

    def agree(answer: str, other: str) -> bool:
        return _folded(answer) == _folded(other) or _agree(answer, other, equal)

    ballots = [answer for answer in answers if answer.strip().lower() not in NO_BALLOT]
    return _count(ballots, len(answers), agree)


def label_vote(answers: Sequence[str], *, equal: Equal = grade_answer) -> Votes:
    """The vote that labels the solver's questions; the easy and the hard ones alike.

    Only "" is no ballot: "None", from a reply without a box, is an answer as any other and may
    win. Two answers agree as in `service_vote`, but nothing is folded.
    """

    def agree(answer: str, other: str) -> bool:
        return _agree(answer, other, equal)

    return _count([answer for answer in answers if answer != ""], len(answers), agree)


def solvability(answers: Sequence[str], expected: str, *, equal: Equal = grade_answer) -> float:
    """s: share of all answers, "None" included, that equal the proposer's in either direction.

    An empty box is an answer that equals nothing. `NO_RESULT` where there are no answers; 0 where
    nothing is expected.
    """
    if not answers:
        return NO_RESULT
    if not expected:
        return 0.0
    hits = sum(answer != "" and either_way(answer, expected, equal=equal) for answer in answers)
    return hits / len(answers)


def _count(ballots: Sequence[str], total: int, agree: Equal) -> Votes:
    """Votes by representative, most first, ties by arrival."""
    counts: dict[str, int] = {}
    for answer in ballots:
        cluster = next((known for known in counts if agree(answer, known)), answer)
        counts[cluster] = counts.get(cluster, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return Votes(
        majority=ranked[0][0] if ranked else None,
        share=ranked[0][1] / len(ballots) if ranked else 0.0,
        valid=len(ballots),
        total=total,
        counts=dict(ranked),
    )


def _agree(answer: str, other: str, equal: Equal) -> bool:
    if answer == other or (_has_no(answer) and _has_no(other)):
        return True
    return either_way(answer, other, equal=equal)


def _has_no(answer: str) -> bool:
    # A raw substring, so "piano keys" and "casino yes" agree.
    return "no " in answer.lower()


def _folded(answer: str) -> str:
    return " ".join(answer.lower().split())[:FOLDED_CHARS]
