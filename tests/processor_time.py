"""Bounds on processor time, on a machine that may stand still.

Whoever runs while a virtual machine stands still is charged for it, as if those seconds had been
work. So one dear attempt says nothing; work is too dear where each of a few attempts is.
"""

import functools
import math
import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 3
_FORGETFUL = ("evals", "launch", "render_pool", "rewards", "roles")
"""Packages whose work is measured: an answer that they remember would be a cheap attempt."""


def cheaply(work: Callable[[], T], most_s: float, what: str = "") -> T:
    """What `work` gives, where one of a few attempts takes less than `most_s` of processor time.

    Otherwise AssertionError, which names `what`. An attempt must not make the next one cheaper."""

    def timed() -> tuple[T, float]:
        began_s = time.process_time()
        result = work()
        return result, time.process_time() - began_s

    return first_below(most_s, timed, what)


def first_below(most_s: float, attempt: Callable[[], tuple[T, float]], what: str = "") -> T:
    """The same for an attempt that tells itself what it took: (result, seconds)."""
    best_s = math.inf
    for _ in range(ATTEMPTS):
        result, spent_s = attempt()
        if spent_s < most_s:
            return result
        best_s = min(best_s, spent_s)
        _forget()
    name = f"{what}: " if what else ""
    raise AssertionError(f"{name}{best_s:.2f} s at best of {ATTEMPTS}, not below {most_s:g} s")


def _forget() -> None:
    """Empty the caches of those packages and of sympy; and no test's, for one of these keeps a
    server."""
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] in _FORGETFUL:
            for one in [*vars(module).values()]:
                if isinstance(one, functools._lru_cache_wrapper):
                    one.cache_clear()
    if "sympy" in sys.modules:
        sys.modules["sympy.core.cache"].clear_cache()
