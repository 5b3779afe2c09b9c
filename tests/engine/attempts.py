"""What a process may try inside the sandbox, each in a child of its own.

`python -m tests.engine.attempts FOLDER MODE` prints {name: outcome} as JSON. The outcome is
"done", the name of an error, or the name of the signal that ended the child. FOLDER holds
`open/inside.txt`, `open/module_there.py`, `open/way_out` (a link to `../closed`) and
`closed/outside.txt`. MODE is `free` (no sandbox), `shut` (nothing may be read) or `open` (the
first folder may be read), with ` audit` behind it.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

from engine import limits, sandbox

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
OPEN, CLOSED = FOLDER / "open", FOLDER / "closed"
MEMORY_BYTES = 512 << 20

held, other_end = socket.socketpair()
unconnected, unbound = socket.socket(), socket.socket()
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
epoll = select.epoll()
code_file = os.open(__file__, os.O_RDONLY)
closed_folder = os.open(CLOSED, os.O_RDONLY) if CLOSED.is_dir() else -1
this_process = os.getpid()
F_SETOWN = 8


def raw(name: str, *arguments: int) -> None:
    """A system call that Python has no function for."""
    column = sandbox.MACHINES[os.uname().machine].column
    number = (sandbox.ALLOWED | sandbox.READING | sandbox.WATCHED)[name][column]
    assert number is not None
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*map(ctypes.c_long, (number, *arguments))) < 0:
        raise OSError(ctypes.get_errno(), name)


def start_child() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def start_thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


REFUSED: dict[str, Callable[[], object]] = {
    "open": lambda: open("/etc/passwd").close(),
    "open outside": lambda: (CLOSED / "outside.txt").read_text(),
    "open by ..": lambda: (OPEN / ".." / "closed" / "outside.txt").read_text(),
    "open by a link": lambda: (OPEN / "way_out" / "outside.txt").read_text(),
    "open by /proc": lambda: open(f"/proc/self/root{CLOSED}/outside.txt").close(),
    "open by a held folder": lambda: os.open("outside.txt", os.O_RDONLY, dir_fd=closed_folder),
    "list": lambda: os.listdir(CLOSED),
    "open for writing": lambda: os.open(OPEN / "inside.txt", os.O_WRONLY),
    "open for both": lambda: os.open(OPEN / "inside.txt", os.O_RDWR),
    "open and truncate": lambda: os.open(OPEN / "inside.txt", os.O_RDONLY | os.O_TRUNC),
    "open a new file": lambda: os.open(OPEN / "new", os.O_RDONLY | os.O_CREAT),
    "open a file without a name": lambda: os.open(OPEN, os.O_TMPFILE | os.O_RDWR),
    "unlink": lambda: os.unlink(OPEN / "unlink_me"),
    "rename": lambda: os.rename(OPEN / "rename_me", OPEN / "renamed"),
    "mkdir": lambda: os.mkdir(OPEN / "folder"),
    "link": lambda: os.link(OPEN / "inside.txt", OPEN / "linked"),
    "symlink": lambda: os.symlink("inside.txt", OPEN / "symlinked"),
    "truncate": lambda: os.truncate(OPEN / "truncate_me", 0),
    "memfd_create": lambda: os.memfd_create("x"),
    "socket": lambda: socket.socket(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "socketpair": lambda: socket.socketpair(),
    "connect": lambda: unconnected.connect(listening.getsockname()),
    "bind": lambda: unbound.bind(("127.0.0.1", 0)),
    "exec": lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"]),
    "spawn": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    "fork": start_child,
    "thread": start_thread,
    "kill": lambda: os.kill(this_process, 0),
    "kill all": lambda: os.kill(os.getpid(), 0),
    "ptrace": lambda: raw("ptrace", 0, 0, 0, 0),
    "another's limits": lambda: resource.prlimit(this_process, resource.RLIMIT_CORE),
    # Whom the kernel signals when there is something to read: the parent, say.
    "a signal by descriptor": lambda: fcntl.fcntl(other_end, F_SETOWN, this_process),
}
"""Each succeeds outside of the sandbox."""

PRIVILEGED: dict[str, Callable[[], object]] = {
    "openat2": lambda: raw("openat2", -100, 0, 0, 0),
    "creat": lambda: raw("creat", 0, 0),
    "execveat": lambda: raw("execveat", -1, 0, 0, 0, 0),
    "clone3": lambda: raw("clone3", 0, 0),
    "mount": lambda: raw("mount", 0, 0, 0, 0, 0),
    "unshare": lambda: raw("unshare", -1),
    "bpf": lambda: raw("bpf", -1, 0, 0),
    "io_uring_setup": lambda: raw("io_uring_setup", 0, 0),
    "userfaultfd": lambda: raw("userfaultfd", -1),
    "perf_event_open": lambda: raw("perf_event_open", 0, 0, 0, 0, 0),
    "keyctl": lambda: raw("keyctl", -1, 0, 0, 0, 0),
    "process_vm_readv": lambda: raw("process_vm_readv", this_process, 0, 0, 0, 0, 0),
    "pidfd_open": lambda: raw("pidfd_open", this_process, 0),
}
"""Some machines refuse them to anybody, so a refusal says something only where it kills."""


def talk() -> None:
    held.sendall(b"x" * 1000)
    assert other_end.recv(2000) == b"x" * 1000
    held.settimeout(5.0)
    other_end.send(b"y")
    assert select.select([held], [], [], 5.0)[0] == [held]
    poller = select.poll()
    poller.register(held, select.POLLIN)
    epoll.register(held, select.EPOLLIN)
    assert poller.poll(5000)
    assert epoll.poll(5.0)
    assert os.read(held.fileno(), 10) == b"y"
    assert socket.socket(fileno=os.dup(held.fileno())).family == socket.AF_UNIX


def run_out_of_memory() -> None:
    limits.confine(MEMORY_BYTES)
    try:
        hoard = []
        while True:
            hoard.append(bytearray(8 << 20))
    except MemoryError:
        del hoard
    assert len(bytearray(64 << 20)) == 64 << 20


def recurse() -> None:
    def down(depth: int) -> int:
        return 1 + down(depth + 1)

    try:
        down(0)
    except RecursionError:
        assert "RecursionError" in traceback.format_exc()


def handle_a_signal() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not seen:
        time.sleep(0.001)


def ask_about_itself() -> None:
    assert os.fstat(code_file).st_size > 1000
    assert os.pread(code_file, 3, 0) == b'"""'
    assert len(os.urandom(16)) == 16 == len(os.getrandom(16))
    assert min(time.time(), time.monotonic(), time.process_time()) > 0
    assert os.getppid() == this_process
    assert os.uname().sysname == "Linux"
    assert os.sched_getaffinity(0)
    limits.allow_cpu(5)
    limits.cpu_timer(5)
    limits.cpu_timer(0)


def compute() -> None:
    data = bytes(range(256)) * 40_000
    assert zlib.decompress(zlib.compress(data)) == data
    assert hashlib.pbkdf2_hmac("sha256", b"a", b"b", 1000)
    assert sum(float(part) for part in map(str, range(100_000))) == 4999950000.0


WORK = {
    "talk": talk,
    "run out of memory": run_out_of_memory,
    "recurse": recurse,
    "handle a signal": handle_a_signal,
    "ask about itself": ask_about_itself,
    "compute": compute,
}
"""Each succeeds in the sandbox, whatever may be read."""


def import_late() -> None:
    sys.path.insert(0, str(OPEN))
    import module_there  # type: ignore[import-not-found]

    assert module_there.VALUE == 7


READ: dict[str, Callable[[], object]] = {
    "read": lambda: (OPEN / "inside.txt").read_text(),
    "list below": lambda: os.listdir(OPEN / "folder_there"),
    "walk back in": lambda: (OPEN / "folder_there" / ".." / "inside.txt").read_text(),
    "stat": lambda: os.stat(OPEN / "inside.txt"),
    "import": import_late,
}
"""Each succeeds where the folder may be read."""


def outcome(attempt: Callable[[], object], mode: str) -> str:
    """What becomes of the attempt in a child."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, in_child(attempt, mode).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as said:
        text = said.read().decode()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return text or "done"  # by another program, in this process


def in_child(attempt: Callable[[], object], mode: str) -> str:
    try:
        if not mode.startswith("free"):
            read = [OPEN, FOLDER / "not there"] if mode.startswith("open") else []
            sandbox.enter(read, audit=mode.endswith("audit"))
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except BaseException as error:  # noqa: BLE001
        return repr(error)
    return "done"


def main() -> None:
    mode = sys.argv[2]
    attempts = REFUSED | WORK | READ | ({} if mode == "free" else PRIVILEGED)
    print(json.dumps({name: outcome(attempt, mode) for name, attempt in attempts.items()}))


if __name__ == "__main__":
    main()
