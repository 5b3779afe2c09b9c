"""The run directory: its paths, its lock, and the list of its processes.

runs/<name>/  config.yaml  run.db  metrics.jsonl  summary.json  report.html  key  fatal.txt
              dashboard.json  dashboard-token  agents  lock
              checkpoints/<policy>/step-*/   evals/step-*/   bad_batches/   logs/

All nodes of a run share it. The list of processes does not lie there: each machine has its own
(`engine.nodes.runtime_dir`).
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.nodes import make_runtime_dir, runtime_dir

_HELD = (errno.EWOULDBLOCK, errno.EACCES)


@dataclass(frozen=True, slots=True)
class RunDir:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def database(self) -> Path:
        return self.path / "run.db"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def pids(self) -> Path:
        """Of this machine."""
        return runtime_dir(self.path) / "pids"

    @property
    def key(self) -> Path:
        """What the run's servers ask of everybody."""
        return self.path / "key"

    @property
    def fatal(self) -> Path:
        """Why no restart mends this run."""
        return self.path / "fatal.txt"

    @property
    def agents(self) -> Path:
        """Who started the ranks of its last attempt: they may go on with it unasked."""
        return self.path / "agents"

    @property
    def dashboard(self) -> Path:
        """Where the dashboard listens."""
        return self.path / "dashboard.json"

    @property
    def dashboard_token(self) -> Path:
        """What the dashboard asks of who controls the run, or watches from elsewhere."""
        return self.path / "dashboard-token"

    @property
    def bad_batches(self) -> Path:
        """Batches that could not be trained on."""
        return self.path / "bad_batches"

    @property
    def evals(self) -> Path:
        """Evaluations on benchmarks that were made while it ran."""
        return self.path / "evals"

    def checkpoints(self, policy: str) -> Path:
        return self.path / "checkpoints" / policy

    def create(self) -> None:
        """Make the folders. Raises ConfigError where they cannot be made."""
        for folder in (self.path, self.logs):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"run.root: {folder} cannot be made: {error.strerror}; "
                    "choose a folder that can be written"
                ) from None
        self.create_here()

    def create_here(self) -> None:
        """Make what this machine alone has. Raises ConfigError where it cannot be made."""
        make_runtime_dir(self.path)
        self.pids.mkdir(exist_ok=True)

    def forget_here(self) -> None:
        """Remove what this machine alone has: the run has ended well."""
        shutil.rmtree(runtime_dir(self.path), ignore_errors=True)


def make_key(run: RunDir) -> None:
    """A new key for the servers of this attempt, in a file that only this user can read: nobody
    else on the machine may sample from them, or give them weights."""
    run.key.unlink(missing_ok=True)
    with open(os.open(run.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def key_digest(run: RunDir) -> str | None:
    """Tells whether two nodes read the same key, without telling it; None where there is none."""
    try:
        return hashlib.sha256(b"digest of " + run.key.read_bytes()).hexdigest()
    except OSError:
        return None


class RunLock:
    """An exclusive lock on a run directory, held as long as this process (or the object) lives.

    The descriptor is close-on-exec, so no child can keep a dead run locked. The lock lies in the
    run directory, so that it holds for all machines that share it; where its file system has no
    locks, in the run-time directory of this machine.
    Raises ConfigError where another process holds it.
    """

    def __init__(self, run: RunDir) -> None:
        path = run.path / "lock"
        try:
            self._descriptor = _open_lock(path)
        except OSError as error:
            raise ConfigError(
                f"run.root: {path} cannot be opened: {error.strerror}; "
                "choose a folder that can be written"
            ) from None
        owner = _lock(self._descriptor)
        if owner is None:
            os.close(self._descriptor)
            self._descriptor = _open_lock(make_runtime_dir(run.path) / "lock")
            owner = _lock(self._descriptor)
        if owner:
            os.close(self._descriptor)
            raise ConfigError(
                f"run.name: {run.path} is in use by process {owner}; "
                "stop that run first, or choose another run.name"
            )

    def release(self) -> None:
        os.close(self._descriptor)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int) -> str | None:
    """Lock it: "" where that was done, else who has it; None: this file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            return None
        return os.read(descriptor, 256).decode(errors="replace").strip() or "unknown"
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} of {socket.gethostname()}".encode())
    return ""


def start_time(pid: int) -> str | None:
    """The kernel's start time of a process (clock ticks since boot), None where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def record_pid(run: RunDir, pid: int) -> None:
    """Remember a child, so that the next start can sweep it if this one dies without a word."""
    run.pids.mkdir(parents=True, exist_ok=True)
    (run.pids / str(pid)).write_text(start_time(pid) or "")


def sweep_pids(run: RunDir) -> list[int]:
    """Kill what a dead attempt left behind on this machine; only processes whose start time still
    matches."""
    killed = []
    for entry in sorted(run.pids.glob("[0-9]*")):
        pid = int(entry.name)
        started = entry.read_text().strip()
        if started and started == start_time(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        entry.unlink(missing_ok=True)
    return killed
