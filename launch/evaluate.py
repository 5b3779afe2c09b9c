"""Evaluates a model on the twelve benchmarks, each by its own rules.

    python launch/evaluate.py --model DIR_OR_ID --benchmarks all --data hub
    python launch/evaluate.py --run runs/mine --benchmarks chartqa --data DIR

`evals/README.md` says what the rules are; `--help` has the options.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

# Lets `python launch/evaluate.py` find the packages beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import ConfigError, EngineError
from launch.evaluating.arguments import parse

EXIT_BAD_INPUT = 2


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    try:
        return asyncio.run(_stoppable(options))
    except ConfigError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except EngineError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return 1


async def _stoppable(options: argparse.Namespace) -> int:
    """Ctrl-C ends it as soon as what is kept is kept: a thread that downloads can't be stopped,
    and Python would wait for it."""
    # Imported late, so that --help is instant.
    from launch.evaluating.command import run

    try:
        return await run(options)
    except (asyncio.CancelledError, KeyboardInterrupt):
        print(
            "streamzero: stopped; every answer that came is kept, and the same command goes on",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
