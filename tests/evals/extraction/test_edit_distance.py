"""Edit distance against the textbook's table, on all short words and some long ones."""

import random
from itertools import product

from evals.extraction.edit_distance import distance, nearest
from tests.processor_time import cheaply


def table(first: str, second: str) -> int:
    """The slow way."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(second, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]


def test_all_words_of_two_letters() -> None:
    words = ["".join(letters) for n in range(4) for letters in product("ab", repeat=n)]
    for first, second in product(words, words):
        assert distance(first, second) == table(first, second)


def test_random_words() -> None:
    draw = random.Random(5)
    for _ in range(150):
        first, second = ("".join(draw.choices("abc ", k=draw.randrange(90))) for _ in range(2))
        assert distance(first, second) == table(first, second)


def test_the_first_of_equally_near_choices() -> None:
    assert nearest("", ["ab", "cd"]) == "ab"
    assert nearest("cd", ["ab", "cd"]) == "cd"
    assert nearest("null", ["30", "45", "60"]) == "30"
    assert nearest("x", []) is None


def test_a_megabyte_costs_little() -> None:
    cheaply(lambda: nearest("a" * 10**6, ["b" * 100] * 5), 8)
