"""The older voter: asked about the clues of some games, it trains nobody, and shows a code."""

from typing import Any

import pytest

from engine.errors import ConfigError
from launch.config import followers, load_root
from launch.gallery import game_html
from launch.library import reasons_of
from launch.preflight import check_before_start
from launch.recipe import STREAMS
from launch.signs import signs
from roles.vision_zero.config import FROZEN, VOTER, VisionZeroConfig
from roles.vision_zero.curves import MIN_VOTES, play_curves
from tests.e2e.command import ROOT
from tests.roles.vision_zero.spy_fakes import (
    Asked,
    Seats,
    ballot,
    boxed,
    config,
    game_with_spy,
    play_all,
    polls,
)

CHART = "Votes for the spy on the same clues"
CONFIG = ROOT / "launch/configs/vision_zero.yaml"


def speak(asked: Asked, _: int) -> str:
    return boxed(f"clue {asked.role}{asked.number}")


def table_of(game: int, current: list[str], frozen: list[str]) -> Seats:
    return Seats(
        {"civilian": speak, "spy": speak, VOTER: polls(current), FROZEN: polls(frozen)}, game
    )


def settings(**changes: Any) -> VisionZeroConfig:
    return config(num_votes=8, frozen_every=5, frozen_share=1.0, **changes)


def test_it_votes_on_the_same_clues_and_trains_nobody() -> None:
    cfg = settings()
    table = table_of(game_with_spy(2, cfg), ballot(0, 8), ballot(8))
    play_all(cfg, table)
    (frozen,) = table.of_role(FROZEN)
    (current,) = table.of_role(VOTER)
    assert frozen.rows == current.rows
    assert frozen.rows
    assert (frozen.n, frozen.images, frozen.params) == (8, current.images, current.params)
    assert {group.stream for group in table.groups} == {"civilian", "spy", VOTER}
    assert all(FROZEN not in group.versions for group in table.groups)
    assert table.spy_game["frozen"]["found"] is False
    assert table.spy_game["replicas"][0]["polls"][-1]["found"] is True


def test_it_is_asked_in_its_share_of_the_games_or_never() -> None:
    cfg = settings().model_copy(update={"frozen_share": 0.25})
    asked = 0
    for game in range(1, 201):
        table = table_of(game, ballot(8), ballot(8))
        play_all(cfg, table)
        asked += len(table.of_role(FROZEN))
    assert 47 <= asked <= 53
    off = config(num_votes=8)
    table = table_of(0, ballot(8), ballot(8))
    play_all(off, table)
    assert not table.of_role(FROZEN)
    assert "frozen" not in table.spy_game


def notes_of(num: int, current: list[str], frozen: list[str]) -> list[dict[str, Any]]:
    cfg = settings()
    found, game = [], -1
    for _ in range(num):
        game = game_with_spy(2, cfg, after=game)
        table = table_of(game, current, frozen)
        play_all(cfg, table)
        found.append(table.spy_game)
    return found


def test_votes_that_only_the_current_voter_gets_right_are_an_alarm() -> None:
    enough = MIN_VOTES // 8
    curves = play_curves(notes_of(enough, ballot(1, 7), ballot(6, 2)))
    assert curves[CHART] == {"current": 7 / 8, "frozen": 2 / 8}
    (alarm,) = [a for a in signs([{"kind": "groups", "play": curves}]) if a.name == "private_code"]
    assert "88% of the votes are right, and 25% of an older voter's" in alarm.sentence

    alike = play_curves(notes_of(enough, ballot(1, 7), ballot(2, 6)))
    assert not [a for a in signs([{"kind": "groups", "play": alike}]) if a.name == "private_code"]
    few = play_curves(notes_of(enough - 1, ballot(1, 7), ballot(6, 2)))
    assert CHART not in few


def test_people_see_its_vote_and_why_votes_came_to_nothing() -> None:
    (note,) = notes_of(1, ballot(0, 6, invalid=2), ballot(8))
    game = {
        "game": 1,
        "state": "finished",
        "reason": None,
        "notes": {"topic": "", "spy_game": note},
    }
    html = game_html(game, lambda name: name, is_open=True, links=False)
    assert "an older voter, on replica 1" in html
    assert "<th>round</th>" in html
    votes = note["replicas"][0]["polls"][0]["votes"]
    reasons = {vote["vote"].partition(":")[0] for vote in votes if isinstance(vote["vote"], str)}
    assert reasons
    assert reasons <= reasons_of(game)
    assert VOTER in STREAMS


def test_it_needs_servers_of_its_own() -> None:
    wanted = load_root(CONFIG, ["recipe.frozen_every=20"])
    assert {n: (f.policy, f.every) for n, f in followers(wanted).items()} == {
        FROZEN: ("player", 20)
    }
    with pytest.raises(ConfigError, match=r"frozen_voter.*layout\.servers\.0\.policies="):
        check_before_start(wanted, resume=False)


def test_more_players_than_a_held_out_scene_can_tell_apart_are_refused_before_the_start() -> None:
    many = load_root(CONFIG, ["recipe.num_players=8", "run.name=never-made"])
    with pytest.raises(ConfigError, match=r"recipe\.num_players: 8 .*eval\.heldout_items=0"):
        check_before_start(many, resume=False)
    unmeasured = ["eval.heldout_items=0", "eval.dev_items=0"]
    check_before_start(
        load_root(CONFIG, ["recipe.num_players=8", "run.name=never-made", *unmeasured]),
        resume=False,
    )
