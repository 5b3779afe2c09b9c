"""A profile charges the function that works, not the one that is called next."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.profiling import AWAITED, GARBAGE, by_mark, profiled, read_profile
from tests.processor_time import first_below

pytestmark = pytest.mark.alone

BURN_S = 1.0


class Small:
    """What is called after the work, as a counter is."""

    def __init__(self) -> None:
        self.calls = 0

    def small(self) -> None:
        self.calls += 1


SCOPE: dict[str, Any] = {}
exec("def dear():\n x = 0\n" + " x = x + 1\n" * 50_000, SCOPE)
dear = SCOPE["dear"]
"""A millisecond without a call or a jump back, so without a look for signals."""


def python() -> None:
    total = 0
    for k in range(20_000):
        total += k


async def awaited(work: Callable[[], None]) -> None:
    work()


async def outer(work: Callable[[], None], small: Small) -> None:
    await awaited(work)
    small.small()


def measured(path: Path, run: Callable[[], None]) -> dict[str, int]:
    with profiled(str(path)):
        begun_s = time.process_time()
        while time.process_time() < begun_s + BURN_S:
            run()
    return read_profile(path)


def with_leaf(profile: dict[str, int], name: str) -> float:
    found = sum(n for stack, n in profile.items() if stack.split(";")[-1].endswith(name))
    return found / sum(profile.values())


def test_a_small_function_is_not_charged_for_what_was_before_it(tmp_path: Path) -> None:
    small = Small()

    def run() -> None:
        dear()
        small.small()

    profile = measured(tmp_path / "profile", run)
    assert with_leaf(profile, ":small") < 0.02
    assert with_leaf(profile, ":run") > 0.5, "the caller's, as far as Python can tell"


def test_what_was_awaited_is_not_charged_to_who_awaited_it(tmp_path: Path) -> None:
    small = Small()
    profile = measured(tmp_path / "profile", lambda: asyncio.run(outer(dear, small)))
    assert with_leaf(profile, ":small") < 0.02
    assert with_leaf(profile, ":outer") < 0.02
    assert with_leaf(profile, AWAITED) > 0.2


def test_who_works_is_charged_and_all_of_the_time_is_counted(tmp_path: Path) -> None:
    small = Small()

    def run() -> None:
        python()
        small.small()

    def charged() -> tuple[float, float]:
        profile = measured(tmp_path / "profile", run)
        counted_s = sum(profile.values()) / 1e6
        assert counted_s > 0.9 * BURN_S
        return with_leaf(profile, ":python"), counted_s

    assert first_below(1.2 * BURN_S, charged) > 0.9


def test_looking_for_garbage_is_not_charged_to_who_allocates(tmp_path: Path) -> None:
    many: list[list[Any]] = [[[]] for _ in range(200_000)]

    def allocate() -> None:
        gc.collect()

    others = [*gc.callbacks]
    profile = measured(tmp_path / "profile", allocate)
    assert profile[GARBAGE] > 0.9 * sum(profile.values())
    assert sum(profile.values()) / 1e6 > 0.9 * BURN_S
    assert gc.callbacks == others
    del many


def test_without_a_path_nothing_is_measured() -> None:
    with profiled(None):
        python()


def test_a_profile_is_divided_by_marks(tmp_path: Path) -> None:
    path = tmp_path / "profile"
    with profiled(str(path)):
        for mark in range(3):
            if mark:
                os.kill(os.getpid(), signal.SIGUSR2)
            begun_s = time.process_time()
            while time.process_time() < begun_s + BURN_S / 5:
                python() if mark == 1 else dear()
    parts = by_mark(read_profile(path))
    assert set(parts) == {0, 1, 2}
    assert [with_leaf(parts[mark], ":python") > 0.5 for mark in range(3)] == [False, True, False]
    os.kill(os.getpid(), signal.SIGUSR2)  # one that comes late ends nothing
