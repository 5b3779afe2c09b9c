"""The runner: every row asked once, kept, scored; nothing waits for what it need not wait for."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import evals.patience
from engine.errors import ConfigError, EngineError, TransportError
from engine.types import SamplingParams
from evals.benchmark import Benchmark, Question, Row, Scored
from evals.data import Loaded, load
from evals.endpoint import Refused, Response
from evals.images import Sizing
from evals.judge import Judge
from evals.patience import Patience
from evals.preparation import Prepared, Settings, prepare, seed_of
from evals.records import Journal
from evals.runner import Outcome, Runner, Task
from evals.scoring import scored_of
from tests.evals.fakes import FakeEndpoint, Remembering, response, text_of
from tests.evals.small_benchmark import JUDGED, SMALL, png, record, write_rows


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evals.patience, "_BACKOFF_S", 1e-6)


def rows(count: int = 4) -> list[Row]:
    fields = [record(number) for number in range(count)]
    return [Row(id=f["id"], fields=f, images={"image": png()}) for f in fields]


def loaded(own: list[Row]) -> Loaded:
    return Loaded(rows=tuple(own), refused=(), found=len(own), revision="local", fingerprint="made")


def run(
    folder: Path,
    endpoint: FakeEndpoint,
    settings: Settings | None = None,
    *,
    own: list[Row] | None = None,
    benchmark: Benchmark = SMALL,
    watcher: Remembering | None = None,
    judge: Judge | None = None,
    retries: int = 2,
) -> Outcome:
    """Evaluate one benchmark, with the journal in `folder`."""

    async def go() -> Outcome:
        runner = Runner(
            endpoint,
            settings or Settings(concurrency=4),
            watcher=watcher or Remembering(),
            judge=judge,
            patience=Patience(retries=retries),
        )
        task = Task(benchmark, lambda: loaded(own or rows()), folder / "responses.jsonl")
        (outcome,) = await runner.run([task])
        return outcome

    return asyncio.run(go())


def test_every_row_is_asked_once_and_scored(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(lambda q: response("red" if "number 1" in text_of(q) else "blue"))
    outcome = run(tmp_path, endpoint)
    assert {r["row"]: r["score"] for r in outcome.records} == {"q0": 0, "q1": 1, "q2": 0, "q3": 0}
    assert [r["row"] for r in outcome.records] == ["q0", "q1", "q2", "q3"]
    assert (outcome.missing, outcome.refused, outcome.kept) == ([], [], 0)
    assert len(endpoint.asked) == 4
    json.dumps(outcome.records)


def test_the_same_settings_ask_nothing_again(tmp_path: Path) -> None:
    first = run(tmp_path, FakeEndpoint())
    again = FakeEndpoint(lambda q: ZeroDivisionError("asked"))
    second = run(tmp_path, again)
    assert again.asked == []
    assert second.kept == 4

    def told(outcome: Outcome) -> list[dict[str, Any]]:
        return [{k: v for k, v in r.items() if k != "modes"} for r in outcome.records]

    assert told(first) == told(second)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(seed=1),
        Settings(blind=True),
        Settings(temperature=0.5),
        Settings(max_new_tokens=9),
        Settings(top_p=0.9),
        Settings(system="Be brief."),
        Settings(instruction="Think."),
        Settings(sizing=Sizing(max_pixels=100)),
    ],
)
def test_other_settings_share_nothing(tmp_path: Path, settings: Settings) -> None:
    run(tmp_path, FakeEndpoint())
    endpoint = FakeEndpoint()
    assert run(tmp_path, endpoint, settings).kept == 0
    assert len(endpoint.asked) == 4


def test_another_model_or_prompt_or_picture_shares_nothing(tmp_path: Path) -> None:
    run(tmp_path, FakeEndpoint())
    assert run(tmp_path, FakeEndpoint(name="other")).kept == 0
    others = [replace(row, images={"image": png("blue")}) for row in rows()]
    assert run(tmp_path, FakeEndpoint(), own=others).kept == 0
    others = [replace(row, fields={**row.fields, "question": "Who?"}) for row in rows()]
    assert run(tmp_path, FakeEndpoint(), own=others).kept == 0


def test_more_samples_go_on_from_fewer(tmp_path: Path) -> None:
    run(tmp_path, FakeEndpoint(), Settings(samples=2, temperature=1.0))
    endpoint = FakeEndpoint()
    outcome = run(tmp_path, endpoint, Settings(samples=3, temperature=1.0))
    assert outcome.kept == 8
    assert len(endpoint.asked) == 4
    assert [(r["row"], r["sample"]) for r in outcome.records[:4]] == [
        *(("q0", sample) for sample in range(3)),
        ("q1", 0),
    ]
    assert len({r["seed"] for r in outcome.records}) == 12


def test_a_seed_is_a_request_s_own_and_the_same_for_every_model() -> None:
    assert seed_of(0, "a", 0) == seed_of(0, "a", 0)
    assert len({seed_of(s, row, n) for s in (0, 1) for row in "ab" for n in (0, 1)}) == 8
    assert all(0 <= seed_of(s, "a", 0) < 2**31 for s in range(100))


def test_a_transport_failure_leaves_the_row_missing_and_the_next_run_asks_again(
    tmp_path: Path,
) -> None:
    def answer(question: Question) -> Response | Exception:
        return TransportError("gone") if "number 2" in text_of(question) else response()

    watcher = Remembering()
    outcome = run(tmp_path, FakeEndpoint(answer), watcher=watcher)
    assert outcome.missing == [("q2", 0, "gone")]
    assert [r["row"] for r in outcome.records] == ["q0", "q1", "q3"]
    assert watcher.skips == [("small", "q2", "missing: gone")]
    endpoint = FakeEndpoint()
    outcome = run(tmp_path, endpoint)
    assert len(outcome.records) == 4
    assert len(endpoint.asked) == 1


def test_a_refused_question_is_named_and_stops_nothing(tmp_path: Path) -> None:
    def answer(question: Question) -> Response | Exception:
        return Refused("400: too long") if "number 0" in text_of(question) else response()

    outcome = run(tmp_path, FakeEndpoint(answer))
    assert outcome.refused == [("q0", "the server refuses it: 400: too long")]
    assert len(outcome.records) == 3


def test_where_the_first_questions_are_all_refused_the_fault_is_elsewhere(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(lambda q: Refused("400: no pictures here"))
    with pytest.raises(ConfigError, match="refused the first 20 questions: 400: no pictures"):
        run(tmp_path, endpoint, own=rows(40))


def refusing(numbers: range) -> FakeEndpoint:
    """Refuses the rows with these numbers."""
    names = [f"number {number}?" for number in numbers]

    def answer(question: Question) -> Response | Exception:
        is_refused = any(name in text_of(question) for name in names)
        return Refused("400: too long") if is_refused else response()

    return FakeEndpoint(answer)


def test_refusals_do_not_end_an_evaluation_that_has_answers_from_before(tmp_path: Path) -> None:
    run(tmp_path, FakeEndpoint(), own=rows(40)[25:])
    outcome = run(tmp_path, refusing(range(25)), own=rows(40))
    assert outcome.kept == 15
    assert len(outcome.refused) == 25


def test_answers_of_the_benchmark_before_count_although_they_were_kept(tmp_path: Path) -> None:
    async def go(endpoint: FakeEndpoint) -> list[Outcome]:
        tasks = [
            Task(replace(SMALL, name=name), lambda own=own: loaded(own), tmp_path / f"{name}.jsonl")
            for name, own in (("first", rows(4)), ("second", rows(40)[4:]))
        ]
        runner = Runner(endpoint, Settings(concurrency=1), watcher=Remembering())
        return await runner.run(tasks)

    for kept in (0, 4):
        first, second = asyncio.run(go(refusing(range(4, 40))))
        assert (first.kept, len(first.records)) == (kept, 4)
        assert len(second.refused) == 36


class Slow(FakeEndpoint):
    """Answers the first row when many others were asked for and are all done."""

    async def generate(
        self, question: Question, params: SamplingParams, seed: int, *, stop: Sequence[str] = ()
    ) -> Response:
        if "number 0?" in text_of(question):
            async with asyncio.timeout(300):
                while len(self.asked) < 20 or self.running:
                    await asyncio.sleep(0.001)
        return await super().generate(question, params, seed, stop=stop)


def test_refusals_that_come_before_the_first_answer_end_nothing(tmp_path: Path) -> None:
    outcome = run(tmp_path, Slow(refusing(range(1, 30)).answer), own=rows(40))
    assert len(outcome.refused) == 29
    assert [record["row"] for record in outcome.records][:2] == ["q0", "q30"]


def test_where_all_is_refused_no_more_is_asked_than_was_under_way(tmp_path: Path) -> None:
    endpoint = refusing(range(1000))
    with pytest.raises(ConfigError, match="refused the first 20 questions"):
        run(tmp_path, endpoint, Settings(concurrency=8), own=rows(200))
    assert len(endpoint.asked) <= 20 + 8


def test_a_row_that_cannot_be_asked_is_named_and_stops_nothing(tmp_path: Path) -> None:
    own = rows()
    own[0] = replace(own[0], fields={})
    own[1] = replace(own[1], images={"image": b"\x89PNG\r\n\x1a\n"})
    benchmark = replace(SMALL, ask=lambda row: _ask_or_fail(row))
    own[2] = replace(own[2], fields={**own[2].fields, "question": "unaskable"})
    outcome = run(tmp_path, FakeEndpoint(), own=own, benchmark=benchmark)
    assert [row for row, _ in outcome.refused] == ["q0", "q1", "q2"]
    assert "KeyError" in outcome.refused[0][1]
    assert "not a picture" in outcome.refused[1][1]
    assert outcome.refused[2][1] == "no place for a picture"
    assert [r["row"] for r in outcome.records] == ["q3"]


def _ask_or_fail(row: Row) -> Question:
    if row.fields["question"] == "unaskable":
        raise ValueError("no place for a picture")
    return SMALL.ask(row)


def test_a_rule_of_ours_that_breaks_down_spoils_its_row_only(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(
        lambda q: response("crash" if "number 3" in text_of(q) else "It is red")
    )
    outcome = run(tmp_path, endpoint)
    assert [r["score"] for r in outcome.records] == [1, 1, 1, 0]
    assert outcome.records[3]["flags"] == ["unparsed", "scoring_failed"]
    assert outcome.records[3]["modes"]["default"]["error"] == "ZeroDivisionError: a rule of ours"


def test_an_error_that_nobody_foresaw_ends_it_as_itself(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(tmp_path, FakeEndpoint(lambda q: ZeroDivisionError("a bug")))


def test_answers_that_cannot_be_kept_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk says once that it has lost something: whoever does not listen hears it never again."""
    told: list[int] = []

    def lost(file: int) -> None:
        told.append(file)
        if len(told) == 1:
            raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr("evals.records.os.fdatasync", lost)
    monkeypatch.setattr("evals.runner._SYNC_S", 0.0)
    endpoint = FakeEndpoint(until_running=99)  # it never answers, and gives up after a while
    with pytest.raises(EngineError, match=r"answers cannot be kept: .*Disk quota exceeded"):
        run(tmp_path, endpoint)


def test_concurrency_is_bounded_and_used(tmp_path: Path) -> None:
    endpoint = FakeEndpoint(until_running=3)
    run(tmp_path, endpoint, Settings(concurrency=3), own=rows(30))
    assert endpoint.most == 3


def test_the_next_benchmark_is_asked_while_answers_of_the_last_are_outstanding(
    tmp_path: Path,
) -> None:
    """A server never waits for the slowest answer of a benchmark."""

    async def go() -> list[str]:
        endpoint = FakeEndpoint(gate=asyncio.Event())
        runner = Runner(endpoint, Settings(concurrency=8), watcher=Remembering())
        tasks = [
            Task(replace(SMALL, name=name), lambda: loaded(rows()), tmp_path / f"{name}.jsonl")
            for name in ("first", "second")
        ]
        running = asyncio.create_task(runner.run(tasks))
        async with asyncio.timeout(300):
            while endpoint.running < 8:
                await asyncio.sleep(0.001)
        assert endpoint.gate is not None
        endpoint.gate.set()
        return [outcome.benchmark.name for outcome in await running]

    assert asyncio.run(go()) == ["first", "second"]


def test_a_slot_is_free_while_an_answer_is_judged(tmp_path: Path) -> None:
    async def go() -> int:
        judge_endpoint = FakeEndpoint(lambda q: response("Yes"), gate=asyncio.Event())
        endpoint = FakeEndpoint(lambda q: response(text_of(q)))  # so no two judgements are alike
        with Journal(tmp_path / "judge.jsonl") as replies:
            judge = Judge(judge_endpoint, replies, Patience(), asyncio.Semaphore(99))
            runner = Runner(endpoint, Settings(concurrency=1), watcher=Remembering(), judge=judge)
            task = Task(JUDGED, lambda: loaded(rows()), tmp_path / "r.jsonl")
            running = asyncio.create_task(runner.run([task]))
            async with asyncio.timeout(300):
                while judge_endpoint.running < 4:
                    await asyncio.sleep(0.001)
            assert judge_endpoint.gate is not None
            judge_endpoint.gate.set()
            (outcome,) = await running
        return sum(record["score"] for record in outcome.records)

    assert asyncio.run(go()) == 4


def test_a_record_says_which_pictures_and_groups_a_row_has(tmp_path: Path) -> None:
    own = [replace(row, pictures="p", groups={"set 1": 3}) for row in rows(1)]
    (record_,) = run(tmp_path, FakeEndpoint(), Settings(blind=True), own=own).records
    assert (record_["pictures"], record_["groups"]) == ("p", {"set 1": 3})
    assert scored_of(record_, 0.5) == Scored(
        id="q0", fields=own[0].fields, score=0.5, pictures="p", groups={"set 1": 3}
    )


def test_what_is_loaded_badly_is_passed_on(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "data", [record(0), record(1, image="no.png")])

    async def go() -> Outcome:
        task = Task(SMALL, partial(load, SMALL, folder), tmp_path / "r.jsonl")
        (outcome,) = await Runner(FakeEndpoint(), Settings(), watcher=Remembering()).run([task])
        return outcome

    outcome = asyncio.run(go())
    assert [row for row, _ in outcome.refused] == ["row 1"]
    assert (outcome.rows, outcome.loaded.found) == (1, 2)


def test_a_source_that_is_not_there_ends_it(tmp_path: Path) -> None:
    async def go() -> None:
        task = Task(SMALL, partial(load, SMALL, tmp_path / "nowhere"), tmp_path / "r.jsonl")
        await Runner(FakeEndpoint(), Settings(), watcher=Remembering()).run([task])

    with pytest.raises(ConfigError, match="is no folder"):
        asyncio.run(go())


def prepared(settings: Settings, benchmark: Benchmark = SMALL) -> Prepared:
    result = prepare(benchmark, settings, 0, rows()[0], None)
    assert isinstance(result, Prepared)
    return result


def test_a_blind_question_has_the_text_and_no_picture() -> None:
    blind = prepared(Settings(blind=True))
    assert blind.images == []
    assert blind.messages[0]["content"] == [{"type": "text", "text": "Which colour has number 0?"}]


def test_system_and_instruction_are_those_of_the_settings() -> None:
    benchmark = replace(SMALL, system="You are a test.")
    assert prepared(Settings(), benchmark).messages[0] == {
        "role": "system",
        "content": [{"type": "text", "text": "You are a test."}],
    }
    assert prepared(Settings(system=""), benchmark).messages[0]["role"] == "user"
    other = prepared(Settings(system="Other.", instruction="Box it."), benchmark)
    assert other.messages[0]["content"] == [{"type": "text", "text": "Other."}]
    assert other.messages[1]["content"][-1] == {"type": "text", "text": "\nBox it."}


def test_a_system_prompt_of_the_question_itself_can_be_replaced() -> None:
    def ask(row: Row) -> Question:
        own = SMALL.ask(row)
        head = {"role": "system", "content": [{"type": "text", "text": "Own."}]}
        return Question(messages=[head, *own.messages], images=own.images)

    benchmark = replace(SMALL, ask=ask, system="Own.")
    assert len(prepared(Settings(), benchmark).messages) == 2
    other = prepared(Settings(system="Other."), benchmark)
    assert other.messages[0]["content"] == [{"type": "text", "text": "Other."}]
    assert [m["role"] for m in prepared(Settings(system=""), benchmark).messages] == ["user"]


@pytest.mark.parametrize("places", [0, 2])
def test_pictures_and_their_places_are_counted(places: int) -> None:
    parts = [{"type": "image"}] * places
    question = Question(messages=[{"role": "user", "content": parts}], images=[png()])
    result = prepare(replace(SMALL, ask=lambda row: question), Settings(), 0, rows()[0], None)
    assert result == f"1 pictures for {places} places"


def test_pictures_are_described_by_what_is_sent() -> None:
    described = prepared(Settings(sizing=Sizing(max_pixels=100))).described()
    ((image),) = described["images"]
    assert image["width"] * image["height"] <= 100
    whole: Callable[[], Prepared] = partial(prepared, Settings())
    assert whole().described()["images"][0]["sha256"] != image["sha256"]
