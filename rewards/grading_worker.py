"""The process in which answers are compared that could cost anything.

`python -m rewards.grading_worker PARENT_PID MEMORY_MB CPU_S MODULE:FUNCTION ...` imports the
functions and tries them on examples, which load what they import late. Then it gives up what it no
longer needs, and answers one request at a time until its standard input ends. Messages are frames:
the length in bytes, then JSON.

    to it      [request, ...]   the examples; a request is the number of a function and its
                                arguments, strings all
    from it    ["", "seccomp+landlock 7"]   what went wrong, and what confines it
    then       request -> result, null where there is none

It kills itself where it runs out of memory or processor time, and its parent kills it where it is
slow. It reads Python's libraries, and no other file; its standard output is the protocol's alone.
"""

import contextlib
import importlib
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from engine import limits, sandbox

HEADER = struct.Struct("!I")
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
        _send(replies, (f"{type(error).__name__}: {error}"[:500], ""))
        return 1
    for example in _receive(requests) or ():
        _result(functions, example)
    confined_by = _confine(int(parent), int(memory_mb) << 20)
    with contextlib.suppress(BrokenPipeError):  # the parent went away
        _send(replies, ("", confined_by))
        while request := _receive(requests):
            limits.allow_cpu(float(cpu_s))
            _send(replies, _result(functions, request))
    return 0


def _confine(parent: int, memory_bytes: int) -> str:
    """Give up for good what grading doesn't need. Returns what is in force besides the limits."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    if limits.are_public(filter(None, files)):  # else nobody could not import what is imported late
        limits.become_nobody()
        limits.die_with(parent)
    limits.confine(memory_bytes)
    libraries = [*filter(None, sys.path), f"{sys.base_prefix}/lib"]
    return str(sandbox.enter(read=[Path(library) for library in libraries]))


def _result(functions: Sequence[Callable[..., Any]], request: Sequence[Any]) -> Any:
    number, *arguments = request
    try:
        return functions[number](*arguments)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except Exception:  # noqa: BLE001  a function that fails on hostile input has no result
        return None


def _receive(requests: BinaryIO) -> Any:
    """The next message; None where there will be none."""
    header = requests.read(HEADER.size)
    return json.loads(requests.read(HEADER.unpack(header)[0])) if header else None


def _send(replies: BinaryIO, message: Any) -> None:
    replies.write(frame(message))
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
