"""Charts: what a swap changes, what it leaves, and what is true of a chart."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from render_pool.pairs.charts import Chart, Charts, Kind

SEEDS = st.integers(0, 1 << 32)
KINDS: tuple[Kind, ...] = ("bars", "lines", "pies")
CHART = Chart("Fruit sold", ("Apples", "Pears", "Plums", "Lemons"), (40, 90, 10, 42), 100, 0)


@given(SEEDS, st.sampled_from(KINDS))
def test_an_edit_swaps_two_values_that_differ_enough(seed: int, kind: Kind) -> None:
    family, rng = Charts(kind), random.Random(seed)
    chart = family.original(rng)
    edited = family.edit(chart, rng)
    if edited is None:
        assert max(chart.values) - min(chart.values) < 0.15 * chart.top
        return
    at = [i for i, v in enumerate(chart.values) if v != edited.values[i]]
    i, j = at
    assert (chart.values[i], chart.values[j]) == (edited.values[j], edited.values[i])
    assert abs(chart.values[i] - chart.values[j]) >= 0.15 * chart.top
    assert (chart.title, chart.names, chart.top) == (edited.title, edited.names, edited.top)


@given(SEEDS, st.sampled_from(KINDS))
def test_an_original_fits_its_axis(seed: int, kind: Kind) -> None:
    chart = Charts(kind).original(random.Random(seed))
    assert 4 <= len(chart.names) == len(set(chart.names)) == len(set(chart.values)) <= 6
    if kind == "pies":
        assert sum(chart.values) == 100
        assert min(chart.values) >= 6
    else:
        assert chart.top / 10 <= min(chart.values)
        assert max(chart.values) <= chart.top


def test_values_that_are_near_each_other_are_not_swapped() -> None:
    chart = Chart("Fruit sold", ("Apples", "Pears", "Plums"), (40, 50, 54), 100, 0)
    assert Charts("bars").edit(chart, random.Random(0)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_names_all_values_and_prints_none(kind: Kind) -> None:
    svg = Charts(kind).svg(CHART, 224)
    texts = re.findall(r">([^<]+)</text>", svg)
    axis = [] if kind == "pies" else ["0", "20", "40", "60", "80", "100"]
    assert sorted(texts) == sorted([CHART.title, *CHART.names, *axis])
    assert 'width="224" height="224"' in svg
    assert "text" not in Charts(kind).svg(None, 224)


def test_heights_are_those_of_the_values() -> None:
    heights = re.findall(r'<rect [^>]*height="([0-9.]+)"', Charts("bars").svg(CHART, 448))
    assert [float(h) for h in heights] == [0.4 * 340, 0.9 * 340, 0.1 * 340, pytest.approx(142.8)]


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("Pears is the highest", True),
        ("The largest share is of Pears.", True),
        ("Plums are the lowest", True),
        ("Apples is the lowest", False),
        ("Pears is higher than Plums", True),
        ("the bar of Plums is taller than the bar of Apples", False),
        ("Plums has less than Lemons", True),
        ("Apples is higher than Lemons", None),  # 40 and 42: not told apart by eye
        ("Apples is about 40", True),
        ("Apples is 43", True),
        ("Apples is 47", None),  # is this a mistake, or a rough reading?
        ("Apples is 55", False),
        ("Apples is not about 40", None),
        ("Apples is at -40", None),
        ("Apples is 40%", None),
        ("than Pears higher Plums", None),
        ("Pears is higher", None),
        ("higher than Pears is Plums", None),
        ("Pears", None),
        ("Apples is nice", None),
        ("", None),
    ],
)
def test_what_is_said_of_a_chart(claim: str, verdict: bool | None) -> None:
    assert Charts("bars").is_true(CHART, claim) is verdict


def test_a_pie_is_read_in_per_cent() -> None:
    pie = Chart("Fruit sold", ("Apples", "Pears", "Plums"), (20, 70, 10), 100, 0)
    assert Charts("pies").is_true(pie, "Pears is around 70%") is True


@given(SEEDS, st.sampled_from(KINDS))
def test_the_order_of_two_values_turns_with_their_swap(seed: int, kind: Kind) -> None:
    family, rng = Charts(kind), random.Random(seed)
    chart = family.original(rng)
    edited = family.edit(chart, rng)
    if edited is not None:
        i, j = [i for i, v in enumerate(chart.values) if v != edited.values[i]]
        claim = f"{chart.names[i]} is higher than {chart.names[j]}"
        is_higher = chart.values[i] > chart.values[j]
        assert family.is_true(chart, claim) is is_higher
        assert family.is_true(edited, claim) is not is_higher


@given(st.text(max_size=80))
def test_any_text_has_a_verdict(claim: str) -> None:
    assert Charts("bars").is_true(CHART, claim) in (True, False, None)
