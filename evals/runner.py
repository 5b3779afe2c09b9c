"""Asks a model all rows of all benchmarks, and keeps every answer.

    rows -> prepared in threads, some ahead -> a slot -> the model -> journal -> rules -> judge

There is no batch and no barrier: a slot is held only while the model answers, the next row is ready
when it is free, and the rows of the next benchmark follow when the last one's are all on their way.
Scoring and the judge come after a slot was given back. Who waits: the one dispatching coroutine,
for a slot; who wakes it: any answer.

Whatever ends this process, the journal has every answer that came. Started again with the same
settings it asks for the rest only; other settings make other keys, and share nothing.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from engine.errors import TransportError
from engine.tasks import first_of
from evals.benchmark import Benchmark, Question, Row
from evals.data import Loaded
from evals.endpoint import Endpoint, Refused
from evals.judge import Judge
from evals.patience import Patience
from evals.preparation import Prepared, Settings, prepare, seed_of
from evals.records import Journal, Record, key_of
from evals.refusals import Refusals
from evals.scoring import judgement_of, record_of, rules_of

_SYNC_S = 2.0
_AGREEMENT_ROWS = 200
"""Rows that a judge sees where the headline is not the judge's: to know how far they agree."""


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark to be evaluated."""

    benchmark: Benchmark
    load: Callable[[], Loaded]
    """Blocking; called in a thread, when the benchmark's turn comes near."""
    journal: Path
    """Of responses."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of one benchmark; complete where `missing` is empty."""

    benchmark: Benchmark
    loaded: Loaded
    """Without its rows."""
    rows: int
    """That were to be asked: the loaded ones, after `limit`."""
    records: list[Record] = field(default_factory=list)
    """In the order of the rows, then of the samples."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(row, why it was skipped): when it was loaded, prepared or asked."""
    missing: list[tuple[str, int, str]] = field(default_factory=list)
    """(row, sample, why): no answer came; the same command asks again."""
    kept: int = 0
    """Answers that were there already."""


class Watcher(Protocol):
    """Is told how it goes."""

    def began(self, benchmark: Benchmark, rows: int, samples: int) -> None: ...

    def scored(self, benchmark: Benchmark, record: Record) -> None: ...

    def skipped(self, benchmark: Benchmark, row: str, why: str) -> None: ...

    def finished(self, outcome: Outcome) -> None:
        """All rows of a benchmark are done: its records can be written."""
        ...


class Runner:
    """One evaluation. Made and run in one event loop."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: Settings,
        *,
        watcher: Watcher,
        judge: Judge | None = None,
        images: Path | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`images`: the folder that keeps prepared pictures."""
        self._endpoint = endpoint
        self._settings = settings
        self._watcher = watcher
        self._judge = judge
        self._images = images
        self._patience = patience or Patience()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._preparing = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "prepare")
        self._scoring = ThreadPoolExecutor(1, "score")
        self._refusals = Refusals()

    async def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Evaluate all; outcomes in the order of `tasks`. Raises ConfigError where nobody answers,
        or no question is taken; what was answered is kept."""
        try:
            return await self._all(tasks)
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None
        finally:
            # Not waited for: who asks again for an end, while a picture is prepared, means it.
            self._preparing.shutdown(wait=False, cancel_futures=True)
            self._scoring.shutdown(wait=False, cancel_futures=True)

    async def _all(self, tasks: Sequence[Task]) -> list[Outcome]:
        running: list[asyncio.Task[Outcome]] = []
        async with asyncio.TaskGroup() as group:
            loads: deque[asyncio.Task[Loaded]] = deque()
            for number, task in enumerate(tasks):
                for near in tasks[number + len(loads) : number + 2]:  # and the next one
                    loads.append(group.create_task(asyncio.to_thread(near.load)))
                loaded, dispatched = await loads.popleft(), asyncio.Event()
                one = self._one(task, loaded, dispatched)
                running.append(group.create_task(one, name=task.benchmark.name))
                await dispatched.wait()
        return [task.result() for task in running]

    async def _one(self, task: Task, loaded: Loaded, dispatched: asyncio.Event) -> Outcome:
        benchmark, settings = task.benchmark, self._settings
        outcome = Outcome(
            benchmark=benchmark,
            loaded=replace(loaded, rows=()),
            rows=len(loaded.rows),
            refused=list(loaded.refused),
        )
        self._watcher.began(benchmark, len(loaded.rows), settings.samples)
        for row, why in loaded.refused:
            self._watcher.skipped(benchmark, row, why)
        with Journal(task.journal) as journal:
            if len(journal):
                # A server that answered here before does take questions.
                self._refusals.answered()
            async with asyncio.TaskGroup() as beside:
                syncing = beside.create_task(_sync(journal))
                async with asyncio.TaskGroup() as group:
                    async for prepared in self._prepared(benchmark, loaded.rows):
                        if isinstance(prepared, tuple):
                            self._refuse(outcome, *prepared)
                            continue
                        for sample in range(settings.samples):
                            await self._slots.acquire()
                            await self._refusals.enter()
                            group.create_task(self._sample(outcome, journal, prepared, sample))
                    dispatched.set()
                syncing.cancel()
        order = {row.id: number for number, row in enumerate(loaded.rows)}
        outcome.records.sort(key=lambda record: (order[record["row"]], record["sample"]))
        self._watcher.finished(outcome)
        return outcome

    async def _prepared(
        self, benchmark: Benchmark, rows: Sequence[Row]
    ) -> AsyncIterator[Prepared | tuple[str, str]]:
        """Rows as they are sent, or (row, why not), in order; some are prepared ahead."""
        loop = asyncio.get_running_loop()
        most = self._settings.concurrency + 4
        ahead: deque[tuple[Row, asyncio.Future[Prepared | str]]] = deque()
        waiting = iter(enumerate(rows))
        while True:
            while len(ahead) < most and (following := next(waiting, None)) is not None:
                number, row = following
                arguments = (benchmark, self._settings, number, row, self._images)
                ahead.append((row, loop.run_in_executor(self._preparing, prepare, *arguments)))
            if not ahead:
                return
            row, future = ahead.popleft()
            result = await future
            yield (row.id, result) if isinstance(result, str) else result

    async def _sample(
        self, outcome: Outcome, journal: Journal, prepared: Prepared, sample: int
    ) -> None:
        """One answer to one row, from the journal or the model, and its record. Holds a slot."""
        benchmark, row = outcome.benchmark, prepared.row
        described = prepared.described()
        key, seed = self._key(benchmark, row, described, sample)
        try:
            answer = journal.get(key)
            if answer is None:
                answer = await self._answer(journal, key, benchmark, prepared, sample, seed)
            else:
                outcome.kept += 1
                self._refusals.answered()
        except TransportError as error:
            outcome.missing.append((row.id, sample, str(error)))
            self._watcher.skipped(benchmark, row.id, f"missing: {error}")
            return
        except Refused as error:
            self._refuse(outcome, row.id, f"the server refuses it: {error}")
            self._refusals.refused(error)
            return
        finally:
            self._refusals.leave()
            self._slots.release()
        about = {
            "row": row.id,
            "sample": sample,
            "fields": dict(row.fields),
            "pictures": row.pictures,
            "groups": dict(row.groups),
            **described,
        }
        number = prepared.number
        del prepared  # its pictures: a judge may keep thousands of answers waiting
        record = await self._record(benchmark, number, about, answer)
        outcome.records.append(record)
        self._watcher.scored(benchmark, record)

    def _key(
        self, benchmark: Benchmark, row: Row, described: Mapping[str, Any], sample: int
    ) -> tuple[str, int]:
        """(hash of everything that makes the answer, seed of the request)."""
        seed = seed_of(self._settings.seed, row.id, sample)
        key = key_of(
            model=dict(self._endpoint.identity),
            prompt=described["prompt"],
            images=[image["sha256"] for image in described["images"]],
            sampling=asdict(self._settings.sampling(benchmark)),
            seed=seed,
            sample=sample,
            row=row.id,
        )
        return key, seed

    async def _answer(
        self,
        journal: Journal,
        key: str,
        benchmark: Benchmark,
        prepared: Prepared,
        sample: int,
        seed: int,
    ) -> Record:
        params = self._settings.sampling(benchmark)
        images = [image.data for image in prepared.images]
        question = Question(messages=prepared.messages, images=images)
        response = await self._patience(lambda: self._endpoint.generate(question, params, seed))
        self._refusals.answered()
        line = asdict(response)
        line["response"] = line.pop("text")
        return journal.append(key, {"row": prepared.row.id, "sample": sample, "seed": seed, **line})

    async def _record(
        self,
        benchmark: Benchmark,
        number: int,
        about: Mapping[str, Any],
        answer: Mapping[str, Any],
    ) -> Record:
        """The record of an answer to the row with this number in its order."""
        loop = asyncio.get_running_loop()
        fields, text = about["fields"], answer["response"]
        rules = await loop.run_in_executor(self._scoring, rules_of, benchmark, fields, text)
        ask = None
        if self._judge is not None and (benchmark.judged_by_default or number < _AGREEMENT_ROWS):
            ask = self._judge.for_row()
        judged = await judgement_of(benchmark, fields, text, ask)
        return record_of(benchmark, about, answer, rules, judged)

    def _refuse(self, outcome: Outcome, row: str, why: str) -> None:
        if (row, why) not in outcome.refused:
            outcome.refused.append((row, why))
            self._watcher.skipped(outcome.benchmark, row, why)


async def _sync(journal: Journal) -> None:
    while True:
        await asyncio.sleep(_SYNC_S)
        await asyncio.to_thread(journal.sync)
