"""Gives memory that a peak has left behind back to the system.

glibc keeps what was freed in the middle of its heaps, so that a process stays as large as its
largest moment was. Processes that live for weeks would only ever grow, peak by peak, and what
really leaks could not be told from that.
"""

import ctypes
import time
from collections.abc import Callable

EVERY_S = 60.0


class GiveBack:
    """To be called between two pieces of work, as often as one likes: it acts once in `EVERY_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._acted_s = clock()
        # Other systems' C libraries have no such function, nor the need for it.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def __call__(self) -> bool:
        """Whether it acted."""
        now_s = self._clock()
        if self._trim is None or now_s - self._acted_s < EVERY_S:
            return False
        self._acted_s = now_s
        self._trim(0)  # less than a millisecond
        return True
