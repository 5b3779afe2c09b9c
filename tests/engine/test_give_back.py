"""What a peak leaves behind goes back to the system, now and then."""

import os
from pathlib import Path

from engine.give_back import EVERY_S, GiveBack


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_freed_memory_goes_back_although_a_little_above_it_stays() -> None:
    """100 MB in small pieces, of which every thousandth is kept: no end of a heap is free."""
    now_s = [0.0]
    give_back = GiveBack(lambda: now_s[0])
    pieces = [bytes(2000) for _ in range(50_000)]
    kept = pieces[::1000]
    full = resident_mb()
    del pieces
    now_s[0] = EVERY_S
    assert give_back()
    assert resident_mb() < full - 80
    assert len(kept) == 50


def test_it_acts_once_in_a_while() -> None:
    now_s = [0.0]
    give_back = GiveBack(lambda: now_s[0])
    acted = []
    for _ in range(100):
        now_s[0] += EVERY_S / 10
        acted.append(give_back())
    assert sum(acted) == 10
