"""The real grader: real processes, hostile answers, and a loop that nothing blocks."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from engine import limits
from engine.errors import EngineError
from rewards import grader as module
from rewards.config import GraderConfig
from rewards.grader import MAX_PAIR_CHARS, Grader
from rewards.grading import canonical, tally
from tests.rewards.hostile_functions import UNWRITTEN

pytestmark = pytest.mark.alone
WAIT_S = 45.0
PERIOD_S = 0.002
LATE_S = 0.05
FORM = "tests.rewards.hostile_functions:form"
VERDICT = "tests.rewards.hostile_functions:verdict"


def hostile_grader(**changes: float) -> Grader:
    """A grader whose worker does what an answer says; `x^2 spin` is a formula and a command."""
    cfg = GraderConfig.model_validate({"deadline_s": WAIT_S, **changes})
    return Grader(cfg, form=FORM, verdict=VERDICT)


@pytest.fixture(autouse=True)
def all_to_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the first guard had let every answer through."""
    monkeypatch.setattr(module, "decided", lambda answer: None)


@asynccontextmanager
async def heartbeat() -> AsyncIterator[list[float]]:
    """How late the loop woke a task, each time."""
    late: list[float] = []

    async def beat() -> None:
        while True:
            due = time.perf_counter() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            late.append(time.perf_counter() - due)

    task = asyncio.create_task(beat())
    try:
        yield late
    finally:
        task.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition that other processes make true."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(PERIOD_S)


async def pid_of(grader: Grader, name: str = "") -> int:
    return int((await grader.forms([f"{name} pid"]))[f"{name} pid"])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def spinning(pid: int) -> None:
    """Return when the process is seen to compute."""
    ticks = os.sysconf("SC_CLK_TCK")

    def used() -> int:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    await until(lambda: used() > before + ticks // 10)


async def calm(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """Fail where the loop is late in ten runs of `scenario`: some may be the machine's fault."""
    worst: list[float] = []
    for _ in range(10):
        async with heartbeat() as late:
            await scenario()
        assert late
        worst.append(max(late))
        if worst[-1] < LATE_S:
            return
    pytest.fail(f"the loop was blocked for {worst} s")


def test_forms_are_those_of_the_process_itself() -> None:
    answers = ["1/2", "\\sqrt{8}", "2\\sqrt{2}", "x+1", "red and blue", "9**9**9", "n/a", "", None]
    answers += ["\\frac{1}{x+y}+\\sin(z)", "\ud800", "\\{2, 1\\}", "x" * 1_000_000]

    async def scenario() -> dict[str, str]:
        async with Grader() as grader:
            return await grader.forms(answers)

    forms = asyncio.run(scenario())
    assert forms == {answer: canonical(answer) for answer in answers if answer is not None}
    assert tally(["\\sqrt{8}", "2\\sqrt{2}", "1/2"], form=forms.__getitem__).share == 2 / 3


def test_verdicts_are_those_of_the_released_code() -> None:
    pairs = [("1/2", "0.5"), ("6/8", "3/4"), ("Monday", "Mon"), ("ab", "ba"), ("9**9**9", "1.5")]
    pairs += [
        ("9**9**9", "9**9**9"),
        ("A.", "A"),
        ("x" * 50_000, "y"),
        ("x" * 50_000, "x" * 50_000),
    ]

    async def scenario() -> dict[tuple[str, str], bool]:
        async with Grader() as grader:
            return await grader.verdicts([*pairs, *pairs])

    verdicts = asyncio.run(scenario())
    assert [verdicts[pair] for pair in pairs] == [
        *(True, False, True, True, False),
        *(True, False, False, True),
    ]


def test_plain_answers_start_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    async def scenario() -> dict:
        async with Grader() as grader:
            await grader.forms(["42", "red, blue", "9**9**9", "99999999!", "9" * 100_000])
            return grader.stats()

    stats = asyncio.run(scenario())
    assert (stats["asked"], stats["in_worker"]) == (5, 0)


def test_answers_are_compared_once() -> None:
    async def scenario() -> None:
        async with hostile_grader() as grader:
            first, second = await asyncio.gather(*(grader.forms(["x+1", "1+x"]) for _ in range(2)))
            assert first == second == {"x+1": "X+1", "1+x": "1+X"}
            assert grader.stats()["in_worker"] == 2
            await grader.forms(["1+x"])
            await grader.verdicts([("ab", "a"), ("a", "ab"), ("ab", "a")])
            stats = grader.stats()
            assert (stats["in_worker"], stats["cached"], stats["asked"]) == (4, 1, 7)
            assert stats["kills"] == stats["failed"] == 0
            assert stats["busy_s"] > 0

    asyncio.run(scenario())


def test_the_cache_is_bounded() -> None:
    async def scenario() -> None:
        async with hostile_grader(cache_entries=2) as grader:
            await grader.forms(["a", "b", "c"])
            await grader.forms(["c"])
            assert grader.stats()["in_worker"] == 3
            await grader.forms(["a"])
            assert grader.stats()["in_worker"] == 4
        async with hostile_grader(cache_entries=0) as grader:
            assert await grader.forms(["a"]) == await grader.forms(["a"]) == {"a": "A"}
            assert grader.stats()["in_worker"] == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("command", ["spin", "hog", "gradual", "crash", "long", "huge", "nonsense"])
def test_a_hostile_answer_ends_as_none_and_hurts_no_other(command: str) -> None:
    deadline_s = 1.0 if command == "spin" else WAIT_S

    async def scenario() -> None:
        async with hostile_grader(deadline_s=deadline_s, memory_mb=512) as grader:
            answers = ["2", "x+1", f"x {command}", "1+x", "7"]
            forms = await grader.forms(answers)
            assert forms == {"2": "2", "x+1": "X+1", f"x {command}": "", "1+x": "1+X", "7": "7"}
            before = grader.stats()
            assert before["failed"] == 1
            # A machine that stands still for a second is forgiven; what computes is slow itself.
            stalls = before["stalls"]
            assert before["timeouts"] - stalls == (command == "spin")
            assert (
                before["kills"] - stalls
                == before["restarts"] - stalls
                == {"crash": 2, "long": 0, "nonsense": 0}.get(command, 1)
            )
            assert (await grader.verdicts([(f"x {command}", "x")]))[f"x {command}", "x"] is (
                command in ("long", "huge", "nonsense")
            )
            assert await grader.forms([f"x {command}"]) == {f"x {command}": ""}
            assert grader.stats()["in_worker"] == before["in_worker"] + 1

    asyncio.run(scenario())


@pytest.mark.parametrize("command", ["raise", "recurse", "file"])
def test_what_fails_in_python_costs_no_worker(command: str) -> None:
    async def scenario() -> None:
        async with hostile_grader() as grader:
            pid = await pid_of(grader)
            assert await grader.forms([f"x {command}"]) == {f"x {command}": ""}
            assert await pid_of(grader, "again") == pid

    asyncio.run(scenario())


def test_a_worker_reaches_nothing_but_its_libraries(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, module.__name__)
    unwritten = Path(UNWRITTEN)
    unwritten.unlink(missing_ok=True)

    async def scenario() -> None:
        async with hostile_grader() as grader:
            pid = await pid_of(grader)
            if "seccomp+landlock" not in caplog.text:
                pytest.skip(f"the kernel lacks the means: {caplog.text}")
            for command in (f"{port} connect", "x passwd", "x file", "x exec", "x fork"):
                assert await grader.forms([command]) == {command: ""}, command
            assert await grader.forms(["x late"]) == {"x late": "1"}
            assert await pid_of(grader, "again") == pid
            assert grader.stats()["kills"] == 0

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        asyncio.run(scenario())
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not unwritten.exists()


def test_what_confines_the_workers_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, module.__name__)

    async def scenario() -> None:
        async with hostile_grader(workers=2) as grader:
            await grader.forms(["x+1", "1+x", "x hog", "2+x"])

    asyncio.run(scenario())
    (line,) = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert re.fullmatch(r"grader: its workers are confined by [\w+ ]+", line)


def test_root_stays_root_where_nobody_could_not_import() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # for its owner only
    try:
        assert not limits.are_public([os.__file__, str(folder / "loaded.py")])
        folder.chmod(0o755)
        assert limits.are_public([str(folder / "loaded.py")])
    finally:
        folder.rmdir()


def test_the_worker_gets_no_secrets_and_its_output_is_the_protocols(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", "x")

    async def scenario() -> None:
        async with hostile_grader() as grader:
            names = (await grader.forms(["the environment"]))["the environment"].split(",")
            assert "PYTHONPATH" in names
            assert "A_SECRET" not in names
            assert await grader.forms(["x print"]) == {"x print": "X PRINT"}

    asyncio.run(scenario())


def test_a_deadline_is_kept() -> None:
    async def scenario() -> None:
        async with hostile_grader(deadline_s=0.5) as grader:
            await grader.forms(["x+1"])  # the worker has started
            start = time.monotonic()
            assert await grader.forms(["x spin"]) == {"x spin": ""}
            assert 0.5 <= time.monotonic() - start < 30.0

    asyncio.run(scenario())


def test_a_machine_that_stood_still_once_is_forgiven() -> None:
    async def scenario() -> None:
        async with hostile_grader(deadline_s=1.0) as grader:
            pid = await pid_of(grader)
            os.kill(pid, signal.SIGSTOP)
            assert await grader.forms(["x+1"]) == {"x+1": "X+1"}
            stats = grader.stats()
            assert (stats["timeouts"], stats["stalls"], stats["kills"]) == (1, 1, 1)
            assert stats["failed"] == 0
            assert await grader.forms(["x+1"]) == {"x+1": "X+1"}
            assert grader.stats()["cached"] == 1

    asyncio.run(scenario())


def test_a_machine_that_stands_still_twice_is_no_answer_that_is_remembered() -> None:
    async def scenario() -> None:
        async with hostile_grader(deadline_s=0.5) as grader:
            for times in (1, 2):
                assert await grader.forms(["x idle"]) == {"x idle": ""}
                stats = grader.stats()
                assert stats["timeouts"] == stats["stalls"] == stats["kills"] == 2 * times
                assert (stats["in_worker"], stats["failed"], stats["cached"]) == (times, times, 0)
            assert await grader.verdicts([("x idle", "x")]) == {("x idle", "x"): False}

    asyncio.run(scenario())


def test_a_killed_worker_costs_no_answer() -> None:
    async def scenario() -> None:
        async with hostile_grader(deadline_s=1.0) as grader:
            pid = await pid_of(grader)
            forms = asyncio.create_task(grader.forms(["x spin", "x+1", "1+x", "2^3"]))
            await spinning(pid)
            os.kill(pid, signal.SIGKILL)
            # What it was at is tried once more, and then misses its deadline.
            assert await forms == {"x spin": "", "x+1": "X+1", "1+x": "1+X", "2^3": "2^3"}
            stats = grader.stats()
            assert (stats["timeouts"], stats["kills"], stats["restarts"]) == (1, 2, 2)

    asyncio.run(scenario())


def test_a_worker_killed_while_idle_is_replaced() -> None:
    async def scenario() -> None:
        async with hostile_grader() as grader:
            pid = await pid_of(grader)
            os.kill(pid, signal.SIGKILL)
            assert await grader.forms(["x+1"]) == {"x+1": "X+1"}
            assert grader.stats()["failed"] == 0
            assert await pid_of(grader, "again") != pid

    asyncio.run(scenario())


def test_a_cancelled_caller_leaves_the_protocol_whole() -> None:
    async def scenario() -> None:
        async with hostile_grader(deadline_s=1.0) as grader:
            pid = await pid_of(grader)
            first = asyncio.create_task(grader.forms(["x spin", "x+1"]))
            second = asyncio.create_task(grader.forms(["x spin", "1+x"]))
            await spinning(pid)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await second == {"x spin": "", "1+x": "1+X"}
            assert await grader.forms(["x+1", "2^3"]) == {"x+1": "X+1", "2^3": "2^3"}
            assert grader.stats()["kills"] == 1

    asyncio.run(scenario())


def test_two_workers_work_at_once() -> None:
    async def scenario() -> None:
        async with hostile_grader(workers=2, deadline_s=1.0) as grader:
            spin = asyncio.create_task(grader.forms(["x spin"]))
            assert await grader.forms(["x+1", "1+x"]) == {"x+1": "X+1", "1+x": "1+X"}
            assert not spin.done()
            assert await spin == {"x spin": ""}

    asyncio.run(scenario())


def test_closing_ends_the_worker_and_whoever_waits() -> None:
    async def scenario() -> None:
        async with hostile_grader() as grader:
            pid = await pid_of(grader)
            waiting = asyncio.create_task(grader.forms(["x spin"]))
            await spinning(pid)
        with pytest.raises(EngineError, match="closed"):
            await waiting
        with pytest.raises(EngineError, match="closed"):
            await grader.forms(["x+1"])
        assert not is_running(pid)

    asyncio.run(scenario())


def test_closing_at_once_waits_for_no_import() -> None:
    async def scenario() -> None:
        async with Grader():
            pass

    start = time.monotonic()
    asyncio.run(scenario())
    assert time.monotonic() - start < 3.0


def test_a_worker_that_cannot_start_is_named() -> None:
    async def scenario() -> None:
        async with Grader(form="rewards.no_such_module:canonical") as grader:
            with pytest.raises(EngineError, match="no_such_module"):
                await grader.forms(["x+1"])

    asyncio.run(scenario())


def test_the_worker_ends_with_its_parent() -> None:
    code = (
        "import asyncio, os\n"
        "from rewards import grader\n"
        "grader.decided = lambda answer: None\n"
        "async def main():\n"
        f"    async with grader.Grader(form={FORM!r}) as it:\n"
        "        print((await it.forms(['the pid']))['the pid'], flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr

    async def scenario() -> None:
        await until(lambda: not is_running(int(done.stdout)))

    asyncio.run(scenario())


def test_the_loop_is_never_blocked() -> None:
    hostile = [
        "9**9**9",
        "99999999!",
        "9" * 100_000,
        "(" * 100_000,
        "x" * 1_000_000,
        "\\frac{" * 25,
    ]

    async def scenario() -> None:
        async with hostile_grader(deadline_s=0.5, memory_mb=512) as grader:
            await asyncio.gather(
                grader.forms([*hostile, "x spin", "x gradual", "x crash", "x+1"]),
                grader.verdicts([(text, "1.5") for text in hostile]),
                grader.verdicts([("y" * MAX_PAIR_CHARS, "x spin")] * 10),
            )

    asyncio.run(calm(scenario))


def test_looking_at_many_answers_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    texts = [
        "(," * 100,
        "1," * 100,
        "\\frac{" * 28,
        "a=" * 100,
        "\ufdfa" * 200,
        "x+" * 99,
        "9" * 10**6,
    ]

    answers = [f"{text[:190]}{number}" for text in texts[:-1] for number in range(60)]

    async def scenario() -> None:
        async with Grader() as grader:
            await grader.forms([*texts, *answers])
            assert grader.stats()["in_worker"] == 0

    asyncio.run(calm(scenario))


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"deadline_s": 0}, {"memory_mb": 1}, {"cache_entries": -1}, {"x": 1}]
)
def test_config_is_checked(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        GraderConfig.model_validate(wrong)
