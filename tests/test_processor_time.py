"""One dear attempt is forgiven; work that is dear each time is not."""

import functools
import time
from collections.abc import Callable, Sequence

import pytest
import sympy

from rewards import grading
from tests.processor_time import ATTEMPTS, cheaply, first_below


@pytest.fixture
def costing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[float]], Callable[[], int]]:
    """Work whose attempts cost what is said, and give their number."""
    now_s = 100.0
    monkeypatch.setattr(time, "process_time", lambda: now_s)

    def of(costs_s: Sequence[float]) -> Callable[[], int]:
        numbered = iter(enumerate(costs_s))

        def work() -> int:
            nonlocal now_s
            number, cost_s = next(numbered)
            now_s += cost_s
            return number

        return work

    return of


@pytest.mark.parametrize(
    "costs_s, answer", [([0.5], 0), ([13.0, 0.5], 1), ([13.0, 1.0, 0.5], 2)], ids=str
)
def test_the_first_cheap_attempt_answers(costing, costs_s: list[float], answer: int) -> None:
    work = costing([*costs_s, 0.0])
    assert cheaply(work, 1.0) == answer
    assert work() == answer + 1, "and it is the last one"


def test_work_that_is_always_dear_fails_and_is_named(costing) -> None:
    work = costing([3.0, 1.0, 2.0, 0.0])
    with pytest.raises(AssertionError, match=r"^a sum: 1\.00 s at best of 3, not below 1 s$"):
        cheaply(work, 1.0, "a sum")
    assert work() == ATTEMPTS


def test_a_wrong_result_is_not_tried_again(costing) -> None:
    work = costing([0.5, 0.5])

    def wrong() -> None:
        assert work() == 1

    with pytest.raises(AssertionError, match="assert 0 == 1"):
        cheaply(wrong, 1.0)


def test_what_was_remembered_is_worked_out_again(costing, monkeypatch: pytest.MonkeyPatch) -> None:
    work = costing([3.0, 3.0, 3.0, 0.0])
    monkeypatch.setattr(grading, "canonical", functools.cache(work))
    with pytest.raises(AssertionError, match="not below"):
        cheaply(grading.canonical, 1.0)
    assert work() == ATTEMPTS


def test_what_algebra_remembered_is_forgotten() -> None:
    kept = sympy.Symbol("x")
    assert sympy.Symbol("x") is kept
    told = iter([5.0, 0.5])
    first_below(1.0, lambda: (None, next(told)))
    assert sympy.Symbol("x") is not kept


def test_an_attempt_may_tell_its_own_seconds() -> None:
    told = iter([("dear", 5.0), ("cheap", 0.5)])
    assert first_below(1.0, lambda: next(told)) == "cheap"
