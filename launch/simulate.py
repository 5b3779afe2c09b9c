"""Predicts what a schedule and a layout would do: games/h, utilisation, ages, wasted tokens.

    python launch/simulate.py launch/configs/quickstart.yaml --from-run runs/NAME
    python launch/simulate.py launch/configs/mm_zero_qwen3_vl_8b_8x80gb.yaml \\
        --times launch/simulation/times_8b.yaml --gpus 8 16 64 256 1024 --chart scaling.svg
    python launch/simulate.py --validate

The engine's own scheduling runs in virtual time; what work costs comes from a run that was made, or
from a file (`launch/plan.py --times` writes one, `launch/simulation/service_times.py` has its
fields). `--validate` makes five runs of
the quickstart, and compares them with what is predicted from the first.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# Lets `python launch/simulate.py` find the packages beside it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import ConfigError, EngineError

EXIT_BAD_INPUT = 2


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", type=Path, help="a YAML file of launch/configs/")
    parser.add_argument("overrides", nargs="*", help="section.key=value, values are YAML")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--from-run", type=Path, metavar="RUN", help="learn what work costs there")
    source.add_argument("--times", type=Path, metavar="FILE", help="read what work costs")
    source.add_argument("--validate", action="store_true", help="compare with runs of this machine")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/validation"), help="where --validate makes its runs"
    )
    parser.add_argument(
        "--run-with", default="", metavar="COMMAND", help="what --validate puts before a run's own"
    )
    parser.add_argument("--save-times", type=Path, metavar="FILE", help="write what was learned")
    parser.add_argument(
        "--schedules", nargs="+", metavar="NAME", help="default: all that run.steps is enough for"
    )
    parser.add_argument("--gpus", nargs="+", type=int, metavar="N", help="multiples of the layout")
    parser.add_argument(
        "--scale-games", action="store_true", help="with the GPUs, also the games of a step"
    )
    parser.add_argument("--seconds", type=float, help="virtual ones at most; else run.steps steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write an SVG; needs --gpus")
    args = parser.parse_intermixed_args(argv)
    if not args.validate and (args.config is None or not (args.from_run or args.times)):
        parser.error("want CONFIG and one of --from-run, --times; or --validate")
    return args


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    # Imported late, so that --help is instant.
    from launch.simulation.command import run

    try:
        return run(args)
    except ConfigError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except EngineError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
