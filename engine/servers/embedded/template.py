"""A process that has imported everything an embedded server needs, and forks the servers.

To import torch and transformers takes seconds of a core, to fork a process that has them takes
milliseconds: a server that died is back as soon as its weights are read.

    host      -> template:  a byte: fork a server
    template  -> host:      its pid, a line; when it has ended, its exit status, a line

One server at a time. The template has no thread, no event loop, no port, no model, and so nothing
that a fork would break. It is for servers on the CPU, since CUDA does not survive a fork, and for
Linux, where the kernel ends it with its host and the server with it. The server keeps the socket
open: that it closes without a status tells the host that both have died.

`python -m engine.servers.embedded.template FD PARENT_PID ARGUMENT...`: the socket, the host, and
the command line of every server.
"""

import contextlib
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine import limits
from engine.polling import is_readable
from engine.servers.embedded import __main__ as server

_HEAVY = ("app", "loading", "worker")
"""Modules of this package that import all the others, torch and transformers."""
_PATIENCE_S = 10.0
"""For a template that does not say how its killed server ended."""


class Forked:
    """A server that a template forks, for its host: what `Popen` is for others."""

    def __init__(self, template: subprocess.Popen[bytes], told: socket.socket) -> None:
        self.pid = template.pid
        """The template's, until that has imported everything and forks."""
        self._template = template
        self._told = told
        self._heard = b""
        self._status: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there is a server, or will be none."""
        return self.poll() is not None or self.pid != self._template.pid

    def poll(self) -> int | None:
        """Its exit status, minus the signal that killed it, or None while it lives."""
        while self._status is None and is_readable(self._told, 0):
            self._hear()
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises TimeoutExpired; without a time-out it ends a silent template."""
        deadline = time.monotonic() + (_PATIENCE_S if timeout is None else timeout)
        while self._status is None:
            left_s = max(0.0, deadline - time.monotonic())
            if is_readable(self._told, left_s):
                self._hear()
            elif timeout is not None:
                raise subprocess.TimeoutExpired(self._template.args, timeout)
            else:
                self._template.kill()
                deadline += _PATIENCE_S
        return self._status

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _hear(self) -> None:
        try:
            words = self._told.recv(64, socket.MSG_DONTWAIT)
        except BlockingIOError:  # another thread has heard it
            return
        except ConnectionResetError:  # the template died before it read the order
            words = b""
        if not words:
            ended = self._template.wait()
            self._status = ended if self.pid == self._template.pid else -signal.SIGKILL
            return
        self._heard += words
        pid, *status = self._heard.split(b"\n")[:-1] or [b""]
        if pid:
            self.pid = int(pid)
        if status:
            self._status = int(status[0])


class Template:
    """The host's end of a template; it is started when it is needed first, or again."""

    def __init__(self, arguments: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        """`arguments` of the servers' command line. Template and servers write to `log`; `env` is
        added to their environment."""
        self._arguments = tuple(arguments)
        self._log = log
        self._env = {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def fork(self) -> Forked:
        """A server. The last one has ended."""
        if self._process is None or self._control is None or self._process.poll() is not None:
            self.close()
            self._process, self._control = self._start()
        with contextlib.suppress(BrokenPipeError):  # it has just died, which the server will show
            self._control.send(b"\n")
        return Forked(self._process, self._control)

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._control is not None:
            self._control.close()

    def _start(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """On the thread that is to live as long as the template (see `limits.die_with`)."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "engine.servers.embedded.template"]
        with theirs, self._log.open("ab") as log:
            process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid()), *self._arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )
        return process, ours


def main(arguments: list[str]) -> int:
    """Import everything, then fork a server whenever the host says so, until it is gone."""
    fd, parent, *argv = arguments
    limits.die_with(int(parent))
    control = socket.socket(fileno=int(fd))
    server.set_environment()
    for name in _HEAVY:
        importlib.import_module(f"engine.servers.embedded.{name}")
    gc.collect()
    gc.freeze()  # else the collector of a server copies the pages that it shares with this process
    while control.recv(1):
        pid = _fork(argv)
        try:
            control.sendall(f"{pid}\n".encode())
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            control.sendall(f"{status}\n".encode())
        except BrokenPipeError:  # the host has gone
            break
    return 0


def _fork(argv: list[str]) -> int:
    """The pid of a new process, which runs the server of `argv` as its command would."""
    template = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            limits.die_with(template)
            os.setsid()
            code = _status_of(argv)
        finally:  # must not go on as the template, whatever happens
            server.leave(code)
    return pid


def _status_of(argv: list[str]) -> int:
    """Runs the server; its exit status."""
    try:
        return server.main(argv)
    except SystemExit as end:  # argparse has said why
        return end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  its last words
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
