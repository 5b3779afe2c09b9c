"""What an evaluation is worth after kills: the real command, a server that fails, SIGKILL."""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.request import urlopen

from PIL import Image

from engine.children import last_lines, spawn
from engine.errors import EngineError

_COMMAND = Path(__file__).resolve().parents[1] / "evaluate.py"
_NAME = "chartqa"
_LIMIT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """What was found after the last start had ended by itself."""

    rows: int
    kills: tuple[int, ...]
    """Answers that were kept when a kill came."""
    scored: int
    """Rows with exactly one scored record."""
    asked: int
    """Requests that the server got, the failing ones included."""
    failures: int
    repeated: int
    """Keys that the journal holds more than once."""
    wall_s: float

    def __str__(self) -> str:
        verdict = "met" if self.scored == self.rows and not self.repeated else "MISSED"
        return (
            f"{self.rows} rows, {self.failures} of {self.asked} requests failed, killed at "
            f"{' and '.join(map(str, self.kills))} answers: {self.scored} rows scored once, "
            f"{self.repeated} answers kept twice, {self.wall_s:.0f} s: {verdict}"
        )


def survive(url: str, *, rows: int, kills: int) -> Survival:
    """Evaluate made-up rows at `url` (a canned server), killed `kills` times on the way."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, out = root / "data", root / "out"
        write_rows(data, rows)
        journal = out / "official" / _NAME / "responses.jsonl"
        killed = []
        for number in range(kills):
            process = _start(url, data, out, root)
            wanted = rows * (number + 1) // (kills + 1)
            _until(process, journal, wanted, root / "log")
            process.kill()
            process.wait()
            killed.append(_lines(journal))
        process = _start(url, data, out, root)
        if process.wait(_LIMIT_S) != 0:
            raise EngineError(f"the evaluation failed:\n{last_lines(root / 'log')}")
        with urlopen(f"{url}/stats", timeout=10) as answer:
            stats: Mapping[str, Any] = json.load(answer)
        keys = Counter(json.loads(line)["key"] for line in journal.open())
        records = [json.loads(line) for line in (journal.parent / "records.jsonl").open()]
        scored = Counter(one["row"] for one in records if one["score"] is not None)
    return Survival(
        rows=rows,
        kills=tuple(killed),
        scored=sum(count == 1 for count in scored.values()),
        asked=stats["requests"],
        failures=stats["failures"],
        repeated=sum(count > 1 for count in keys.values()),
        wall_s=time.monotonic() - began_s,
    )


def write_rows(folder: Path, count: int) -> None:
    """Rows of ChartQA's schema on ten small pictures."""
    folder.mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (64, 48), (25 * number, 0, 0)).save(folder / f"{number}.png")
    with (folder / f"{_NAME}.jsonl").open("w") as file:
        for number in range(count):
            row = {
                "image": f"{number % 10}.png",
                "query": f"How high is bar {number}?",
                "label": [str(number % 7)],
                "human_or_machine": number % 2,
            }
            file.write(json.dumps(row) + "\n")


def _start(url: str, data: Path, out: Path, root: Path) -> Popen[bytes]:
    command = [
        *(sys.executable, str(_COMMAND), "--model", "canned", "--openai", f"{url}/v1"),
        *("--benchmarks", _NAME, "--data", str(data), "--out", str(out)),
        *("--cache", str(root / "cache"), "--concurrency", "64"),
    ]
    return spawn(command, log=root / "log")


def _until(process: Popen[bytes], journal: Path, wanted: int, log: Path) -> None:
    """Return when so many answers are kept. Raises EngineError where that does not come."""
    deadline = time.monotonic() + _LIMIT_S
    while _lines(journal) < wanted:
        if process.poll() is not None or time.monotonic() > deadline:
            raise EngineError(f"it ended before it was killed:\n{last_lines(log)}")
        time.sleep(0.01)
    if process.poll() is not None:
        raise EngineError(f"it ended before it was killed:\n{last_lines(log)}")


def _lines(journal: Path) -> int:
    try:
        return journal.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0
