"""Parity with the released Vision-Zero: facts/vision_zero.md 2.3, 2.4; its section 10 (V1-V5)."""

import pytest

from engine.types import Invalid
from rewards.released.spy import (
    NO_CLUE,
    decision_reward_released,
    group_norm_released,
    has_format_released,
    parse_clue_released,
    parse_vote_released,
    reasoning_released,
)
from rewards.spy import Vote, count_votes
from tests.processor_time import cheaply

WHY = "Clue 2 names a cube. "
INVALID = "invalid"


def voted(text: str) -> Vote | str:
    vote = parse_vote_released(text)
    return INVALID if isinstance(vote, Invalid) else vote


@pytest.mark.parametrize(
    ("text", "vote", "total"),
    [
        (WHY + r"\boxed{2}", 2, 2.49),
        (WHY + r"\\boxed{2}", 2, 2.49),
        (WHY + r"\boxed{N/A}", None, -0.30),
        (WHY + r"\boxed{na}", None, -0.30),
        (WHY + r"\boxed{3}", 3, -0.90),
        (r"\boxed{2}", 2, 1.89),
        (r"\boxed{N/A}", None, -0.90),
        (r"\boxed{3}", 3, -1.50),
        (WHY + r"\boxed{garbage}", INVALID, -0.90),
        (WHY + r"\boxed{12}", INVALID, -0.90),
        (WHY + r"\boxed{n.a.}", INVALID, -0.90),
        (WHY + r"\boxed{N / A}", INVALID, -0.90),
        (WHY + r"\boxed{N/A (unsure)}", INVALID, -0.90),
        (WHY + r"\boxed{\text{Player } 2}", INVALID, -0.90),
        (WHY + "no box at all", INVALID, -1.50),
        (WHY + r"\boxed{Player 2 or 3}", 2, 2.49),
        (r"Options are \boxed{1}; final \boxed{2}", 1, -0.90),
        (WHY + r"an open \boxed{2", INVALID, -1.50),
    ],
)
def test_votes_and_what_they_earn(text: str, vote: Vote | str, total: float) -> None:
    """2.3, the spy being seat 2."""
    assert voted(text) == vote
    earned = decision_reward_released(text, 2)
    assert earned.total == pytest.approx(total, abs=1e-12)
    assert set(earned.terms) == {"format", "decision", "shaping"}


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("\\boxed{2}\nThe cube moved, so it is 2", 2.49),
        ("\\boxed{2} The cube moved, so it is 2", 1.89),
        ("\\boxed{2}\nYou are player 3 and you should vote", 1.89),
        ("\\boxed{2}\nRequired Output Format: a number", 1.89),
        ("\\boxed{2}\n<think>the cube is not where it was</think>", 2.49),
        (WHY * 3 + "\\boxed{2}<think>hm</think>", 1.89),
        (WHY * 3 + "\\boxed{2}<think></think>", 1.89),
        ("<think>the cube moved</think><answer>2</answer>", 2.49),
        ("the cube moved <answer>2</answer>", 2.49),
        ("1234567890\\boxed{2}", 1.89),
        ("12345678901\\boxed{2}", 2.49),
    ],
)
def test_reasoning_anywhere_is_format(text: str, total: float) -> None:
    """V1."""
    assert decision_reward_released(text, 2).total == pytest.approx(total, abs=1e-12)


def test_an_empty_box_blocks_the_answer_tag() -> None:
    """V2."""
    text = WHY + r"\boxed{} <answer>2</answer>"
    assert voted(text) == INVALID
    assert decision_reward_released(text, 2).total == pytest.approx(-1.5)
    assert decision_reward_released(WHY + "<answer>2</answer>", 2).total == pytest.approx(2.49)


@pytest.mark.parametrize(
    ("content", "vote"),
    [
        ("2.5", 2),
        ("-2", 2),
        ("1/2", 1),
        ("not 1, but 2", 1),
        ("Round 2 Player 3", 2),
        ("N/A or 2", 2),
        ("2.", 2),
        ("2。", 2),
        ("2nd", INVALID),
        ("P2", INVALID),
        ("Player_2", INVALID),
        ("02", INVALID),
        ("２", INVALID),
        ("2号", INVALID),
        ("N / A", INVALID),
        ("0", INVALID),
    ],
)
def test_lone_digits(content: str, vote: Vote | str) -> None:
    """V4."""
    assert voted(WHY + rf"\boxed{{{content}}}") == vote


@pytest.mark.parametrize(
    ("content", "vote"),
    [
        ('{"spy": 12}', 12),
        ('{"spy": 0}', 0),
        ('{"spy": -12}', -12),
        ('{"spy": "12"}', 12),
        ('{"spy": true}', 1),
        ('{"reasoning": "Player 3", "spy": 12}', 3),
        ('{"spy": null}', INVALID),
        ('{"spy": NaN}', INVALID),
        ('{"spy": Infinity}', INVALID),
        ('{"seat": 12}', INVALID),
        ('["spy"]', INVALID),
        ('"spy"', INVALID),
        ("[" * 100_000, INVALID),
        ('{"spy": ' + "00" * 5000 + "}", INVALID),
    ],
)
def test_the_old_json_answer(content: str, vote: Vote | str) -> None:
    """V4: only between answer tags, as a box ends at the first brace."""
    assert voted(f"<answer>{content}</answer>") == vote
    if content.startswith("{"):
        assert voted(rf"\boxed{{{content}}}") in (INVALID, 3)


def test_json_seats_beyond_the_table_are_wrong_and_counted_for_nobody() -> None:
    text = WHY + '<answer>{"spy": 12}</answer>'
    assert decision_reward_released(text, 2).total == pytest.approx(-0.9)
    assert count_votes([12, 0, -12], 4).invalid == 3


@pytest.mark.parametrize(
    ("text", "clue"),
    [
        (r"I think \boxed{A red cube.} or \boxed{no}", "A red cube."),
        (r"\\boxed{ A red cube. }", "A red cube."),
        (r"\boxed{\text{red} cube}", r"\text{red"),
        ("x <answer> A cube </answer> <answer>no</answer>", "A cube"),
        ("x <answer> A cube <think> so", "A cube"),
        ("<answer>A <answer> cube", "A"),
        ("A red cube.", NO_CLUE),
        ("", NO_CLUE),
        (r"open \boxed{A cube", NO_CLUE),
        (r"\boxed{} <answer>A cube</answer>", ""),
        (r"\boxed{  } <answer>A cube</answer>", ""),
        ("<answer></answer>", ""),
        ("\\boxed{A cube\nPlayer 3: a ball}", "A cube\nPlayer 3: a ball"),
    ],
)
def test_clues(text: str, clue: str) -> None:
    """V5, and section 7's bugs 11 and 12."""
    assert parse_clue_released(text) == clue


def test_private_notes() -> None:
    assert reasoning_released(r"  I see a cube. \boxed{A cube} and more") == "I see a cube."
    assert reasoning_released("Hm.\nYour task is to\n\n I see it ") == "Hm.\nI see it"
    assert reasoning_released(r"\boxed{2}") == ""
    assert not has_format_released("")


def levels(outcomes: str) -> list[float]:
    return [{"R": 2.49, "N": -0.30, "W": -0.90}[outcome] for outcome in outcomes]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("RRRRRRRW", [0.378] * 7 + [-2.646]),
        ("RWWWWWWW", [2.646] + [-0.378] * 7),
        ("RRRRNNWW", [0.991] * 4 + [-0.798] * 2 + [-1.183] * 2),
        ("NNNNNNNW", [0.378] * 7 + [-2.646]),
        ("RRRRRRRR", [0.0] * 8),
        ("NNNNNNNN", [0.0] * 8),
    ],
)
def test_group_norm(outcomes: str, expected: list[float]) -> None:
    assert list(group_norm_released(levels(outcomes))) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("reward", "left"), [(-0.9, 5.96e-08), (-0.3, -2.98e-08), (1.89, -1.19e-07), (2.49, 0.0)]
)
def test_equal_rewards_leave_a_rounding_error(reward: float, left: float) -> None:
    """V3."""
    assert list(group_norm_released([reward] * 8)) == pytest.approx([left] * 8, rel=0.01)


def test_one_judge_alone_is_not_normalised() -> None:
    """V3."""
    assert group_norm_released([2.49]) == (2.49,)
    assert group_norm_released([-0.9]) == (-0.9,)
    assert group_norm_released([]) == ()


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 150_000, "<think>" * 150_000, "<answer>" * 150_000, "\\boxed{\n" * 100_000],
)
def test_hostile_replies_take_linear_time(text: str) -> None:
    """A megabyte; the release's own patterns take minutes."""

    def read() -> None:
        parse_vote_released(text)
        parse_clue_released(text)
        has_format_released(text)

    cheaply(read, 5.0)
