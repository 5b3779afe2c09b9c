"""A worker of the render pool: one process that draws one SVG source at a time.

It is forked from a warm template, gives up everything but its socket before it reads its first
request, and ends when the socket does. What a source does to it is its own affair: the kernel ends
it when it used up its processor time, and the pool kills it when it misses the deadline.
"""

import ctypes
import os
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import limits, sandbox
from engine.types import Invalid
from render_pool import fonts
from render_pool.picture import Canvas, encode_png, nothing_to_see, page
from render_pool.protocol import HELLO, INVALID, NOTE_BYTES, PNG, REPLY, REQUEST, Settings
from render_pool.reasons import invalid
from render_pool.svg import Drawing, Page, prepare

Rasterise = Callable[[Drawing], Canvas]


@dataclass(frozen=True, slots=True)
class Warm:
    """What a template has loaded, and its workers draw with."""

    settings: Settings
    rasterise: Rasterise
    coverage: fonts.Coverage
    held: list[Any]
    reads: tuple[Path, ...] = ()
    """Folders that the backend can't do without."""


class Draws:
    """A worker's side of the requests."""

    def __init__(self, warm: Warm) -> None:
        settings = warm.settings
        self._page = Page(settings.side, settings.grid, settings.fit)  # type: ignore[arg-type]
        self._warm = warm
        self.is_spent = False
        """Whether this process has been through something after which it should not go on."""

    def draw(self, svg: bytes, kind: bytes) -> tuple[bytes, int, int, str, bytes]:
        """(kind, width, height, note, payload) of the answer."""
        try:
            result = self._picture(svg, kind)
        except MemoryError:
            self.is_spent = True
            result = invalid("memory")
        except RecursionError:
            self.is_spent = True
            result = invalid("malformed", "endless recursion")
        except Exception as error:  # noqa: BLE001  a renderer raises anything on hostile input
            # After an error of cairo's own a font may stay broken for all that follows.
            self.is_spent = type(error).__module__.startswith("cairocffi")
            is_memory = "NO_MEMORY" in str(error)
            detail = f"{type(error).__name__}: {error}"[:80]
            result = invalid("memory") if is_memory else invalid("malformed", detail)
        if isinstance(result, Invalid):
            return INVALID, 0, 0, f"{result.reason}:{result.detail}", b""
        return kind, *result

    def _picture(self, svg: bytes, kind: bytes) -> tuple[int, int, str, bytes] | Invalid:
        drawing = prepare(svg, self._page)
        if isinstance(drawing, Invalid):
            return drawing
        canvas = self._warm.rasterise(drawing)
        if unseen := nothing_to_see(canvas.pixels):
            return unseen
        picture = page(canvas.pixels, drawing.page_width, drawing.page_height)
        payload = encode_png(picture) if kind == PNG else picture.tobytes()
        return *picture.size, self._warm.coverage.missing(svg, drawing.letters)[:80], payload


def serve_worker(sock: socket.socket, warm: Warm, confined: str) -> None:
    """Answer requests until the other end closes."""
    sock.sendall(HELLO.pack(os.getpid(), confined.encode()[:60]))
    draws = Draws(warm)
    while not draws.is_spent and (header := _receive(sock, REQUEST.size)):
        kind, length = REQUEST.unpack(header)
        svg = _receive(sock, length)
        began = _cpu_s()
        limits.allow_cpu(warm.settings.cpu_s + 1)  # a net below the timer
        limits.cpu_timer(warm.settings.cpu_s)
        kind, width, height, note, payload = draws.draw(svg, kind)
        limits.cpu_timer(0)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        spent_us = int((usage.ru_utime + usage.ru_stime - began) * 1e6)
        told = note.encode(errors="replace")[:NOTE_BYTES]
        reply = REPLY.pack(
            kind,
            draws.is_spent,
            width,
            height,
            max(0, spent_us),
            usage.ru_maxrss,
            len(told),
            len(payload),
        )
        sock.sendall(reply + told)
        sock.sendall(payload)  # apart: it is large, and not worth a copy


def confine(fd: int, template: int, warm: Warm) -> str:
    """Give up descriptors, environment, user, memory, files and network; what of it took hold."""
    os.chdir("/")
    os.environ.clear()
    ctypes.CDLL(None).clearenv()
    _close_all_but(fd)
    if limits.are_public(folder / "any" for folder in warm.reads):
        limits.become_nobody()
    limits.die_with(template)  # a change of user undoes it
    limits.confine(warm.settings.memory_mb << 20)
    return str(sandbox.enter(warm.reads, audit=warm.settings.is_audited))


def _close_all_but(keep_fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, keep_fd)
    os.closerange(keep_fd + 1, 4096)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or b"" where the other end closed."""
    received = bytearray()
    while len(received) < size:
        part = sock.recv(size - len(received))
        if not part:
            return b""
        received += part
    return bytes(received)
