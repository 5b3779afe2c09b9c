"""Where a process spends its processor time: stacks of its main thread, taken by a timer.

The file has a line for each stack, outermost first, `folder/file.py:function;... number`, as
flame-graph tools read it. A sample is a few hundredths of a millisecond of work every 5 ms of
processor time.
"""

import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

EVERY_S = 0.005
"""Of processor time, of all threads; what other threads burn is seen as what this one does then."""


@contextmanager
def profiled(path: str | None) -> Iterator[None]:
    """Around what runs in the main thread; without a path it does nothing."""
    if not path:
        yield
        return
    stacks: Counter[str] = Counter()

    def sample(_: int, frame: FrameType | None) -> None:
        names = []
        while frame is not None:
            code = frame.f_code
            names.append(f"{'/'.join(Path(code.co_filename).parts[-3:])}:{code.co_name}")
            frame = frame.f_back
        stacks[";".join(reversed(names))] += 1

    before = signal.signal(signal.SIGPROF, sample)
    signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
        lines = (f"{stack} {number}\n" for stack, number in stacks.most_common())
        Path(path).write_text("".join(lines))


def read_profile(path: Path) -> dict[str, int]:
    """{stack: samples}."""
    rows = (line.rpartition(" ") for line in path.read_text().splitlines())
    return {stack: int(number) for stack, _, number in rows}


def share(profile: Mapping[str, int], *parts: str) -> float:
    """Of the samples, those with one of `parts` somewhere in their stack."""
    found = sum(n for stack, n in profile.items() if any(part in stack for part in parts))
    return found / max(1, sum(profile.values()))
