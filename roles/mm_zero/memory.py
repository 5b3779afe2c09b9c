"""What the games of one run share: the proposals seen so far, and the topics played."""

import asyncio
import threading
from collections.abc import Sequence

from rewards.diversity import Card, DiversityWindow, Repetition
from rewards.released.diversity import batch_repetition
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.topics import Curriculum, topic_in_turn


class Memory:
    """One per run; starts empty after a resume."""

    def __init__(self, cfg: MMZeroConfig) -> None:
        self._cfg = cfg
        self._window = DiversityWindow(cfg.diversity.window, cfg.diversity_weights)
        self._curriculum = Curriculum(cfg.topics) if cfg.curriculum else None
        self._judging = threading.Lock()

    def topic(self, game: int) -> str:
        """What game number `game` is about."""
        if self._curriculum is None:
            return topic_in_turn(self._cfg.topics, game)
        return self._curriculum.next(game)

    async def repetition(self, topic: str, cards: Sequence[Card]) -> tuple[Repetition, ...]:
        """What the valid proposals of one game repeat; from now on they count as seen.

        In a thread: to compare long texts takes tens of milliseconds, which no other game should
        wait for.
        """
        if self._curriculum is not None:
            self._curriculum.played(topic, [card.content_type for card in cards])
        return await asyncio.to_thread(self._judge, cards)

    def _judge(self, cards: Sequence[Card]) -> tuple[Repetition, ...]:
        if self._cfg.diversity.population == "game":
            return batch_repetition(cards, self._cfg.diversity_weights)
        with self._judging:
            return self._window.judge(cards)
