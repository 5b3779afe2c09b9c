"""The processes of the render pool: one template that imports cairo once, and forks the workers.

`python -m render_pool.worker FD PARENT_PID CPU_S` is the template. It reads commands from the
socket FD: `fork` (with the worker's end of a socket attached) and `kill`. Only the template reaps
workers, so a process id that it knows can't have passed to a stranger. When its parent ends it
kills them all and ends. It is started in a session of its own, far from torch and its threads.

`python -m render_pool.worker --check` draws one letter and says what the system lacks.

A worker answers one request at a time, in frames with a length in front: see the structs below.
"""

import contextlib
import gc
import os
import signal
import socket
import struct
import sys

from engine import limits
from render_pool.svg import Drawing

COMMAND = struct.Struct("!cI")
"""To the template: FORK, 0 (and one descriptor) | KILL, process id."""
FORK, KILL = b"F", b"K"
READY = b"ready"
"""From the template, once cairo is loaded; anything else is what went wrong."""
HELLO = struct.Struct("!I")
"""From a worker, first: its process id."""
REQUEST = struct.Struct("!IHH")
"""To a worker: bytes of the SVG that follows, width, height in pixels."""
REPLY = struct.Struct("!cI")
"""From a worker: kind, bytes of the payload that follows (PNG, or the name of an error)."""
MEMORY_BYTES = 768 << 20
"""Address space of a worker; cairo's surfaces and Python's objects come out of it."""
PICTURE, BLANK, MALFORMED, MEMORY = b"P", b"B", b"E", b"M"

_LETTER = Drawing(
    b'<svg viewBox="0 0 32 32"><text x="4" y="26" font-family="sans-serif" font-size="28">R</text>'
    b"</svg>",
    32,
    32,
)


def serve_worker(sock: socket.socket, cpu_s: float) -> None:
    """Answer requests until the other end closes."""
    sock.sendall(HELLO.pack(os.getpid()))
    while header := _receive(sock, REQUEST.size):
        length, width, height = REQUEST.unpack(header)
        drawing = Drawing(_receive(sock, length), width, height)
        limits.allow_cpu(cpu_s)
        kind, payload = _draw(drawing)
        sock.sendall(REPLY.pack(kind, len(payload)) + payload)


def serve_template(control: socket.socket, cpu_s: float) -> None:
    """Fork and kill workers as told, until the other end closes."""
    workers: set[int] = set()
    while True:
        command, fds, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if len(command) != COMMAND.size:
            break
        kind, pid = COMMAND.unpack(command)
        if kind == FORK:
            workers.add(_fork(control, fds[0], cpu_s))
        elif pid in workers:
            os.kill(pid, signal.SIGKILL)
        _reap(workers, os.WNOHANG)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    _reap(workers, 0)


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        print(_load() or READY.decode())
        return 0
    fd, parent, cpu_s = int(arguments[0]), int(arguments[1]), float(arguments[2])
    limits.die_with(parent)
    control = socket.socket(fileno=fd)
    missing = _load()
    control.sendall(missing.encode() if missing else READY)
    if missing:
        return 1
    gc.freeze()  # the collector of a worker then leaves the shared pages alone
    serve_template(control, cpu_s)
    return 0


def _load() -> str:
    """Import cairo and draw a letter, which also fills the font cache. Returns what is missing."""
    try:
        from render_pool.rasterise import rasterise
    except OSError as error:  # cairocffi finds no libcairo
        return f"libcairo: {str(error).splitlines()[0][:200]}"
    if num_fonts() == 0 or rasterise(_LETTER) is None:
        return "no font is installed"
    return ""


def num_fonts() -> int | None:
    """Fonts that fontconfig knows; None where there is no fontconfig to ask.

    Without any font cairo still draws boxes for letters, so a drawing alone does not tell.
    """
    import ctypes

    class FontSet(ctypes.Structure):
        _fields_ = (("num_fonts", ctypes.c_int),)

    try:
        fontconfig = ctypes.CDLL("libfontconfig.so.1")
    except OSError:
        return None
    fontconfig.FcInitLoadConfigAndFonts.restype = ctypes.c_void_p
    fontconfig.FcConfigGetFonts.restype = ctypes.POINTER(FontSet)
    fontconfig.FcConfigGetFonts.argtypes = (ctypes.c_void_p, ctypes.c_int)
    fonts = fontconfig.FcConfigGetFonts(fontconfig.FcInitLoadConfigAndFonts(), 0)
    return fonts.contents.num_fonts if fonts else 0


def _draw(drawing: Drawing) -> tuple[bytes, bytes]:
    from render_pool.rasterise import rasterise

    try:
        png = rasterise(drawing)
    except MemoryError:
        return MEMORY, b""
    except Exception as error:  # noqa: BLE001  cairosvg raises anything on hostile input
        return MALFORMED, type(error).__name__.encode()
    return (BLANK, b"") if png is None else (PICTURE, png)


def _fork(control: socket.socket, fd: int, cpu_s: float) -> int:
    """Fork a worker that serves the socket `fd`; returns its process id, in the template."""
    template = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    code = 1
    try:
        limits.die_with(template)
        _close_all_but(fd)
        limits.confine(MEMORY_BYTES)
        with contextlib.suppress(OSError):  # the pool went away
            serve_worker(socket.socket(fileno=fd), cpu_s)
        code = 0
    finally:
        os._exit(code)


def _close_all_but(keep_fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, keep_fd)
    os.closerange(keep_fd + 1, 4096)


def _reap(workers: set[int], options: int) -> None:
    for pid in list(workers):
        if os.waitpid(pid, options)[0]:
            workers.discard(pid)


def _receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or b"" where the other end closed."""
    received = b""
    while len(received) < size:
        part = sock.recv(size - len(received))
        if not part:
            return b""
        received += part
    return received


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
