"""p values against enumeration and worked examples."""

import itertools

import numpy as np
import pytest

from evals.significance import bootstrap_p, holm, mcnemar, sign_flips


@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 5), (1, 6), (3, 3), (4, 5), (10, 2)])
def test_mcnemar_is_the_enumeration_of_all_signs(before: int, after: int) -> None:
    number = before + after
    gap = abs(after - before)
    extreme = [
        abs(2 * sum(signs) - number) >= gap for signs in itertools.product((0, 1), repeat=number)
    ]
    assert mcnemar(before, after) == pytest.approx(sum(extreme) / len(extreme))


def test_mcnemar_of_thousands() -> None:
    assert mcnemar(1500, 1500) == 1.0
    assert mcnemar(1400, 1600) == pytest.approx(0.000277, rel=0.02)  # normal: z = 199 / sqrt(3000)


def test_bootstrap_p_counts_both_ways() -> None:
    assert bootstrap_p(np.zeros(999)) == 1.0
    assert bootstrap_p(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.array([-1.0] * 49 + [1.0] * 950)) == pytest.approx(0.1)


def test_holm_by_hand() -> None:
    """0.01 x 4, 0.02 x 3 and 0.03 x 2; 0.04 x 1 is held up by the one before."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_family_wise_error() -> None:
    rng = np.random.default_rng(0)
    wrong = sum(min(holm(list(rng.random(12)))) < 0.05 for _ in range(2000))
    assert 0.035 < wrong / 2000 < 0.065


def test_few_clusters_that_move_are_no_proof() -> None:
    """Three that all move one way: two of the eight ways in which their signs may fall."""
    assert [sign_flips(moved) for moved in range(5)] == [1.0, 1.0, 0.5, 0.25, 0.125]
    assert bootstrap_p(np.ones(9999)) < 0.001, "which does not know how few there were"
