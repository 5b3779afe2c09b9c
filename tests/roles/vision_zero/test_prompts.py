"""The prompts of the seats: all that they are given, to whom it belongs, and nothing else."""

import pytest

from engine.errors import ConfigError
from roles.vision_zero.prompts import Prompts, load_prompts
from roles.vision_zero.transcript import Clue, render

CLUES = [Clue(1, 1, "top-left red circle"), Clue(2, 1, None), Clue(3, 1, "a {seat} {hint} \\1")]
SETS = ["full", "tiny"]


def text_of(messages: list) -> str:
    (message,) = messages
    picture, words = message["content"]
    assert message["role"] == "user"
    assert picture == {"type": "image"}
    assert words["type"] == "text"
    assert isinstance(words["text"], str)
    return words["text"]


def clue_text(prompts: Prompts, **changed: object) -> str:
    given = {
        "seat": 4, "is_spy": False, "num_players": 4, "round": 2, "num_rounds": 3,
        "hint": "HINT", "transcript": CLUES, "notes": (),
    }  # fmt: skip
    return text_of(prompts.clue(**(given | changed)))  # type: ignore[arg-type]


def vote_text(prompts: Prompts, seat: int | None, clues: list[Clue] = CLUES) -> str:
    return text_of(prompts.vote(num_players=4, hint="HINT", transcript=clues, seat=seat))


@pytest.mark.parametrize("name", SETS)
def test_clues_are_shown_as_they_are_and_nothing_in_them_is_filled_in(name: str) -> None:
    prompts = load_prompts(name)
    texts = [clue_text(prompts), vote_text(prompts, None), vote_text(prompts, 4)]
    for text in texts:
        assert "top-left red circle" in text
        assert "(no clue)" in text
        assert "a {seat} {hint} \\" in text
        assert text.count("{seat}") == text.count("{hint}") == 1


@pytest.mark.parametrize("name", SETS)
def test_no_placeholder_is_left(name: str) -> None:
    prompts = load_prompts(name)
    fields = ("seat", "round", "num_rounds", "num_players", "hint", "transcript", "notes")
    for text in (
        clue_text(prompts, transcript=[]),
        clue_text(prompts, transcript=[], is_spy=True, notes=["n"]),
        vote_text(prompts, None, []),
        vote_text(prompts, 2, []),
    ):
        assert not [f for f in (*fields, "compact_transcript") if f"{{{f}}}" in text]


@pytest.mark.parametrize("name", SETS)
def test_all_who_see_a_picture_share_everything_up_to_their_own_part(name: str) -> None:
    prompts = load_prompts(name)
    table = text_of(
        Prompts(prompts.table_template, "", "", "", "", "").vote(
            num_players=4, hint="HINT", transcript=CLUES, seat=None
        )
    )
    seats = [clue_text(prompts, seat=s, round=r, notes=["N"]) for s in (1, 4) for r in (1, 2)]
    votes = [vote_text(prompts, None), vote_text(prompts, 1)]
    assert all(text.startswith(table) and text != table for text in [*seats, *votes])
    assert len({*seats, *votes}) == (6 if name == "full" else 4)  # tiny plays one round


@pytest.mark.parametrize("name", SETS)
def test_later_prompts_continue_the_transcript_of_earlier_ones(name: str) -> None:
    table = Prompts(load_prompts(name).table_template, "", "", "", "", "")
    shown = [vote_text(table, None, CLUES[:n]) for n in (1, 2, 3)]
    assert shown[1].startswith(shown[0])
    assert shown[2].startswith(shown[1])


@pytest.mark.parametrize("name", SETS)
def test_the_spy_knows_that_it_is_the_spy_and_its_seat_is_told(name: str) -> None:
    prompts = load_prompts(name)
    for seat in (1, 4):
        civilian = clue_text(prompts, seat=seat, transcript=[])
        spy = clue_text(prompts, seat=seat, is_spy=True, transcript=[])
        assert civilian != spy
        assert str(seat) in civilian.splitlines()[-1] or f"player {seat}, a civilian" in civilian
        assert str(seat) in spy.splitlines()[-1] or f"player {seat}, the spy" in spy


def test_the_full_set_says_everything_and_asks_for_what_is_parsed() -> None:
    prompts = load_prompts("full")
    text = clue_text(prompts, notes=["first thought", "second thought"])
    assert "HINT" in text
    assert render(CLUES) in text
    assert "round 2 of 3" in text
    assert "first thought\nsecond thought" in text
    assert "thought in earlier rounds" not in clue_text(prompts)
    for asked in (text, clue_text(prompts, is_spy=True), vote_text(prompts, None)):
        assert "\\boxed{" in asked
    for seat in (None, 3):
        assert "1 to 4" in vote_text(prompts, seat)
        assert "\\boxed{N/A}" in vote_text(prompts, seat)


def test_the_tiny_set_is_short() -> None:
    prompts = load_prompts("tiny")
    clues = [Clue(1, 1, "top red circle"), Clue(2, 1, None)]
    assert clue_text(prompts, seat=3, transcript=clues, notes=["x"]) == (
        "Clues:\n1: top red circle\n2: (no clue)\n\n3:"
    )
    assert clue_text(prompts, seat=1, is_spy=True, transcript=[]) == "Clues:\n\n1 spy:"
    assert vote_text(prompts, None, clues) == "Clues:\n1: top red circle\n2: (no clue)\n\nspy?"


def test_an_unknown_set_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no prompt set 'tinny'; there are full, tiny"):
        load_prompts("tinny")
