"""`await grader.forms(answers)`: canonical forms, found in a worker that may be killed.

    forms() ---> decided here (microseconds) ---------------------------------> form
       `-------> cache --> a free worker --> form, or "" --> cache -----------> form
                              ^       | deadline, out of memory, end of file
                   start <----+       v
                                   SIGKILL

One worker compares one answer at a time, so that a failure has one cause. Each comparison is a
task of the grader, not of its caller: callers that ask the same wait for the same task, and one
that is cancelled leaves it running. An answer that misses the deadline or exhausts the memory is
none (a pair: not equal), now and whenever it is asked again. One whose worker died silently is
tried once more, since the answer need not be what killed it; so is one whose worker had hardly any
processor time before the deadline, since it was the machine that stood still. Where it does so
again the answer is none this time, and that is not remembered. A new worker starts at once and
imports sympy meanwhile, about a second.

Used within one event loop, which no answer blocks: the texts that are looked at here are short,
and many of them are looked at in slices.
"""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.errors import EngineError
from rewards import grading_worker as protocol
from rewards.config import GraderConfig
from rewards.grading import decided
from rewards.symbolic import MAX_FORM

__all__ = ["Grader", "GraderConfig"]

log = logging.getLogger(__name__)

MAX_PAIR_CHARS = 20_000
"""A longer text is not compared but for identity; a reply of 4096 tokens is shorter."""
START_S = 60.0
"""Wall seconds for a worker to import sympy and to read its first formula."""

FORM, VERDICT = 0, 1
"""Numbers of the worker's functions."""
FORM_FUNCTION = "rewards.grading:canonical"
VERDICT_FUNCTION = "rewards.released.equality:grade_answer"

Request = tuple[int, *tuple[str, ...]]
"""The number of a function, and its arguments."""
Result = str | bool

_WARM_UP: tuple[Request, ...] = ((FORM, r"\frac{\sqrt{2}}{2}+(x+1)^2"), (VERDICT, "2x+1", "x/2"))
_ROOT = Path(__file__).resolve().parent.parent
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_MAX_REPLY_BYTES = 65536
_SLICE_S = 0.005
"""The loop goes on after this long, between two answers."""
_ATTEMPTS = 2
_STALLED = 0.2
"""Share of the deadline: a worker that had less processor time was not slow, its machine was."""
_START_ATTEMPTS = 3


class Grader:
    """Compares answers in worker processes. Use as an async context manager.

    `form` and `verdict` name the functions, as MODULE:FUNCTION.
    """

    def __init__(
        self,
        cfg: GraderConfig | None = None,
        *,
        form: str = FORM_FUNCTION,
        verdict: str = VERDICT_FUNCTION,
    ) -> None:
        self._cfg = cfg or GraderConfig()
        self._functions = (form, verdict)
        self._free = asyncio.Semaphore(self._cfg.workers)
        self._idle: list[_Worker] = []
        self._cache: OrderedDict[Request, Result] = OrderedDict()
        self._tasks: dict[Request, asyncio.Task[Result]] = {}
        self._count: Counter[str] = Counter()
        self._busy_s = 0.0
        self._confined_by = ""
        self._is_open = False

    async def __aenter__(self) -> "Grader":
        self._is_open = True
        for _ in range(self._cfg.workers):
            self._idle.append(await self._started())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_open = False
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        idle, self._idle = self._idle, []
        for worker in idle:
            await worker.kill()

    async def forms(self, answers: Iterable[str | None]) -> dict[str, str]:
        """{answer: canonical form} of the distinct answers; "" where it is none."""
        forms: dict[str, str] = {}
        asked: dict[str, Request] = {}
        began = time.monotonic()
        for answer in dict.fromkeys(answers):
            if answer is None:
                continue
            if time.monotonic() - began > _SLICE_S:
                await asyncio.sleep(0)
                began = time.monotonic()
            self._count["asked"] += 1
            form = decided(answer)
            if form is None:
                asked[answer] = (FORM, answer)
            else:
                forms[answer] = form
        results = await self._all(asked.values())
        return forms | {answer: str(results[request]) for answer, request in asked.items()}

    async def verdicts(self, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """{(given, truth): the released code's verdict} of the distinct ordered pairs."""
        verdicts: dict[tuple[str, str], bool] = {}
        asked: dict[tuple[str, str], Request] = {}
        for given, truth in dict.fromkeys(pairs):
            self._count["asked"] += 1
            if max(len(given), len(truth)) > MAX_PAIR_CHARS:
                verdicts[given, truth] = given.strip() == truth.strip()
            else:
                asked[given, truth] = (VERDICT, given, truth)
        results = await self._all(asked.values())
        return verdicts | {pair: bool(results[request]) for pair, request in asked.items()}

    def stats(self) -> dict[str, Any]:
        """Counts since the start; `stalls` are timeouts that were the machine's fault, `busy_s` is
        summed over the workers."""
        outcomes = ("timeouts", "stalls", "failed", "kills", "restarts")
        names = ("asked", "cached", "in_worker", *outcomes)
        return {name: self._count[name] for name in names} | {"busy_s": self._busy_s}

    async def _all(self, requests: Collection[Request]) -> dict[Request, Result]:
        waiting = {request: self._task(request) for request in requests if not self._known(request)}
        found = {request: self._cache[request] for request in requests if request not in waiting}
        self._count["cached"] += len(found)
        if waiting:
            # `wait` leaves the tasks alone where the caller is cancelled: others may want them.
            await asyncio.wait(waiting.values())
        if any(task.cancelled() for task in waiting.values()):
            raise EngineError("grader: closed")
        for error in [task.exception() for task in waiting.values()]:  # look at each
            if error is not None:
                raise error
        return found | {request: task.result() for request, task in waiting.items()}

    def _known(self, request: Request) -> bool:
        if request not in self._cache:
            return False
        self._cache.move_to_end(request)
        return True

    def _task(self, request: Request) -> "asyncio.Task[Result]":
        """The task that compares `request`, which others may be waiting for already."""
        task = self._tasks.get(request)
        if task is None:
            if not self._is_open:
                raise EngineError("grader: closed")
            task = self._tasks[request] = asyncio.create_task(self._compared(request))
            task.add_done_callback(lambda _: self._tasks.pop(request, None))
        return task

    async def _compared(self, request: Request) -> Result:
        """The checked result of one comparison; in the cache afterwards, unless the machine stood
        still."""
        nothing: Result = "" if request[0] == FORM else False
        is_known = True
        async with self._free:
            try:
                result = await self._result(request)
            except _StoodStill:
                result, is_known = None, False
        if type(result) is not type(nothing) or len(str(result)) > MAX_FORM:
            self._count["failed"] += 1
            result = nothing
        self._count["in_worker"] += 1
        if is_known:
            self._cache[request] = result
        while len(self._cache) > self._cfg.cache_entries:
            self._cache.popitem(last=False)
        return result

    async def _result(self, request: Request) -> Any:
        """What a worker answers; None where the request has to be given up. Untrusted.

        Raises _StoodStill where it was given up, but the machine is to blame.
        """
        has_stalled = False
        for _ in range(_ATTEMPTS):
            worker = await self._ready_worker()
            is_idle = False
            began, used_before_s = time.monotonic(), worker.used_cpu_s()
            try:
                async with asyncio.timeout(self._cfg.deadline_s):
                    result = await worker.ask(request)
                is_idle = True
                return result
            except TimeoutError:  # before OSError, whose subclass it is
                self._count["timeouts"] += 1
                if not self._is_stalled(used_before_s, worker.used_cpu_s()):
                    return None
                self._count["stalls"] += 1
                has_stalled = True
            except ValueError:
                return None
            except (OSError, EOFError):
                if await worker.kill() == protocol.OUT_OF_MEMORY:
                    return None
            finally:
                self._busy_s += time.monotonic() - began
                await self._give_back(worker, is_idle)
        if has_stalled:
            raise _StoodStill
        return None

    def _is_stalled(self, before_s: float | None, after_s: float | None) -> bool:
        """Whether a worker that missed the deadline had hardly any processor time until then."""
        if before_s is None or after_s is None:
            return False
        return after_s - before_s < _STALLED * self._cfg.deadline_s

    async def _ready_worker(self) -> "_Worker":
        """A worker that has loaded its libraries and owes no answer."""
        error = ""
        for _ in range(_START_ATTEMPTS):
            worker = self._idle.pop() if self._idle else await self._started()
            try:
                error = await worker.ready()
            except BaseException:
                await self._give_back(worker, is_idle=False)
                raise
            if not error and worker.is_alive:
                if worker.confined_by != self._confined_by:
                    self._confined_by = worker.confined_by
                    log.info("grader: its workers are confined by %s", self._confined_by)
                return worker
            await self._give_back(worker, is_idle=False)
        raise EngineError(f"grader: its worker does not start: {error or 'it ended'}")

    async def _give_back(self, worker: "_Worker", is_idle: bool) -> None:
        """Keep an idle worker; kill any other, and start the one that takes its place."""
        if is_idle and self._is_open:
            self._idle.append(worker)
            return
        await worker.kill()
        if self._is_open:
            self._count["kills"] += 1
            self._count["restarts"] += 1
            self._idle.append(await self._started())

    async def _started(self) -> "_Worker":
        return await _Worker.start(self._cfg, self._functions)


class _StoodStill(Exception):
    """The deadline passed while the worker had no processor."""


class _Worker:
    """One process. Whoever has taken it from the idle ones may ask it, one thing at a time."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        replies: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._replies = replies
        self._requests = requests
        self.confined_by = ""
        """By what, once it is ready: the layers of `engine.sandbox` that are in force."""
        self._loading = asyncio.create_task(self._load())

    @classmethod
    async def start(cls, cfg: GraderConfig, functions: Sequence[str]) -> "_Worker":
        """Start the process, and let it load its libraries meanwhile."""
        # The wall deadline comes first; the processor limit outlives it and catches what it missed.
        limits = (str(cfg.memory_mb), str(max(START_S, cfg.deadline_s) + 2))
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: ASYNC220  it returns in milliseconds
                    [
                        sys.executable,
                        "-P",  # the directory it is started in holds nothing to import
                        "-m",
                        protocol.__name__,
                        str(os.getpid()),
                        *limits,
                        *functions,
                    ],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,
                )
            return cls(process, *await asyncio.open_unix_connection(sock=ours))
        except BaseException:
            ours.close()  # which also ends a process that nobody will ask
            raise

    @property
    def is_alive(self) -> bool:
        return not self._replies.at_eof() and not self._requests.is_closing()

    def used_cpu_s(self) -> float | None:
        """Processor seconds of its life; None where the system doesn't tell."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return None
        ticks = stat.rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    async def ready(self) -> str:
        """Wait until the libraries are loaded; returns what went wrong, else ""."""
        return await asyncio.shield(self._loading)

    async def ask(self, request: Request) -> Any:
        """The worker's answer, of any type. Raises OSError or EOFError where it has ended,
        ValueError where it answers nonsense."""
        self._requests.write(protocol.frame(request))
        await self._requests.drain()
        return await self._reply()

    async def kill(self) -> int:
        """SIGKILL from outside: nothing that the worker does can delay it. Its exit status."""
        self._loading.cancel()
        self._requests.close()
        self._process.kill()  # does nothing where it was reaped already
        return await asyncio.to_thread(self._process.wait)

    async def _load(self) -> str:
        try:
            async with asyncio.timeout(START_S):
                self._requests.write(protocol.frame(_WARM_UP))
                error, self.confined_by = await self._reply()
                return str(error)[:200]
        except TimeoutError:
            return f"not ready after {START_S:g} s"
        except (OSError, EOFError, ValueError) as error:
            return f"it ended: {error}"[:200]

    async def _reply(self) -> Any:
        (length,) = protocol.HEADER.unpack(await self._replies.readexactly(protocol.HEADER.size))
        if length > _MAX_REPLY_BYTES:
            raise ValueError(f"a reply of {length} bytes")
        try:
            return json.loads(await self._replies.readexactly(length))
        except RecursionError:
            raise ValueError("a reply nested too deeply") from None


def _environment() -> dict[str, str]:
    """What a worker needs to find Python's modules, and no secrets; one thread, one hash seed."""
    kept = {key: value for key, value in os.environ.items() if key in _PASSED_ON}
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
