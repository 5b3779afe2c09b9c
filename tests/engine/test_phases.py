"""The sequential schedule, on the real admission: one stream at a time, and barriers between."""

from hypothesis import given
from hypothesis import strategies as st

from engine.admission import Admission, AdmissionRules, StreamRule
from engine.phases import Phases

STREAMS = ("proposer", "coder", "solver")


def test_streams_take_turns_for_so_many_steps() -> None:
    phases = Phases(STREAMS, 2)
    seen = []
    for _ in range(7):
        (stream,) = phases.open_streams()
        seen.append((stream, phases.tick({})))
    assert seen == [
        ("proposer", None), ("proposer", "coder phase"), ("coder", None), ("coder", "solver phase"),
        ("solver", None), ("solver", "proposer phase"), ("proposer", None),
    ]  # fmt: skip
    assert phases.number == 1, "the second phase of the proposer"


@given(ticks=st.integers(0, 40), more=st.integers(0, 20), steps=st.integers(1, 5))
def test_a_restored_phase_goes_on_as_it_would_have(ticks: int, more: int, steps: int) -> None:
    one, other = Phases(STREAMS, steps), Phases(STREAMS, steps)
    for _ in range(ticks):
        one.tick({})
    other.restore(one.state(), dict.fromkeys(STREAMS, one.state()))
    for _ in range(more):
        assert one.tick({}) == other.tick({})
        assert one.open_streams() == other.open_streams()
        assert one.numbers() == other.numbers()


def test_a_stream_that_is_finished_has_no_phase() -> None:
    phases = Phases(STREAMS, 3)
    assert phases.open_streams(frozenset({"proposer", "coder"})) == {"solver"}
    assert phases.tick({}) is None
    assert phases.open_streams(frozenset({"solver"})) == {"proposer"}
    assert phases.open_streams(frozenset(STREAMS)) == {"proposer"}, "nothing is left to train"


def test_a_phase_begins_when_the_last_weights_of_the_one_before_are_published() -> None:
    """Else its first games would be played by weights that are about to be replaced."""
    admission = Admission(
        AdmissionRules(
            streams={name: StreamRule(policy=name, max_age=0) for name in STREAMS},
            games_per_step=2,
        )
    )
    for stream in STREAMS[1:]:
        admission.gate(stream, False)
    for game in (1, 2):
        admission.start(game)
        admission.submit(game, "proposer")
        admission.settle(game)
    assert not admission.may_start()
    taken = admission.ready("proposer")
    assert taken is not None
    admission.consume(taken)
    admission.gate("proposer", False)
    admission.gate("coder", True)
    assert not admission.may_start()
    admission.published("proposer", 1)
    assert admission.may_start()
    admission.start(3)
    assert admission.refusal(3, "proposer") == "gate_closed"
    assert admission.refusal(3, "coder") is None
