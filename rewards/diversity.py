"""How much a proposal repeats others: penalties, never a bonus.

Texts are near where BLEU-4 says so; clusters are made by average link. The paper looks at the
72 proposals of one step; here a proposal is compared with the last `size` valid ones of its
policy and with its siblings of the same game, because a streaming game has no batch. How the
result differs from the batch's (`rewards.released.diversity`): the first of two equal proposals
of different games is not charged, the second is; and what was said `size` proposals ago is
forgotten, while a batch forgets everything at each step. Other differences, on purpose: equal
texts have distance 0 however short (BLEU-4 never lets two equal texts of three words meet), the
distance is the mean of both directions (so that order does not matter), and a collapse to a
single content type is charged in full (the released code lets it go free).

A penalty that all siblings of a game share alike is centred away by group-relative advantages: it
is seen in the rewards, but only a game whose proposals are charged unequally teaches by it.

Pictures are compared on request (the image-diversity variant of the release): cosine distance of
thumbnails, one picture for each proposal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rewards.pictures import cosine_distances
from rewards.similarity import Words, bleu, cluster_sizes

MAX_WORDS = 256
"""Of a text, its first ones are compared; longer than any caption that is meant seriously."""


@dataclass(frozen=True, slots=True)
class DiversityWeights:
    """Defaults of MM-Zero (arXiv:2603.09206)."""

    text: float = 0.5
    """Largest penalty for repeated text; that of one repetition of all three fields."""
    caption: float = 0.45
    easy_question: float = 0.20
    hard_question: float = 0.35
    cut: float = 0.25
    """Texts nearer than this (mean over two clusters) are one cluster."""
    type: float = 0.15
    """Largest penalty for an over-represented content type."""
    type_share: float = 0.5
    """Share from which on a type is over-represented."""
    image: float = 0.0
    """Largest penalty for a repeated picture, that of one repetition; 0.15 in the release's
    variant, off in the paper."""
    image_cut: float = 0.3
    """Pictures nearer than this (cosine distance, mean over two clusters) are one cluster."""


@dataclass(frozen=True, slots=True)
class Repetition:
    """Penalties of one proposal, each <= 0."""

    text: float = 0.0
    type: float = 0.0
    image: float = 0.0


@dataclass(frozen=True, slots=True)
class Card:
    """What is compared of a proposal."""

    content_type: str
    caption: str
    easy_question: str
    hard_question: str
    thumbnail: NDArray[np.float64] | None = field(default=None, compare=False)
    """Of one of its pictures (`rewards.pictures.thumbnail`); None where there is none to see."""


class DiversityWindow:
    """The last `size` valid proposals. One per policy and run."""

    def __init__(self, size: int, weights: DiversityWeights | None = None) -> None:
        self.size = size
        self.weights = weights or DiversityWeights()
        self._types: list[str] = []
        self._fields = {name: _Neighbourhood() for name in self._field_weights()}
        self._thumbnails: list[NDArray[np.float64]] = []

    def judge(self, cards: Sequence[Card]) -> tuple[Repetition, ...]:
        """Penalties of the valid proposals of one game, which then enter the window.

        V = -min(text, text * sum_field w * (k - 1)), k = size of the own cluster;
        T = -type * max(0, f - share) / (1 - share), f = share of the own content type;
        I = -min(image, image * (k - 1)), k = size of the own cluster of pictures (our formula, in
        the likeness of V; the release gives the weight and the cut).
        """
        crowd = np.zeros(len(cards))
        for name, weight in self._field_weights().items():
            near = self._fields[name]
            near.add([getattr(card, name) for card in cards])
            sizes = near.cluster_sizes(self.weights.cut)
            crowd += weight * (sizes[len(sizes) - len(cards) :] - 1)
            near.keep(self.size)
        types = self._types + [card.content_type for card in cards]
        self._types = types[max(0, len(types) - self.size) :]
        images = self._image_penalties([card.thumbnail for card in cards])
        return tuple(
            Repetition(
                text=-min(self.weights.text, self.weights.text * float(crowd[i])) + 0.0,
                type=self._type_penalty(types.count(card.content_type), len(types)),
                image=images[i],
            )
            for i, card in enumerate(cards)
        )

    def _image_penalties(self, own: Sequence[NDArray[np.float64] | None]) -> list[float]:
        seen = [thumbnail for thumbnail in own if thumbnail is not None]
        if not seen or not self.weights.image:
            return [0.0] * len(own)
        known = self._thumbnails + seen
        sizes = cluster_sizes(cosine_distances(np.stack(known)), self.weights.image_cut)
        self._thumbnails = known[max(0, len(known) - self.size) :]
        crowds = iter(sizes[len(sizes) - len(seen) :])
        return [
            0.0 if t is None else -self.weights.image * min(1, next(crowds) - 1) + 0.0 for t in own
        ]

    def _field_weights(self) -> dict[str, float]:
        names = ("caption", "easy_question", "hard_question")
        return {name: getattr(self.weights, name) for name in names}

    def _type_penalty(self, count: int, total: int) -> float:
        if total < 2:
            return 0.0
        over = max(0.0, count / total - self.weights.type_share)
        return -self.weights.type * over / (1.0 - self.weights.type_share) + 0.0


class _Neighbourhood:
    """Texts of one field with all their distances; adding some computes only those to them."""

    def __init__(self) -> None:
        self._texts: list[Words] = []
        self.distances: NDArray[np.float64] = np.zeros((0, 0))

    def add(self, texts: Sequence[str]) -> None:
        old = len(self._texts)
        self._texts += [_words(text) for text in texts]
        grown = np.zeros((len(self._texts), len(self._texts)))
        grown[:old, :old] = self.distances
        for i in range(old, len(self._texts)):
            for j in range(i):
                grown[i, j] = grown[j, i] = _distance(self._texts[i], self._texts[j])
        self.distances = grown

    def cluster_sizes(self, cut: float) -> NDArray[np.int64]:
        """Per text, in the order in which they were added, the size of its cluster."""
        # Sorted, so that ties between distances fall alike whatever the order of the games.
        order = sorted(range(len(self._texts)), key=lambda i: self._texts[i].words)
        sizes = np.zeros(len(order), dtype=np.int64)
        sizes[order] = cluster_sizes(self.distances[np.ix_(order, order)], cut)
        return sizes

    def keep(self, size: int) -> None:
        first = max(0, len(self._texts) - size)
        self._texts = self._texts[first:]
        self.distances = self.distances[first:, first:]


def _words(text: str) -> Words:
    return Words.of(text.casefold().split(maxsplit=MAX_WORDS)[:MAX_WORDS])


def distance(first: str, second: str) -> float:
    """1 - BLEU-4, mean of both directions; 0 for equal texts. Words are split at white space."""
    return _distance(_words(first), _words(second))


def distances(texts: Sequence[str]) -> NDArray[np.float64]:
    """[n, n] distances between all pairs, 0 on the diagonal."""
    near = _Neighbourhood()
    near.add(texts)
    return near.distances


def _distance(first: Words, second: Words) -> float:
    if first.words == second.words:
        return 0.0
    overlaps = first.overlaps(second)
    lengths = len(first.words), len(second.words)
    return 1.0 - (bleu(overlaps, *lengths) + bleu(overlaps, *reversed(lengths))) / 2
