"""The rewards of the three roles, on worked examples of MM-Zero (P.., K.., solver's)."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.coder import CoderWeights, coder_reward
from rewards.diversity import Repetition
from rewards.grading import Votes
from rewards.proposer import ProposerWeights, proposer_reward, unparsable_reward
from rewards.reward import Score
from rewards.solver import solver_reward

SCORES = st.builds(Score, st.floats(0, 1), st.floats(0, 0.5))


def scored(easy: float, *shares: float) -> list[Score]:
    return [Score(easy, min(c, 1.0 - c)) for c in shares]


@pytest.mark.parametrize(
    ("name", "scores", "total"),
    [
        ("P1", scored(1.0, 0.6, 0.6, 0.6, 0.6), 0.90),
        ("P2", scored(0.4, 0.6, 0.6, 0.6, 0.6), 0.80),
        ("P3", [*scored(1.0, 0.4, 0.4), None, None], 0.45),
        ("P4", scored(1.0, 1.0, 1.0, 1.0, 1.0), 0.20),
        ("P5", scored(1.0, 0.6, 1.0, 1.0, 1.0), 0.30),
        ("P6", scored(1.0, 0.6, 0.8, 1.0, 1.0), 0.65),
        ("P6 whatever its rounding", scored(1.0, 0.8, 0.8, 0.8, 1.0), 0.65),
        ("P7", [None] * 4, 0.0),
        ("P8", [], 0.0),
        ("P12", [Score(0.0, 0.0)] * 4, -0.30),
    ],
)
def test_proposer_examples(name: str, scores: list[Score | None], total: float) -> None:
    assert proposer_reward(scores).total == pytest.approx(total), name


def test_at_the_threshold_the_release_goes_by_rounding() -> None:
    """M1: three votes of 4/5 and one of 5/5 have a mean difficulty of .15 but for rounding."""
    scores = scored(1.0, 0.8, 0.8, 0.8, 1.0)
    assert proposer_reward(scores).total == pytest.approx(0.65)
    released = ProposerWeights(too_easy_tolerance=0.0)
    assert proposer_reward(scores, None, released).total == pytest.approx(0.35)


def test_unparsable_proposal() -> None:
    bad = unparsable_reward()  # P9
    assert bad.total == -1.0
    assert set(bad.terms) == set(proposer_reward([]).terms)


def test_repetition_is_charged_to_the_proposal() -> None:
    scores = scored(1.0, 0.6, 0.6, 0.6, 0.6)
    assert proposer_reward(scores, Repetition(-0.225, -0.075)).total == pytest.approx(0.6)


SVG = "<svg></svg>"


@pytest.mark.parametrize(
    ("name", "code", "score", "total"),
    [
        ("K1", SVG, Score(1.0, 0.4), 2.4),
        ("K2", SVG, Score(0.6, 0.0), 1.6),
        ("K3", SVG, Score(0.0, 0.2), 1.2),
        ("K4", None, None, -0.5),
        ("K5", "<svg><rect</svg>", None, -0.1),
        ("K6", "print('hello')", None, -0.5),
        ("K7", SVG, Score(1.0, 0.4), 2.4),
        ("K8", SVG, Score(1.0, 0.5), 2.5),
        ("K9", "", None, -0.5),
        ("K11", SVG, Score(1.0, 0.5), 2.5),
        ("K12", SVG, None, -0.1),
    ],
)
def test_coder_examples(name: str, code: str | None, score: Score | None, total: float) -> None:
    assert coder_reward(code, score).total == pytest.approx(total), name


@pytest.mark.parametrize(
    ("is_correct", "is_well_formed", "total"),
    [(True, True, 1.0), (True, False, 0.9), (False, True, 0.1), (False, False, 0.0)],
)
def test_solver_examples(is_correct: bool, is_well_formed: bool, total: float) -> None:
    reward = solver_reward(is_correct=is_correct, is_well_formed=is_well_formed)
    assert reward.total == pytest.approx(total)


@given(st.lists(st.none() | SCORES, max_size=8), st.floats(-0.5, 0), st.floats(-0.15, 0))
def test_proposer_reward_is_bounded_and_the_sum_of_its_terms(
    scores: list, text: float, kind: float
) -> None:
    reward = proposer_reward(scores, Repetition(text, kind))
    assert unparsable_reward().total < -0.95 - 1e-9 <= reward.total <= 1.0
    assert reward.total == pytest.approx(math.fsum(reward.terms.values()))
    backwards = proposer_reward(scores[::-1], Repetition(text, kind))
    assert reward.total == pytest.approx(backwards.total)


@given(st.lists(SCORES, min_size=1, max_size=8), st.data())
def test_more_solvable_never_earns_less_and_no_more_above_the_cap(scores: list, data) -> None:
    i = data.draw(st.integers(0, len(scores) - 1))
    better = data.draw(st.floats(scores[i].solvability, 1))
    raised = [*scores[:i], Score(better, scores[i].difficulty), *scores[i + 1 :]]
    low, high = proposer_reward(scores).total, proposer_reward(raised).total
    assert high >= low - 1e-12
    if scores[i].solvability >= 0.5:
        assert high == low, "above the cap nothing is gained"
    assert coder_reward(SVG, raised[i]).total >= coder_reward(SVG, scores[i]).total


@given(st.floats(0, 1), st.floats(0, 1))
def test_difficulty_peaks_where_the_voters_are_split_in_half(first: float, second: float) -> None:
    nearer, farther = sorted((first, second), key=lambda share: abs(share - 0.5))
    votes = [Votes("a", share, 5, 5, {}) for share in (nearer, farther, 0.5)]
    difficulties = [vote.difficulty for vote in votes]
    assert difficulties[1] <= difficulties[0] + 1e-12
    assert max(difficulties) <= difficulties[2] == 0.5
    totals = [proposer_reward([Score(1.0, d)]).total for d in difficulties]
    assert totals[1] <= totals[0] + 1e-12


@given(st.lists(st.none() | SCORES, min_size=1, max_size=6), st.randoms())
def test_the_order_of_the_pictures_does_not_matter(scores: list, random) -> None:
    shuffled = list(scores)
    random.shuffle(shuffled)
    # But for the rounding of the sum, from which the tolerance at the threshold protects.
    assert proposer_reward(shuffled).total == pytest.approx(proposer_reward(scores).total)


@given(st.none() | st.text(max_size=20), st.none() | SCORES)
def test_coder_reward_is_bounded_and_the_sum_of_its_terms(
    code: str | None, score: Score | None
) -> None:
    reward = coder_reward(code, score, CoderWeights(leak=0.3), is_leaked=True)
    assert reward.total <= coder_reward(code, score).total
    assert -0.5 <= reward.total <= 2.5
    assert reward.total == pytest.approx(math.fsum(reward.terms.values()))


def test_a_picture_always_beats_none() -> None:
    assert coder_reward(SVG, Score(0.0, 0.0)).total > coder_reward(SVG, None).total
