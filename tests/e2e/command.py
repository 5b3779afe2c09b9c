"""The project's one command, started as a user starts it, and the processes that it makes.

Every wait has a deadline. Output goes to files: a pipe would stay open as long as any orphan
holds it, and hide that the command itself has ended.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.rundir import RunDir, start_time

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "async_selfplay.py"
TIMEOUT_S = 900.0
"""A guard for slow machines: no test waits so long here."""
POLL_S = 0.05
WITHOUT_MEASURING = ("eval.heldout_items=0", "eval.majority_items=0", "eval.dev_items=0")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and all that it said."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout + self.stderr

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@dataclass(frozen=True, slots=True)
class Started:
    """A command that runs."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def wait(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """How it ended. Raises TimeoutExpired."""
        return self.ended(self.process.wait(timeout_s))

    def ended(self, status: int) -> Ended:
        return Ended(status, self.stdout.read_text(), self.stderr.read_text())

    def until(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        timeout_s: float = 300.0,
        poll_s: float = POLL_S,
    ) -> None:
        """Wait for `condition`. Raises AssertionError where the command ends or time is up."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            status = self.process.poll()
            assert status is None, f"ended before {what}: {self.ended(status or 0)}"
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
            time.sleep(poll_s)


def selfplay(*arguments: str) -> list[str]:
    """The command line, in this interpreter."""
    return [sys.executable, str(SCRIPT), *arguments]


@contextmanager
def started(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> Iterator[Started]:
    """Start `command` in the repository's root, or that of a copy; end it at the latest when the
    block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("*.stdout")))
    stdout, stderr = folder / f"{number}.stdout", folder / f"{number}.stderr"
    # Not those of a torchrun or of a terminal that this test may have been started from.
    outer = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "COLUMNS")}
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**outer, "OMP_NUM_THREADS": "1", **(env or {})},
            start_new_session=True,
        )
    try:
        yield Started(process, stdout, stderr)
    finally:
        if process.poll() is None:
            family = descendants(process.pid)
            process.kill()
            for member in family:
                member.kill()
        process.wait()


def run(
    command: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
    root: Path = ROOT,
) -> Ended:
    """Run `command` to its end."""
    with started(command, folder, env, root) as one:
        return one.wait(timeout_s)


@dataclass(frozen=True, slots=True)
class Process:
    """A process; its start time tells it from a later one of the same number."""

    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        return start_time(self.pid) == self.started and _state(self.pid) not in ("Z", "X", "")

    def kill(self) -> None:
        """SIGKILL, if it still is this process."""
        if self.is_alive:
            os.kill(self.pid, signal.SIGKILL)


def descendants(pid: int) -> set[Process]:
    """All processes below `pid`, whatever their sessions."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        child = int(entry.name)
        if (parent := parent_of(child)) is not None:
            below.setdefault(parent, []).append(child)
    found, open_ = set(), [pid]
    while open_:
        for child in below.get(open_.pop(), []):
            open_.append(child)
            if (at := start_time(child)) is not None:
                found.add(Process(child, at))
    return found


def left_of(family: Iterable[Process], wait_s: float = 60.0) -> set[Process]:
    """Those that have not ended after a fair wait: the kernel ends orphans when it gets to it."""
    deadline = time.monotonic() + wait_s
    while (left := {one for one in family if one.is_alive}) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def parent_of(pid: int) -> int | None:
    """The parent of a process, None where it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def recorded(run_dir: RunDir, module: str) -> Process | None:
    """The live process of a run that runs `python -m module`, from the run's own list."""
    for entry in run_dir.pids.glob("[0-9]*"):
        try:
            process = Process(int(entry.name), entry.read_text().strip())
            words = Path(f"/proc/{entry.name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # swept, or ended, while we looked
        if process.is_alive and module.encode() in words:
            return process
    return None


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
