"""Repetition: BLEU distance, clusters, and the penalties of the window."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.diversity import Card, DiversityWeights, DiversityWindow, distance
from rewards.similarity import cluster_sizes
from tests.processor_time import cheaply

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]


def different(count: int, content_type: str = "table") -> list[Card]:
    """Cards that share no word."""
    return [
        Card(content_type, *(f"{x}{i} b{x}{i} c{x}{i} d{x}{i}" for x in "pqr"))
        for i in range(count)
    ]


def texts(cards: list[Card], weights: DiversityWeights | None = None) -> list[float]:
    return [round(penalty.text, 6) for penalty in DiversityWindow(72, weights).judge(cards)]


def test_distance_of_equal_texts_is_zero_however_short() -> None:
    assert distance("how many", "How  many") == 0.0
    assert distance("", "") == 0.0


def test_distance_of_texts_without_a_common_word_is_one() -> None:
    assert distance("a b c", "d e f") == 1.0
    assert distance("", "a") == 1.0


def test_distance_equals_bleu_worked_by_hand() -> None:
    # One word of 16 changed in the middle: 15/16, 13/15, 11/14, 9/13 of the n-grams are left.
    words = [f"w{i}" for i in range(16)]
    changed = [*words[:8], "other", *words[9:]]
    expected = 1 - (15 / 16 * 13 / 15 * 11 / 14 * 9 / 13) ** 0.25
    assert distance(" ".join(words), " ".join(changed)) == pytest.approx(expected)
    assert expected == pytest.approx(0.185, abs=0.002)
    # Brevity: "a b c d" against "a b c d e" has precision 1 and penalty e^(1 - 5/4); the other
    # way round 4/5, 3/4, 2/3, 1/2 and no penalty.
    forth, back = np.exp(1 - 5 / 4), (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert distance("a b c d", "a b c d e") == pytest.approx(1 - (forth + back) / 2)
    # Clipped counts and smoothing: "a a" against "a b": 1/2 and 0.1/1, 0.1/1, 0.1/1.
    assert distance("a a", "a b") == pytest.approx(1 - (0.5 * 0.001) ** 0.25)


@given(st.lists(st.sampled_from(WORDS), max_size=9), st.lists(st.sampled_from(WORDS), max_size=9))
def test_distance_is_symmetric_and_bounded(a: list[str], b: list[str]) -> None:
    there, back = distance(" ".join(a), " ".join(b)), distance(" ".join(b), " ".join(a))
    assert there == pytest.approx(back)
    assert 0.0 <= there <= 1.0


def test_average_link() -> None:
    # b is near a; c is near b only, and on average (0.2 + 0.4) / 2 from {a, b}.
    gaps = np.array([[0, 0.1, 0.4], [0.1, 0, 0.2], [0.4, 0.2, 0]])
    assert cluster_sizes(gaps, 0.25) == [2, 2, 1]
    assert cluster_sizes(gaps, 0.31) == [3, 3, 3]
    assert cluster_sizes(gaps, 0.1) == [1, 1, 1]  # strictly nearer
    assert cluster_sizes(np.zeros((0, 0)), 0.25) == []


@pytest.mark.parametrize(
    ("equal", "fields", "penalty"),
    [
        (2, ("caption",), -0.225),
        (3, ("caption",), -0.45),
        (4, ("caption",), -0.5),
        (2, ("hard_question",), -0.175),
        (2, ("easy_question",), -0.10),
        (2, ("caption", "easy_question", "hard_question"), -0.5),
    ],
)
def test_text_penalty_of_repeated_fields(
    equal: int, fields: tuple[str, ...], penalty: float
) -> None:
    cards = different(8)
    same = {field: getattr(cards[0], field) for field in fields}
    cards = [replace(card, **same) if i < equal else card for i, card in enumerate(cards)]
    assert texts(cards) == [penalty] * equal + [0.0] * (8 - equal)


def test_text_penalty_does_not_depend_on_the_number_of_others() -> None:
    cards = different(24)
    cards[1] = replace(cards[1], caption=cards[0].caption)
    assert texts(cards)[:3] == [-0.225, -0.225, 0.0]


@pytest.mark.parametrize(
    ("tables", "maps", "penalties"),
    [(6, 2, (-0.075, 0.0)), (7, 1, (-0.1125, 0.0)), (4, 4, (0.0, 0.0)), (8, 0, (-0.15, None))],
)
def test_type_penalty(tables: int, maps: int, penalties: tuple) -> None:
    cards = different(8)
    cards = [
        replace(card, content_type="map") if i >= tables else card for i, card in enumerate(cards)
    ]
    types = [penalty.type for penalty in DiversityWindow(72).judge(cards)]
    assert types[0] == pytest.approx(penalties[0])
    if maps:
        assert types[-1] == pytest.approx(penalties[1])


def test_a_single_proposal_is_not_charged() -> None:
    (alone,) = DiversityWindow(72).judge(different(1))
    assert (alone.text, alone.type) == (0.0, 0.0)
    assert DiversityWindow(72).judge([]) == ()


def test_window_remembers_and_forgets() -> None:
    window = DiversityWindow(3)
    first, *others = different(5)
    window.judge([first])
    (again,) = window.judge([first])
    assert again.text == -0.5  # all three fields, a cluster of two
    window.judge(others[:3])  # pushes both out
    (later,) = window.judge([first])
    assert later.text == 0.0


@settings(max_examples=30)
@given(
    st.lists(st.tuples(*[st.sampled_from(["a b c d", "a b c e", "x", "y z"])] * 3), max_size=7),
    st.randoms(),
)
def test_penalties_follow_their_proposals(fields: list, random) -> None:
    old = Card("map", "a b c d", "x", "y z")
    cards = [Card("table", *field) for field in fields]
    order = list(range(len(cards)))
    random.shuffle(order)
    results = []
    for sequence in (cards, [cards[i] for i in order]):
        window = DiversityWindow(8)
        window.judge([old])
        results.append(window.judge(sequence))
    straight, shuffled = results
    assert [straight[i] for i in order] == list(shuffled)
    assert all(-0.5 <= r.text <= 0 and -0.15 <= r.type <= 0 for r in straight)


def test_scaled_weights_scale_penalty_and_cap() -> None:
    cards = [different(1)[0]] * 4
    assert texts(cards, DiversityWeights(text=0.1)) == [-0.1] * 4


def test_a_full_window_is_cheap() -> None:
    window = DiversityWindow(72)
    cards = [
        Card("map", *(" ".join(f"{x}{(i * k) % 13}" for k in range(20)) for x in "pqr"))
        for i in range(76)
    ]
    window.judge(cards[:72])
    cheaply(lambda: window.judge(cards[72:]), 0.5)  # it stays full
