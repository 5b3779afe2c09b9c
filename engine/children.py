"""Child processes that die with their parent, and leave their last words behind."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

_PR_SET_PDEATHSIG = 1
# Loaded here: after a fork with threads, the loader's lock may be held for ever.
_LIBC = ctypes.CDLL(None)


def spawn(
    argv: Sequence[str],
    *,
    log: Path | None,
    env: Mapping[str, str] | None = None,
    keep_stdout: bool = False,
    die_with_parent: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own; the kernel signals it when this process dies.

    `log` takes stdout and stderr (None: inherited); `keep_stdout`: stderr only. `env` is added to
    the environment.
    """
    parent = os.getpid()

    def before_exec() -> None:
        if sys.platform == "linux":
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(die_with_parent))
            if os.getppid() != parent:  # it died before the line above took effect
                os._exit(1)

    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else None
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=None if keep_stdout else output,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            preexec_fn=before_exec,
        )


def die_with_parent() -> None:
    """From now on the kernel kills this process when its parent dies (on Linux)."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def last_lines(log: Path, count: int = 15) -> str:
    """The last lines of a child's log, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-count:])


class Process(Protocol):
    """What `Popen` is, as far as it is needed to end a process."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def end(process: Process, grace_s: float = 5.0) -> None:
    """SIGTERM, then SIGKILL after `grace_s`; always reaps."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
