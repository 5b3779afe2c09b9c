"""What a game is about: the seed topics evenly, or a curriculum that evens out what was played."""

import random
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from roles.mm_zero.content import CONTENT_TYPES

TOPICS = (
    "Understanding of charts and graphs",
    "Statistics and trends over time",
    "Quantities and mathematical reasoning",
    "Space and geometry",
    "Logic and abstract patterns",
    "Diagrams and the comparison of structures",
    "Reading text in pictures",
    "Perception of basic shapes and objects",
)
"""The eight fields that the paper seeds its proposer with, in our words."""

_DRAWN_AS = " (drawn as: "
REQUESTED = tuple(kind for kind in CONTENT_TYPES if kind != "other")


def topic_of(topics: Sequence[str], game: int) -> str:
    """Each topic once in as many games as there are topics, in a new order each time.

    In turn, half of them would never be played where another recipe has every other number.
    """
    times, place = divmod(game, len(topics))
    return random.Random(f"{times}/topic").sample(topics, len(topics))[place]


class Curriculum:
    """Asks for the pair of topic and content type that was played least.

    Collapse shows in the content types (in the release's runs timelines, maps and tables all but
    vanish), so those are asked for beside the topic. A pair counts each time it was asked for and
    each time a valid proposal came out as it, over about the last `memory` games: what the proposer
    keeps drawing anyway is asked for less, and what it refuses is not asked for for ever. The
    released code has no curriculum; this is ours.
    """

    def __init__(
        self, topics: Sequence[str], kinds: Sequence[str] = REQUESTED, memory: int = 200
    ) -> None:
        self._topics = tuple(topics)
        self._pairs = [(topic, kind) for kind in kinds for topic in topics]
        self._counts: Counter[tuple[str, str]] = Counter()
        self._games: deque[list[tuple[str, str]]] = deque()
        self._memory = memory

    def next(self, game: int) -> str:
        """The topic of a new game, with the content type that it is to be drawn as."""
        # Ties go round with the number of the game, so that a start covers topics and types.
        turn = game % len(self._pairs)
        topic, kind = min(self._pairs[turn:] + self._pairs[:turn], key=self._counts.__getitem__)
        asked = f"{topic}{_DRAWN_AS}{kind.replace('_', ' ')})"
        self.asked(asked)
        return asked

    def asked(self, topic: str) -> None:
        """A game on `topic` (as `next` gives it) was started."""
        base, _, kind = topic.partition(_DRAWN_AS)
        self._remember([(base, kind.removesuffix(")").replace(" ", "_"))])

    def played(self, topic: str, kinds: Iterable[str]) -> None:
        """A game on `topic` (as `next` gave it) came out as these content types."""
        base = topic.partition(_DRAWN_AS)[0]
        self._remember([(base, kind) for kind in kinds])

    def _remember(self, pairs: list[tuple[str, str]]) -> None:
        self._games.append(pairs)
        self._counts.update(pairs)
        if len(self._games) > 2 * self._memory:
            self._counts.subtract(self._games.popleft())
