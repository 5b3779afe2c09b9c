"""What is said of a record beside its score."""

import pytest

from evals.benchmark import MODES
from evals.scoring import flags_of, rules_of, thoughts_of
from tests.evals.small_benchmark import SMALL, record


@pytest.mark.parametrize(
    "response, finish, thoughts, flags",
    [
        ("red", "stop", "none", []),
        ("red", "length", "none", ["truncated"]),
        ("<think>blue</think> red", "stop", "stripped", []),
        ("blue</think> red", "stop", "stripped", []),
        ("<think>it is red", "length", "unclosed", ["truncated", "empty"]),
        ("<think>it is red", "stop", "unclosed", ["truncated", "empty"]),
        ("<think>red</think>  ", "stop", "stripped", ["empty"]),
        ("", "stop", "none", ["unparsed", "empty"]),
        (" \n", "stop", "none", ["unparsed", "empty"]),
        ("crash", "stop", "none", ["unparsed", "scoring_failed"]),
    ],
)
def test_flags(response: str, finish: str, thoughts: str, flags: list[str]) -> None:
    rules = rules_of(SMALL, record(0), response)
    assert flags_of(SMALL, {"response": response, "finish": finish}, rules, None) == flags
    assert thoughts_of(response) == thoughts


def test_every_mode_is_scored() -> None:
    rules = rules_of(SMALL, record(0), "It is red")
    assert set(rules) == set(MODES)
    for rule in rules.values():
        assert (rule["value"], rule["path"], rule["score"]) == ("red", "last word", 1.0)
