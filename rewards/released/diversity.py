"""What repetition costs in the released code: judged over the valid proposals of one whole batch.

Quirks kept: BLEU looks at a pair in one direction only, the earlier text being the hypothesis, so
a pair near the cut depends on the order of the batch; two equal texts of less than four words are
never near; and a batch of a single content type goes free. Source: `proposer_reward.py` of the
release, which uses nltk 3.10 for BLEU and scikit-learn 1.9 for clusters.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rewards.diversity import Card, DiversityWeights, Repetition
from rewards.pictures import cosine_distances
from rewards.similarity import Words, bleu, cluster_sizes

FIELDS = ("caption", "easy_question", "hard_question")


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
    sizes = cluster_sizes(cosine_distances(rows), cut)
    return tuple(-min(weight, weight * (size - 1)) + 0.0 for size in sizes)


def bleu4(hypothesis: str, reference: str) -> float:
    """Sentence BLEU-4 (Papineni et al. 2002) as nltk computes it, smoothing method 1.

    Words are split at white space, case counts. 0 where no word is common.
    """
    return _bleu(Words.of(hypothesis.split()), Words.of(reference.split()))


def _distances(texts: Sequence[str]) -> NDArray[np.float64]:
    """[n, n] 1 - BLEU-4 of every pair, the earlier text being the hypothesis; 0 on the diagonal."""
    known = [Words.of(text.split()) for text in texts]
    gaps = np.zeros((len(known), len(known)))
    for i, hypothesis in enumerate(known):
        for j in range(i + 1, len(known)):
            gaps[i, j] = gaps[j, i] = 1.0 - _bleu(hypothesis, known[j])
    return gaps


def _bleu(hypothesis: Words, reference: Words) -> float:
    return bleu(hypothesis.overlaps(reference), len(hypothesis.words), len(reference.words))
