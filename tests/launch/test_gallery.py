"""A game of a recipe that has no page of its own: its notes as they are, and none of it markup."""

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.monitor.observed import TIMELINE
from launch.gallery import MAX_DEPTH, MAX_ROWS, game_html, inline
from launch.library import Wanted, reasons_of, rewards_of
from launch.markup import MAX_TEXT
from tests.launch.test_spy_gallery import ATTACKS, Page

PNG = "0a" * 32
TIMELINE_OF_TWO = {"samples": [["asker", 0, 5, 9, 3, 0], ["looker", 5, 5, 9, 4, 0]]}


def notes_with(said: str) -> dict[str, Any]:
    """What the example of roles/README.md keeps; `said` wherever a model has a say."""
    answers = [{"role": "looker", "reward": 0.9, "text": said}] * 2
    row = {"role": "asker", "reward": 0.25, "text": said, "question": said}
    return {
        "topic": said,
        "picture": {"png": PNG},
        "questions": [row | {"votes": {said: 2}, "answers": answers}],
        TIMELINE: TIMELINE_OF_TWO,
    }


def game_of(notes: dict[str, Any]) -> dict[str, Any]:
    return {"game": 7, "state": "finished", "reason": None, "notes": notes}


def page(notes: dict[str, Any]) -> Page:
    return Page(game_html(game_of(notes), lambda name: f"/image/{name}.png", links=True))


def test_pictures_are_pictures_lists_are_lists_and_text_is_text() -> None:
    shown = page(notes_with("is it red?"))
    assert [value for value in shown.attributes if value.startswith("/image")] == [
        f"/image/{PNG}.png"
    ]
    assert [tag for tag, _ in shown.tags].count("li") == 3, "a question and two answers"
    assert shown.text.count("is it red?") == 6
    assert "0.25" in shown.text
    assert "weights: asker 3, looker 4" in shown.text
    assert "samples" not in shown.text, "the timeline is no note"
    assert '{"png"' not in shown.text


def test_pictures_may_be_part_of_the_page_and_may_be_gone() -> None:
    game = game_of(notes_with("?"))
    url = f"data:image/png;base64,{base64.b64encode(b'png').decode()}"
    assert url in Page(game_html(game, inline({PNG: b"png"}.get))).attributes
    gone = Page(game_html(game, inline(lambda name: None)))
    assert "img" not in [tag for tag, _ in gone.tags]
    assert "no longer kept" in gone.text


BENIGN = page(notes_with("a"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_text_is_text(attack: str) -> None:
    shown = page(notes_with(attack))
    assert shown.structure == BENIGN.structure
    assert shown.attributes == BENIGN.attributes
    visible = attack.replace("\x00", "\ufffd").strip()
    assert visible in shown.text.replace("\x00", "\ufffd")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*ATTACKS, "<", ">", '"', "'", "&", "/", " a "]), max_size=3))
def test_whatever_is_said_the_page_has_the_same_parts(words: list[str]) -> None:
    said = "".join(words)[:80]
    assert page(notes_with(said)).structure == BENIGN.structure


@pytest.mark.parametrize("name", ["../game/1#", 'x" onerror="alert(1)', "", None, ["a"], "a.b"])
def test_what_only_looks_like_a_picture_is_none(name: Any) -> None:
    shown = page({"picture": {"png": name}})
    assert "img" not in [tag for tag, _ in shown.tags]
    assert {attribute for _, own in shown.tags for attribute in own} <= {"class", "id", "href"}


def test_nothing_grows_without_end() -> None:
    deep: Any = "<b>"
    for _ in range(200):
        deep = [deep]
    shown = page({"deep": deep, "long": "x" * 9999, "many": list(range(MAX_ROWS + 5))})
    assert [tag for tag, _ in shown.tags].count("ol") == MAX_DEPTH
    assert "x" * MAX_TEXT + "…" in shown.text
    assert "x" * (MAX_TEXT + 1) not in shown.text
    assert "and 5 more" in shown.text


@pytest.mark.parametrize("value", [{}, [], None, True, 3, 0.5, "", [[]], {"a": {}}])
def test_notes_of_any_form_are_shown(value: Any) -> None:
    assert "game 7" in page({"anything": value}).text


def test_the_filters_find_games_of_any_recipe() -> None:
    game = game_of(notes_with("?"))
    assert rewards_of(game) == {"asker": [0.25], "looker": [0.9, 0.9]}
    roles = ("asker", "looker", "third")
    for query, passes in (
        ({"role": "asker"}, True),
        ({"role": "third"}, False),
        ({"role": "looker", "min_reward": "0.5"}, True),
        ({"role": "asker", "min_reward": "0.5"}, False),
        ({"max_reward": "0.3"}, True),
    ):
        assert Wanted.of(query, roles).passes(game) is passes, query
    unread = {"role": "asker", "reward": -1.0, "text": "?", "invalid": "unreadable: no tag"}
    game["notes"]["questions"] += [unread, {"drop": "no_votes"}, {"drop": None}]
    assert reasons_of(game) == {"unreadable", "no_votes"}
    assert Wanted.of({"reason": "no_votes"}, roles).passes(game)


def test_a_role_is_found_by_the_timeline_where_the_notes_tell_nothing() -> None:
    game = game_of({TIMELINE: TIMELINE_OF_TWO})
    assert Wanted.of({"role": "looker"}, ("asker", "looker")).passes(game)
    assert not Wanted.of({"role": "looker", "min_reward": "0"}, ("looker",)).passes(game)
