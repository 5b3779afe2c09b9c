"""Numbers as people write them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.extraction.numbers import (
    decimal,
    only_number,
    quantity_of,
    read_short,
    same_quantity,
)
from tests.processor_time import cheaply

PERCENT = Fraction(1, 100)


@pytest.mark.parametrize(
    ("text", "value", "scale"),
    [
        ("5", "5", 1),
        ("-5", "-5", 1),
        ("\u22125 cm", "-5", 1),
        ("5cm", "5", 1),
        (".5", "1/2", 1),
        ("5.", "5", 1),
        ("$1,234.50", "1234.5", 1),
        ("-$5", "-5", 1),
        ("$-5$", "-5", 1),
        (r"\$5", "5", 1),
        ("57 %", "57", PERCENT),
        (r"57\%", "57", PERCENT),
        ("0.5 percentage points", "0.5", PERCENT),
        ("3.5 million", "3.5", 10**6),
        ("1.5 billion dollars", "1.5", 10**9),
        ("45k", "45", 1000),
        (r"\frac{3}{4}", "3/4", 1),
        ("3/4", "3/4", 1),
        ("2 1/2", "5/2", 1),
        ("twelve", "12", 1),
        ("1e3", "1000", 1),
        ("1{,}000", "1000", 1),
        (r"12\text{ cm}", "12", 1),
        ("about 45", "45", 1),
        ("\u2248 3.14", "3.14", 1),
        ("45.2 in 2010", "45.2", 1),
        (r"45^\circ", "45", 1),
        ("**7**", "7", 1),
        ("therefore 7 cm", "7", 1),
        ("12th", "12", 1),
    ],
)
def test_quantity(text: str, value: str, scale: int | Fraction) -> None:
    found = quantity_of(text)
    assert found is not None
    assert (found.value, found.scale) == (Fraction(value), scale)


@pytest.mark.parametrize(
    "text",
    ["", "red", "10-20", "3 or 4", "3:4", "1,2", "12,5", "3 and 4", "1/2/2020", "1.2.3", "x = 5",
     "3D", "5 out of 9", "7!", "5 x 3", "2+3", "9" * 500],
)  # fmt: skip
def test_no_quantity(text: str) -> None:
    assert quantity_of(text) is None


def test_the_only_number_of_a_phrase() -> None:
    found = only_number("She needs 14 more")
    assert found is not None
    assert found.value == 14
    assert only_number("from 3 to 4") is None
    assert only_number("3 or so, or 4") is None
    assert only_number("none") is None


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ("95", "100", True),
        ("94.9", "100", False),
        ("105", "100", True),
        ("0", "0", True),
        ("0.001", "0", False),
        ("57%", "0.57", True),
        ("57%", "57", True),
        ("57%", "0.57%", False),
        ("3 million", "3000000", True),
        ("3 million", "3 thousand", False),
        ("-5", "5", False),
    ],
)
def test_same_quantity(given: str, wanted: str, expected: bool) -> None:
    first, second = quantity_of(given), quantity_of(wanted)
    assert first is not None
    assert second is not None
    assert same_quantity(first, second, Fraction(5, 100)) is expected


@pytest.mark.parametrize(
    ("text", "value", "path"),
    [
        ("42", "42", "last line"),
        ("Answer: 42", "42", "answer said"),
        ("Answer: No, it is not.", "No", "answer said"),
        ("No, the value is not greater.", "No", "yes or no"),
        ("Both are equal. Yes, they are.", "Yes", "yes or no"),
        ("**No**", "No", "yes or no"),
        ("No bars are red", "red", "end of the last sentence"),
        (
            "When all of the rows have been counted in turn there remain 36 tiles on the floor",
            "36",
            "last number",
        ),
        ("When all of the rows have been counted in turn there remain none on the floor", None, ""),
        ("I cannot determine how many of the 36 tiles there are on this floor here", None, ""),
    ],
)
def test_read_short(text: str, value: str | None, path: str) -> None:
    found = read_short(text)
    assert found.value == value
    assert value is None or found.path == path


@pytest.mark.parametrize(
    ("value", "text"),
    [("5", "5"), ("1/2", "0.5"), ("-1/8", "-0.125"), ("-1/200", "-0.005"), ("1/3", "1/3")],
)
def test_decimal(value: str, text: str) -> None:
    assert decimal(Fraction(value)) == text


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("5 thousand", 5000),
        ("3.5 million", 3_500_000),
        ("$2 billion", 2 * 10**9),
        ("2 hundreds", 200),
        ("57 %", 57),
        ("57 percent", 57),
        ("5 m", 5),  # metres, perhaps
        ("5k", 5),
        ("5 cm", 5),
        ("5", 5),
    ],
)
def test_words_of_scale_multiply(text: str, amount: int) -> None:
    found = quantity_of(text)
    assert found is not None
    assert found.amount == amount


@given(st.integers(-(2**30), 2**30), st.integers(1, 10**6), st.integers(0, 20_000))
def test_no_number_is_too_long_to_be_written(above: int, below: int, bits: int) -> None:
    assert decimal(Fraction(above << bits, below))


def test_numbers_that_are_too_long_for_tens_differ_as_texts() -> None:
    assert decimal(Fraction(10**6000)) != decimal(Fraction(10**6000 + 1))
    assert decimal(Fraction(-(10**6000), 3)).startswith("-0x")
    assert decimal(Fraction(10**6000 + 1, 2))


def test_long_texts_cost_little() -> None:
    def read() -> None:
        for text in ("9" * 10**6, "1," * 500_000, "$" * 10**6, "9 " * 500_000):
            assert quantity_of(text) is None
            read_short(text)

    cheaply(read, 8)
