"""Which option a response ends on, hand-worked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.extraction.letters import read_letter
from tests.processor_time import cheaply

CITIES = {"A": "Paris", "B": "London", "C": "New York", "D": "York"}
NUMBERS = {"A": "30", "B": "45", "C": "60", "D": "90"}
TEN = {letter: f"${n}$" for n, letter in enumerate("ABCDEFGHIJ")}

SAID = [
    (r"\boxed{A}", "A", "boxed"),
    (r"\boxed{\text{(B) London}}", "B", "boxed"),
    (r"\boxed{\textbf{B}}", "B", "boxed"),
    (r"\boxed{New York}", "C", "boxed"),
    ("**Final Answer:** \n$$\\boxed{\\text{B}}$$", "B", "boxed"),
    ("``B``", "B", "backticks"),
    ("My final answer is: `D`", "D", "backticks"),
    ("<answer>\nC\n</answer>", "C", "answer tag"),
    ("Answer:B", "B", "answer said"),
    ("ANSWER: D", "D", "answer said"),
    ("Answer: b", "B", "answer said"),
    ("**Answer:** C", "C", "answer said"),
    ("### Answer\nB", "B", "answer said"),
    ("The final answer is:\n\n**C**", "C", "answer said"),
    ("Answer: Option C: New York", "C", "answer said"),
    ("The answer is London", "B", "answer said"),
    ("The answer is A Paris", "A", "answer said"),
    ("Therefore, the correct option is (D).", "D", "answer said"),
    ("the right answer must be option (c).", "C", "answer said"),
    ("I choose B, not C.", "B", "answer said"),
    ("I would go with option B.", "B", "answer said"),
    ("\u7b54\u6848\uff1aD", "D", "answer said"),
    ("A is the correct choice because it fits", "A", "said to be correct"),
    ("Therefore B is the answer.", "B", "said to be correct"),
    ("Both are near.\n\n**B**", "B", "last line"),
    ("(d)", "D", "last line"),
    ("b", "B", "last line"),
    ("B. London", "B", "last line"),
    ("A Paris", "A", "last line"),
    ("london.", "B", "last line"),
    ("'B'", "B", "last line"),
    ("<b>B</b>", "B", "last line"),
    ("B<|im_end|>", "B", "last line"),
    ("Answer: 'B'", "B", "answer said"),
    ("Looking: A - no. B - yes. C - no. D - no.", "B", "lone letter"),
    ("B\n\nExplanation: A is wrong.", "B", "first line"),
    ("It is (B) rather than (A).", "B", "lone letter"),
    ("It's (c).", "C", "lone letter"),
    ("A is wrong, B is wrong, so C.", "C", "lone letter"),
    ("The city is New York, I believe, not a town.", "C", "option text"),
    ("Step 1: The map shows B near A.\n\nSo the city is London.", "B", "option text"),
]

FINAL = [
    ("Correct answer is **D**. Here's why: A is too small", "D"),
    ("Answer: A\n\nWait, that is wrong. Answer: C", "C"),
    ("Answer: A. Correction: Answer: B", "B"),
    ("Initially I thought the answer is A. But the correct answer is D.", "D"),
    ("The figure labelled A shows Paris. The final answer is \\boxed{B}.", "B"),
    ("\\boxed{42}\n(B)", "B"),
    ("A. Paris\nB. London\nC. New York\nD. York\n\nAnswer: B", "B"),
    ("Answer: B.\nExplanation: A is wrong; C and D are not either.", "B"),
    ("Final answer: B\n\nNote that A is also near.", "B"),
    ("The answer is (B), since (A) is too far.", "B"),
    ("The answer is not A. It must be C.", "C"),
    ("Answer: B\nAnswer: B", "B"),
    ("<think>The answer is A.</think>B", "B"),
    ("Option A is incorrect. Option B is incorrect. Therefore, Option C.", "C"),
]

NONE = [
    ("", "empty"),
    ("<think>The answer is A", "unfinished thought"),
    ("<think>A</think>", "empty"),
    ("Answer: A or B", "contradiction"),
    ("Answer: A\nAnswer: B", "contradiction"),
    (r"\boxed{A} \boxed{B}", "contradiction"),
    (r"\boxed{A, B}", "contradiction"),
    ("The answer is A/B", "contradiction"),
    ("A B C D", "contradiction"),
    ("Both A and C are correct.", "contradiction"),
    ("I cannot determine the answer.", "refusal"),
    ("Failed to obtain answer via API.", "refusal"),
    ("Sorry, I can't help with images of people yet.", "refusal"),
    ("None of the options is correct.", "refusal"),
    ("Answer: $LETTER", "no letter"),
    ("Answer: E", "no letter"),
    ("N/A", "no letter"),
    ("AB", "no letter"),
    ("A dog is in the picture", "no letter"),
    ("The answer is A dog", "no letter"),
    ("I would say B is wrong.", "no letter"),
    ("The answer A is incorrect.", "no letter"),
    ("As panel (b) shows, it is big.", "no letter"),
    ("The current is 5 A.", "no letter"),
    ("Point C is near, angle B is big.", "no letter"),
    ("A = 3 and B = 4", "no letter"),
    ("Options: A: Rome, B: Oslo", "no letter"),
    ("A. Paris\nB. London\nC. New York\nD. York", "no letter"),
    ("It could be Paris or London.", "no letter"),
    ("The answer is neither A nor B.", "no letter"),
    (r"\boxed{45}", "no letter"),
]


@pytest.mark.parametrize("text, letter, path", SAID)
def test_letter_and_path(text: str, letter: str, path: str) -> None:
    found = read_letter(text, CITIES)
    assert (found.value, found.path) == (letter, path)


@pytest.mark.parametrize("text, letter", FINAL)
def test_final_answer_wins_over_letters_on_the_way(text: str, letter: str) -> None:
    assert read_letter(text, CITIES).value == letter


@pytest.mark.parametrize("text, path", NONE)
def test_nothing_is_guessed(text: str, path: str) -> None:
    found = read_letter(text, CITIES)
    assert (found.value, found.path) == (None, path)


@pytest.mark.parametrize(
    "text, letter",
    [
        ("I", "I"),
        ("(I)", "I"),
        ("Answer: I", "I"),
        ("The answer is I.", "I"),
        ("So I believe the answer is E", "E"),
        ("I think it is hard to tell", None),
        ("I, however, disagree", None),
        ("Answer: I cannot say", None),
        ("Answer: I don't know", None),
        ("J", "J"),
    ],
)
def test_pronoun_is_no_option(text: str, letter: str | None) -> None:
    assert read_letter(text, TEN).value == letter


@pytest.mark.parametrize(
    "text, letter",
    [
        ("45", "B"),
        ("The value must be 45 degrees.", "B"),
        (r"\boxed{90^\circ}", "D"),
        ("The answer is 45.0", "B"),
        ("The value is 145.", None),
        ("4.45", None),
        ("It is 30 or 45", None),
        ("So x = 45, which is option C.", "C"),
    ],
)
def test_option_text_stands_for_its_letter(text: str, letter: str | None) -> None:
    assert read_letter(text, NUMBERS).value == letter


def test_options_of_equal_text_are_not_told_apart() -> None:
    assert read_letter("45", {"A": "45", "B": "45"}).value is None


@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "answer is ",
        "A ",
        "(",
        "`",
        "\\text{",
        "A, ",
        "\n",
        "not ",
        "*",
        "<answer>",
        "x",
    ],
)
def test_long_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    cheaply(lambda: read_letter(text, CITIES), 3)


LETTERED = ["A", "(B)", "c", "**D**", "I", "``B``", "A}", "Paris", "York"]
SIGNS = ["`", "\\boxed{", ". ", "\n", " ", "$", "(", ")", "<answer>", "</answer>", "</think>"]
WORDS = st.sampled_from([*LETTERED, *SIGNS, "Answer: ", "the answer is ", "not ", "or "])
TEXTS = st.lists(WORDS, max_size=16).map("".join)


@given(TEXTS, st.sampled_from("ABCD"))
@settings(max_examples=400, deadline=None)
def test_a_last_answer_wins_over_whatever_stands_before_it(text: str, letter: str) -> None:
    for form in (f"Answer: {letter}", f"\\boxed{{{letter}}}", f"({letter})", f"**{letter}**"):
        assert read_letter(f"{text}\n\nHere is what I conclude.\n\n{form}", CITIES).value == letter


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_as_an_option_or_none(text: str) -> None:
    found = read_letter(text, CITIES)
    assert found.value in (None, *CITIES)
    assert found.path
