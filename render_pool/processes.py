"""The pool's side of its processes: start the template, have workers forked, talk to one, kill it.

Who waits for whom: a worker's end is seen as the end of its socket; the template's likewise. The
protocol is in `render_pool.worker`. Frames from a worker are untrusted (it parsed hostile input).
"""

import asyncio
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from engine.errors import ConfigError, EngineError
from render_pool import worker as protocol
from render_pool.svg import Drawing

START_S = 120.0
"""Wall seconds for Python and cairo to load: ten times what a busy two-core machine took."""
FORK_S = 30.0
INSTALL = "apt-get install -y libcairo2 fonts-dejavu-core"

_ROOT = Path(__file__).resolve().parent.parent
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PNG = struct.Struct("!8s4s4sII")


def check_system() -> None:
    """Raise ConfigError, with the command that mends it, where libcairo or fonts are missing."""
    done = subprocess.run(
        [sys.executable, "-m", "render_pool.worker", "--check"],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"render pool: its worker does not start: {last[:200]}")
    if done.stdout.strip() != protocol.READY.decode():
        raise _missing(done.stdout.strip())


class Worker:
    """One forked process that draws one picture at a time."""

    def __init__(
        self,
        pid: int,
        sock: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.pid = pid
        self.num_drawn = 0
        self._socket = sock
        self._reader = reader
        self._writer = writer

    @property
    def is_idle(self) -> bool:
        """True where the worker lives and owes no answer."""
        if self._reader.at_eof() or self._writer.is_closing():
            return False
        # The event loop may not yet have seen the end of a worker that died a moment ago.
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def draw(self, drawing: Drawing) -> tuple[bytes, bytes]:
        """(kind, payload) of the answer, checked. Raises EOFError or OSError where the worker
        ended, ValueError where it answered nonsense."""
        width, height = drawing.padded
        self.num_drawn += 1
        self._writer.write(
            protocol.REQUEST.pack(len(drawing.svg), drawing.width, drawing.height) + drawing.svg
        )
        header = await self._reader.readexactly(protocol.REPLY.size)
        kind, length = protocol.REPLY.unpack(header)
        if length > width * height * 4 + 65536:
            raise ValueError(f"{length} bytes for {width} x {height} pixels")
        payload = await self._reader.readexactly(length)
        if kind == protocol.PICTURE and not _is_png(payload, width, height):
            raise ValueError("not the picture that was asked for")
        return kind, payload

    def close(self) -> None:
        """The worker ends by itself when it next reads; a busy one has to be killed."""
        self._writer.close()


class Template:
    """The process that forks the workers. One per pool; it outlives them."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, cpu_s: float) -> "Template":
        """Start it and wait until cairo is loaded. Raises ConfigError where the system lacks it."""
        ours, theirs = socket.socketpair()
        with theirs:
            template = cls(_spawn(theirs.fileno(), cpu_s), ours)
        ours.setblocking(False)
        try:
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 4096), START_S)
        except BaseException:
            template.close(kill=True)
            raise
        if said != protocol.READY:
            template.close(kill=True)
            if said:
                raise _missing(said.decode(errors="replace"))
            raise EngineError("render pool: the template process ended while it started")
        return template

    async def fork(self) -> Worker:
        """A new worker. Raises OSError, EOFError or TimeoutError where the template is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                command = protocol.COMMAND.pack(protocol.FORK, 0)
                socket.send_fds(self._control, [command], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            hello = await asyncio.wait_for(reader.readexactly(protocol.HELLO.size), FORK_S)
        except BaseException:
            writer.close()
            raise
        return Worker(protocol.HELLO.unpack(hello)[0], ours, reader, writer)

    def kill(self, worker: Worker) -> None:
        """SIGKILL from outside: nothing that the worker does can delay it."""
        worker.close()
        try:
            self._control.send(protocol.COMMAND.pack(protocol.KILL, worker.pid))
        except OSError:
            self.close(kill=True)  # its workers die with it

    def close(self, *, kill: bool = False) -> None:
        """End the template and all of its workers; waits until they are gone (milliseconds)."""
        self._control.close()
        if kill:
            self._process.kill()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _spawn(fd: int, cpu_s: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "render_pool.worker", str(fd), str(os.getpid()), str(cpu_s)],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """What a worker needs to find Python's modules and its fonts, and no secrets."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key in _PASSED_ON or key.startswith(("FONTCONFIG_", "XDG_CACHE_"))
    }
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path)}


def _missing(what: str) -> ConfigError:
    return ConfigError(f"render pool: {what}; install it with: {INSTALL}")


def _is_png(payload: bytes, width: int, height: int) -> bool:
    if len(payload) < _PNG.size:
        return False
    signature, _, kind, *size = _PNG.unpack_from(payload)
    return signature == b"\x89PNG\r\n\x1a\n" and kind == b"IHDR" and size == [width, height]
