"""Whole games of Vision-Zero on fake players and a fake pair: who is asked what, and which groups
and notes come of it."""

import json
import re
from collections import Counter

import pytest

from engine.admission import Admission, AdmissionRules, StreamRule
from roles.vision_zero.config import VOTER
from roles.vision_zero.curves import leads, play_curves
from roles.vision_zero.gallery import NOTE
from roles.vision_zero.recipe import FUNNEL, STREAMS, is_among, spy_seat
from tests.roles.vision_zero.spy_fakes import (
    CIVILIAN,
    SPY,
    Asked,
    ballot,
    boxed,
    config,
    credit,
    game_with_spy,
    play_all,
    polls,
    seats,
)

REPLICAS = config(replicas=3, num_votes=5, clue_credit=credit("replica"))


# who is asked what


def test_every_seat_speaks_in_its_turn_and_reads_what_was_said_before() -> None:
    spy = 3
    table = seats(polls(ballot(5)), game_with_spy(spy, REPLICAS))
    play_all(REPLICAS, table)
    assert table.spy_game["spy"] == spy
    replicas = table.spy_game["replicas"]
    assert len(replicas) == 3
    for replica in replicas:
        clues = replica["clues"]
        places = [(clue["round"], clue["seat"]) for clue in clues]
        assert places == [(r, s) for r in (1, 2) for s in (1, 2, 3, 4)]
        for number, clue in enumerate(clues):
            (asked,) = table.by_reply[clue["text"]]
            assert asked.seat == clue["seat"]
            assert asked.role == ("spy" if clue["seat"] == spy else "civilian")
            assert clue["is_spy"] == (clue["seat"] == spy)
            assert asked.images == (SPY if clue["seat"] == spy else CIVILIAN,)
            assert f"in round {clue['round']} of 2" in asked.text
            assert asked.rows == [
                {"round": c["round"], "player": c["seat"], "clue": c["clue"]}
                for c in clues[:number]
            ]
            own = [c["text"] for c in clues[:number] if c["seat"] == clue["seat"]]
            thoughts = [text.partition(". ")[0] for text in own]
            assert re.findall(r"thought-\w+", asked.text) == thoughts, "its own alone"
            hint = "THE-SPY" if clue["seat"] == spy else "CIVILIANS"
            assert re.findall(r"HINT-OF-([A-Z-]+)", asked.text) == [hint]
    every = [clue["clue"] for replica in replicas for clue in replica["clues"]]
    assert len(set(every)) == 3 * 8, "replicas share no clue"


def test_the_judge_reads_one_replica_whole_and_nobody_s_thoughts() -> None:
    table = seats(polls(ballot(5)), game_with_spy(1, REPLICAS))
    play_all(REPLICAS, table)
    read = []
    for asked in table.of_role(VOTER):
        assert asked.seat is None
        assert asked.images == (CIVILIAN,)
        assert "thought-" not in asked.text
        assert "THE-SPY" not in asked.text
        read.append([row["clue"] for row in asked.rows])
    assert sorted(read) == sorted(
        [clue["clue"] for clue in replica["clues"]] for replica in table.spy_game["replicas"]
    )


def test_requests_are_those_of_the_config() -> None:
    table = seats(polls(ballot(5)), 0)
    play_all(REPLICAS, table)
    assert Counter((a.role, a.n) for a in table.asked) == {
        ("civilian", 1): 3 * 3 * 2, ("spy", 1): 3 * 2, (VOTER, 5): 3,
    }  # fmt: skip
    for asked in table.asked:
        wanted = (17, 1.0) if asked.role == VOTER else (31, 0.9)
        assert (asked.params.max_new_tokens, asked.params.temperature) == wanted
        assert asked.params.is_trainable


def test_the_seats_of_a_replica_wait_for_each_other_but_replicas_do_not() -> None:
    """With one slow replica the others are through before it gave its second clue."""
    slow = {"first": ""}

    def wait(asked: Asked) -> int:
        if not asked.rows and not slow["first"]:
            slow["first"] = asked.text
            return 500
        return 1

    table = seats(polls(ballot(5)), game_with_spy(4, REPLICAS), wait=wait)
    play_all(REPLICAS, table)
    order = [(asked.role, len(asked.rows)) for asked in table.asked]
    assert order.index((VOTER, 8)) < len(order) - 8
    assert [rows for _, rows in order[-8:]] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("num_players", [3, 4, 5, 9])
def test_in_as_many_games_as_there_are_seats_each_is_the_spy_s_once(num_players: int) -> None:
    for times in range(50):
        games = range(times * num_players, (times + 1) * num_players)
        assert sorted(spy_seat(game, num_players) for game in games) == [*range(1, num_players + 1)]


@pytest.mark.parametrize(("mm_zero", "vision_zero"), [(2, 2), (1, 3), (2, 3), (3, 1)])
def test_each_seat_is_the_spy_s_beside_another_recipe(mm_zero: int, vision_zero: int) -> None:
    """Games are numbered through all recipes of a run, which start in a fixed pattern."""
    rules = AdmissionRules(
        streams={
            "solver": StreamRule(policy="p", recipe="mm_zero", max_age=1000),
            "voter": StreamRule(policy="p", recipe="vision_zero", max_age=1000),
        },
        games_per_step=1,
        games_of={"mm_zero": mm_zero, "vision_zero": vision_zero},
    )
    admission = Admission(rules)
    played: Counter[int] = Counter()
    for game in range(1, 801):
        recipe = admission.next_recipe()
        assert recipe is not None
        admission.start(game, recipe)
        if recipe == "vision_zero":
            played[spy_seat(game, 4)] += 1
    shares = [played[seat] / played.total() for seat in (1, 2, 3, 4)]
    assert all(0.18 < share < 0.32 for share in shares), shares


def test_probes_do_not_prefer_a_seat() -> None:
    played = Counter(spy_seat(game, 4) for game in range(20_000) if is_among(game, 0.05))
    assert played.total() == pytest.approx(1000, abs=3)
    assert all(200 < played[seat] < 300 for seat in (1, 2, 3, 4)), played


# groups


def test_a_game_makes_one_group_of_each_side_and_one_for_each_poll() -> None:
    game = game_with_spy(2, REPLICAS)
    table = seats(polls(ballot(1, 2, 1, na=1), ballot(0, 5), ballot(0, 0, 4, invalid=1)), game)
    play_all(REPLICAS, table)
    assert Counter(group.stream for group in table.groups) == {
        "civilian": 1, "spy": 1, VOTER: 3,
    }  # fmt: skip
    assert set(STREAMS) == set(FUNNEL) == {"civilian", "spy", VOTER}
    (civilians,), (spies,) = table.stream("civilian"), table.stream("spy")
    clues = [clue for replica in table.spy_game["replicas"] for clue in replica["clues"]]
    for group, is_spy in ((civilians, False), (spies, True)):
        own = [clue for clue in clues if clue["is_spy"] == is_spy]
        assert [rollout.text for rollout in group.rollouts] == [clue["text"] for clue in own]
        assert group.advantages == tuple(clue["advantage"] for clue in own)
        assert group.rewards == pytest.approx([clue["reward"] for clue in own])
        assert all(set(terms) == {"votes", "invalid"} for terms in group.terms)
        assert group.extra["usable"] == len(own)
    assert (len(civilians.rollouts), len(spies.rollouts)) == (3 * 3 * 2, 3 * 2)
    for group in table.groups:
        assert group.game == game
        assert group.extra["drop"] is None
        for reward, terms in zip(group.rewards, group.terms, strict=True):
            assert reward == pytest.approx(sum(terms.values()))
    for group in table.stream(VOTER):
        assert group.advantages is None, "the learner makes them group-relative"
        assert len(group.rollouts) == 5
    assert [group.extra["usable"] for group in table.stream(VOTER)] == [5, 5, 4]
    # Right 1, abstains -.2, wrong -1, unreadable -1.2, of spy 2:
    first, second, third = (group.rewards for group in table.stream(VOTER))
    assert first == pytest.approx((-1, 1, 1, -1, -0.2))
    assert second == pytest.approx((1,) * 5)
    assert third == pytest.approx((-1, -1, -1, -1, -1.2))
    assert table.stream(VOTER)[2].terms[4] == {"decision": -1.0, "format": -0.2}


def test_every_round_is_judged_where_each_is_credited() -> None:
    cfg = config(replicas=2, num_votes=4, num_rounds=3, clue_credit=credit(turns="round_delta"))
    table = seats(polls(ballot(4)), game_with_spy(2, cfg))
    play_all(cfg, table)
    assert len(table.stream(VOTER)) == 2 * 3
    assert sorted(len(asked.rows) for asked in table.of_role(VOTER)) == [4, 4, 8, 8, 12, 12]


def test_what_is_kept_is_plain_data() -> None:
    hostile = 'line\nbreak "quoted" \ud800 \x00 </details> \u2028'
    cfg = config(replicas=2, num_votes=2, clue_credit=credit("replica"))
    table = seats(
        lambda asked, i: (boxed("2"), "no box " + hostile)[i],
        game_with_spy(1, cfg),
        clue=lambda asked, _: "nothing " + hostile if asked.seat == 3 else boxed(f"c{asked}"),
    )
    play_all(cfg, table)
    for group in table.groups:
        for data in (dict(group.extra), [dict(terms) for terms in group.terms]):
            assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert isinstance(table.notes["picture/civilian"], bytes)
    assert table.notes["picture/spy"] == SPY
    assert table.notes["topic"] == "objects, edited"
    assert json.loads(json.dumps(table.spy_game, allow_nan=False)) == table.spy_game
    assert set(table.notes) == {"topic", "picture/civilian", "picture/spy", NOTE}


def test_a_group_names_the_versions_of_all_who_had_a_hand_in_its_rewards() -> None:
    def clue(asked: Asked, _: int) -> str:
        table.version = len(asked.rows)  # 0 to 7
        return boxed(f"c{asked.role}{asked.number}")

    def vote(asked: Asked, i: int) -> str:
        table.version = 10 + asked.number
        return boxed("1")

    cfg = config(replicas=2, num_votes=2, clue_credit=credit("replica"))
    table = seats(vote, game_with_spy(2, cfg), clue=clue)
    play_all(cfg, table)
    spans = {"civilian": (0, 7), "spy": (1, 5), VOTER: (10, 11)}
    for stream in ("civilian", "spy"):
        (group,) = table.stream(stream)
        assert dict(group.versions) == spans, "clues are judged by votes, in all replicas"
        assert group.policy == stream
    assert [dict(group.versions) for group in table.stream(VOTER)] == [
        {VOTER: (10, 10)}, {VOTER: (11, 11)},
    ]  # fmt: skip


def test_all_seats_of_one_policy_are_one_span() -> None:
    table = seats(polls(ballot(8)), 0, policies=dict.fromkeys(STREAMS, "player"), version=3)
    play_all(config(), table)
    assert {group.policy for group in table.groups} == {"player"}
    assert all(dict(group.versions) == {"player": (3, 3)} for group in table.groups)


@pytest.mark.parametrize(
    ("received", "bar"),
    [
        ([0, 8, 0, 0], "2/3 to 1"),  # Psi 1
        ([2, 2, 2, 2], "0 to 1/3"),  # 0
        ([0, 0, 0, 0], "0 to 1/3"),  # 0: all abstained
        ([8, 0, 0, 0], "below 0"),  # -1/3
        ([2, 4, 1, 1], "1/3 to 2/3"),  # 1/3
        ([1, 6, 1, 0], "2/3 to 1"),  # 2/3
    ],
)
def test_how_far_the_spy_leads(received: list[int], bar: str) -> None:
    poll = {"received": received, "votes": [{}] * 8}
    found = leads([{"spy": 2, "replicas": [{"polls": [poll]}]}])
    assert found == {name: float(name == bar) for name in found}
    assert list(leads([]).values()) == [None] * 4


def test_the_curves_are_made_of_the_note() -> None:
    cfg = config(num_rounds=1)
    said = {1: "true a", 2: "false b", 3: "maybe c", 4: None}

    def clue(asked: Asked, _: int) -> str:
        content = said[asked.seat or 0]
        return "nothing" if content is None else boxed(content)

    table = seats(polls(ballot(2, 4, na=1, invalid=1)), game_with_spy(2, cfg), clue=clue)
    play_all(cfg, table)
    note = json.loads(json.dumps(table.spy_game))
    assert play_curves([note]) == {
        "Votes": {
            "spy found": 1.0, "votes for the spy": 0.5, "abstained": 0.125, "unreadable": 0.125,
        },
        "Clues true of the civilians' picture": {"civilian": 1.0, "spy": 0.0},
        "Clues that can be read": {"civilian": pytest.approx(2 / 3), "spy": 1.0},
        "Different clues in a game": {"all": 0.75},
        "Words of a clue": {"civilian": 2.0, "spy": 2.0},
        # (4 - mean(2, 0, 0)) of 8 votes
        "Psi, votes for the spy above a civilian's: share of games": {
            "below 0": 0.0, "0 to 1/3": 0.0, "1/3 to 2/3": 1.0, "2/3 to 1": 0.0,
        },
        "Votes received, by seat": {
            "seat 1": pytest.approx(1 / 3), "seat 2": pytest.approx(2 / 3),
            "seat 3": 0.0, "seat 4": 0.0,
        },
    }  # fmt: skip
