"""The template of the render pool: a process that loads everything once, and forks the workers.

`python -m render_pool.template FD PARENT_PID SETTINGS` reads commands from the socket FD: `fork`
(with the worker's end of a socket attached), `kill`, and `ask` how a worker ended. Only the
template reaps workers, so a process id that it knows can't have passed to a stranger. When its
parent ends it kills them all and ends. It is started in a session of its own, far from torch and
its threads.

`python -m render_pool.template --check BACKEND` loads what a template loads, and says what lacks.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from engine import limits
from render_pool import fonts
from render_pool.protocol import ASK, COMMAND, ENDED, FORK, KILL, PNG, READY, Settings
from render_pool.worker import Draws, Warm, confine, serve_worker


class _Children:
    """The workers: forked, killed, and asked after."""

    def __init__(self, warm: Warm) -> None:
        self._warm = warm
        self._running: set[int] = set()
        self._killed: set[int] = set()
        self._ended: dict[int, int] = {}
        """Those that ended by themselves and have not been asked for: exit statuses."""

    def fork(self, fd: int) -> None:
        self._running.add(_fork(fd, self._warm))

    def kill(self, pid: int) -> None:
        self._ended.pop(pid, None)
        if pid in self._running:
            self._killed.add(pid)
            os.kill(pid, signal.SIGKILL)

    def ask(self, pid: int) -> int:
        """How a worker ended that closed its socket: its exit status, or minus its signal."""
        if pid in self._running:
            os.kill(pid, signal.SIGKILL)  # changes nothing for one that is on its way out
            self._running.discard(pid)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return self._ended.pop(pid, 0)

    def reap(self) -> None:
        for pid in list(self._running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            self._running.discard(pid)
            if pid not in self._killed:
                self._ended[pid] = os.waitstatus_to_exitcode(status)
            self._killed.discard(pid)

    def close(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def serve_template(control: socket.socket, warm: Warm) -> None:
    """Fork, kill and tell as told, until the other end closes."""
    children = _Children(warm)
    while True:
        command, fds, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if len(command) != COMMAND.size:
            break
        kind, pid = COMMAND.unpack(command)
        if kind == FORK:
            children.fork(fds[0])
        elif kind == KILL:
            children.kill(pid)
        elif kind == ASK:
            control.sendall(ENDED.pack(pid, children.ask(pid)))
        children.reap()
    children.close()


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--check"]:
        found = load(Settings(arguments[1], 64, 32, "pad", 1.0, 768))
        print(found if isinstance(found, str) else READY.decode())
        return 0
    fd, parent, settings = int(arguments[0]), int(arguments[1]), Settings.load(arguments[2])
    limits.die_with(parent)
    control = socket.socket(fileno=fd)
    warm = load(settings)
    if isinstance(warm, str):
        control.sendall(warm.encode())
        return 1
    control.sendall(READY)
    gc.freeze()  # the collector of a worker then leaves the shared pages alone
    serve_template(control, warm)
    return 0


def load(settings: Settings) -> Warm | str:
    """Import the backend and draw every kind of thing once, so that a worker needs no file. What
    is missing, if anything."""
    try:
        coverage = fonts.Coverage()
    except (OSError, LookupError) as error:
        return f"fontconfig: {str(error).splitlines()[0][:200]}"
    reads: tuple[Path, ...] = ()
    try:
        if settings.backend == "resvg":
            from render_pool.resvg import rasterise

            held: list[Any] = []
            reads = (fonts.FOLDER,)
        else:
            from render_pool.memo import remember
            from render_pool.rasterise import rasterise

            remember()
            held = fonts.hold()
    except OSError as error:  # cairocffi finds no libcairo
        return f"libcairo: {str(error).splitlines()[0][:200]}"
    except ImportError as error:
        return f"{settings.backend}: {str(error)[:200]}"
    warm = Warm(settings, rasterise, coverage, held, reads)
    for svg in _SAMPLES:
        answer = Draws(warm).draw(svg, PNG)
        if answer[0] != PNG:
            return f"{settings.backend}: it can't draw a sample ({answer[3]})"
    return warm


def _fork(fd: int, warm: Warm) -> int:
    """Fork a worker that serves the socket `fd`; returns its process id, in the template."""
    template = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    code = 1
    try:
        confined = confine(fd, template, warm)
        with contextlib.suppress(OSError):  # the pool went away
            serve_worker(socket.socket(fileno=fd), warm, confined)
        code = 0
    finally:
        os._exit(code)


def _sample(inside: str) -> bytes:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 96 96">{inside}</svg>'
    ).encode()


_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQ"
    "DJ/pLvAAAAAElFTkSuQmCC"
)
_SAMPLES = (
    _sample(
        "<style>.a text:nth-child(2n+1), #b > rect ~ circle { fill: url(#g) !important }</style>"
        '<defs><linearGradient id="g"><stop stop-color="red"/><stop offset="1"/></linearGradient>'
        '<radialGradient id="h" xlink:href="#g" gradientTransform="rotate(9)"/>'
        '<pattern id="p" width="9" height="9" patternUnits="userSpaceOnUse"><circle r="3"/>'
        '</pattern><mask id="m"><rect width="96" height="96" fill="white"/></mask>'
        '<clipPath id="c"><circle r="80"/></clipPath><marker id="k" orient="auto" viewBox="0 0 9 9'
        '"><path d="M0 0L9 9z"/></marker><filter id="f"><feOffset dx="1"/><feBlend mode="screen"/>'
        '<feFlood flood-color="#eee" width="9" height="9"/></filter><symbol id="s"><rect width="9"'
        ' height="9"/></symbol><path id="t" d="M0 60 C 20 40 40 80 96 50"/></defs>'
        '<g id="b" mask="url(#m)" opacity=".9"><rect rx="3" width="50" height="50"/>'
        '<circle r="9" clip-path="url(#c)" filter="url(#f)"/></g>'
        '<path d="m0 0 l9 9 h3 v4 c1 1 2 2 3 3 s1 1 2 2 q1 2 3 4 t1 1 a9 8 7 0 1 12 9 z" '
        'marker-mid="url(#k)" stroke="url(#h)" stroke-dasharray="3 1" fill="url(#p)"/>'
        '<use xlink:href="#s" x="60" transform="scale(2) rotate(5 1 2) skewX(3)"/>'
        f'<image width="5" height="5" xlink:href="{_PIXEL}"/><switch><g systemLanguage="en"/>'
        '<polyline points="1,2 3,4 50 60"/></switch><text x="1 2" rotate="9" font-style="italic">'
        '&#xe9;\u4e2d<tspan font-weight="bold" dy="3" letter-spacing="1">b</tspan></text><text>'
        '<textPath xlink:href="#t">along</textPath></text><ellipse rx="3" ry="4" fill="rgb(1,2,3)'
        '"/>'
    ),
    *(
        _sample(
            f'<text x="4" y="60" font-size="28" font-family="{family}" font-weight="{weight}" '
            f'font-style="{style}" text-anchor="start">Rg8</text>'
        )
        for family in fonts.FAMILIES
        for weight in ("normal", "bold")
        for style in ("normal", "italic")
    ),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
