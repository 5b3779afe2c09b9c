r"""Values of formulas. What is expected was computed by latex2sympy2 1.9.1 and Python's `eval`."""

import pytest

from evals.extraction.formula_value import value_of
from tests.processor_time import cheaply


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5),
        ("1,000", 1000),
        ("1,234.5", 1234.5),
        (".5", 0.5),
        ("--5", 5),
        ("1/3", 0.33),
        ("3:4", 0.75),
        ("1/2/3", 0.17),
        ("2^{10}", 1024),
        ("2^34", 17179869184),
        ("2^2^3", 64),
        ("-2^2", -4),
        ("10^{-2}", 0.01),
        (r"\sqrt{3}", 1.73),
        (r"\sqrt[3]{8}", 2),
        (r"\frac{\sqrt{3}}{2}", 0.87),
        (r"2\pi", 6.28),
        (r"1/2\pi", 0.16),
        (r"3\pi/4", 2.36),
        (r"2\frac{3}{10}", 0.6),
        (r"\frac{1}{2}^2", 0.25),
        (r"50\%", 0.5),
        (r"3\times4\div2", 6),
        ("3!", 6),
        ("3!!", 720),
        ("2(1+2)", 6),
        ("[1+2]", 3),
        (r"\sin(30)", -0.99),
        (r"\sin 1+2", 2.84),
        (r"\sin^2(1)", 0.71),
        (r"\log_{2}{8}", 3),
        (r"\log 100", 2),
        ("e^{2}", 7.39),
        (r"\binom{5}{2}", 10),
        (r"\lfloor 2.5 \rfloor", 2),
        ("1 000", 0),
    ],
)
def test_value(text: str, expected: float) -> None:
    value = value_of(text)
    assert value is not None
    assert round(value, 2) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "2x", "e", "1e3", "12cm", r"\frac12", r"\sqrt2", "5+", "*3", "(5", "1,2", "50%",
     r"\frac{1}{0}", "1/0", r"\sqrt{-1}", "(-8)^{1/3}", "0^{-1}", r"\ln(2)", "|3|", r"\infty",
     "2^-1", "2**3", r"\text{5}", "45\u00b0", "\u0665", "5)", "5."],
)  # fmt: skip
def test_no_value(text: str) -> None:
    assert value_of(text) is None


@pytest.mark.parametrize("text", ["5)", "5]", "5}", "5.", "5_2", "5'", r"5\}"])
def test_what_the_authors_parser_leaves_unread(text: str) -> None:
    assert value_of(text, whole=False) == 5


def test_hostile_formulas_cost_little() -> None:
    texts = (
        "9^{9^{9^{9}}}",
        "9^9^9^9^9^9^9^9",
        "9!!!!!!",
        r"\binom{999999999}{99999999}",
        "(" * 299,
        "-" * 299 + "1",
        "1" * 10**6,
        "10^{400}!" * 30,
        r"\sqrt{" * 49 + "1" + "}" * 49,
        r"\sqrt[0]{5}",
        "10^{400}*1.5",
    )
    cheaply(lambda: [value_of(text) for text in texts], 4)
