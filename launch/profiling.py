"""Where a process spends its processor time: stacks of its main thread, taken by a timer.

The file has a line for each stack, outermost first, `folder/file.py:function;... microseconds`, as
flame-graph tools read it; after the N-th SIGUSR2 the outermost is `mark N`. A sample is a few
hundredths of a millisecond of work every 5 ms of processor time. Three things make it fair:

- A sample counts for the processor time since the one before. While a call into C goes on (a query,
  JSON, looking for garbage) timers that run out are taken together: counting samples would leave
  out a fifth of the time (measured: the engine of the quickstart), all of it such calls.
- Python takes a sample late: when it next enters a function, ends a call into C or jumps back, but
  not when a function returns or goes on after an `await`, whatever it freed or came back from. So
  what is taken at the entry of a function, of which nothing has run, is its caller's; and where the
  caller has only just come back from an `await`, that of what it awaited, shown as `(awaited)`.
  Otherwise a small function that is called after much work would be charged for that.
- Looking for garbage stands apart, as `(garbage)`: it begins where something happens to be
  allocated when it is due, and what it looks at is everybody's.
"""

import dis
import gc
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

EVERY_S = 0.005
"""Of processor time, of all threads; what other threads burn is seen as what this one does then."""
AWAITED = "(awaited)"
GARBAGE = "(garbage)"


@contextmanager
def profiled(path: str | None) -> Iterator[None]:
    """Around what runs in the main thread; without a path it does nothing."""
    if not path:
        yield
        return
    stacks: dict[str, float] = {}
    """Seconds."""
    last_s = garbage_s = time.process_time()
    mark = 0

    def charge(stack: str, seconds: float) -> None:
        if mark:
            stack = f"mark {mark};{stack}"
        stacks[stack] = stacks.get(stack, 0.0) + seconds

    def begin(_: int, __: FrameType | None) -> None:
        nonlocal mark
        mark += 1

    def sample(_: int, frame: FrameType | None) -> None:
        nonlocal last_s
        if frame is not None and frame.f_code is look.__code__:
            return  # the next one counts the time since the one before
        charge(_stack(frame), time.process_time() - last_s)
        last_s = time.process_time()  # what this takes is nobody's

    def look(phase: str, _: dict[str, Any]) -> None:
        nonlocal last_s, garbage_s
        now_s = time.process_time()
        if phase == "start":
            garbage_s = now_s
        else:  # a finaliser of what was found may have been sampled meanwhile
            looked_s = now_s - max(garbage_s, last_s)
            charge(GARBAGE, looked_s)
            last_s += looked_s

    signal.signal(signal.SIGUSR2, begin)
    before = signal.signal(signal.SIGPROF, sample)
    gc.callbacks.append(look)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
        gc.callbacks.remove(look)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a late one must not end the process
        most_first = sorted(stacks.items(), key=lambda item: -item[1])
        Path(path).write_text("".join(f"{stack} {s * 1e6:.0f}\n" for stack, s in most_first))


def _stack(frame: FrameType | None) -> str:
    names = []
    if frame is not None and frame.f_back is not None and frame.f_lasti <= _begins(frame.f_code):
        frame = frame.f_back
        if _is_just_back(frame.f_code, frame.f_lasti):
            names.append(AWAITED)
    while frame is not None:
        names.append(_name(frame.f_code))
        frame = frame.f_back
    return ";".join(reversed(names))


@cache
def _name(code: CodeType) -> str:
    return f"{'/'.join(Path(code.co_filename).parts[-3:])}:{code.co_name}"


@cache
def _begins(code: CodeType) -> int:
    """The instruction at which a function looks for signals before any of it has run."""
    return 2 * code.co_code[::2].find(dis.opmap["RESUME"])


@cache
def _is_just_back(code: CodeType, at: int) -> bool:
    """Whether the call at an instruction is the first one after an `await`."""
    ran = [i for i in dis.get_instructions(code) if i.offset <= at]
    for instruction in reversed(ran[:-1]):
        name = instruction.opname
        if name in ("JUMP_BACKWARD_NO_INTERRUPT", "SEND", "END_SEND"):
            return True
        if name == "RESUME" or name.startswith(("CALL", "JUMP_BACKWARD")):
            return False
    return False


def read_profile(path: Path) -> dict[str, int]:
    """{stack: microseconds}."""
    rows = (line.rpartition(" ") for line in path.read_text().splitlines())
    return {stack: int(number) for stack, _, number in rows}


def by_mark(profile: Mapping[str, int]) -> dict[int, dict[str, int]]:
    """{mark: its part of a profile}; 0: before the first."""
    parts: dict[int, dict[str, int]] = {}
    for stack, number in profile.items():
        first, _, rest = stack.partition(";")
        is_marked = first.startswith("mark ")
        mark = int(first.removeprefix("mark ")) if is_marked else 0
        parts.setdefault(mark, {})[rest if is_marked else stack] = number
    return parts


def share(profile: Mapping[str, int], *parts: str) -> float:
    """Of the time, that with one of `parts` somewhere in its stack."""
    found = sum(n for stack, n in profile.items() if any(part in stack for part in parts))
    return found / max(1, sum(profile.values()))
