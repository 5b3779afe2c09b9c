"""Judges: each request once, kept by all of it; no reply is no score, and never a wrong one."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

import evals.patience
from engine.errors import ConfigError, TransportError
from evals.benchmark import Benchmark, Question
from evals.endpoint import Refused, Response
from evals.judge import Asked, Judge, JudgeFailed
from evals.patience import Patience
from evals.records import Journal
from evals.runner import Outcome
from tests.evals.fakes import FakeEndpoint, response
from tests.evals.small_benchmark import JUDGED
from tests.evals.test_runner import run

T = TypeVar("T")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evals.patience, "_BACKOFF_S", 1e-6)


def judge_of(endpoint: FakeEndpoint, replies: Journal, slots: int = 9) -> Judge:
    return Judge(endpoint, replies, Patience(retries=2), asyncio.Semaphore(slots))


def with_ask(
    folder: Path, endpoint: FakeEndpoint, use: Callable[[Asked], Awaitable[T]], slots: int = 9
) -> T:
    """What `use` makes of an Ask."""

    async def go() -> T:
        with Journal(folder / "judge.jsonl") as replies:
            return await use(judge_of(endpoint, replies, slots).for_row())

    return asyncio.run(go())


def test_a_question_is_asked_as_it_is_given(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(lambda q: response("Yes"))
    reply = with_ask(
        tmp_path,
        endpoint,
        lambda ask: ask("Right?", system="Judge.", max_tokens=3, temperature=0.5, stop=["\n"]),
    )
    assert reply == "Yes"
    ((question, params, seed, stop),) = endpoint.asked
    assert [(m["role"], m["content"][0]["text"]) for m in question.messages] == [
        ("system", "Judge."),
        ("user", "Right?"),
    ]
    assert (params.max_new_tokens, params.temperature, params.top_p) == (3, 0.5, 1.0)
    assert (seed, stop) == (0, ("\n",))


def test_the_same_request_is_asked_once_even_by_another_run(tmp_path: Path) -> None:
    first, second = (FakeEndpoint(lambda q: response("Yes")) for _ in range(2))
    with_ask(tmp_path, first, lambda ask: ask("Right?"))
    assert with_ask(tmp_path, second, lambda ask: ask("Right?")) == "Yes"
    assert (len(first.asked), len(second.asked)) == (1, 0)


def test_the_same_request_at_the_same_time_is_asked_once(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(lambda q: response("Yes"))

    async def use(ask: Asked) -> list[str]:
        return await asyncio.gather(*(ask("Right?") for _ in range(5)))

    assert with_ask(tmp_path, endpoint, use) == ["Yes"] * 5
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"system": "Judge."},
        {"max_tokens": 17},
        {"temperature": 0.1},
        {"stop": ["\n"]},
        {"attempt": 1},
    ],
)
def test_any_other_request_is_another_one(tmp_path: Path, change: dict[str, Any]) -> None:
    endpoint = FakeEndpoint()
    with_ask(tmp_path, endpoint, lambda ask: ask("Right?"))
    with_ask(tmp_path, endpoint, lambda ask: ask("Right?", **change))
    with_ask(tmp_path, FakeEndpoint(name="other"), lambda ask: ask("Right?"))
    assert len(endpoint.asked) == 2


def test_the_judge_s_requests_are_bounded(tmp_path: Path) -> None:
    endpoint = FakeEndpoint()

    async def use(ask: Asked) -> None:
        await asyncio.gather(*(ask(f"Right {i}?") for i in range(12)))

    with_ask(tmp_path, endpoint, use, slots=3)
    assert endpoint.most == 3


@pytest.mark.parametrize("error", [TransportError("gone"), Refused("400")])
def test_no_reply_is_a_failure_of_the_judge(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(JudgeFailed, match=str(error)):
        with_ask(tmp_path, FakeEndpoint(lambda q: error), lambda ask: ask("Right?"))


def judged(
    folder: Path,
    replying: Callable[[Question], Response | Exception],
    benchmark: Benchmark = JUDGED,
    said: str = "It is red",
) -> tuple[Outcome, FakeEndpoint]:
    endpoint = FakeEndpoint(replying, name="judge")
    with Journal(folder / "judge.jsonl") as replies:
        outcome = run(
            folder,
            FakeEndpoint(lambda q: response(said)),
            benchmark=benchmark,
            judge=judge_of(endpoint, replies),
        )
    return outcome, endpoint


def test_the_judge_s_score_counts_and_the_rule_s_stands_beside_it(tmp_path: Path) -> None:
    outcome, _ = judged(tmp_path, lambda q: response("No"))
    assert {record["score"] for record in outcome.records} == {0}
    assert {record["modes"]["default"]["score"] for record in outcome.records} == {1}
    judge = outcome.records[0]["judge"]
    assert (judge["model"], judge["score"]) == ({"model": "judge"}, 0)
    assert (judge["replies"], len(judge["requests"])) == (["No"], 1)


@pytest.mark.parametrize(
    "reply, reason",
    [
        (response("Perhaps"), "its replies could not be read"),
        (TransportError("gone"), "no reply: gone"),
    ],
)
def test_a_judge_that_fails_leaves_the_row_unscored(
    tmp_path: Path, reply: Response | Exception, reason: str
) -> None:
    outcome, _ = judged(tmp_path, lambda q: reply)
    assert {record["score"] for record in outcome.records} == {None}
    assert {record["judge"]["reason"] for record in outcome.records} == {reason}
    assert all(record["flags"] == ["judge_failed"] for record in outcome.records)


@pytest.mark.parametrize("said", ["the server answers 401: who?", "nothing has been answered"])
def test_a_judge_that_cannot_be_asked_at_all_ends_the_evaluation(tmp_path: Path, said: str) -> None:
    """Else every row would be unscored, and nobody told why."""
    with pytest.raises(ConfigError, match=f"--judge: {re.escape(said)}"):
        judged(tmp_path, lambda q: ConfigError(said))


def test_a_judge_of_ours_that_breaks_down_spoils_its_row_only(tmp_path: Path) -> None:
    async def broken(*_: object) -> Any:
        raise ZeroDivisionError("a bug")

    outcome, _ = judged(tmp_path, lambda q: response(), replace(JUDGED, judge=broken))
    assert len(outcome.records) == 4
    assert outcome.records[0]["judge"]["reason"] == "ZeroDivisionError: a bug"


def test_without_a_judge_the_rows_that_need_one_are_unscored(tmp_path: Path) -> None:
    outcome = run(tmp_path, FakeEndpoint(), benchmark=JUDGED)
    assert {record["score"] for record in outcome.records} == {None}
    assert all(record["flags"] == ["unjudged"] for record in outcome.records)
    assert {record["modes"]["default"]["score"] for record in outcome.records} == {1}


def test_a_judge_that_came_later_judges_what_was_kept(tmp_path: Path) -> None:
    run(tmp_path, FakeEndpoint(lambda q: response("It is red")), benchmark=JUDGED)
    outcome, endpoint = judged(tmp_path, lambda q: response("Yes"))
    assert outcome.kept == 4
    assert {record["score"] for record in outcome.records} == {1}
    assert len(endpoint.asked) == 1  # the same answer to the same question


def test_the_judge_sees_no_thoughts(tmp_path: Path) -> None:
    _, endpoint = judged(tmp_path, lambda q: response("Yes"), said="<think>blue</think>red")
    assert {q.messages[0]["content"][0]["text"] for q, *_ in endpoint.asked} == {
        "Is 'red' the same as 'red'? Yes or No."
    }


def test_where_the_rule_decides_a_judge_sees_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.runner._AGREEMENT_ROWS", 3)
    outcome, _ = judged(
        tmp_path, lambda q: response("No"), replace(JUDGED, judged_by_default=False)
    )
    assert [record["score"] for record in outcome.records] == [1, 1, 1, 1]
    assert [record["judge"] is not None for record in outcome.records] == [True] * 3 + [False]
