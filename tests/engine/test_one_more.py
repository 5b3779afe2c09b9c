"""Where one more device would help, on cases that can be worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.monitor.one_more import MIN_BUSY, MIN_GAIN, MIN_SHARE, Units, one_more


def test_the_busiest_kind_gets_it_and_the_next_one_limits_then() -> None:
    found = one_more([Units("a server", 4, 0.9), Units("a rank", 4, 0.5)])
    assert found is not None
    assert found.name == "a server"
    assert found.gain == pytest.approx(5 / 4 - 1), "four do the work of five"
    assert "a server (90% busy): up to 25% more games." in found.sentence

    close = one_more([Units("a server", 1, 0.9), Units("a rank", 4, 0.75)])
    assert close is not None
    assert close.gain == pytest.approx(0.9 / 0.75 - 1), "not twice as many: ranks limit it"
    assert close.sentence.endswith("then a rank limits it.")


def test_where_kinds_work_in_turn_only_its_own_time_gets_shorter() -> None:
    """Two seconds of serving, then one of training: one and one with a second server."""
    kinds = [Units("a server", 1, 2 / 3), Units("a rank", 1, 1 / 3)]
    found = one_more(kinds, in_turn=True)
    assert found is not None
    assert found.gain == pytest.approx(3 / 2 - 1)
    assert found.sentence.endswith("(67% busy): up to 50% more games.")


def test_where_none_would_help_it_says_why() -> None:
    assert one_more([]) is None
    both = one_more([Units("a server", 2, 0.91), Units("a rank", 2, 0.9)])
    assert both is not None
    assert (both.name, "together" in both.sentence) == ("", True)
    idle = one_more([Units("a server", 2, 0.4), Units("a rank", 2, 0.2)])
    assert idle is not None
    assert idle.name == ""
    assert "max_age" in idle.sentence


@given(kinds=st.lists(st.tuples(st.integers(1, 64), st.floats(0.0, 1.0)), min_size=1, max_size=6))
def test_it_never_promises_more_than_its_share(kinds: list[tuple[int, float]]) -> None:
    given_ = [Units(str(i), number, busy) for i, (number, busy) in enumerate(kinds)]
    found = one_more(given_)
    assert found is not None
    if found.name:
        chosen = next(kind for kind in given_ if kind.name == found.name)
        assert chosen.busy == max(kind.busy for kind in given_) >= MIN_BUSY
        least = min(MIN_GAIN, MIN_SHARE / chosen.number)
        assert least <= found.gain <= 1 / chosen.number + 1e-9
