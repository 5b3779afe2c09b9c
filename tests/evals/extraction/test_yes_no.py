"""Yes or no by our rule, and by VLMEvalKit's; hand-worked."""

import pytest

from evals.extraction.yes_no import read_yes_no, vlmeval
from tests.processor_time import cheaply

CASES = [
    # text, ours, VLMEvalKit's
    ("Yes", "Yes", "Yes"),
    ("No.", "No", "No"),
    ("yes!", "Yes", "Yes"),
    ("**Yes**", "Yes", None),
    ("'yes'", "Yes", None),
    ("Yes:", "Yes", None),
    ("Answer:No", "No", None),
    ("Yes.No", None, None),
    ("Yes\u2026", "Yes", None),
    ("Yes\u3002", "Yes", None),
    ("Yes, there is no gap", "Yes", None),
    ("Yes - the lines are", "Yes", "Yes"),
    ("Not really", None, None),
    ("True", "Yes", None),
    ("Yeah", "Yes", None),
    ("nope", "No", None),
    ("It is not yes", None, "Yes"),
    ("There is no evidence", None, "No"),
    ("No one is there", None, "No"),
    ("<think>no</think> Yes", "Yes", "Yes"),
    ("<think>no no </think> Yes", "Yes", None),
    ("<think>yes", None, "Yes"),
    ("", None, None),
    ("The answer is yes.", "Yes", "Yes"),
    ("The answer is no longer clear", None, "No"),
    ("Yes or no", None, None),
    ("Yes and no", None, None),
    ("Yes/No", None, None),
    ("No, there is a gap. Yes, it is odd.", "No", None),
    ("Answer: Yes. Wait, on reflection, the final answer is No.", "No", None),
    ("Answer: Yes\nAnswer: No", None, None),
    (r"I think \boxed{No}", "No", "No"),
    (r"\boxed{\text{Yes}}", "Yes", "Yes"),
    ("Let me see.\n\nNo", "No", "No"),
    ("Both lines look equal, so yes.", "Yes", "Yes"),
    ("The final answer is **Yes**.", "Yes", None),
    ("I cannot tell.", None, None),
    ("unclear", None, None),
    ("The lines are of the same length.", None, None),
    ("no,1,000 of them", "No", None),
]


@pytest.mark.parametrize("text, ours, theirs", CASES)
def test_verdict(text: str, ours: str | None, theirs: str | None) -> None:
    assert read_yes_no(text).value == ours
    assert vlmeval(text) == theirs


def test_vlmeval_removes_thirty_two_periods() -> None:
    assert vlmeval("." * 32 + "yes") == "Yes"
    assert vlmeval("." * 33 + "yes") is None


@pytest.mark.parametrize("piece", ["yes ", "no ", "answer ", "*", ".", "\\boxed{"])
def test_long_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    cheaply(lambda: (read_yes_no(text), vlmeval(text)), 3)
