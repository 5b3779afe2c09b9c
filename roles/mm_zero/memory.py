"""What the games of one run share: the proposals seen so far, and the topics played."""

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

    def topic(self, game: int) -> str:
        """What game number `game` is about."""
        if self._curriculum is None:
            return topic_in_turn(self._cfg.topics, game)
        return self._curriculum.next(game)

    def repetition(self, topic: str, cards: Sequence[Card]) -> tuple[Repetition, ...]:
        """What the valid proposals of one game repeat; from now on they count as seen."""
        if self._curriculum is not None:
            self._curriculum.played(topic, [card.content_type for card in cards])
        if self._cfg.diversity.population == "game":
            return batch_repetition(cards, self._cfg.diversity_weights)
        return self._window.judge(cards)
