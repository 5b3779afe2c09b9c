"""Whether a server takes questions at all: where all that it says at first are refusals, the fault
is not the rows'."""

import asyncio

from engine.errors import ConfigError
from evals.endpoint import Refused

_FIRST = 20
"""So many refusals and no answer are a doubt."""


class Refusals:
    """Of one evaluation. While there is a doubt, nothing more is asked: what is under way may still
    be answered, which ends it for good; where that is refused, too, the evaluation ends.

    Who waits: whoever asks the next question; who wakes it: the end of any that is under way.
    """

    def __init__(self) -> None:
        self._refused = self._under_way = 0
        self._is_answered = False
        self._may_ask = asyncio.Event()
        self._may_ask.set()

    async def enter(self) -> None:
        """Wait until the next question may be asked; from then on it is under way."""
        await self._may_ask.wait()
        self._under_way += 1

    def leave(self) -> None:
        """A question is not under way any more, however it ended."""
        self._under_way -= 1
        self._decide()

    def answered(self) -> None:
        """An answer came, or one is there from before."""
        self._is_answered = True
        self._decide()

    def refused(self, error: Refused) -> None:
        """One that is under way was refused. Raises ConfigError where that leaves no hope."""
        self._refused += 1
        self._decide()
        if self._is_in_doubt() and self._under_way == 1:
            raise ConfigError(f"the server refused the first {_FIRST} questions: {error}")

    def _is_in_doubt(self) -> bool:
        return self._refused >= _FIRST and not self._is_answered

    def _decide(self) -> None:
        if self._is_in_doubt() and self._under_way:
            self._may_ask.clear()
        else:
            self._may_ask.set()
