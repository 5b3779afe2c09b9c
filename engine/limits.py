"""What a worker process may use that meets hostile text: memory, files, processor time, and its
parent's life. For the workers of the render pool and of the grader. What it may ask of the kernel
is the matter of `engine.sandbox`.

In this order: `become_nobody`, `die_with` (which a change of user undoes), `confine`."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


NOBODY = 65534


def become_nobody() -> None:
    """Where this is root: be the user who owns nothing, as far as root may."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):  # a container may have taken the right away
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def are_public(files: Iterable[str | Path]) -> bool:
    """Whether any user, and so nobody, may read in the folders of the files."""
    folders = {folder for file in files for folder in Path(file).parents}
    return all(os.stat(folder).st_mode & 0o5 == 0o5 for folder in folders if folder.is_dir())


def die_with(parent: int) -> None:
    """Arrange for SIGKILL when the process `parent` ends (Linux only; its pipe also tells)."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def confine(memory_bytes: int) -> None:
    """Bound address space and descriptors; no files written, no core dumps, no new privileges.

    And no new process or thread, but the kernel doesn't hold root to that.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_cpu(seconds: float) -> None:
    """Let this process use `seconds` more of processor time (the limit counts from its birth)."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))


def cpu_timer(seconds: float) -> None:
    """End this process when it has used `seconds` more of processor time; 0 calls it off.

    The kernel does it, in the middle of C code too, and to milliseconds, where `allow_cpu` counts
    in seconds. To be called by the main thread.
    """
    if seconds > 0:  # both could be otherwise, as the parent left them
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
