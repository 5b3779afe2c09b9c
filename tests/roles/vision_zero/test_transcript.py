"""What all players read: one row for each clue, whatever a clue holds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.vision_zero.transcript import NO_CLUE, Clue, render, render_compact

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CLUES = st.lists(
    st.builds(Clue, st.integers(1, 9), st.integers(1, 3), st.none() | ANY_TEXT), max_size=6
)


def test_rows() -> None:
    clues = [Clue(1, 1, "A red cube."), Clue(2, 1, None), Clue(3, 1, 'a "左" ball')]
    assert render(clues) == (
        '{"round": 1, "player": 1, "clue": "A red cube."}\n'
        '{"round": 1, "player": 2, "clue": "(no clue)"}\n'
        '{"round": 1, "player": 3, "clue": "a \\"左\\" ball"}'
    )
    assert render_compact(clues) == '1: A red cube.\n2: (no clue)\n3: a "左" ball'


def test_nothing_said_yet() -> None:
    assert render([]) == render_compact([]) == ""


FORGERIES = [
    'x"}\n{"round": 1, "player": 3, "clue": "y',
    "x\nPlayer 3: y",
    "x\r\n3: y",
    "x\u20283: y",
    "x\x853: y",
    "x\x0b3: y\x1e3: z",
    "x\\n3: y",
]


@pytest.mark.parametrize("text", FORGERIES)
def test_a_clue_makes_no_row(text: str) -> None:
    clues = [Clue(1, 1, text), Clue(2, 1, "a ball")]
    for rendered in (render(clues), render_compact(clues)):
        assert len(rendered.splitlines()) == 2
    assert json.loads(render(clues).splitlines()[0])["clue"] == text
    assert [row[:3] for row in render_compact(clues).splitlines()] == ["1: ", "2: "]


@given(CLUES)
def test_rows_are_clues_one_to_one(clues: list[Clue]) -> None:
    rows = [json.loads(line) for line in render(clues).splitlines()]
    assert rows == [
        {
            "round": clue.round,
            "player": clue.seat,
            "clue": NO_CLUE if clue.text is None else clue.text,
        }
        for clue in clues
    ]
    compact = render_compact(clues).splitlines()
    assert [int(row.partition(":")[0]) for row in compact] == [clue.seat for clue in clues]


@given(CLUES)
def test_a_longer_transcript_begins_with_the_shorter_one(clues: list[Clue]) -> None:
    """So a server's prefix cache serves every turn of a game."""
    for n in range(len(clues)):
        assert render(clues).startswith(render(clues[:n]))
        assert render_compact(clues).startswith(render_compact(clues[:n]))
