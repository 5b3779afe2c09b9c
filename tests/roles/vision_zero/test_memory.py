"""What the games of a run share: baselines, the gate, the stop-loss; and that it survives."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.stages import Gate
from roles.vision_zero.config import STREAMS, VisionZeroConfig
from roles.vision_zero.memory import Health, Memory
from tests.roles.vision_zero.spy_fakes import FakePair, ballot, replica_of

VOTES, CLUES = frozenset({"voter"}), frozenset({"civilian", "spy"})
FOUND, MISSED, SILENT = ballot(0, 4), ballot(4), ballot(na=4)
"""By four votes, of a spy at seat 2."""


def config(**changes: Any) -> VisionZeroConfig:
    given = {"num_rounds": 1, "num_votes": 4, "replicas": 2, "probe_share": 0.0}
    return VisionZeroConfig(**(given | changes))


def gate(**changes: Any) -> dict[str, Any]:
    return {"min_dwell": 1, "decay": 0.0, **changes}


def hear(
    memory: Memory,
    cfg: VisionZeroConfig,
    *votes: Sequence[str],
    clues: Sequence[str] = (),
    is_probe: bool = False,
) -> Any:
    """A game of these polls, one replica each; what its clues earned."""
    replicas = [replica_of(cfg, 2, vote, clues=clues) for vote in votes]
    earned = memory.credit(FakePair(), 2, replicas)
    memory.remember(replicas, 2, is_probe=is_probe)
    return earned


def test_it_is_a_gate() -> None:
    memory: Gate = Memory(config())
    assert memory.open_streams() == VOTES
    assert set(STREAMS) == VOTES | CLUES


def test_a_tick_hears_every_game_since_the_last_one_once() -> None:
    cfg = config(gate=gate(votes_from_error=0.6))
    memory = Memory(cfg)
    hear(memory, cfg, FOUND, MISSED)
    hear(memory, cfg, FOUND, FOUND)
    assert memory.tick({}) is None, ".75 is below .9"
    assert memory.numbers() == {"accuracy": 0.75, "abstention": 0.0, "trains clues": 0.0}
    hear(memory, cfg, FOUND, FOUND)
    said = memory.tick({})
    assert said is not None
    assert said.startswith("clue stage: accuracy 1.000 >= 0.9")
    assert memory.open_streams() == CLUES
    assert memory.numbers() == {"accuracy": 1.0, "abstention": 0.0, "trains clues": 1.0}
    for _ in range(5):
        assert memory.tick({}) is None, "no game, no news"
    hear(memory, cfg, SILENT, SILENT)
    said = memory.tick({})
    assert said is not None
    assert said.startswith("decision stage: error 1.000 >= 0.6")
    assert memory.numbers() == {"accuracy": 0.0, "abstention": 1.0, "trains clues": 0.0}


def test_with_probes_other_games_are_not_heard() -> None:
    cfg = config(probe_share=0.5, gate=gate())
    memory = Memory(cfg)
    hear(memory, cfg, FOUND, FOUND)
    assert memory.tick({}) is None
    assert memory.numbers()["accuracy"] == 0.0
    hear(memory, cfg, FOUND, FOUND, is_probe=True)
    hear(memory, cfg, MISSED, MISSED)
    assert memory.tick({}) is not None
    assert memory.numbers()["accuracy"] == 1.0


def test_with_the_gate_off_all_streams_train_for_ever() -> None:
    cfg = config(gate={"switch": "off"})
    memory = Memory(cfg)
    for votes in (FOUND, MISSED, SILENT) * 10:
        hear(memory, cfg, votes, votes, clues=["same"] * 4)
        assert memory.open_streams() == set(STREAMS)
        assert memory.tick({}) is None
        assert memory.numbers() == {}
    other = Memory(cfg)
    other.restore(json.loads(json.dumps(memory.state())), {})
    assert other.state() == memory.state()
    assert other.open_streams() == set(STREAMS)


# the stop-loss


def test_health_is_a_plain_mean_at_first_and_then_moves() -> None:
    cfg = config()
    health = Health()
    # Of four turns: none unreadable; then two, of which one a repetition; then all four.
    lots = [["a", "b", "c", "d"], ["a", "b", "a", ""], ["", "", "", ""]]
    games = [[replica_of(cfg, 2, FOUND, clues=clues)] for clues in lots]
    seen = []
    for replicas in games:
        health = health.after(replicas, 0.5)
        seen.append((health.unreadable, health.distinct))
    assert seen == [(0.0, 1.0), (0.25, 0.75), (pytest.approx(0.625), pytest.approx(0.375))]
    slow = Health()
    for replicas in games:
        slow = slow.after(replicas, 0.99)
    assert (slow.unreadable, slow.distinct) == (pytest.approx(0.5), pytest.approx(0.5))


@pytest.mark.parametrize(
    ("clues", "complaint"),
    [
        (["a", "b", "x", ""], None),  # a quarter can't be read
        (["a", "b", "", ""], "decision stage: 50% of the clues can't be read"),
        ([""] * 4, "decision stage: 100% of the clues can't be read"),
    ],
)
def test_clues_that_are_none_are_not_trained(clues: list[str], complaint: str | None) -> None:
    cfg = config(gate=gate(switch="cycle", cycle=2))
    memory = Memory(cfg)
    stages, said = [], []
    for number in range(8):
        # At first all is well, so that the stage of clues begins.
        hear(memory, cfg, FOUND, FOUND, clues=clues if number >= 2 else "abcd")
        said.append(memory.tick({}))
        stages.append(memory.open_streams())
    assert said[1] == "clue stage: every 2 steps"
    assert stages[1] == CLUES
    if complaint is None:
        assert stages == [VOTES, CLUES, CLUES, VOTES, VOTES, CLUES, CLUES, VOTES]
    else:
        assert CLUES not in stages[2:]
        assert said[2:] == [complaint] + [None] * 5, "told once"


def test_a_stop_is_told_with_its_reason() -> None:
    cfg = config(gate=gate(switch="cycle", cycle=3))
    memory = Memory(cfg)
    memory.restore(memory.state() | {"gate": {**memory.state()["gate"], "stage": "clue"}}, {})
    assert memory.open_streams() == CLUES
    hear(memory, cfg, FOUND, FOUND, clues=["a", "", "", ""])
    assert memory.tick({}) == "decision stage: 75% of the clues can't be read"
    assert memory.open_streams() == VOTES
    assert memory.tick({}) is None
    assert memory.tick({}) is None
    assert memory.tick({}) is None, "it would be the turn of clues"
    assert memory.open_streams() == VOTES


def test_clues_that_were_never_good_enough_are_told_of_once() -> None:
    cfg = config(gate=gate(switch="cycle", cycle=2))
    memory = Memory(cfg)
    said = []
    for _ in range(3):
        hear(memory, cfg, FOUND, FOUND, clues=[""] * 4)
        said.append(memory.tick({}))
    again = Memory(cfg)
    again.restore(json.loads(json.dumps(memory.state())), {})
    said += [again.tick({}) for _ in range(4)]
    assert said == [None, "clues must wait: 100% of the clues can't be read"] + [None] * 5
    assert again.open_streams() == VOTES


def test_clues_that_wait_get_their_turn_in_the_end() -> None:
    """Votes alone never teach who gives clues to box them."""
    cfg = config(gate=gate(min_dwell=2, max_wait=5))
    memory, told, stages = Memory(cfg), [], ""
    for number in range(24):
        if number == 11:
            memory, state = Memory(cfg), json.loads(json.dumps(memory.state()))
            memory.restore(state, {})
        hear(memory, cfg, FOUND, FOUND, clues=["a", "b", "", ""])
        said = memory.tick({})
        told += [(number, said)] if said else []
        stages += "C" if memory.open_streams() == CLUES else "v"
    sick = "50% of the clues can't be read"
    assert told == [
        (1, f"clues must wait: {sick}"),
        (7, f"clue stage after 6 steps, though {sick}"),
        (9, f"decision stage: {sick}"),
        (15, f"clue stage after 6 steps, though {sick}"),
        (17, f"decision stage: {sick}"),
        (23, f"clue stage after 6 steps, though {sick}"),
    ]
    assert stages == "vvvvvvvCCvvvvvvCCvvvvvvC"


def test_a_turn_that_mends_the_clues_goes_on() -> None:
    cfg = config(gate=gate(min_dwell=2, max_wait=2, decay=0.5))
    memory, stages = Memory(cfg), ""
    for _ in range(14):
        mended = stages.count("C") > 0
        hear(memory, cfg, FOUND, FOUND, clues="abcd" if mended else ["a", "b", "", ""])
        memory.tick({})
        stages += "C" if memory.open_streams() == CLUES else "v"
    assert stages.lstrip("v") == "C" * len(stages.lstrip("v"))
    assert len(stages.lstrip("v")) > 8


def test_clues_stop_while_their_policy_is_too_far_from_its_reference() -> None:
    cfg = config(gate=gate(switch="cycle", cycle=2, max_kl=0.5, max_wait=1))

    def learnt(memory: Memory, **kl: float) -> tuple[str | None, frozenset[str]]:
        hear(memory, cfg, FOUND, FOUND)
        said = memory.tick({stream: {"reference_kl": value} for stream, value in kl.items()})
        return said, memory.open_streams()

    memory = Memory(cfg)
    assert learnt(memory, civilian=0.1, spy=0.1, voter=0.9) == (None, VOTES)
    assert learnt(memory, voter=0.9)[1] == CLUES, "a voter may be where it is"
    assert learnt(memory, civilian=0.1, spy=0.6) == (
        "decision stage: who gives clues is 0.6 nats per token from the reference",
        VOTES,
    )
    again = Memory(cfg)
    again.restore(json.loads(json.dumps(memory.state())), {})
    for one in (memory, again):  # it is known after a restart, and it would be the turn of clues
        assert [learnt(one) for _ in range(4)] == [(None, VOTES)] * 4
    assert CLUES in [learnt(memory, civilian=0.1, spy=0.4)[1] for _ in range(2)]


def test_clues_that_recover_are_trained_again() -> None:
    cfg = config(gate=gate(switch="cycle", cycle=1, decay=0.5))
    memory = Memory(cfg)
    hear(memory, cfg, FOUND, FOUND, clues=[""] * 4)
    assert memory.tick({}) == "clues must wait: 100% of the clues can't be read"
    opened = []
    for _ in range(4):  # 1/2 of the first two games, then 1/4 can't be read
        hear(memory, cfg, FOUND, FOUND)
        memory.tick({})
        opened.append(memory.open_streams())
    assert opened == [VOTES, CLUES, VOTES, CLUES]


@pytest.mark.parametrize("preset", ["vz_paper", "vz_code"])
def test_neither_the_paper_nor_the_release_has_a_stop_loss(preset: str) -> None:
    cfg = VisionZeroConfig(preset=preset)
    assert Health(unreadable=1.0, distinct=0.0, games=99).complaint(cfg.gate) is None
    ours = VisionZeroConfig().gate
    assert Health(unreadable=0.31, games=1).complaint(ours) == "31% of the clues can't be read"
    assert Health(distinct=0.29, games=1).complaint(ours) == (
        "only 29% of the turns bring a clue of their own"
    )
    assert Health(unreadable=0.3, distinct=0.3, games=1).complaint(ours) is None


# survival


VOTE = st.lists(st.sampled_from(["1", "2", "2", "2", "3", "4", "N/A", "?"]), min_size=4, max_size=4)
CLUE = st.lists(st.sampled_from(["a", "b", "c", "d", ""]), min_size=8, max_size=8)
STEPS = st.lists(
    st.just("tick") | st.tuples(VOTE, VOTE, VOTE, VOTE, CLUE, st.booleans()),
    min_size=2,
    max_size=14,
)
SETTINGS = [
    {"clue_credit": {"baseline": "rae", "decay": 0.6}},
    {"clue_credit": {"baseline": "rae", "decay": 0.6, "turns": "round_delta"}},
    {"clue_credit": {"baseline": "rae_post", "decay": 0.9, "scaled": False}},
    {"clue_credit": {"baseline": "replica", "decay": 0.9}, "probe_share": 0.5},
    {"clue_credit": {"baseline": "replica"}, "gate": {"switch": "both", "cycle": 3}},
    {"preset": "vz_code"},
    {"clue_credit": {"baseline": "replica"}, "gate": {"switch": "off"}},
]


def after(memory: Memory, cfg: VisionZeroConfig, step: Any) -> Any:
    """What it says to one step, with all that can be seen of it."""
    if step == "tick":
        said: Any = memory.tick({})
    else:
        first, second, third, fourth, clues, is_probe = step
        by_round = cfg.clue_credit.turns == "round_delta"
        replicas = [
            replica_of(cfg, 2, *votes, clues=clues)
            for votes in ([(first, second), (third, fourth)] if by_round else [(first,), (third,)])
        ]
        said = memory.credit(FakePair(), 2, replicas)
        memory.remember(replicas, 2, is_probe=is_probe)
    return said, memory.open_streams(), memory.numbers()


@settings(max_examples=80, deadline=None)
@given(STEPS, st.sampled_from(SETTINGS), st.randoms())
def test_a_restored_memory_says_what_the_first_one_would_have_said(
    steps: list[Any], changes: dict[str, Any], rng: random.Random
) -> None:
    """Whenever it was saved, also between a game's end and the next tick."""
    cfg = config(**({"num_rounds": 2} | changes | {"replicas": 2}))
    first, other = Memory(cfg), Memory(cfg)
    cut = rng.randrange(len(steps))
    for step in steps[:cut]:
        after(first, cfg, step)
    after(other, cfg, "tick")  # whatever it was before
    other.restore(json.loads(json.dumps(first.state(), allow_nan=False)), {})
    assert other.state() == first.state()
    for step in steps[cut:]:
        assert after(other, cfg, step) == after(first, cfg, step)
    assert other.state() == first.state()


def test_a_saved_state_does_not_change_with_what_comes_later() -> None:
    cfg = config()
    memory = Memory(cfg)
    hear(memory, cfg, FOUND, MISSED)
    state = memory.state()
    saved = json.dumps(state)
    hear(memory, cfg, MISSED, SILENT)
    memory.tick({})
    assert json.dumps(state) == saved
    memory.restore(state, {})
    hear(memory, cfg, MISSED, SILENT)
    assert json.dumps(state) == saved


@pytest.mark.parametrize("damage", ["gate", "baselines", "health", "found"])
def test_a_state_of_another_kind_is_an_error(damage: str) -> None:
    state = Memory(config()).state()
    for other in ({k: v for k, v in state.items() if k != damage}, state | {damage: 3}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Memory(config()).restore(other, {})
