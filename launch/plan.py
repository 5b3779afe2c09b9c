"""Before you pay for GPUs: what fits, how fast it plays, what limits it.

    python launch/plan.py Qwen3-VL-8B-Instruct --gpus 8 --memory 80GB
    python launch/plan.py MODEL_DIR --gpus 8 --nodes 4 --memory 141GB --recipe vision_zero \\
        --write my.yaml
    python launch/plan.py MODEL --gpus 8 --memory 80GB --games 36 --write my.yaml --times t.yaml
    python launch/plan.py --shipped     # writes launch/configs' planned ones anew

It is arithmetic on the model's sizes and data sheets (`launch/planning`); no GPU is looked at.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import ConfigError

NOTHING_FITS = 1
EXIT_BAD_INPUT = 2


def main(argv: Sequence[str]) -> int:
    """Print a plan; the exit status: 0, 1 where nothing fits, 2 where the question is wrong."""
    from launch.planning.command import answer
    from launch.planning.shipped import write_shipped

    if list(argv) == ["--shipped"]:
        print("\n".join(map(str, write_shipped())))
        return 0
    try:
        said = answer(argv)
        print(said.text)
        if not said.found.plans:
            return NOTHING_FITS
        if said.file is None:
            print(f"\nThe configuration (--write FILE.yaml saves it):\n\n{said.yaml}", end="")
        else:
            file = said.file
            _write("--write", file, lambda: file.write_text(said.yaml))
        if said.times_file is not None:
            times_file = said.times_file
            _write("--times", times_file, lambda: times_file.write_text(said.times_yaml))
    except ConfigError as error:
        print(f"plan: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def _write(option: str, file: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise ConfigError(f"{option} {file}: {error.strerror}; name another file") from None
    print(f"\nwritten: {file}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is its end, not an error
    sys.exit(main(sys.argv[1:]))
