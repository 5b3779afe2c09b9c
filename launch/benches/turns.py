"""Processes that take turns: each works only when it is told to, and says what it measured.

A worker's stdout carries one JSON object per line and nothing else. Imports the standard library
alone, so that a worker may live in an environment of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
_MEGABYTE = 1 << 20


class Turns:
    """The worker's end."""

    def __init__(self) -> None:
        # What libraries print must not come between our lines.
        self._out: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def report(self, **values: Any) -> None:
        self._out.write(json.dumps(values) + "\n")

    def wait(self) -> str:
        """What it is told when its turn comes; empty when no turn will come."""
        return sys.stdin.readline().strip()


def memory(device: str) -> dict[str, float]:
    """{"held", "peak"} in MB: of this process (its resident set), or of the GPU that it uses.

    The peak is since `forget_peak`, or since the start.
    """
    if device != "cpu":
        import torch

        held, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
        return {"held": held / _MEGABYTE, "peak": peak / _MEGABYTE}
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"held": "VmRSS", "peak": "VmHWM"}
    return {name: int(lines[key].split()[0]) * 1024 / _MEGABYTE for name, key in names.items()}


def forget_peak(device: str) -> None:
    """Let the peak begin at what is held now. (Linux: 5 resets a process's own mark.)"""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    Path("/proc/self/clear_refs").write_text("5")


class Clock:
    """Seconds since it was made: on the wall, and of this process on all its processors."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "wall_s": time.perf_counter() - self._wall,
            "cpu_s": time.process_time() - self._cpu,
        }


class Worker:
    """A worker process as its owner sees it. Raises SystemExit, with its last words, if it dies.

    `command` is what follows the Python of its environment.
    """

    def __init__(self, python: str, command: Sequence[str], *, threads: int) -> None:
        self._log = Path(tempfile.mkdtemp()) / "worker.log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        with self._log.open("wb") as log:
            # -P: the folder of a script must not hide packages that are named like its files.
            self._process = subprocess.Popen(
                [python, "-P", *command], env=environment, stderr=log, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        self.began = self.receive()
        """What it said when it was ready."""

    def turn(self, word: str = "go") -> dict[str, Any]:
        """Let it work once; what it says then."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `receive` finds out why
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        return self.receive()

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            words = self._log.read_text(errors="replace").splitlines()[-12:]
            raise SystemExit("a worker failed:\n" + "\n".join(words))
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
