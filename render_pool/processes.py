"""The pool's side of its processes: start the template, have workers forked, talk to one, kill it.

Who waits for whom: a worker's end is seen as the end of its socket; the template's likewise. The
frames are in `render_pool.protocol`; those of a worker are untrusted (it parsed hostile input).
"""

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, EngineError
from render_pool import fonts
from render_pool import protocol as wire

START_S = 120.0
"""Wall seconds for Python and cairo to load: ten times what a busy two-core machine took."""
FORK_S = 30.0
INSTALL = "apt-get install -y libcairo2 libfontconfig1"
INSTALL_RESVG = "pip install -e '.[resvg]'"

_ROOT = Path(__file__).resolve().parent.parent
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PNG_HEAD = struct.Struct("!8s4s4sII")


def check_system(backend: str = "cairosvg") -> None:
    """Raise ConfigError, with the command that mends it, where a library is missing."""
    done = subprocess.run(
        [sys.executable, "-m", "render_pool.template", "--check", backend],
        env=_environment(),
        cwd=fonts.FOLDER,
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConfigError(f"render pool: its worker does not start: {last[:200]}")
    if done.stdout.strip() != wire.READY.decode():
        raise _missing(done.stdout.strip(), backend)


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker's answer to one request."""

    kind: bytes
    """PNG, RGB or INVALID."""
    width: int
    height: int
    note: str
    payload: bytes
    cpu_s: float
    """Processor seconds that the request took."""
    peak_mb: float
    """Resident memory of the worker, at its highest."""
    is_last: bool
    """The worker ends: what it went through was too much for it."""


class Worker:
    """One forked process that draws one picture at a time."""

    def __init__(self, pid: int, sandbox: str, sock: socket.socket) -> None:
        self.pid = pid
        self.sandbox = sandbox
        """What it gave up."""
        self.num_drawn = 0
        self.told_cpu_s = 0.0
        """Processor seconds of the requests that it answered."""
        self._socket = sock

    @property
    def is_idle(self) -> bool:
        """True where the worker lives and owes no answer."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    async def draw(self, svg: bytes, kind: bytes, side: int) -> Answer:
        """The answer, checked. Raises EOFError or OSError where the worker ended, ValueError
        where it answered nonsense. After either, or a cancellation, the worker is of no use."""
        self.num_drawn += 1
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, wire.REQUEST.pack(kind, len(svg)) + svg)
        header = wire.REPLY.unpack(await receive(self._socket, wire.REPLY.size))
        answered, is_last, width, height, cpu_us, peak_kb, note_length, length = header
        if answered not in (kind, wire.INVALID) or max(width, height) > side:
            raise ValueError(f"a frame of kind {answered!r}, {width} x {height}")
        if note_length > wire.NOTE_BYTES or length > width * height * 4 + 65536:
            raise ValueError(f"{length} bytes for {width} x {height} pixels")
        note = (await receive(self._socket, note_length)).decode(errors="replace")
        payload = await receive(self._socket, length)
        if answered == wire.PNG and not _is_png(payload, width, height):
            raise ValueError("not a PNG of its size")
        if answered == wire.RGB and length != width * height * 3:
            raise ValueError(f"{length} bytes for {width} x {height} pixels")
        cpu_s, peak_mb = cpu_us / 1e6, peak_kb / 1024
        self.told_cpu_s += cpu_s
        return Answer(answered, width, height, note, payload, cpu_s, peak_mb, is_last)

    def used_cpu_s(self) -> float:
        """Processor seconds of its life; 0 where it is gone, or the system doesn't tell."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return 0.0
        ticks = stat.rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """The worker ends by itself when it next reads; a busy one has to be killed."""
        self._socket.close()


class Template:
    """The process that forks the workers. One per pool; it outlives them."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._asking = asyncio.Lock()
        self._is_closed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, settings: wire.Settings) -> "Template":
        """Start it and wait until it is warm. Raises ConfigError where the system lacks it."""
        ours, theirs = socket.socketpair()
        with theirs:
            template = cls(_spawn(theirs.fileno(), settings), ours)
        ours.setblocking(False)
        try:
            async with asyncio.timeout(START_S):
                said = await asyncio.get_running_loop().sock_recv(ours, 4096)
        except BaseException:
            template.close(kill=True)
            raise
        if said != wire.READY:
            template.close(kill=True)
            if said:
                raise _missing(said.decode(errors="replace"), settings.backend)
            raise EngineError("render pool: the template process ended while it started")
        return template

    async def fork(self) -> Worker:
        """A new worker. Raises OSError, EOFError or TimeoutError where the template is gone."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        worker = Worker(0, "", ours)
        try:
            with theirs:
                command = wire.COMMAND.pack(wire.FORK, 0)
                socket.send_fds(self._control, [command], [theirs.fileno()])
            async with asyncio.timeout(FORK_S):
                hello = await receive(ours, wire.HELLO.size)
        except BaseException:
            ours.close()
            raise
        worker.pid, sandbox = wire.HELLO.unpack(hello)
        worker.sandbox = sandbox.rstrip(b"\0").decode(errors="replace")
        return worker

    def kill(self, worker: Worker) -> None:
        """SIGKILL from outside: nothing that the worker does can delay it."""
        worker.close()
        try:
            self._control.send(wire.COMMAND.pack(wire.KILL, worker.pid))
        except OSError:
            self.close(kill=True)  # its workers die with it

    async def ended(self, worker: Worker) -> int | None:
        """How a worker ended that closed its socket: its exit status, or minus its signal; None
        where the template is gone too."""
        worker.close()
        try:
            async with asyncio.timeout(FORK_S), self._asking:
                return await self._ask(worker)
        except (OSError, EOFError):  # or silent for long, which is a TimeoutError and so the first
            return None

    async def _ask(self, worker: Worker) -> int:
        try:
            command = wire.COMMAND.pack(wire.ASK, worker.pid)
            await asyncio.get_running_loop().sock_sendall(self._control, command)
            while True:
                pid, status = wire.ENDED.unpack(await receive(self._control, wire.ENDED.size))
                if pid == worker.pid:  # others were asked for by callers that went away
                    return int(status)
        finally:
            if self._is_closed:
                self._control.close()

    def close(self, *, kill: bool = False) -> None:
        """End the template and all of its workers; waits until they are gone (milliseconds)."""
        self._is_closed = True
        if self._asking.locked():
            # Who waits for an answer hears of an end, and of a closed socket never; it closes it.
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
        else:
            self._control.close()
        if kill:
            self._process.kill()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes. Raises EOFError where the other end closed."""
    loop = asyncio.get_running_loop()
    received = bytearray(size)
    view = memoryview(received)
    while view:
        count = await loop.sock_recv_into(sock, view)
        if count == 0:
            raise EOFError
        view = view[count:]
    return bytes(received)


def describe(status: int | None) -> str:
    """A worker's end in words."""
    if status is None:
        return "with the process that forked it"
    if status >= 0:
        return f"exit {status}"
    try:
        return f"signal {-status}, {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _spawn(fd: int, settings: wire.Settings) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "render_pool.template"]
    return subprocess.Popen(
        [*command, str(fd), str(os.getpid()), settings.dump()],
        pass_fds=[fd],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
        cwd=fonts.FOLDER,
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """What a template needs to find Python's modules and its fonts, and no secrets."""
    kept = {key: value for key, value in os.environ.items() if key in _PASSED_ON}
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no threads before a fork
    return kept | fonts.environment() | single | {"PYTHONPATH": os.pathsep.join(path)}


def _missing(what: str, backend: str) -> ConfigError:
    command = INSTALL_RESVG if what.startswith("resvg") else INSTALL
    return ConfigError(f"render pool: {what}; install it with: {command}")


def _is_png(payload: bytes, width: int, height: int) -> bool:
    if len(payload) < _PNG_HEAD.size:
        return False
    signature, _, kind, *size = _PNG_HEAD.unpack_from(payload)
    return signature == b"\x89PNG\r\n\x1a\n" and kind == b"IHDR" and size == [width, height]
