"""What the batch script asks.

job.py needs CONFIG [section.key=value ...]    prints the layout's ranks, and of
    the run how long a stop may take and how often it may restart
job.py address OWN HOST ...                    prints the address for STREAMZERO_NODE_ADDRESS
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

# Lets `python launch/slurm/job.py` find the packages.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.errors import ConfigError
from engine.nodes import address_towards, is_loopback

EXIT_BAD_INPUT = 2


def main(argv: Sequence[str]) -> int:
    """Print the answer; the exit status: 0, 2 for a config that can't be read."""
    question, *rest = argv
    if question == "address":
        print(address(rest[0], rest[1:]))
        return 0
    try:
        print(*needs(rest))
    except ConfigError as error:
        print(f"streamzero: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def needs(argv: Sequence[str]) -> tuple[int, int, int]:
    """Ranks of the layout, `run.stop_s` in whole seconds and `run.max_restarts` of what
    `async_selfplay.py` would run by these arguments. Raises ConfigError."""
    from engine.layout import world_size
    from launch.async_selfplay import parse
    from launch.config import load_root

    args = parse(argv)
    config = load_root(args.config, args.overrides)
    run = config.run
    return world_size(config.layout), math.ceil(run.stop_s), run.max_restarts


def address(own: str, hosts: Sequence[str]) -> str:
    """The IPv4 address of this node on the way to another one of `hosts`, where its own name leads
    to loopback; empty where it does not, or no way is known: then `engine.nodes` chooses."""
    if not _is_own_loopback(own):
        return ""
    for host in hosts:
        if host == own:
            continue
        try:
            found = address_towards(host)
        except ConfigError:
            continue
        if not is_loopback(found):
            return found
    return ""


def _is_own_loopback(own: str) -> bool:
    try:
        return is_loopback(address_towards(own))
    except ConfigError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
