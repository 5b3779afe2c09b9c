"""What a run played against what it is tested on: the games of its buffer, the rows of the data."""

import json
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ConfigError
from engine.records import Records
from engine.rundir import RunDir
from evals.benchmark import Benchmark
from evals.contamination import check, played_of
from evals.data import load

_GAMES = 100_000


def check_run(
    run: Path, benchmarks: Sequence[Benchmark], data: str, out: Path, revisions: Path
) -> str:
    """Write contamination.json with all hits into `out`; a line that says how many. Blocking.

    Raises ConfigError where the run has no games to look at, or the data can't be read.
    """
    database = RunDir(run).database
    if not database.is_file():
        raise ConfigError(f"--contamination: {run} has no run.db")
    records = Records.open(database)
    try:
        played = list(played_of(records.games_evenly(_GAMES), records.image))
    finally:
        records.close()
    # One benchmark at a time: all pictures of all of them are many GB.
    hits = [
        hit
        for benchmark in benchmarks
        for hit in check(played, {benchmark.name: load(benchmark, data, revisions=revisions).rows})
    ]
    out.mkdir(parents=True, exist_ok=True)
    path = out / "contamination.json"
    path.write_text(json.dumps([hit.to_json() for hit in hits], indent=1) + "\n")
    rows = len({(hit.benchmark, hit.row) for hit in hits})
    return f"contamination: {rows} rows like something of {len(played)} played: {path}"
