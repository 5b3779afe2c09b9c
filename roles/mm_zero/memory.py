"""What the games of one run share: the proposals seen so far, and the topics played."""

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy import float64
from numpy.typing import NDArray

from rewards.diversity import Card, DiversityWindow, Repetition
from rewards.released.diversity import batch_repetition
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.parsing import Proposal
from roles.mm_zero.rules import RULES
from roles.mm_zero.topics import Curriculum, topic_of


class Memory:
    """One per process that plays; a new attempt of a run recalls what the last one knew."""

    def __init__(self, cfg: MMZeroConfig) -> None:
        self._cfg = cfg
        self._window = DiversityWindow(cfg.diversity.window, cfg.diversity_weights)
        self._curriculum = Curriculum(cfg.topics) if cfg.curriculum else None
        self._judging = threading.Lock()

    def topic(self, game: int) -> str:
        """What game number `game` is about."""
        if self._curriculum is None:
            return topic_of(self._cfg.topics, game)
        return self._curriculum.next(game)

    async def repetition(self, topic: str, cards: Sequence[Card]) -> tuple[Repetition, ...]:
        """What the valid proposals of one game repeat; from now on they count as seen.

        In a thread: to compare long texts takes tens of milliseconds, which no other game should
        wait for.
        """
        if self._curriculum is not None:
            self._curriculum.played(topic, [card.content_type for card in cards])
        return await asyncio.to_thread(self._judge, cards)

    def recall(self, games: Iterable[Mapping[str, Any]]) -> None:
        """Know what games of earlier attempts brought, from their notes (`gallery.py`), oldest
        first; others' notes are passed over. Pictures of before are not compared with later ones.
        """
        for notes in games:
            if "proposals" not in notes:
                continue
            entries = (entry for entry in notes["proposals"] if "proposal" in entry)
            cards = [card_of(Proposal(**entry["proposal"]), self._cfg) for entry in entries]
            if self._curriculum is not None:
                self._curriculum.asked(notes["topic"])
                self._curriculum.played(notes["topic"], [card.content_type for card in cards])
            self._judge(cards)

    def _judge(self, cards: Sequence[Card]) -> tuple[Repetition, ...]:
        if self._cfg.diversity.population == "game":
            return batch_repetition(cards, self._cfg.diversity_weights)
        with self._judging:
            return self._window.judge(cards)


def card_of(
    proposal: Proposal, cfg: MMZeroConfig, thumbnail: NDArray[float64] | None = None
) -> Card:
    """What is compared of a proposal."""
    return Card(
        content_type=RULES[cfg.rules].content_type(proposal),
        caption=proposal.caption,
        easy_question=proposal.easy_question,
        hard_question=proposal.hard_question,
        thumbnail=thumbnail,
    )
