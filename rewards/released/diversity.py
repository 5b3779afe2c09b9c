"""What repetition costs in the released code: judged over the valid proposals of one whole batch.

Quirks kept: BLEU looks at a pair in one direction only, the earlier text being the hypothesis, so
a pair near the cut depends on the order of the batch; two equal texts of less than four words are
never near; and a batch of a single content type goes free. Source: `proposer_reward.py` of the
release, which uses nltk 3.10 for BLEU and scikit-learn 1.9 for clusters.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewards.diversity import Card, DiversityWeights, Repetition

FIELDS = ("caption", "easy_question", "hard_question")

_ORDERS = (1, 2, 3, 4)
_EPSILON = 0.1
"""Added to a count of zero (smoothing method 1 of Chen & Cherry 2014)."""


def batch_repetition(
    cards: Sequence[Card], weights: DiversityWeights | None = None
) -> tuple[Repetition, ...]:
    """V and T of all valid proposals of a batch, in its order; I too where it has a weight."""
    weights = weights or DiversityWeights()
    texts = text_penalties(cards, weights)
    types = type_penalties([card.content_type for card in cards], weights)
    seen = [card.thumbnail for card in cards if card.thumbnail is not None]
    charged = iter(image_penalties(seen, weight=weights.image, cut=weights.image_cut))
    images = [0.0 if card.thumbnail is None else next(charged) for card in cards]
    return tuple(map(Repetition, texts, types, images))


def text_penalties(
    cards: Sequence[Card], weights: DiversityWeights | None = None
) -> tuple[float, ...]:
    """V = -clip(text * n * sum_field w * (k / n - 1 / n), -text, text) of each of the n cards.

    k is the size of the own cluster: average link of 1 - BLEU-4, cut strictly below `cut`.
    """
    weights = weights or DiversityWeights()
    n = len(cards)
    if n < 2:
        return (0.0,) * n
    crowds = [0.0] * n
    for name in FIELDS:
        sizes = cluster_sizes(_distances([getattr(card, name) for card in cards]), weights.cut)
        for i, size in enumerate(sizes):
            crowds[i] += getattr(weights, name) * (size / n - 1 / n)
    limit = weights.text
    return tuple(-max(-limit, min(limit, limit * n * crowd)) + 0.0 for crowd in crowds)


def type_penalties(
    types: Sequence[str], weights: DiversityWeights | None = None
) -> tuple[float, ...]:
    """T = -type * max(0, f - share) / (1 - share), f = share of the own content type.

    0 for all where there is only one type in the batch, or less than two proposals.
    """
    weights = weights or DiversityWeights()
    counts = Counter(types)
    if len(counts) < 2:
        return (0.0,) * len(types)
    shares = [counts[kind] / len(types) for kind in types]
    return tuple(
        -weights.type * max(0.0, share - weights.type_share) / (1.0 - weights.type_share) + 0.0
        for share in shares
    )


def image_penalties(
    thumbnails: Sequence[NDArray[np.float64]], *, weight: float = 0.15, cut: float = 0.3
) -> tuple[float, ...]:
    """I = -min(weight, weight * (k - 1)), k = size of the own cluster of pictures.

    `thumbnails` are flat 64 x 64 RGB values of length 1 (`rewards.pictures.thumbnail`); their
    distance is 1 - cosine, clusters are made by average link. The release's image-diversity
    variant gives weight and cut; the formula is our reading of it, in the likeness of V.
    """
    if len(thumbnails) < 2 or not weight:
        return (0.0,) * len(thumbnails)
    rows = np.stack([np.ravel(thumbnail) for thumbnail in thumbnails])
    sizes = cluster_sizes(1.0 - rows @ rows.T, cut)
    return tuple(-min(weight, weight * (size - 1)) + 0.0 for size in sizes)


def bleu4(hypothesis: str, reference: str) -> float:
    """Sentence BLEU-4 (Papineni et al. 2002) as nltk computes it, smoothing method 1.

    Words are split at white space, case counts. 0 where no word is common.
    """
    return _bleu(_Text.of(hypothesis), _Text.of(reference))


def cluster_sizes(distances: NDArray[np.float64], cut: float) -> list[int]:
    """Size of each item's cluster: average link, cut strictly below `cut`; ties as scikit-learn's.

    `distances` is [n, n], symmetric. The nearest-neighbour chain (Muellner 2011, arXiv:1109.2378):
    a chain always goes on to the nearest cluster, the previous one if that is as near, else the
    first; two clusters that are nearest to each other are joined. `rewards.diversity` joins the
    nearest pair of all, which gives other clusters where distances tie.
    """
    gaps = np.array(distances, dtype=np.float64)
    np.fill_diagonal(gaps, np.inf)
    weight = np.ones(len(gaps))
    owner = list(range(len(gaps)))
    chain: list[int] = []
    for _ in range(len(gaps) - 1):
        if not chain:
            chain.append(int(np.flatnonzero(weight)[0]))
        a, b = _reciprocal(gaps, chain)
        gap = gaps[a, b]
        merged = (weight[a] * gaps[a] + weight[b] * gaps[b]) / (weight[a] + weight[b])
        gaps[b], gaps[:, b] = merged, merged
        gaps[a], gaps[:, a], gaps[b, b] = np.inf, np.inf, np.inf
        weight[a], weight[b] = 0, weight[a] + weight[b]
        if gap < cut:
            old, new = owner[a], owner[b]
            owner = [new if cluster == old else cluster for cluster in owner]
    counts = Counter(owner)
    return [counts[cluster] for cluster in owner]


def _reciprocal(gaps: NDArray[np.float64], chain: list[int]) -> tuple[int, int]:
    """Extends `chain` up to two clusters that are nearest to each other, and takes these off."""
    while True:
        last = chain[-1]
        nearest = int(gaps[last].argmin())
        if len(chain) > 1 and gaps[last, chain[-2]] <= gaps[last, nearest]:
            first, second = sorted((chain.pop(), chain.pop()))
            return first, second
        chain.append(nearest)


@dataclass(frozen=True, slots=True)
class _Text:
    """A text as BLEU sees it: its length in words, its n-grams by order."""

    length: int
    grams: tuple[Counter[tuple[str, ...]], ...]

    @classmethod
    def of(cls, text: str) -> "_Text":
        words = text.split()
        return cls(len(words), tuple(Counter(_grams(words, n)) for n in _ORDERS))


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _distances(texts: Sequence[str]) -> NDArray[np.float64]:
    """[n, n] 1 - BLEU-4 of every pair, the earlier text being the hypothesis; 0 on the diagonal."""
    known = [_Text.of(text) for text in texts]
    gaps = np.zeros((len(known), len(known)))
    for i, hypothesis in enumerate(known):
        for j in range(i + 1, len(known)):
            gaps[i, j] = gaps[j, i] = 1.0 - _bleu(hypothesis, known[j])
    return gaps


def _bleu(hypothesis: _Text, reference: _Text) -> float:
    common = [_overlap(a, b) for a, b in zip(hypothesis.grams, reference.grams, strict=True)]
    if common[0] == 0:
        return 0.0
    # The same operations in the same order as nltk's, so that the cut falls alike.
    logs = math.fsum(
        0.25 * math.log((count or _EPSILON) / max(1, hypothesis.length - n + 1))
        for n, count in zip(_ORDERS, common, strict=True)
    )
    if hypothesis.length > reference.length:
        return math.exp(logs)
    return math.exp(1 - reference.length / hypothesis.length) * math.exp(logs)


def _overlap(hypothesis: Counter[tuple[str, ...]], reference: Counter[tuple[str, ...]]) -> int:
    """Number of n-grams of the hypothesis that the reference has too, clipped to its count."""
    return sum(min(count, reference[gram]) for gram, count in hypothesis.items())
