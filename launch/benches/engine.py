"""What one engine process sustains on one core, with peers that think of nothing.

    python launch/bench.py engine
    python launch/bench.py engine --prompt-tokens 100 --answer-tokens 200
    python launch/bench.py engine --branches 2

The real engine plays MM-Zero: sampler, HTTP, pictures, votes, rewards, the buffer on disk and the
dashboard. Its rollout servers and its learner are `canned_peers`, on the other core: they answer at
once, with ids and log-probs of the lengths asked for. Counted is the engine's own processor time
(its render and grading workers are other processes), per request and per group, and what part of
it goes where. Two limits of the same run stand beside it: plain aiohttp with the same bodies
against the same servers, without and with JSON; and plain inserts of the same payloads.

With `--branches` the engine is the head of so many others (`engine.branches`), which play in its
place: told is what a game costs each side, and so how many branches one head can have.
"""

import argparse
import asyncio
import base64
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from engine.children import end, spawn
from engine.encoding import TextEncoder
from engine.records import Records
from engine.rundir import RunDir, make_key
from launch.benches.canned_replies import canned_model
from launch.benches.engine_parts import by_part, hottest
from launch.benches.monitor import processor_s
from launch.config import load_root
from launch.preflight import write_config
from launch.profiling import read_profile

_ROOT = Path(__file__).resolve().parents[2]
_LOOK_S = 0.25
_WARM_STEPS = 2
"""Steps of each policy before anything counts."""
_MOST_S = 900.0
_CONCURRENCY = 64
"""Requests at a time, at a server, and of the plain client."""
_ALONE_REQUESTS, _ALONE_INSERTS = 2000, 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py engine`."""
    parser.add_argument("--steps", type=int, default=16, help="of each policy")
    parser.add_argument("--games", type=int, default=6, help="games of a step")
    parser.add_argument("--prompt-tokens", type=int, default=1500, help="sent, without pictures'")
    parser.add_argument("--answer-tokens", type=int, default=1000)
    parser.add_argument("--side", type=int, default=448, help="pixels of a picture")
    parser.add_argument("--servers", type=int, default=2, help="of each policy")
    parser.add_argument("--branches", type=int, default=0, help="0: the engine plays itself")
    parser.add_argument("--gpu-tokens-s", type=float, default=2500.0, help="that one GPU generates")
    parser.add_argument("--hottest", type=int, default=0, help="functions to print")
    parser.add_argument("--keep-profile", type=Path, help="where the profile's stacks go")


@dataclass(frozen=True, slots=True)
class Reading:
    """The counts of a run at a moment."""

    at_s: float
    engine_s: float
    """Processor time of the engine."""
    requests: int
    groups: int
    """Submitted."""
    branches_s: float = 0.0
    """Processor time of all branches."""


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="streamzero-") as name:
        folder = Path(name)
        model = folder / "model"
        canned_model(_ROOT / "launch/tiny_base_model", model, options.prompt_tokens)
        run_dir, profile = _prepared(options, folder, model), folder / "profile"
        address, other = f"ipc://{folder}/engine.sock", f"ipc://{folder}/branches.sock"
        with _peers(options, model, address) as urls, ExitStack() as stack:
            engine = spawn(
                [sys.executable, "-m", "launch.engine", str(run_dir.path), address, other],
                log=folder / "engine.log",
                env={"STREAMZERO_ENGINE_PROFILE": str(profile), "PYTHONPATH": str(_ROOT)},
            )
            stack.callback(end, engine)
            branches = []
            for number in range(options.branches):
                own = [url for of in urls.values() for url in of[number :: options.branches]]
                branches.append(_branch(run_dir, other, number, own))
                stack.callback(end, branches[-1])
            watching = _watch(options, urls["solver"][0], engine, branches, run_dir)
            first, last = asyncio.run(watching)
            engine.wait(_MOST_S)
            print(_told(first, last, options))
            alone = asyncio.run(_round_trips(_a_request(options, model), urls["solver"][0]))
        payloads = _payload_bytes(run_dir)
        stacks = read_profile(profile)
        if options.keep_profile:
            options.keep_profile.write_bytes(profile.read_bytes())
        insert_s = _insert_s(folder / "alone.db", payloads)
    shares = by_part(stacks)
    print(_parts_told(shares, first, last))
    print(_limits_told(per(first, last), alone, insert_s, shares, payloads))
    for leaf, share in hottest(stacks, options.hottest):
        print(f"    {share:6.3f}  {leaf}")


def _branch(
    run_dir: RunDir, address: str, number: int, urls: list[str]
) -> "subprocess.Popen[bytes]":
    return spawn(
        [
            sys.executable, "-m", "launch.branch",
            str(run_dir.path), address, str(1 + number), json.dumps(urls),
        ],
        log=run_dir.logs / f"branch{1 + number}.out",
        env={"PYTHONPATH": str(_ROOT)},
    )  # fmt: skip


def _prepared(options: argparse.Namespace, folder: Path, model: Path) -> RunDir:
    tokens = max(options.answer_tokens, 400)  # a drawing is not cut off
    config = load_root(
        _ROOT / "launch/configs/quickstart.yaml",
        [
            f"run.root={folder / 'runs'}", "run.name=canned", f"run.steps={options.steps}",
            f"model.base={model}", f"streams.games_per_step={options.games}",
            f"sampler.max_concurrency={_CONCURRENCY}", f"render.side={options.side}",
            "render.cache_entries=0", "monitor.port=0", "eval.heldout_items=0",
            "eval.majority_items=0", "eval.dev_items=0",
            *(f"recipe.{role}.max_new_tokens={tokens}" for role in ("proposer", "coder", "solver")),
            *_layout(options.branches),
        ],
    )  # fmt: skip
    run_dir = RunDir(config.run.root / config.run.name)
    run_dir.create()
    write_config(config, run_dir)
    make_key(run_dir)
    return run_dir


def _layout(branches: int) -> tuple[str, ...]:
    """Of so many branches, on ranks from 1 on, each with a host of servers."""
    if not branches:
        return ()
    ranks = range(1, 1 + branches)
    hosts = [f"{{rank: {r}, policies: [proposer, coder, solver]}}" for r in ranks]
    owners = [f"{{rank: {r}, servers: [{r}]}}" for r in ranks]
    return f"layout.servers=[{', '.join(hosts)}]", f"layout.branches=[{', '.join(owners)}]"


@contextmanager
def _peers(
    options: argparse.Namespace, model: Path, address: str
) -> Iterator[Mapping[str, list[str]]]:
    """{policy: [url]}"""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "launch.benches.canned_peers", str(model), address,
            "--servers", str(max(options.servers, options.branches)),
            "--answer-tokens", str(options.answer_tokens),
        ],
        stdout=subprocess.PIPE,
        cwd=_ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the canned peers did not begin")
        yield json.loads(line)
    finally:
        end(process)


async def _watch(
    options: argparse.Namespace,
    url: str,
    engine: "subprocess.Popen[bytes]",
    branches: Sequence["subprocess.Popen[bytes]"],
    run_dir: RunDir,
) -> tuple[Reading, Reading]:
    """The first and the last reading between the warm-up and the last step."""
    found: list[Reading] = []
    deadline = time.monotonic() + _MOST_S
    async with aiohttp.ClientSession() as session:
        while engine.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)
            async with session.get(f"{url}/stats") as response:
                stats = await response.json()
            if _WARM_STEPS <= stats["step"] < options.steps:
                reading = _reading(engine, branches, run_dir, stats)
                found = [*found[:1], reading]
    if len(found) < 2:
        raise SystemExit(f"the run was over too soon, or never began: {run_dir.path}, --steps")
    return found[0], found[1]


def _reading(
    engine: "subprocess.Popen[bytes]",
    branches: Sequence["subprocess.Popen[bytes]"],
    run_dir: RunDir,
    stats: Mapping[str, Any],
) -> Reading:
    records = Records.open(run_dir.database)
    try:
        groups = sum(row["submitted"] for row in records.counts()["groups"].values())
    finally:
        records.close()
    of_branches = sum(processor_s(branch.pid) for branch in branches if branch.poll() is None)
    now_s, engine_s = time.monotonic(), processor_s(engine.pid)
    return Reading(now_s, engine_s, int(stats["requests"]), groups, of_branches)


# the limits


def _a_request(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """One of a solver, as the sampler sends it: the most frequent."""
    encoder = TextEncoder.load(model)
    text = "how many shapes?"
    content = [{"type": "image"}, {"type": "text", "text": text}]
    ids = encoder.encode([{"role": "user", "content": content}])
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + 2 * options.side.to_bytes(4, "big")
    picture = head + os.urandom(options.side**2 // 40)  # about as large as one of flat colours
    return {
        "rid": "0" * 32,
        "input_ids": ids,
        "image_data": [base64.b64encode(picture).decode()],
        "sampling_params": {"max_new_tokens": options.answer_tokens, "temperature": 1.0},
        "return_logprob": True,
    }


async def _round_trips(body: Mapping[str, Any], url: str) -> dict[str, float]:
    """Processor seconds of a plain client per request: {"HTTP", "HTTP and JSON"}."""
    encoded = json.dumps(body).encode()
    found = {}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        for name in ("HTTP", "HTTP and JSON"):
            number = iter(range(_ALONE_REQUESTS))

            async def ask(with_json: bool, number: Iterator[int]) -> None:
                for _ in number:
                    data = json.dumps(body).encode() if with_json else encoded
                    async with session.post(f"{url}/generate", data=data) as response:
                        answer = await response.read()
                        if with_json:
                            json.loads(answer)

            began_s = time.process_time()
            await asyncio.gather(*(ask("JSON" in name, number) for _ in range(_CONCURRENCY)))
            found[name] = (time.process_time() - began_s) / _ALONE_REQUESTS
    return found


def _payload_bytes(run_dir: RunDir) -> int:
    """In the mean, of the groups that the run still has."""
    with sqlite3.connect(f"file:{run_dir.database}?mode=ro", uri=True) as db:
        row = db.execute("SELECT avg(length(payload)) FROM payloads").fetchone()
    return int(row[0] or 0)


def _insert_s(path: Path, num_bytes: int) -> float:
    """Processor seconds of a transaction with one row of so many bytes, set up as the buffer is."""
    payload = os.urandom(num_bytes)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE groups (id INTEGER PRIMARY KEY, payload BLOB)")
    began_s = time.process_time()
    for _ in range(_ALONE_INSERTS):
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO groups (payload) VALUES (?)", (payload,))
        db.execute("COMMIT")
    spent_s = time.process_time() - began_s
    db.close()
    return spent_s / _ALONE_INSERTS


# what is printed


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor seconds of the engine."""

    request_s: float
    group_s: float
    busy: float
    """Share of the time in which it worked."""

    def gpus(self, tokens_s: float, answer_tokens: int) -> float:
        """How many GPUs, of so many generated tokens a second, one such process feeds."""
        return answer_tokens / (self.request_s * tokens_s)


def per(first: Reading, last: Reading) -> Costs:
    """What was spent between two readings, all of it per request, and all of it per group."""
    spent_s = last.engine_s - first.engine_s
    return Costs(
        spent_s / max(1, last.requests - first.requests),
        spent_s / max(1, last.groups - first.groups),
        spent_s / (last.at_s - first.at_s),
    )


def _told(first: Reading, last: Reading, options: argparse.Namespace) -> str:
    costs = per(first, last)
    lines = [
        f"prompts of {options.prompt_tokens} tokens, answers of {options.answer_tokens}, "
        f"pictures of {options.side} px: {last.requests - first.requests} requests, "
        f"{last.groups - first.groups} groups in {last.at_s - first.at_s:.1f} s",
    ]
    fed = partial(Costs.gpus, tokens_s=options.gpu_tokens_s, answer_tokens=options.answer_tokens)
    gpus = f"GPUs of {options.gpu_tokens_s:g} tokens/s"
    if not options.branches:
        lines += [*_costs_told("engine", costs), _row("it feeds", fed(costs), gpus)]
        return "\n".join(lines)
    branch = per(replace(first, engine_s=first.branches_s), replace(last, engine_s=last.branches_s))
    lines += [*_costs_told("head", costs), *_costs_told("branch", branch)]
    lines.append(_row("a branch feeds", fed(branch), gpus))
    most = branch.request_s / costs.request_s
    lines.append(_row("a head keeps the books of", most, f"branches: {fed(costs):.0f} {gpus}"))
    return "\n".join(lines)


def _costs_told(name: str, costs: Costs) -> list[str]:
    return [
        f"{name + ', per core-second':<26} {1 / costs.request_s:7.0f} requests  "
        f"{1 / costs.group_s:6.1f} groups",
        f"{name + ', processor time':<26} {1e3 * costs.request_s:7.3f} ms a request  "
        f"{1e3 * costs.group_s:6.2f} ms a group  (it worked {costs.busy:.2f} of the time)",
    ]


def _row(what: str, number: float, of: str) -> str:
    return f"{what:<26} {number:7.{0 if number >= 20 else 1}f} {of}"


def _parts_told(shares: Mapping[str, float], first: Reading, last: Reading) -> str:
    request_s = per(first, last).request_s
    rows = (
        f"  {part:<30} {share:6.3f}  {1e3 * share * request_s:7.3f} ms a request"
        for part, share in shares.items()
    )
    return "\n".join(("where it goes", *rows))


def _limits_told(
    costs: Costs,
    alone: Mapping[str, float],
    insert_s: float,
    shares: Mapping[str, float],
    num_bytes: int,
) -> str:
    rows = [
        f"  plain aiohttp, {name:<15} {1 / seconds:7.0f} requests per core-second; "
        f"engine / plain {costs.request_s / seconds:5.2f}"
        for name, seconds in alone.items()
    ]
    buffer_s = shares.get("buffer", 0.0) * costs.group_s
    rows.append(
        f"  plain insert of {num_bytes / 1024:.0f} kB      {1 / insert_s:7.0f} rows per "
        f"core-second; buffer / plain, per group {buffer_s / insert_s:5.2f}"
    )
    return "\n".join(("limits", *rows))
