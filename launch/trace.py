"""Timelines of games for Perfetto (ui.perfetto.dev) or chrome://tracing, also while a run goes on.

python launch/trace.py runs/quickstart                  # the last 20 games
python launch/trace.py runs/quickstart --game 7 --game 8 -o games.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import ConfigError, EngineError
from engine.metrics import read_metrics
from engine.monitor.traces import chrome_trace, step_times
from engine.records import Records
from engine.rundir import RunDir

NUM_GAMES = 20


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="launch/trace.py", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a folder runs/NAME")
    parser.add_argument("--game", type=int, action="append", help="its number; may be repeated")
    parser.add_argument("--last", type=int, default=NUM_GAMES, help="without --game: so many")
    parser.add_argument("-o", "--out", type=Path, help="default: RUN/trace.json")
    args = parser.parse_args(argv)
    try:
        print(write_trace(args.run, args.game, args.last, args.out))
    except EngineError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return 2
    return 0


def write_trace(
    folder: Path, games: Sequence[int] | None, last: int, out: Path | None = None
) -> Path:
    """Write and return the trace. Raises ConfigError where there is no such run or game."""
    run = RunDir(folder)
    if not run.database.exists():
        raise ConfigError(f"{run.path}: no run here ({run.database.name} is missing)")
    records = Records.open(run.database)
    try:
        numbers = games or [game["game"] for game in records.newest_games(last)]
        lives = []
        for number in sorted(numbers):
            life = records.game_life(number)
            if life is None:
                raise ConfigError(f"--game {number}: no game of {run.path} that has ended")
            lives.append(life)
    finally:
        records.close()
    path = out or run.path / "trace.json"
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(chrome_trace(lives, step_times(read_metrics(run.metrics)))))
    temporary.replace(path)
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
