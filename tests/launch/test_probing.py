"""What a server's /metrics tells, also when it was cut off; sums that keep to their price."""

import pytest

from engine.metrics import RateMeter
from launch.probing import BUSY, RUNNING, _value
from launch.snapshots import Paced


@pytest.mark.parametrize(
    "text, value",
    [
        (f'{RUNNING}{{model="a b"}} 3.0', 3.0),
        (f'{RUNNING}{{model="a"}} 3.0 1700000000', 3.0),
        (f"{RUNNING} 2\n{RUNNING}_more 9", 2.0),
        (f'{RUNNING}{{a="1"}} 1\n{RUNNING}{{a="2"}} 2', 3.0),
        (f'{RUNNING}{{model_name="/m', None),
        (f'{RUNNING}{{a="1"}} ', None),
        (f'{RUNNING}{{a="1"}} b', None),
        ("", None),
    ],
)
def test_a_sample_is_read_or_passed_over(text: str, value: float | None) -> None:
    assert _value(text, RUNNING) == value
    assert _value(text, BUSY) is None


def test_sums_are_taken_as_often_as_their_price_allows() -> None:
    now, taken = [0.0], [0]

    def compute() -> int:
        now[0] += 0.1
        taken[0] += 1
        return taken[0]

    sums = Paced(compute, lambda: now[0])
    meter = RateMeter()
    rates = []
    while now[0] < 600:
        _, at_s = sums()
        rates.append(meter.rate(10 * at_s, at_s))
        now[0] += 1.0
    assert taken[0] * 0.1 < 0.004 * 600
    assert rates[-1] == pytest.approx(10.0)
    assert all(rate == pytest.approx(10.0) for rate in rates if rate)
