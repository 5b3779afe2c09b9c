"""The process in which answers are compared that could cost anything.

`python -m rewards.grading_worker PARENT_PID MEMORY_MB CPU_S MODULE:FUNCTION ...` imports the
functions, says `READY` (or what went wrong), and then answers one request at a time until its
standard input ends: the number of a function and its arguments, strings all. Requests and replies
are frames: the length in bytes, then JSON.

It kills itself where it runs out of memory or processor time, and its parent kills it where it is
slow. It writes no files, and its standard output is the protocol's alone.
"""

import contextlib
import importlib
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from engine import limits

HEADER = struct.Struct("!I")
READY = "ready"
OUT_OF_MEMORY = 3
"""Exit status."""


def frame(message: Any) -> bytes:
    payload = json.dumps(message).encode()
    return HEADER.pack(len(payload)) + payload


def main(arguments: Sequence[str]) -> int:
    parent, memory_mb, cpu_s, *names = arguments
    limits.die_with(int(parent))
    requests, replies = _take_streams()
    try:
        functions = [_load(name) for name in names]
    except Exception as error:  # noqa: BLE001  whatever an import raises, the parent reports it
        replies.write(frame(f"{type(error).__name__}: {error}"[:500]))
        replies.flush()
        return 1
    limits.confine(int(memory_mb) << 20)
    replies.write(frame(READY))
    replies.flush()
    with contextlib.suppress(BrokenPipeError):  # the parent went away
        _serve(requests, replies, functions, float(cpu_s))
    return 0


def _serve(
    requests: BinaryIO, replies: BinaryIO, functions: Sequence[Callable[..., Any]], cpu_s: float
) -> None:
    while header := requests.read(HEADER.size):
        number, *arguments = json.loads(requests.read(HEADER.unpack(header)[0]))
        limits.allow_cpu(cpu_s)
        try:
            result = functions[number](*arguments)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except Exception:  # noqa: BLE001  a function that fails on hostile input has no result
            result = None
        replies.write(frame(result))
        replies.flush()


def _load(name: str) -> Callable[..., Any]:
    """The function that MODULE:FUNCTION names."""
    module, _, function = name.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """The protocol's two ends; what libraries print goes nowhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    return requests, replies


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
