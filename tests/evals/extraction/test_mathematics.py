"""Mathematical equality: spellings, decimals, units, names; and what it may cost."""

import pytest

from evals.extraction.mathematics import same_answer
from tests.processor_time import cheaply

PI, ROOT = r"2\pi", r"2\sqrt{3}"


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        ("6.28", PI),
        (PI, "6.28"),
        ("2\u03c0", PI),
        ("3.46", ROOT),
        ("2\u221a3", ROOT),
        (r"\sqrt{12}", ROOT),
        (r"10\sqrt{3}\text{ cm}^2", r"10\sqrt{3}"),
        (r"\angle ABC = 45", "45"),
        ("x=5", "5"),
        (r"x = \frac{5}{2}", "2.5"),
        ("24 square units", "24"),
        ("1.5 hours", "1.5"),
        (r"\frac12", "0.5"),
        (r"$\frac{1}{2}$", "0.5"),
        ("0.33", "1/3"),
        ("2^{10}", "1024"),
        ("(x+1)^2", "x^2+2x+1"),
        ("y = 2x+1", "2x+1"),
        (r"\text{Tuesday}", "Tuesday"),
        ("45\u00b0", r"45^\circ"),
        ("-5", "\u22125"),
        ("1,000", "1000"),
        ("[1, 2]", "1, 2"),
        ("0.0", "0"),
        ("five", "5"),
        ("5 thousand", "5000"),
        ("3500000", "3.5 million"),
        ("57\\%", "57"),
    ],
)
def test_same(given: str, gold: str) -> None:
    assert same_answer(given, gold)


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        ("6.2", PI),
        ("0.3", "1/3"),
        ("0.004", "0"),
        ("0.01", "0.014"),
        ("-5", "5"),
        ("5 or 6", "5"),
        ("(2, 1)", "(1, 2)"),
        ("y = 2x", "y = 2x+1"),
        ("24.006", "24"),
        ("5 thousand", "5"),
        ("", "5"),
        ("", ""),
        ("n/a", "n/a"),
        ("9" * 300, "9" * 300),
    ],
)
def test_not_the_same(given: str, gold: str) -> None:
    assert not same_answer(given, gold)


def test_hostile_answers_cost_little() -> None:
    texts = (
        "9**9**9**9",
        "9^{9^{9^{9}}}",
        "(x+y+z+a+b)^{40}",
        "((((" * 40,
        r"\frac{" * 30,
        "1" * 10**6,
        "x" * 199,
        "{" * 199,
        r"\text{" * 33,
        "- " * 99,
    )
    assert cheaply(lambda: [text for text in texts if same_answer(text, "5")], 12) == []
