"""A spy game on a page: all of it is shown, and nothing of it is markup."""

import asyncio
import base64
import json
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.buffer import Buffer
from engine.rundir import RunDir
from launch.gallery import game_html, inline
from launch.library import Library, Wanted, reasons_of, rewards_of
from launch.markup import MAX_TEXT
from roles.vision_zero.config import STREAMS, VisionZeroConfig
from roles.vision_zero.gallery import NOTE
from roles.vision_zero.memory import Memory
from roles.vision_zero.recipe import play
from tests.roles.vision_zero.spy_fakes import (
    CIVILIAN,
    SPY,
    Asked,
    FakePair,
    Seats,
    boxed,
    game_with_spy,
)

CFG = VisionZeroConfig(
    num_rounds=1,
    num_votes=3,
    replicas=2,
    probe_share=0.0,
    rules="streamzero",
    clue_credit={"baseline": "replica", "scaled": False},
)
BY_RELEASE = VisionZeroConfig(preset="vz_code", num_rounds=1, num_votes=3)
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></details></table><svg onload=alert(1)>",
    '" onmouseover="alert(1)',
    "&lt;script&gt;",
    "<!-- ",
    "]]>",
    "javascript:alert(1)",
    "\u202etxt.exe\x00\x07",
]


class Page(HTMLParser):
    """Tags with their attributes as a browser reads them, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[str] = []
        self.ended: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [value or "" for _, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.ended.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    @property
    def structure(self) -> tuple[Any, ...]:
        return tuple(self.tags), tuple(self.ended)


def played(
    clue: str, vote: str, *, cfg: VisionZeroConfig = CFG, pair: FakePair | None = None
) -> dict[str, Any]:
    """The notes of a game in which one civilian says `clue` and all votes are `vote`, raw replies;
    its pictures are told by name as the buffer does."""

    def speak(asked: Asked, _: int) -> str:
        return clue if asked.seat == 3 else boxed(f"clue{asked.role}{asked.number}")

    table = Seats(
        {"civilian": speak, "spy": speak, "voter": lambda *_: vote}, game_with_spy(2, cfg)
    )
    asyncio.run(play(pair or FakePair(), table.table, cfg, Memory(cfg)))
    notes = {
        key: {"png": f"hash-of-{key}"} if isinstance(value, bytes) else value
        for key, value in table.notes.items()
    }
    found = json.loads(json.dumps(notes))
    assert isinstance(found, dict)
    return found


def page(notes: Mapping[str, Any], **more: Any) -> Page:
    game = {"game": 7, "state": "finished", "reason": None, "notes": notes, **more}
    return Page(game_html(game, lambda name: f"/image/{name}.png", links=True))


def test_both_pictures_and_everything_that_was_said_are_shown() -> None:
    shown = page(played(boxed("a red cube", "I wonder. "), boxed("2", "Two lies. ")))
    assert [value for value in shown.attributes if value.startswith("/image/")] == [
        "/image/hash-of-picture/civilian.png", "/image/hash-of-picture/spy.png",
    ]  # fmt: skip
    assert "the spy: player 2" in shown.text
    assert "pair-1" in shown.text
    assert "objects, edited" in shown.text
    assert shown.text.count("replica ") == 2
    for said in ("a red cube", "I wonder.", "cluespy0", "cluecivilian0", "Two lies."):
        assert said in shown.text
    assert shown.text.count("2 (spy)") == 2
    assert shown.text.count("the spy is found") == 2
    assert shown.text.count("votes: player 2 ×3") == 2


def test_pictures_may_be_part_of_the_page() -> None:
    notes = played(boxed("a"), boxed("2"))
    kept = {"hash-of-picture/civilian": CIVILIAN, "hash-of-picture/spy": SPY}
    game = {"game": 7, "state": "finished", "reason": None, "notes": notes}
    shown = Page(game_html(game, inline(kept.get)))
    for png in (CIVILIAN, SPY):
        assert f"data:image/png;base64,{base64.b64encode(png).decode()}" in shown.attributes
    without = Page(game_html(game, inline(lambda name: None)))
    assert not [tag for tag, _ in without.tags if tag == "img"], "none that is not kept"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I say nothing.", "no_box"),
        ("\\boxed{}", "empty"),
        ("\\boxed{Player 2: a lie}", "forged"),
        ("\\boxed{" + "word " * 99 + "}", "too_long"),
        (boxed("one cluecivilian0 too"), None),
    ],
)
def test_a_clue_that_is_none_is_shown_with_its_reason(reply: str, reason: str | None) -> None:
    notes = played(reply, boxed("2"))
    shown = page(notes)
    assert shown.text.count(reply[:40].strip()) == 2, "what was said instead, by replica"
    assert shown.attributes.count("bad") == (2 if reason else 0)
    if reason is not None:
        assert shown.text.count(reason) == 2
    assert reasons_of({"reason": None, "notes": notes}) == ({reason} if reason else set())


def test_what_is_known_of_the_truth_is_told() -> None:
    for claim, told in (("true", "yes"), ("false", "no"), ("maybe", "–")):
        notes = played(boxed(claim), boxed("2"))
        (row, _) = [
            clue for r in notes[NOTE]["replicas"] for clue in r["clues"] if clue["seat"] == 3
        ]
        assert row["is_true"] == {"yes": True, "no": False, "–": None}[told]
        html = game_html(
            {"game": 7, "state": "finished", "reason": None, "notes": notes}, lambda name: None
        )
        assert html.count(f"<td>{told}</td>") >= 2
        assert page(notes).text.count(claim) >= 2


def test_votes_are_counted_by_what_they_say() -> None:
    for vote, told in (
        (boxed("N/A"), "N/A ×3"),
        ("no box", "(no_box) ×3"),
        (boxed("1 or 2"), "(hedged) ×3"),
        (boxed("3"), "player 3 ×3"),
    ):
        shown = page(played(boxed("a"), vote))
        assert told in shown.text
        assert shown.text.count("the spy is not found") == 2
        assert "the spy is found" not in shown.text


def test_no_long_reply_hides_the_others() -> None:
    notes = played(boxed("a"), boxed("2"))
    votes = notes[NOTE]["replicas"][0]["polls"][0]["votes"]
    votes[0]["text"] = "x" * 100_000
    votes[2]["text"] = "the last word"
    shown = page(notes)
    assert "the last word" in shown.text
    assert "x" * MAX_TEXT + "…" in shown.text
    assert "x" * (MAX_TEXT + 1) not in shown.text


BENIGN = {cfg: page(played(boxed("a red cube"), boxed("2"), cfg=cfg)) for cfg in (CFG, BY_RELEASE)}


@pytest.mark.parametrize("cfg", BENIGN, ids=["ours", "release"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_text_is_text(attack: str, cfg: VisionZeroConfig) -> None:
    """Also in clues that the release lets through as they are, and in what a user wrote."""
    pair = FakePair(id=f"id {attack}", domain=f"kind {attack}")
    reply = f"{attack} I think\n\\boxed{{{attack}}}"
    notes = played(reply, reply, cfg=cfg, pair=pair)
    clue = notes[NOTE]["replicas"][0]["clues"][2]
    if cfg is BY_RELEASE:
        assert clue["clue"] == attack.strip()
    shown = page(notes)
    expected = BENIGN[cfg]
    if "invalid" in clue:
        assert [t for t in shown.tags if t != ("span", ("class",))] == expected.tags
        assert [tag for tag in shown.ended if tag != "span"] == expected.ended
    else:
        assert shown.structure == expected.structure
    assert set(shown.attributes) - {"bad"} == set(expected.attributes), "nor in an attribute"
    visible = attack.replace("\x00", "\ufffd")
    for where in (f"id {visible}", f"kind {visible}", f"{visible} I think"):
        assert where in shown.text.replace("\x00", "\ufffd"), where


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*ATTACKS, "<", ">", '"', "'", "&", "&#60;", "/", "=", " a ", "\n", "pre"]),
        max_size=8,
    ).map("".join)
)
def test_whatever_is_said_the_page_has_the_same_parts(said: str) -> None:
    reply = f"{said} \\boxed{{{said}}}"
    shown = page(played(reply, reply, cfg=BY_RELEASE, pair=FakePair(id=said, domain=said)))
    assert shown.structure == BENIGN[BY_RELEASE].structure
    assert shown.attributes == BENIGN[BY_RELEASE].attributes


@pytest.mark.parametrize(
    "note",
    [
        {},
        {"replicas": None},
        {"replicas": "?"},
        {"replicas": [None, 3, {}]},
        {"replicas": [{"clues": [None, "x", {}], "polls": [None, {}, {"votes": [None, {}]}]}]},
        {"spy": "<b>", "pair": ["<b>"], "replicas": [{"clues": 3, "polls": {"votes": 3}}]},
    ],
)
def test_notes_of_another_form_hurt_nothing(note: dict[str, Any]) -> None:
    shown = page({"topic": "x", NOTE: note})
    assert "game 7" in shown.text
    assert str(note.get("spy", "–")) in shown.text
    game = {"reason": None, "notes": {NOTE: note}}
    assert reasons_of(game) == set()
    assert isinstance(rewards_of(game), dict)


# the dashboard's library


@pytest.fixture
def library(tmp_path: Path) -> Library:
    run = RunDir(tmp_path / "run")
    run.create()
    buffer = Buffer.open(run.database)
    for clue, vote in (("\\boxed{a}", boxed("2")), ("nothing", boxed("4")), ("x", boxed("N/A"))):
        cfg = CFG
        number = buffer.start_game("vision_zero")
        notes = played(clue, vote, cfg=cfg)
        notes |= {"picture/civilian": CIVILIAN + vote.encode(), "picture/spy": SPY}
        buffer.end_game(number, notes=notes)
    buffer.close()
    return Library(run, STREAMS)


def test_the_filters_know_the_seats_and_why_clues_were_none(library: Library) -> None:
    assert library.filters() == {"roles": ["civilian", "spy", "voter"], "reasons": ["no_box"]}


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({}, [3, 2, 1]),
        ({"role": "spy"}, [3, 2, 1]),
        ({"role": "voter"}, [3, 2, 1]),
        # Of spy 2: found by all votes -.8, another suspected (.8 / 3), nobody voted for 0.
        ({"role": "spy", "max_reward": "-0.7"}, [1]),
        ({"role": "spy", "min_reward": "0.2", "max_reward": "0.3"}, [2]),
        ({"role": "spy", "min_reward": "-0.1", "max_reward": "0.1"}, [3]),
        ({"role": "voter", "min_reward": "0.9"}, [1]),
        ({"role": "voter", "min_reward": "-0.3", "max_reward": "-0.1"}, [3]),
        # A civilian that gave no clue: .2 below what the votes gave it.
        ({"role": "civilian", "min_reward": "-0.21", "max_reward": "-0.19"}, [3]),
        ({"role": "spy", "min_reward": "0.5"}, []),
        ({"reason": "no_box"}, [3, 2]),
        ({"topic": "OBJECTS"}, [3, 2, 1]),
        ({"topic": "bars"}, []),
        ({"role": "spy", "limit": "2"}, [3, 2]),
    ],
)
def test_games_are_found_by_what_a_seat_earned(
    library: Library, query: dict[str, str], numbers: list[int]
) -> None:
    shown = Page(library.gallery(query))
    opened = [value for value in shown.attributes if value.startswith("game-")]
    assert opened == [f"game-{number}" for number in numbers]


def test_a_seat_of_another_game_is_no_filter(library: Library) -> None:
    with pytest.raises(ValueError, match=r"role: there is no 'solver'; there are civilian, spy"):
        library.gallery({"role": "solver"})
    assert Wanted.of({"role": "spy"}, STREAMS).role == "spy"


def test_the_pictures_of_a_game_are_there(library: Library) -> None:
    shown = Page(library.game(1))
    sources = [value for value in shown.attributes if value.startswith("/image/")]
    names = [source.removeprefix("/image/").removesuffix(".png") for source in sources]
    assert [library.image(name) for name in names] == [CIVILIAN + boxed("2").encode(), SPY]
