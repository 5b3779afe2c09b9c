"""Which groups are worth training on. Pure: votes or rewards in, None or a reason to drop out.

The recipe submits a filtered group all the same, with its reason in `extra["drop"]`: it counts as
submitted and `dropped[reason]`, and settles its game.
"""

from collections.abc import Sequence

from rewards.grading import Votes

_ROUNDING = 1e-9
"""2.3 - 2.2 is below 0.1 in binary."""


def coder_filter(
    rewards: Sequence[float],
    num_rendered: int,
    *,
    band: tuple[float, float],
    spread: float | None,
) -> str | None:
    """Why the drawings of one card do not train the coder; None where they do.

    They do where the share that rendered is in `band` (ends included), or where the rewards
    differ by at least `spread` (None: only the band counts, as in the release, which starves
    there: when everything renders, nothing is left). At least one drawing is needed. Source:
    arXiv:2603.09206, and `filter_proposals_by_render.py` of its release; the spread is ours.
    """
    rate = num_rendered / len(rewards)
    low, high = band
    if low <= rate <= high:
        return None
    if spread is not None and max(rewards) - min(rewards) >= spread - _ROUNDING:
        return None
    return "never_renders" if rate < low else "always_renders" if spread is None else "uniform"


def solver_filter(
    easy: Votes, hard: Votes, *, min_easy_share: float, hard_band: tuple[float, float]
) -> str | None:
    """Why the answers to a hard question do not train the solver; None where they do.

    A picture counts as readable where the solver agrees with itself on the easy question
    (`min_easy_share`); a hard question counts where the majority's share is in `hard_band`, ends
    included. Source: arXiv:2603.09206, and `upload_imagefree.py` of its release, whose "readable"
    this is. (The paper's text wants the easy question answered correctly; that could only mean as
    the proposer answers it, who may be wrong.)
    """
    low, high = hard_band
    if hard.majority is None:
        return "no_votes"
    if easy.share < min_easy_share:
        return "unreadable"
    if hard.share < low:
        return "too_hard"
    if hard.share > high:
        return "too_easy"
    return None


def easy_filter(easy: Votes, *, min_easy_share: float) -> str | None:
    """The same for the easy question's own answers, where those are trained."""
    if easy.majority is None:
        return "no_votes"
    return "unreadable" if easy.share < min_easy_share else None
