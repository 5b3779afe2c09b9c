"""Which answers are worth training on. Pure: two votes in, None or a reason to drop out."""

from rewards.grading import Votes


def solver_filter(
    easy: Votes, hard: Votes, *, min_easy_share: float, hard_band: tuple[float, float]
) -> str | None:
    """Why the answers to a hard question do not train the solver; None where they do.

    A picture counts as readable where the solver agrees with itself on the easy question
    (`min_easy_share`); a hard question counts where the majority's share is in `hard_band`.
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
