"""What the simulated roles say: texts that the real parsers, votes and rewards read as the chances
of `Play` want it. The small world of the texts: each proposal has a number of its own, and "0" is
the answer that most would give."""

import random
from collections.abc import Sequence
from itertools import count
from typing import Any

from engine.types import Message
from launch.simulation.service_times import Play

_OTHERS = tuple(str(number) for number in range(1, 10))
_EASY = "question-easy-"
_PROPOSAL = """<content_type>other</content_type><caption>picture-{n}</caption>
<easy_question>question-easy-{n}</easy_question><easy_answer>0</easy_answer>
<hard_question>question-hard-{n}</hard_question><hard_answer>0</hard_answer>"""
_DRAWING = '<svg width="1" height="1"><text>{n}</text></svg>'


class Script:
    """One per simulation; its lots are drawn in the order of asking."""

    def __init__(self, play: Play, chance: random.Random) -> None:
        self._play = play
        self._chance = chance
        self._numbers = count(1)

    def texts(self, role: str, messages: Sequence[Message], n: int) -> list[str]:
        """`n` replies of `role`."""
        if role == "proposer":
            return [self._proposal() for _ in range(n)]
        if role == "coder":
            return [self._drawing() for _ in range(n)]
        shares = self._play.easy if _is_easy(messages) else self._play.hard
        agreeing = int(pick(self._chance, shares) * n + self._chance.random())
        return [self._answer(i < agreeing) for i in range(n)]

    def tokens(self, role: str, most: int) -> int:
        """How long a reply is, of at most so many tokens."""
        known = self._play.tokens
        return min(most, pick(self._chance, known[role] if role in known else known["solver"]))

    def _happens(self, share: float) -> bool:
        return self._chance.random() < share

    def _proposal(self) -> str:
        text = _PROPOSAL.format(n=next(self._numbers))
        return text if self._happens(self._play.parsed) else text[:-1]

    def _drawing(self) -> str:
        text = _DRAWING.format(n=next(self._numbers))
        return text if self._happens(self._play.drawn) else "No."

    def _answer(self, agrees: bool) -> str:
        answer = "0" if agrees else pick(self._chance, _OTHERS)
        text = f"<think>-</think>\\boxed{{{answer}}}"
        return text if self._happens(self._play.boxed) else text[:-1]


def pick(chance: random.Random, samples: Sequence[Any]) -> Any:
    """One of them, each as likely as the others."""
    return samples[int(chance.random() * len(samples))]


def _is_easy(messages: Sequence[Message]) -> bool:
    return any(_EASY in part.get("text", "") for message in messages for part in message["content"])
