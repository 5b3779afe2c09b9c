"""What is said of a record beside its score."""

from dataclasses import replace

import pytest

from evals.benchmark import MODES
from evals.benchmarks import benchmarks
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


def test_a_rule_that_breaks_down_is_wrong_and_said_so() -> None:
    """Were it no score, the row would leave the mean, and hard rows would be missing from it."""
    for rule in rules_of(SMALL, record(0), "crash").values():
        assert (rule["value"], rule["score"]) == (None, 0.0)
        assert rule["error"] == "ZeroDivisionError: a rule of ours"


def test_where_the_authors_score_a_judge_s_reply_a_response_has_no_reference() -> None:
    rules = rules_of(replace(SMALL, has_reference=False), record(0), "It is red")
    assert (rules["default"]["score"], rules["reference"]["score"]) == (1.0, None)
    assert "judge" in rules["reference"]["path"]
    assert "error" not in rules["reference"]


@pytest.mark.parametrize(
    "name, has_one", [("mm_vet", False), ("visnumbench", False), ("mmmu", True)]
)
def test_which_benchmarks_have_a_reference(name: str, has_one: bool) -> None:
    assert benchmarks("official")[name].has_reference is has_one
