"""The runner of evaluations: how busy it keeps a server, and what survives kills.

    python launch/bench.py evals                    # runner against the server's ceiling
    python launch/bench.py evals --killed           # 10,000 rows, failing requests, two kills

A canned server, in a process of its own, answers after times as spread as a reasoning model's; what
decides them is the request, so all have the same work. The ceiling is what requests that were
encoded beforehand get out of it. Then, in the same run: our runner, which decodes pictures, asks,
keeps, reads and scores; and a loop that does the same batch after batch, each as large as our
concurrency, and waits for the last answer of each.
"""

import argparse
import asyncio
import io
import json
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import aiohttp
from PIL import Image

from engine.children import end, last_lines, spawn
from engine.errors import EngineError
from evals.benchmark import Benchmark, Question, Row
from evals.benchmarks.chartqa import BENCHMARK
from evals.data import Loaded
from evals.endpoint import Response
from evals.openai_endpoint import OpenAIEndpoint, request_body
from evals.preparation import Prepared, Settings, prepare, seed_of
from evals.records import Journal, Record
from evals.runner import Outcome, Runner, Task
from evals.scoring import rules_of
from launch.benches.evals_killed import survive

_GOAL = 0.95
_READY_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py evals`."""
    parser.add_argument("--rows", type=int, help="default: 1200, or 10000 with --killed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=32, help="answers at a time, of the server")
    parser.add_argument("--concurrency", type=int, default=48, help="requests at a time")
    parser.add_argument("--mean-s", type=float, default=0.5, help="seconds of an answer")
    parser.add_argument("--killed", action="store_true", help="the other measurement")
    parser.add_argument("--fail", type=float, default=0.05, help="share that fails, with --killed")


def run(options: argparse.Namespace) -> None:
    """Measure, and print a line for each way."""
    if options.killed:
        with canned("--mean-s", "0.01", "--fail", str(options.fail), "--slots", "64") as url:
            print(survive(url, rows=options.rows or 10_000, kills=2))
        return
    options.rows = options.rows or 1200
    with canned("--slots", str(options.slots), "--mean-s", str(options.mean_s)) as url:
        rounds = [asyncio.run(measure(options, url, number)) for number in range(options.rounds)]
    for name in rounds[0]:
        rates = [one[name]["rate"] for one in rounds]
        ratios = [one[name]["rate"] / one["ceiling"]["rate"] for one in rounds]
        busy = [one[name]["busy"] for one in rounds]
        print(
            f"{name:>9}: {statistics.median(rates):6.1f} rows/s, of the ceiling "
            f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}], "
            f"slots busy {statistics.median(busy):.3f}"
        )
    ours = statistics.median(one["ours"]["rate"] / one["ceiling"]["rate"] for one in rounds)
    print(f"goal: ours at least {_GOAL} of the ceiling: {'met' if ours >= _GOAL else 'MISSED'}")


async def measure(
    options: argparse.Namespace, url: str, number: int
) -> dict[str, dict[str, float]]:
    """{way: {rate (rows per second), busy}} of one round, with rows of its own."""
    rows = make_rows(options.rows, number)
    settings = Settings(concurrency=options.concurrency)
    found = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        bodies = [_body(one) for one in _all_prepared(rows, settings)]
        endpoint = OpenAIEndpoint(session, [f"{url}/v1"], "canned")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            ways: dict[str, Callable[[], Awaitable[int]]] = {
                "ceiling": partial(ceiling, session, url, bodies, options.concurrency),
                "ours": partial(ours, endpoint, settings, rows, path / "ours.jsonl"),
                "batches": partial(batches, endpoint, settings, rows, path / "batches.jsonl"),
            }
            for name, way in ways.items():
                found[name] = await _timed(session, url, way)
    return found


async def ceiling(
    session: aiohttp.ClientSession, url: str, bodies: Sequence[bytes], concurrency: int
) -> int:
    """Send what was encoded beforehand, always so many at a time; the number of answers."""
    waiting = iter(bodies)
    answers = 0

    async def send() -> None:
        nonlocal answers
        for body in waiting:
            async with session.post(f"{url}/v1/chat/completions", data=body) as response:
                answers += bool(await response.read())

    await asyncio.gather(*(send() for _ in range(concurrency)))
    return answers


async def ours(
    endpoint: OpenAIEndpoint, settings: Settings, rows: Sequence[Row], journal: Path
) -> int:
    """The runner, as `launch/evaluate.py` uses it; the number of records."""
    loaded = Loaded(
        rows=tuple(rows), refused=(), found=len(rows), revision="made", fingerprint="made"
    )
    runner = Runner(endpoint, settings, watcher=_Silent())
    (outcome,) = await runner.run([Task(BENCHMARK, lambda: loaded, journal)])
    return len(outcome.records)


async def batches(
    endpoint: OpenAIEndpoint, settings: Settings, rows: Sequence[Row], journal: Path
) -> int:
    """Prepare a batch, ask it, wait for all, keep and score it; then the next one."""
    scored = 0
    params = settings.sampling(BENCHMARK)
    with Journal(journal) as kept:
        for start in range(0, len(rows), settings.concurrency):
            batch = _all_prepared(rows[start : start + settings.concurrency], settings)
            asked = [endpoint.generate(_question(one), params, _seed(one)) for one in batch]
            answers: list[Response] = await asyncio.gather(*asked)
            for one, answer in zip(batch, answers, strict=True):
                rules_of(BENCHMARK, one.row.fields, answer.text)
                kept.append(one.row.id, {"response": answer.text})
                scored += 1
    return scored


async def _timed(
    session: aiohttp.ClientSession, url: str, way: Callable[[], Awaitable[int]]
) -> dict[str, float]:
    async with session.post(f"{url}/reset"):
        pass
    began_s = time.perf_counter()
    count = await way()
    spent_s = time.perf_counter() - began_s
    async with session.get(f"{url}/stats") as response:
        stats = await response.json()
    if stats["requests"] != count:
        raise EngineError(f"{stats['requests']} requests for {count} answers")
    return {"rate": count / spent_s, "busy": stats["busy"]}


def make_rows(count: int, seed: int) -> list[Row]:
    """Questions on pictures of 640 x 480, all different, so that no cache helps."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        out = io.BytesIO()
        turned = Image.linear_gradient("L").rotate(chance.random() * 360).resize((640, 480))
        turned.convert("RGB").save(out, "JPEG")
        fields = {
            "query": f"How high is bar {number}?",
            "label": [str(chance.randrange(10))],
            "human_or_machine": number % 2,
        }
        rows.append(Row(id=str(number), fields=fields, images={"image": out.getvalue()}))
    return rows


def _all_prepared(rows: Sequence[Row], settings: Settings) -> list[Prepared]:
    found = [prepare(BENCHMARK, settings, number, row, None) for number, row in enumerate(rows)]
    return [one for one in found if isinstance(one, Prepared)]


def _question(prepared: Prepared) -> Question:
    return Question(messages=prepared.messages, images=[image.data for image in prepared.images])


def _seed(prepared: Prepared) -> int:
    return seed_of(0, prepared.row.id, 0)


def _body(prepared: Prepared) -> bytes:
    params = Settings().sampling(BENCHMARK)
    body = request_body("canned", _question(prepared), params, _seed(prepared), ())
    return json.dumps(body).encode()


class _Silent:
    """A watcher that says nothing."""

    def began(self, benchmark: Benchmark, rows: int, samples: int) -> None: ...

    def scored(self, benchmark: Benchmark, record: Record) -> None: ...

    def skipped(self, benchmark: Benchmark, row: str, why: str) -> None:
        raise EngineError(f"skipped {row}: {why}")

    def finished(self, outcome: Outcome) -> None: ...


@contextmanager
def canned(*arguments: str) -> Iterator[str]:
    """URL of a canned server in a process of its own, ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        command = [sys.executable, "-m", "launch.benches.canned_server", str(port), *arguments]
        process = spawn(command, log=log)
        try:
            deadline = time.monotonic() + _READY_S
            while not _listens(port):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise EngineError(f"no canned server:\n{last_lines(log)}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            end(process)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
