"""Waiting for a file descriptor, whatever its number: `select.select` takes none beyond 1023."""

import select
from typing import Protocol


class HasDescriptor(Protocol):
    def fileno(self) -> int: ...


def is_readable(file: HasDescriptor | int, wait_s: float) -> bool:
    """Whether there is something to read, or the other end is closed; waits so long for it."""
    poller = select.poll()
    poller.register(file, select.POLLIN)
    return bool(poller.poll(max(0.0, wait_s) * 1000))
