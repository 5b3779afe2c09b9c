import pytest

from evals.extraction.thinking import answer_of


@pytest.mark.parametrize(
    "text, answer",
    [
        ("B", "B"),
        ("  B\n", "B"),
        ("", ""),
        ("<think>A?</think>B", "B"),
        ("<think>\nA?\n</think>\n\n B ", "B"),
        ("A, since the template opened the block</think>B", "B"),
        ("<think>A</think>C<think>no</think> B", "B"),
        ("<think>A</think>", ""),
        ("<think>A", None),
        ("B <think>but then", None),
        ("<think>A</think>B<think>", None),
        ("<thinking>B", "<thinking>B"),
    ],
)
def test_thoughts_end_at_the_last_closing_tag(text: str, answer: str | None) -> None:
    assert answer_of(text) == answer
