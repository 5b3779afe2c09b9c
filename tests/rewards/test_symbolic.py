"""What is a formula, what is refused, and what algebra makes of the rest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import symbolic
from rewards.symbolic import MAX_FORM, canonical_expression, latex
from tests.processor_time import cheaply

COMMANDS = ["sqrt", "pi", "\\frac", "\\sqrt", "\\pi", "\\sin", "\\cdot", "^2", "^{", "0.5"]
TOKENS = [*"xy239+-*/^(){}[] !=", *COMMANDS]


@pytest.mark.parametrize(
    ("formula", "form"),
    [
        ("2^3", "8"),
        ("2^{-1}", "1/2"),
        ("2**-1", "1/2"),
        ("4^0.5", "2"),
        ("-2^2", "-4"),
        ("\\frac{\\frac{1}{2}}{3}", "1/6"),
        ("3-(-4)+0", "7"),
        ("8\\div 2", "4"),
        ("\\sqrt{8}", "2*sqrt(2)"),
        ("\\frac{1}{1+\\sqrt{2}}", "-1 + sqrt(2)"),
        ("\\sqrt{3+2\\sqrt{2}}", "1 + sqrt(2)"),
        ("(x+1)^2", "x**2 + 2*x + 1"),
        ("(x^2-1)/(x-1)", "x + 1"),
        ("1+1/x", "(x + 1)/x"),
        ("2^{x+1}", "2*2**x"),
        ("x(x-1)", "x**2 - x"),
        ("xy+yx+0", "2*x*y"),
        ("3pi", "3*pi"),
        ("e^1", "e"),
        ("exp(2)", "exp(2)"),
        ("\\ln(e)", "1"),
        ("\\ln(2)", "ln(2)"),
        ("\\sin(\\pi/6)", "1/2"),
        ("\\theta+\\theta", "2*theta"),
    ],
)
def test_canonical_forms(formula: str, form: str) -> None:
    assert canonical_expression(formula) == form
    assert canonical_expression(form) in (form, None)  # None: a number, or one letter


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "-5", "1/2", "blue", "q1", "1q", "10-20", "3/4/2020", "10:30", "2x3", "2 x 3"),
        *("1920x1080", "a-b-c", "a/b", "n/a", "covid-19", "no 1", "2nd", "5!", "x=5", "1, 2"),
        *("c++", "a+", "+", "red+blue", "h2o+1", "q1+q2", "5 + 3 apples", "\\foo{1}", "\\infty"),
    ],
)
def test_other_texts_are_no_formulas(text: str) -> None:
    assert latex(text) is None


@pytest.mark.parametrize("text", ["1/2x", "1/2\\pi", "x/2y", "1/x(x+1)", "2 3+1", "(x)2"])
def test_what_has_two_readings_is_refused(text: str) -> None:
    assert latex(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "9^9^9",
        "9^{9^9}",
        "9^(9^9)",
        "2^{x^{9}}",
        "99999999!",
        "9!+1",
        "9" * 61 + "+1",
        "((((((((x+1))))))))",
        "\\sqrt{" * 7 + "2" + "}" * 7,
        "x+" * 80 + "x",
        "__import__('os')+1",
        "().__class__+1",
        "x.y+1",
    ],
)
def test_the_first_guard_refuses(text: str) -> None:
    assert latex(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "2^{99999999}",
        "((9^9)^9)^9",
        "(1/2)^{99999}",
        "2^{3*9*9*9*9}",
        "x^{99999}",
        "(x+1)^{99}",
        "(x+y+z)^{15}",
        "(x+1)^9(y+1)^9(z+1)^9",
        "((x+y)^5)^5",
        "a+b+c+x+y+z",
        "1/0+x",
    ],
)
def test_the_second_guard_refuses(text: str) -> None:
    assert latex(text) is not None
    assert cheaply(lambda: canonical_expression(text), 2.0) is None


def test_the_libraries_see_only_what_passed_the_first_guard(monkeypatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(symbolic, "_computed", seen.append)
    for text in ("9^9^9", "5!", "monday", "42", "1/2", "2^3"):
        canonical_expression(text)
    assert seen == ["2^{3}"]


def test_errors_of_the_libraries_are_no_form(monkeypatch) -> None:
    def fail(source: str) -> str:
        raise RecursionError

    monkeypatch.setattr(symbolic, "_computed", fail)
    assert canonical_expression("2^3") is None


def test_memory_errors_are_not_hidden(monkeypatch) -> None:
    def fail(source: str) -> str:
        raise MemoryError

    monkeypatch.setattr(symbolic, "_computed", fail)
    with pytest.raises(MemoryError):
        canonical_expression("2^3")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(TOKENS), max_size=14).map("".join))
def test_any_text_is_read_or_refused_in_time(text: str) -> None:
    form = cheaply(lambda: canonical_expression(text), 3.0)
    assert form is None or 0 < len(form) <= MAX_FORM


VALUES = st.recursive(
    st.integers(0, 9).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_arithmetic_is_exact(text: str) -> None:
    assert canonical_expression(f"{text}+0") in (str(eval(text)), None)
    assert latex(f"{text}+0") is not None
