"""Several samples of one row: what is right once, and what most of them say.

Both are estimated without choosing samples at random: all subsets count alike, or equal ones.
"""

from collections import defaultdict
from collections.abc import Sequence
from math import comb


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that one of k samples is right, drawn without putting back: unbiased (Chen et al.
    2021, arXiv:2107.03374). Raises ValueError where there are fewer than k."""
    if not 0 < k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {samples} samples, {right} right")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def majority(predictions: Sequence[str | None], scores: Sequence[float]) -> float:
    """Score of what most samples say.

    What could not be read is no vote; no votes score nothing. Answers that differ in case and outer
    space only are one; of those that lead together the mean counts, which is the expected score of
    a fair choice.
    """
    ballots: defaultdict[str, list[float]] = defaultdict(list)
    for prediction, score in zip(predictions, scores, strict=True):
        if prediction is not None:
            ballots[prediction.strip().casefold()].append(score)
    most = max(map(len, ballots.values()), default=0)
    leading = [sum(votes) / len(votes) for votes in ballots.values() if len(votes) == most]
    return sum(leading) / len(leading) if leading else 0.0


def majority_at_k(predictions: Sequence[str | None], scores: Sequence[float], k: int) -> float:
    """Mean of `majority` over the blocks of k samples, in their order; a rest is left out."""
    if not 0 < k <= len(scores):
        raise ValueError(f"maj@{k} of {len(scores)} samples")
    blocks = range(0, len(scores) - k + 1, k)
    values = [majority(predictions[b : b + k], scores[b : b + k]) for b in blocks]
    return sum(values) / len(values)


def powers_up_to(samples: int) -> list[int]:
    """The k of pass@k and maj@k: 2, 4, 8, ... and `samples` itself; none for one sample."""
    ks = [2**power for power in range(1, samples.bit_length()) if 2**power < samples]
    return [*ks, samples] if samples > 1 else []
