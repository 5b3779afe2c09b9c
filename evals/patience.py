"""How often a request is made again: only after a TransportError, ever later, and not for ever."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine.errors import ConfigError, TransportError

T = TypeVar("T")

_BACKOFF_S, _LONGEST_BACKOFF_S = 0.2, 20.0


class Patience:
    """Shared by all requests to one kind of server."""

    def __init__(self, *, retries: int = 8, give_up_s: float = 300.0) -> None:
        """`retries`: of one request, 50 s in all; `give_up_s`: wall seconds without a single answer
        to anything, after which nobody is there."""
        self.counts: Counter[str] = Counter(answers=0, retries=0, failed=0)
        self._retries, self._give_up_s = retries, give_up_s
        self._silent_since_s: float | None = None

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` gives. Raises its last TransportError; ConfigError where nobody is there."""
        for attempt in range(self._retries + 1):
            try:
                result = await call()
            except TransportError as error:
                self._note_failure(error)
                if attempt == self._retries:
                    self.counts["failed"] += 1
                    raise
            else:
                self._silent_since_s = None
                self.counts["answers"] += 1
                return result
            self.counts["retries"] += 1
            pause_s = min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2**attempt)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    def _note_failure(self, error: TransportError) -> None:
        now_s = time.monotonic()
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        elif now_s - self._silent_since_s > self._give_up_s:
            raise ConfigError(
                f"nothing has been answered for {self._give_up_s:g} s, the last failure: {error}; "
                "what is done is kept: start the same command again when the server is back"
            ) from error
