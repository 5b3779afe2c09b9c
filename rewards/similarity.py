"""How alike texts are (BLEU-4), and clusters of what is alike (average link)."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ORDERS = (1, 2, 3, 4)
_UNSEEN = 0.1
"""Stands for a count of zero among the higher orders (smoothing method 1 of Chen & Cherry 2014)."""


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, and its n-grams by order."""

    words: tuple[str, ...]
    grams: tuple[frozenset[tuple[tuple[str, ...], int]], ...]
    """Per order the n-grams, the k-th occurrence of one as (gram, k): so the size of a set
    intersection is the clipped count of BLEU."""

    @classmethod
    def of(cls, words: Sequence[str]) -> "Words":
        return cls(tuple(words), tuple(_numbered_grams(tuple(words), n) for n in _ORDERS))

    def overlaps(self, other: "Words") -> list[int]:
        """Per order the number of n-grams that both have, clipped: the same in both directions."""
        return [len(own & theirs) for own, theirs in zip(self.grams, other.grams, strict=True)]


def bleu(overlaps: Sequence[int], hypothesis: int, reference: int) -> float:
    """BLEU-4 (Papineni et al. 2002) from the overlaps and the two lengths in words.

    Equal to nltk 3.10's `sentence_bleu` with smoothing method 1, to the last bit; 0 where no word
    is common.
    """
    if overlaps[0] == 0:
        return 0.0
    # The same operations in the same order as nltk's, so that a cut falls alike.
    logs = math.fsum(
        0.25 * math.log((count or _UNSEEN) / max(1, hypothesis - n + 1))
        for n, count in zip(_ORDERS, overlaps, strict=True)
    )
    if hypothesis > reference:
        return math.exp(logs)
    return math.exp(1 - reference / hypothesis) * math.exp(logs)


def cluster_sizes(distances: NDArray[np.float64], cut: float) -> list[int]:
    """Size of each item's cluster: average link, cut strictly below `cut`; ties as scikit-learn's.

    `distances` is [n, n], symmetric. The nearest-neighbour chain (Muellner 2011, arXiv:1109.2378):
    a chain always goes on to the nearest cluster, the previous one if that is as near, else the
    first; two clusters that are nearest to each other are joined.
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


def _numbered_grams(words: tuple[str, ...], n: int) -> frozenset[tuple[tuple[str, ...], int]]:
    seen: Counter[tuple[str, ...]] = Counter()
    grams = []
    for start in range(len(words) - n + 1):
        gram = words[start : start + n]
        seen[gram] += 1
        grams.append((gram, seen[gram]))
    return frozenset(grams)
