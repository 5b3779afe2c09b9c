"""Several samples: pass@k against enumeration, votes by hand."""

import itertools

import pytest

from evals.repetition import majority, majority_at_k, pass_at_k, powers_up_to


@pytest.mark.parametrize("right", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_k_is_the_mean_over_all_subsets(right: int, k: int) -> None:
    marks = [number < right for number in range(6)]
    subsets = [any(chosen) for chosen in itertools.combinations(marks, k)]
    assert pass_at_k(6, right, k) == pytest.approx(sum(subsets) / len(subsets))


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@3 of 2 samples"):
        pass_at_k(2, 1, 3)
    with pytest.raises(ValueError, match="maj@3 of 2 samples"):
        majority_at_k(["a", "b"], [1, 0], 3)


@pytest.mark.parametrize(
    ("said", "scores", "vote"),
    [
        (["a", "A ", "b"], [1, 1, 0], 1.0),
        (["a", "b", "b"], [1, 0, 0], 0.0),
        (["a", "b"], [1, 0], 0.5),  # a tie: what a fair choice scores
        ([None, None, "a"], [0, 0, 1], 1.0),  # what can't be read is no vote
        ([None, None], [0, 0], 0.0),
    ],
)
def test_what_most_say_counts(said: list[str | None], scores: list[float], vote: float) -> None:
    assert majority(said, scores) == vote


def test_majority_at_k_is_over_blocks() -> None:
    said, scores = ["a", "a", "b", "b", "b", "a"], [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert majority_at_k(said, scores, 3) == 0.5
    assert majority_at_k(said, scores, 4) == 0.5
    assert majority_at_k(said, scores, 1) == 0.5


@pytest.mark.parametrize(
    ("samples", "ks"), [(1, []), (2, [2]), (3, [2, 3]), (8, [2, 4, 8]), (10, [2, 4, 8, 10])]
)
def test_the_ks_of_a_report(samples: int, ks: list[int]) -> None:
    assert powers_up_to(samples) == ks
