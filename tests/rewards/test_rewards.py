"""The rewards of the three roles, on worked examples of MM-Zero (P.., K.., solver's)."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.coder import coder_reward
from rewards.diversity import Repetition
from rewards.proposer import proposer_reward, unparsable_reward
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
    assert -0.95 - 1e-9 <= reward.total <= 1.0
    assert reward.total == pytest.approx(math.fsum(reward.terms.values()))
    backwards = proposer_reward(scores[::-1], Repetition(text, kind))
    assert reward.total == pytest.approx(backwards.total)


@given(st.none() | st.text(max_size=20), st.none() | SCORES)
def test_coder_reward_is_bounded_and_the_sum_of_its_terms(
    code: str | None, score: Score | None
) -> None:
    reward = coder_reward(code, score)
    assert -0.5 <= reward.total <= 2.5
    assert reward.total == pytest.approx(math.fsum(reward.terms.values()))


def test_a_picture_always_beats_none() -> None:
    assert coder_reward(SVG, Score(0.0, 0.0)).total > coder_reward(SVG, None).total
