"""Traces of Iterative-SPO's rule, and the release's alternation (facts/vision_zero.md 3, V8)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.vision_zero.gate import GateRules, GateState, open_streams, tick

PAPER = GateRules(debias=False)


def ticks_to_switch(
    state: GateState, rules: GateRules, accuracy: float, abstention: float = 0.0, most: int = 2000
) -> int | None:
    """Ticks until the stage changes at constant values; None where it does not."""
    for number in range(1, most + 1):
        state, why = tick(state, rules, accuracy, abstention)
        if why is not None:
            return number
    return None


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(1.0, 45), (0.97, 52), (0.95, 58), (0.91, 88), (0.899, None)]
)
def test_the_start_at_zero_delays_the_paper_s_first_switch(
    accuracy: float, expected: int | None
) -> None:
    assert ticks_to_switch(GateState(), PAPER, accuracy) == expected


def test_at_the_threshold_itself_it_never_comes() -> None:
    """In the 100 steps of the paper and long after: the average comes near from below."""
    assert ticks_to_switch(GateState(), PAPER, 0.9, most=500) is None


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.0, 8), (0.25, 13), (0.4, 18), (0.5, 28), (0.6, None)]
)
def test_the_way_back_from_ninety_percent(accuracy: float, expected: int | None) -> None:
    state = GateState(stage="clue", accuracy=0.9, ticks=45)
    assert ticks_to_switch(state, PAPER, accuracy) == expected


def test_without_the_pull_of_the_start_only_the_dwell_counts() -> None:
    assert ticks_to_switch(GateState(), GateRules(), 0.95) == 5
    assert ticks_to_switch(GateState(), GateRules(min_dwell=1), 0.95) == 1
    assert ticks_to_switch(GateState(), GateRules(), 0.89) is None


def test_who_abstains_has_not_found_out() -> None:
    assert ticks_to_switch(GateState(), GateRules(), 1.0, 0.11) is None
    assert ticks_to_switch(GateState(), GateRules(), 1.0, 0.09) == 5


@pytest.mark.parametrize(
    ("accuracy", "abstention", "because"), [(0.0, 0.0, "error"), (1.0, 1.0, "abstention")]
)
def test_error_or_abstention_each_bring_votes_back_after_the_dwell(
    accuracy: float, abstention: float, because: str
) -> None:
    """The bracketed reading: (A or B) and d >= K; unbracketed, A would not wait."""
    state = GateState(stage="clue")
    for _ in range(4):
        state, why = tick(state, GateRules(), accuracy, abstention)
        assert why is None
    state, why = tick(state, GateRules(), accuracy, abstention)
    assert why is not None
    assert why.startswith(f"decision stage: {because} 1.000 >= ")
    assert (state.stage, state.dwell) == ("decision", 0)


def test_a_switch_starts_the_dwell_again_but_not_the_averages() -> None:
    state = GateState()
    for _ in range(5):
        state, why = tick(state, GateRules(), 1.0, 0.0)
    assert why is not None
    assert why.startswith("clue stage: accuracy 1.000 >= 0.9")
    assert (state.stage, state.dwell, state.ticks) == ("clue", 0, 5)
    assert state.averages(GateRules()) == pytest.approx((1.0, 0.0))


def test_patience_forces_a_switch() -> None:
    rules = GateRules(patience=20)
    assert ticks_to_switch(GateState(), rules, 0.5) == 20
    assert ticks_to_switch(GateState(), rules, 1.0) == 5, "a threshold need not wait for it"
    _, why = tick(GateState(dwell=19), rules, 0.5, 0.0)
    assert why == "clue stage: patience ended after 20 steps"


@pytest.mark.parametrize("cycle", [1, 3, 10])
def test_the_release_alternates_and_step_0_is_a_decision(cycle: int) -> None:
    """V8. Neither accuracy nor the dwell has a say."""
    state = GateState()
    stages = []
    for _ in range(40):
        stages.append(state.stage)
        state, _ = tick(state, GateRules(switch="cycle", cycle=cycle), 1.0, 0.0)
    assert stages == [("decision", "clue")[step // cycle % 2] for step in range(40)]


def test_the_release_s_cycle_where_none_is_given() -> None:
    assert ticks_to_switch(GateState(), GateRules(switch="cycle"), 0.5) == 10


def test_both_rules_whichever_comes_first() -> None:
    rules = GateRules(switch="both", cycle=12)
    assert ticks_to_switch(GateState(), rules, 1.0) == 5
    assert ticks_to_switch(GateState(), rules, 0.5) == 12


@pytest.mark.parametrize("field", ["cycle", "min_dwell", "patience"])
def test_spans_are_one_tick_or_more(field: str) -> None:
    """Cycle 0 is a ZeroDivisionError in the release."""
    with pytest.raises(ValueError, match=field):
        GateRules(**{field: 0})


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_average_forgets(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        GateRules(decay=decay)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_rates_are_rates(value: float) -> None:
    for rates in ((value, 0.0), (0.0, value)):
        with pytest.raises(ValueError, match="not in"):
            tick(GateState(), GateRules(), *rates)


def test_a_step_without_games_only_takes_time() -> None:
    state, why = tick(GateState(accuracy=0.5, ticks=3, dwell=1), GateRules(), None, None)
    assert why is None
    assert state == GateState(accuracy=0.5, ticks=3, dwell=2)
    assert ticks_to_switch(GateState(stage="clue"), GateRules(), 0.0) == 5
    nothing_seen = GateState(stage="clue", dwell=50)
    assert tick(nothing_seen, GateRules(), None, None)[1] is None, "no error was seen either"


def test_a_debiased_average_of_few_games_switches_nothing() -> None:
    """Steps without games take time and tell nothing; what one probe game tells is 0 or 1."""
    state = GateState(dwell=50)
    for _ in range(4):
        state, why = tick(state, GateRules(), 1.0, 0.0)
        assert why is None
        state, why = tick(state, GateRules(), None, None)
        assert why is None
    _, why = tick(state, GateRules(), 1.0, 0.0)
    assert why is not None
    one_miss = GateState(stage="clue", dwell=50)
    assert tick(one_miss, GateRules(), 0.0, 0.0)[1] is None
    assert tick(one_miss, PAPER, 0.0, 0.0)[1] is not None, "as printed"


RATES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)


@given(RATES, st.sampled_from(["threshold", "cycle", "both"]), st.booleans())
def test_a_restored_gate_goes_on_alike(
    rates: list[tuple[float, float]], switch: str, debias: bool
) -> None:
    rules = GateRules(switch=switch, cycle=7, debias=debias, patience=15)  # type: ignore[arg-type]
    one = other = GateState()
    for pair in rates:
        one, why = tick(one, rules, *pair)
        restored = GateState.from_json(json.loads(json.dumps(other.to_json())))
        other, again = tick(restored, rules, *pair)
        assert (other, again) == (one, why)


@given(st.lists(st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1))), st.integers(1, 8))
def test_no_threshold_is_passed_before_enough_was_seen(
    rates: list[tuple[float, float] | None], least: int
) -> None:
    state, seen = GateState(), 0
    for pair in rates:
        state, why = tick(state, GateRules(min_dwell=least), *(pair or (None, None)))
        seen += pair is not None
        assert why is None or seen >= least


@given(RATES)
def test_debiased_averages_lie_between_what_was_seen(rates: list[tuple[float, float]]) -> None:
    state = GateState()
    for pair in rates:
        state, _ = tick(state, GateRules(), *pair)
    for average, seen in zip(state.averages(GateRules()), zip(*rates, strict=True), strict=True):
        assert min(seen) - 1e-9 <= average <= max(seen) + 1e-9


def test_no_stream_is_open_in_both_stages() -> None:
    """The release's clue steps trained the votes too (bug 1)."""
    assert open_streams("decision") == {"voter"}
    assert open_streams("clue") == {"civilian", "spy"}
