import pytest

from evals.extraction.open_answers import read_open, same_answer
from tests.processor_time import cheaply


@pytest.mark.parametrize(
    "text, value, path",
    [
        ("5", "5", "last line"),
        ("green", "green", "last line"),
        (r"So it is \boxed{\frac{1}{2}}.", r"\frac{1}{2}", "boxed"),
        ("Answer: 12.50 cm.", "12.50 cm", "answer said"),
        ("The answer is **green**.\nIt grows.", "green", "answer said"),
        ("First the answer is 3. No: the answer is 4.", "4", "answer said"),
        ("We get x = 3 + 4 = 7", "7", "end of the last sentence"),
        ("By Pythagoras the longest side of this triangle here is about 5.0", "5.0", None),
        ("so\n<answer> 4 </answer>", "4", "answer tag"),
        ("It's the left atrium", "left atrium", "end of the last sentence"),
        ("<think>The answer is 3</think>4", "4", "last line"),
        ("<think>The answer is 3", None, "unfinished thought"),
        ("", None, "empty"),
        ("I cannot determine it from the image.", None, "refusal"),
        ("word " * 40, None, "no short answer"),
    ],
)
def test_short_answer(text: str, value: str | None, path: str | None) -> None:
    found = read_open(text)
    assert found.value == value
    assert path is None or found.path == path


@pytest.mark.parametrize(
    "prediction, golds, same",
    [
        ("12.5", ["12.5"], True),
        ("12.50 cm", ["12.5"], True),
        ("12.504", ["12.5"], True),
        ("12.51", ["12.5"], False),
        ("5,000", ["5000"], True),
        ("1,234.5", ["234.5"], False),
        ("10-20", ["10"], False),
        ("\u221212.5", ["12.5"], False),
        ("\u221212.5", ["-12.5"], True),
        ("3 or 4", ["3"], False),
        ("four", ["4", "four"], True),
        ("twelve and a half", ["half"], False),
        ("4 bars", ["4"], True),
        ("four bars", ["4"], True),
        ("12.5 ohms", ["12.5"], True),
        (r"$12.5\,\Omega$", ["12.5"], True),
        ("4 bars and more", ["4"], False),
        ("4 or five", ["4"], False),
        ("4 million", ["4"], False),
        ("5x", ["5"], False),
        ("5 x + y", ["5"], False),
        ("The left atrium", ["left atrium"], True),
        ("green or red", ["green"], False),
        ("not green", ["green"], False),
        ("evergreen", ["green"], False),
        ("a dark green colour", ["green"], True),
        ("1e400", ["inf"], False),
        ("", ["5"], False),
        ("5" * 300, ["5" * 300], False),
    ],
)
def test_equality(prediction: str, golds: list[str], same: bool) -> None:
    assert same_answer(prediction, golds) is same


@pytest.mark.parametrize("piece", ["answer is ", "=", "is ", ". ", "1", "\\boxed{"])
def test_long_texts_take_linear_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    cheaply(lambda: read_open(text), 3)
