"""What a process and all its descendants use, from /proc."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process."""

    pid: int
    command: str
    cpu_s: float
    """Processor seconds, of its ended children too."""
    memory: int
    """Resident bytes."""
    descriptors: int
    """Open files."""


def usage_of_tree(root: int) -> list[Usage]:
    """`root` and its descendants, as far as they are still there."""
    return [usage for pid in _tree(root) if (usage := _usage(pid)) is not None]


def cpu_s_of_tree(root: int) -> float:
    """Processor seconds; never falls while `root` lives and waits for its children."""
    return sum(_cpu_s(pid) for pid in _tree(root))


def _tree(root: int) -> Iterator[int]:
    yield root
    for task in _entries(Path(f"/proc/{root}/task")):
        for child in _text(task / "children").split():
            yield from _tree(int(child))


def _usage(pid: int) -> Usage | None:
    folder = Path(f"/proc/{pid}")
    memory = _text(folder / "statm").split()
    if len(memory) < 2:
        return None
    words = _text(folder / "cmdline").replace("\0", " ")
    return Usage(pid, words, _cpu_s(pid), int(memory[1]) * _PAGE, len(_entries(folder / "fd")))


def _cpu_s(pid: int) -> float:
    """utime, stime, cutime and cstime."""
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS_PER_S


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it ended a moment ago
        return ""


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
