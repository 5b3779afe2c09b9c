"""One model on all chosen benchmarks: servers, judge, runner, and what is left in the folder.

OUT/settings.json                  everything needed to do it again
OUT/REGIME/NAME/responses.jsonl    answers as they came, by content hash
OUT/REGIME/NAME/records.jsonl      rows with extraction, scores, judge and flags
OUT/REGIME/results.json, ...       the report
"""

import argparse
import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from engine.encoding import TextEncoder
from engine.errors import ConfigError, TransportError
from evals.benchmark import Benchmark
from evals.data import check_source, load
from evals.endpoint import Endpoint
from evals.judge import Judge
from evals.openai_endpoint import OpenAIEndpoint
from evals.patience import Patience
from evals.preparation import Settings
from evals.records import Journal, write_lines
from evals.runner import Outcome, Runner, Task
from launch.evaluating.arguments import sizing_of
from launch.evaluating.models import Model, resolve
from launch.evaluating.progress import Shown
from launch.evaluating.rollout_endpoint import RolloutEndpoint
from launch.evaluating.servers import serving, specs_for

MODEL_KEY, JUDGE_KEY = "EVAL_API_KEY", "JUDGE_API_KEY"
_NICE = 10
"""While training: of this process among the machine's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What is known of one model afterwards."""

    model: str
    outcomes: Sequence[Outcome]
    settings: Mapping[str, Any]
    """JSON: everything that made the answers, but for the rows themselves."""


async def evaluate(
    options: argparse.Namespace, name: str, benchmarks: Sequence[Benchmark], out: Path
) -> Evaluated:
    """Ask, score and keep. Raises ConfigError for what the user has to mend, EngineError where
    servers of our own fail; what was answered is kept in any case."""
    settings = settings_of(options)
    called = options.name or name
    if options.while_training:
        os.nice(_NICE)
    revisions = options.cache / "revisions.json"
    # Before the first question: a set that can't be had ends it now, not after hours.
    await asyncio.to_thread(check_source, benchmarks, options.data, revisions=revisions)
    tasks = [
        Task(
            benchmark,
            partial(
                load,
                benchmark,
                options.data,
                limit=options.limit,
                revisions=revisions,
            ),
            out / benchmark.regime / benchmark.name / "responses.jsonl",
        )
        for benchmark in benchmarks
    ]
    async with (
        _session() as session,
        # First: that a judge is not there is known at once, and servers take minutes to start.
        _judge(options, session) as judge,
        _endpoint(options, name, session, out) as (endpoint, about),
    ):
        described = {
            **_described(options, settings),
            **about,
            "model": called,
            "identity": dict(endpoint.identity),
            "judge": None if judge is None else dict(judge.endpoint.identity),
        }
        _write_json(out / benchmarks[0].regime / "settings.json", described)
        with Shown() as shown:
            runner = Runner(
                endpoint,
                settings,
                watcher=_Writing(shown, out),
                judge=judge,
                images=options.cache / "images",
            )
            outcomes = await runner.run(tasks)
    return Evaluated(model=called, outcomes=outcomes, settings=described)


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(
        prompt=options.prompt,
        samples=options.n,
        seed=options.seed,
        blind=options.blind,
        system=options.system,
        instruction=options.instruction,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        sizing=sizing_of(options),
        concurrency=options.concurrency,
    )


class _Writing:
    """Shows how it goes, and writes the records of a benchmark as soon as they are all there."""

    def __init__(self, shown: Shown, out: Path) -> None:
        self.began, self.scored, self.skipped = shown.began, shown.scored, shown.skipped
        self._shown = shown
        self._out = out

    def finished(self, outcome: Outcome) -> None:
        benchmark = outcome.benchmark
        folder = self._out / benchmark.regime / benchmark.name
        write_lines(folder / "records.jsonl", outcome.records)
        self._shown.finished(outcome)


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    # Concurrency is bounded by the runner; a pool of connections would be a second bound.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


@asynccontextmanager
async def _endpoint(
    options: argparse.Namespace, name: str, session: aiohttp.ClientSession, out: Path
) -> AsyncIterator[tuple[Endpoint, dict[str, Any]]]:
    """The model's endpoint, and what is to be said of it."""
    key = os.environ.get(MODEL_KEY)
    if options.openai:
        openai = OpenAIEndpoint(session, options.openai, name, key=key, timeout_s=options.timeout_s)
        await Patience()(openai.look)
        yield openai, {"servers": options.openai, "kind": "openai"}
        return
    model = await asyncio.to_thread(resolve, name, with_weights=not options.server)
    if options.server:
        endpoint = _rollouts(options, model, session, options.server, key)
        servers = await endpoint.look(by_path=True)
        yield endpoint, {"servers": servers, "kind": "rollout"}
        return
    key = secrets.token_hex(16)
    specs = await asyncio.to_thread(specs_for, model.folder, key)
    await asyncio.to_thread((out / "logs").mkdir, parents=True, exist_ok=True)
    async with serving(specs, out / "logs") as urls:
        endpoint = _rollouts(options, model, session, urls, key)
        yield endpoint, {"servers": await endpoint.look(), "kind": specs[0].kind}


def _rollouts(
    options: argparse.Namespace,
    model: Model,
    session: aiohttp.ClientSession,
    urls: Sequence[str],
    key: str | None,
) -> RolloutEndpoint:
    # Beside a run the folder has the base's weights; whose name says which the servers have.
    weights = options.name if options.while_training else None
    return RolloutEndpoint(
        session,
        urls,
        TextEncoder.load(model.folder),
        model.identity(weights=weights),
        key=key,
        timeout_s=options.timeout_s,
        while_training=options.while_training,
    )


@asynccontextmanager
async def _judge(
    options: argparse.Namespace, session: aiohttp.ClientSession
) -> AsyncIterator[Judge | None]:
    if options.judge is None:
        yield None
        return
    endpoint = OpenAIEndpoint(
        session,
        [options.judge],
        options.judge_model,
        key=os.environ.get(JUDGE_KEY),
        timeout_s=options.timeout_s,
    )
    try:
        await Patience()(endpoint.look)
    except (ConfigError, TransportError) as error:
        raise ConfigError(f"--judge: {error}") from error
    with Journal(options.cache / "judge.jsonl", option="--cache") as replies:
        slots = asyncio.Semaphore(options.concurrency)
        yield Judge(endpoint, replies, Patience(), slots)


def _described(options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    return {
        "regime": options.regime,
        "data": str(options.data),
        "limit": options.limit,
        "settings": asdict(settings),
    }


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
