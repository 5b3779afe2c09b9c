"""Answer equality and votes."""

import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.grading import MAX_CHARS, boxed, canonical, decided, equal, normalise, tally
from tests.processor_time import cheaply

WORDS = ["1/2", "0.5", "50%", "two", "2", "2.0", "Blue", "blue.", "top-left", "Top left", "", "n/a"]
FORMULAS = [
    "\\sqrt{4}",
    "\\frac{\\sqrt2}{2}",
    "1/\\sqrt{2}",
    "x+1",
    "1+x",
    "2^-1",
    "x=2",
    "x = 4/2",
]
LISTS = ["red, blue", "red and blue", "blue, red", "\\{1, 2\\}", "\\{2, 1\\}", "1, 2", "(1, 2)"]
ANSWERS = st.text(max_size=12) | st.sampled_from([*WORDS, "(B)", "b", *FORMULAS, *LISTS])
PIECES = [
    *"12xa+-*/^(){}[],. =%\u00b2\u00bd",
    "and",
    "cm",
    "\\text{",
    "\\frac",
    "\\sqrt",
    "\\pi",
    "\\{",
]
SOUP = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1/2", "0.5"),
        ("42.0", "42"),
        ("25%", "25"),
        ("$3,500", "3500"),
        ("5 cm", "5"),
        ("Blue", "blue"),
        (" blue. ", "blue"),
        ("6/8", "3/4"),
        ("\\frac{6}{8}", "0.75"),
        ("\\text{Blue}", "blue"),
        ("{42}", "42"),
        ("(A)", "a."),
        ("yes", "Yes."),
        ("\u22125", "-5"),
        ("-0", "0"),
        (".5", "0.50"),
        ("two", "2"),
        ("Top-Left", "top left"),
        ("red,blue", "red, blue"),
        ("90\u00b0", "90 degrees"),
        ("9007199254740993", "9,007,199,254,740,993"),
        # numbers
        ("+5", "5"),
        ("007", "7"),
        ("5.", "5"),
        ("1 1/2", "1.5"),
        ("-1 1/2", "-1.5"),
        ("1\u00bd", "3/2"),
        ("\u00bc", "0.25"),
        ("2\\frac{1}{2}", "5/2"),
        ("\\frac12", "0.5"),
        ("\\tfrac{3}{4}", "\\dfrac{3}{4}"),
        ("-\\frac{1}{2}", "\\frac{-1}{2}"),
        ("1.5e3", "1500"),
        ("1.5E+03", "1,500"),
        ("2 x 10^3", "2000"),
        ("2 \\times 10^{-3}", "0.002"),
        ("2\u00d710^3", "2*10**3"),
        ("1{,}000", "1000"),
        ("1\u202f000", "1000"),
        ("10\u201320", "10-20"),
        ("twenty-one", "21"),
        ("Twelve", "12"),
        ("one half", "0.5"),
        ("a quarter", "25/100"),
        ("\\boxed{5}", "5"),
        ("\\(5\\)", "5"),
        ("**5**", "5"),
        ("\u201c5\u201d", "5"),
        # percent, currency, units
        ("25 percent", "25\\%"),
        ("12.5%", "12.5"),
        ("\u20ac5", "5 euros"),
        ("90^\\circ", "90"),
        ("90^{\\circ}", "90 deg"),
        ("37 \u00b0C", "37"),
        ("5\\text{ cm}", "5"),
        ("5 cm^2", "5"),
        ("5 m\u00b2", "5 square meters"),
        ("12 sq units", "12"),
        ("60 km/h", "60"),
        ("5 minutes", "5 min"),
        ("3 days", "3"),
        ("1/2 inch", "0.5"),
        ("5 kg.", "5"),
        ("\\sqrt{8} cm", "2\\sqrt{2}"),
        # letters and words
        ("(B)", "b"),
        ("B.", "B)"),
        ("option B", "b"),
        ("Option (C)", "C"),
        ("answer: B", "(b)"),
        ("The answer is 42.", "42"),
        ("final answer: \\text{Blue}", "blue"),
        ("yeah", "Yes"),
        ("\\textbf{\\text{Blue}}", "blue"),
        ("3 : 2", "3:2"),
        # lists and sets
        ("red and blue", "red, blue"),
        ("red, blue, and green", "red,blue,green"),
        ("red & blue", "red; blue"),
        ("1.0, 2", "1, 2"),
        ("(1, 2)", "1,2"),
        ("[1, 2.0]", "1, 2"),
        ("(1/2, 3)", "(0.5, 3.0)"),
        ("1,000, 2", "1000, 2"),
        ("\\{1, 2\\}", "\\{2, 1\\}"),
        ("\\left\\{1, 2\\right\\}", "\\{2.0, 1, 1\\}"),
        ("\\{5\\}", "5"),
        ("(1,2), (3,4)", "(1, 2), (3, 4)"),
        ("[0, 1)", "[0,1.0)"),
        ("\\sqrt{4}, x+1", "2, 1+x"),
        # formulas
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("sqrt(8)", "2*sqrt(2)"),
        ("\u221a8", "2\u221a2"),
        ("\\frac{\\sqrt2}{2}", "1/\\sqrt{2}"),
        ("\\frac{1}{1+\\sqrt{2}}", "\\sqrt{2}-1"),
        ("\\sqrt[3]{8}", "2"),
        ("2^3", "8"),
        ("2^{10}", "2**10"),
        ("x\u00b2", "x^2"),
        ("5\u00b2", "25"),
        ("x+1", "1+x"),
        ("(x+1)^2", "x^2+2x+1"),
        ("x(x+1)", "x^2+x"),
        ("0.5x", "x/2"),
        ("\\frac{1}{2}x", "\\frac{x}{2}"),
        ("3\\pi", "3pi"),
        ("3\u03c0", "\\pi\\cdot 3"),
        ("\\frac{1}{2}+\\frac{1}{2}", "1"),
        ("0.1+0.2", "0.3"),
        ("3 \\times 4", "12"),
        ("1 + 1/x", "(x+1)/x"),
        ("\\sin(\\pi/6)", "0.5"),
        ("e^2", "exp(2)"),
        ("2 \\left(x+1\\right)", "2x+2"),
        ("y = 2x+1", "y=1+2x"),
        ("x = 0.50", "x=1/2"),
    ],
)
def test_equal_answers(first: str, second: str) -> None:
    assert equal(first, second)
    assert equal(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("0.25", "25%"),
        ("3.33", "3.333"),
        ("the blue bar", "blue"),
        ("Monday", "Mon"),
        ("ab", "ba"),
        ("9007199254740993", "9007199254740992"),
        ("4.99999999", "5"),
        ("5 million", "5000000"),
        ("(1,234)", "1234"),
        ("piano keys", "casino yes"),
        ("A or B", "A and B"),
        ("Q1", "1Q"),
        ("5", "-5"),
        ("5/0", "5"),
        ("5!", "5"),
        ("", ""),
        ("none", "none"),
        (None, None),
        ("A", "B"),
        ("yes", "no"),
        ("no", "on"),
        ("today", "to"),
        ("month", "year"),
        ("hourglass", "glass"),
        ("Q1", "Q2"),
        ("x=5", "y=5"),
        ("10-20", "-10"),
        ("3/4/2020", "3/8080"),
        ("A-B-C", "A-C-B"),
        ("2x3", "6x"),
        ("2x3", "3x2"),
        ("1920x1080", "1080x1920"),
        ("1A", "A"),
        ("5", "5.0001"),
        ("1e1000000000", "1e1000000001"),
        ("1\u00bd", "11/2"),
        ("5\u00b2", "52"),
        ("red, blue", "blue, red"),
        ("1, 2", "12"),
        ("100,200", "100, 200"),
        ("(1,2), 3", "1, 2, 3"),
        ("[0, 1)", "(0, 1]"),
        ("\\{1, 2\\}", "\\{1, 3\\}"),
        ("x+1", "x-1"),
        ("x^2", "2x"),
        ("\\sqrt{2}", "1.414"),
        ("\\pi", "3.14"),
        ("1/2x", "x/2"),
        ("9**9**9", "9^9"),
        ("\\frac{1}{0}", "0"),
        ("5 m + x", "5 + x"),
    ],
)
def test_unequal_answers(first: str | None, second: str | None) -> None:
    assert not equal(first, second)
    assert not equal(second, first)


@settings(deadline=None)
@given(ANSWERS, ANSWERS, ANSWERS)
def test_equality_is_symmetric_and_transitive(a: str, b: str, c: str) -> None:
    assert equal(a, b) == equal(b, a)
    if equal(a, b) and equal(b, c):
        assert equal(a, c)
    assert equal(a, a) == (normalise(a) != "")


@settings(deadline=None)
@given(SOUP, SOUP)
def test_any_text_has_one_form(a: str, b: str) -> None:
    assert canonical(a) == canonical(f"  {a} ")
    assert equal(a, b) == equal(b, a)
    form = decided(a)
    assert form is None or form == canonical(a)


def test_forms_of_numbers_do_not_depend_on_the_stage() -> None:
    assert canonical("2^3") == normalise("8.0") == "8"
    assert canonical("\\frac{1}{4}+\\frac14") == normalise("50/100") == "1/2"
    assert canonical("-2*3") == normalise("-6")


@pytest.mark.parametrize(
    "answer", ["42", "1/2", "(B)", "red and blue", "Monday", "top-left", "10-20"]
)
def test_plain_answers_need_no_algebra(answer: str) -> None:
    assert decided(answer) == canonical(answer)


@pytest.mark.parametrize("answer", ["2^3", "\\sqrt{8}", "x+1", "red, \\sqrt{8}", "y = 2x", "3pi"])
def test_formulas_need_algebra(answer: str) -> None:
    assert decided(answer) is None


def test_plain_answers_never_reach_the_library() -> None:
    """Numbers and words are compared, and counted, without sympy being imported."""
    code = (
        "import sys\n"
        "from rewards.grading import equal, tally\n"
        "assert equal('1,000.0', '1000') and not equal('Monday', 'Mon')\n"
        "assert tally(['1/2', '0.5', 'red and blue', '9**9**9', '5!']).share == 0.4\n"
        "assert not {'sympy', 'latex2sympy2_extended', 'antlr4'} & set(sys.modules)\n"
        "assert equal('2^3', '8') and 'sympy' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_plain_answers_take_microseconds() -> None:
    answers = [f"{i}.50" for i in range(5000)]
    cheaply(lambda: tally(answers), 1.0)


@pytest.mark.parametrize(
    "hostile",
    [
        "9**9**9",
        "99999999!",
        "9" * 100_000,
        "1e1000000000",
        "0." + "3" * 100_000,
        "(" * 100_000,
        "\\frac{" * 20_000,
        "\\text{" * 30,
        "1," * 90,
        " " * 1_000_000,
        "\ufdfa" * MAX_CHARS,
        "9^{9^{9}}",
        "((9^9)^9)^9",
        "2^{99999999}",
        "(x+y+z)^{99}",
        "((((((((((x+1))))))))))",
        "\\sqrt{" * 30,
        "9" * 180 + "+1",
        "x+" * 99 + "x",
        "(" * 99 + "1" + ")" * 99,
        "(," * 100,
    ],
)
def test_no_answer_costs_time(hostile: str) -> None:
    equal("2^3", "x+1")  # imports sympy

    def grade() -> None:
        for other in ("1.5", "7/2", "x", hostile):
            equal(hostile, other)
        tally([hostile] * 10)

    cheaply(grade, 0.5)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{42}", "42"),
        ("\\boxed{1} no, \\boxed{ 2 }", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{{42}}", "{42}"),
        ("\\boxed{a \\} b}", "a \\} b"),
        ("\\boxed{42", None),
        ("\\boxed 42", None),
        ("42", None),
        ("\\boxed{}", ""),
    ],
)
def test_boxed(text: str, answer: str | None) -> None:
    assert boxed(text) == answer


@pytest.mark.parametrize("piece", ["\\boxed{", "{", "}", "\\", "\\boxed{}"])
def test_boxed_is_linear(piece: str) -> None:
    text = "\\boxed{" + piece * (1_000_000 // len(piece))
    cheaply(lambda: boxed(text), 1.0)


@pytest.mark.parametrize(
    ("answers", "majority", "share"),
    [
        (["5", "5", "5", "7", "7"], "5", 0.6),
        (["1", "2", "3", "4", "5"], None, 0.2),
        (["5", "5", "7", None, None], "5", 2 / 3),
        ([None, "8", None], "8", 1.0),
        (["1/2", "0.5", "50%", "50"], None, 0.5),
        (["", "none", "N/A", "unknown", "-"], None, 0.0),
        ([], None, 0.0),
        (["no change", "no bars", "no", "none", "5"], None, 0.25),
    ],
)
def test_votes(answers: Sequence[str | None], majority: str | None, share: float) -> None:
    votes = tally(answers)
    assert votes.share == pytest.approx(share)
    assert votes.total == len(answers)
    assert votes.valid == sum(votes.counts.values())
    if majority is not None or share == 0:
        assert votes.majority == majority


@settings(deadline=None)
@given(st.lists(st.none() | ANSWERS, max_size=10), st.randoms())
def test_votes_do_not_depend_on_their_order(answers: list, random) -> None:
    shuffled = list(answers)
    random.shuffle(shuffled)
    votes, again = tally(answers, salt="q"), tally(shuffled, salt="q")
    assert (votes.majority, votes.share) == (again.majority, again.share)
    assert votes.counts == again.counts
    assert 0 <= votes.difficulty <= 0.5
    assert sum(map(votes.supports, answers)) == max(votes.counts.values(), default=0)


def test_ties_favour_no_answer_over_many_questions() -> None:
    winners = [tally(["1", "2"], salt=str(question)).majority for question in range(400)]
    assert 150 < winners.count("1") < 250


@pytest.mark.parametrize(
    ("answers", "majority", "difficulty"),
    [
        (["3", "4", "4", "4"] + [None] * 4, "4", 0.25),  # half of them: a quorum
        (["4", "4", "4"] + [None] * 5, None, 0.0),
        (["3", "4"] + ["unknown"] * 6, None, 0.0),  # not a vote split in half
        ([None] * 8, None, 0.0),
    ],
)
def test_nothing_comes_of_a_vote_without_a_quorum(
    answers: list, majority: str | None, difficulty: float
) -> None:
    votes = tally(answers).with_quorum(0.5)
    assert (votes.majority, votes.difficulty) == (majority, difficulty)
    assert votes.share == (0.75 if majority else 0.0)
    assert votes.counts == tally(answers).counts, "what was said can still be looked at"
    assert tally(answers).with_quorum(0.0) == tally(answers)


def test_a_vote_counts_by_the_forms_it_is_given() -> None:
    forms = {"a": "x", "b": "x", "c": ""}
    votes = tally(["a", "b", "c", "d"], form=lambda answer: forms.get(answer, answer))
    assert (votes.majority, votes.counts, votes.valid) == ("x", {"x": 2, "d": 1}, 3)
    assert votes.supports("b", form=forms.__getitem__)
    assert not votes.supports("b")


def test_spellings_of_one_formula_are_one_vote() -> None:
    votes = tally(["\\sqrt{8}", "2\\sqrt{2}", "2.83", "sqrt(8)"])
    assert votes.share == 0.75
    assert votes.supports("\\sqrt8")
