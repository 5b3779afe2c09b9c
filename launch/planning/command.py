"""The command line of the planner."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from launch.planning.assumptions import assume
from launch.planning.case import TEMPLATES, Case, make_case
from launch.planning.config_file import run_name, yaml_of
from launch.planning.devices import DEVICES, Cluster, find_device, memory_bytes
from launch.planning.models import find_model
from launch.planning.plans import Found
from launch.planning.printed import report
from launch.planning.search import search
from launch.planning.times import check_simulated, times_of
from launch.simulation.service_times import service_times_yaml

MOST_GPUS = 1024
"""Of all nodes: of 128 nodes of 8 a search takes two seconds, of one of so many half a minute."""


@dataclass(frozen=True)
class Answer:
    """What the planner says to one command line."""

    case: Case
    found: Found
    command: str
    file: Path | None
    """Where the configuration goes; None: it is printed."""
    times_file: Path | None
    """Where service times go; None: nobody wants them."""

    @property
    def yaml(self) -> str:
        """Of the best plan; empty where nothing fits."""
        if not self.found.plans:
            return ""
        default = run_name(f"{self.case.recipe}-plan", "plan")
        name = run_name(self.file.stem, default) if self.file else default
        return yaml_of(self.found.plans[0], self.command, name)

    @property
    def times_yaml(self) -> str:
        """Service times of the best plan, as a file."""
        words = f"# By `{self.command}`:\n# data sheets and assumptions, nothing measured.\n"
        return words + service_times_yaml(times_of(self.found.plans[0]))

    @property
    def text(self) -> str:
        return report(self.case, self.found, self.file or "FILE.yaml")


def answer(argv: Sequence[str]) -> Answer:
    """Plan by a command line. Raises ConfigError, one line, for what is wrong with it."""
    args = _parser().parse_args(argv)
    for option, value in (("--gpus", args.gpus), ("--nodes", args.nodes), ("--games", args.games)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} {value}: want at least 1")
    if args.gpus * args.nodes > MOST_GPUS:
        raise ConfigError(
            f"--gpus {args.gpus} --nodes {args.nodes}: at most {MOST_GPUS} GPUs in all are planned"
        )
    if args.times:
        check_simulated(args.recipe)
    memory = memory_bytes(args.memory, "--memory")
    model = find_model(args.model)
    cluster = Cluster(
        device=find_device(args.device, memory),
        gpus=args.gpus,
        nodes=args.nodes,
        memory=memory,
        host_memory=memory_bytes(args.host_memory, "--host-memory"),
    )
    case = make_case(
        model,
        cluster,
        args.recipe,
        assume(args.assume),
        tokens=_tokens(args.tokens),
        one_policy=args.one_policy,
        games=args.games,
    )
    command = shlex.join(["python", "launch/plan.py", *argv])
    found = search(case, lora=True if args.lora else None)
    return Answer(case, found, command, args.write, args.times)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="launch/plan.py",
        description="What fits on these GPUs, how fast it plays, what limits it, and the "
        "configuration for it. Needs no GPU, no weights, no network.",
        epilog="example: launch/plan.py Qwen3-VL-8B-Instruct --gpus 8 --memory 80GB",
    )
    parser.add_argument("model", metavar="MODEL", help="a model folder, or a known model's name")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="of one node")
    parser.add_argument("--memory", required=True, metavar="80GB", help="of one GPU")
    parser.add_argument("--nodes", type=int, default=1, metavar="M")
    parser.add_argument(
        "--host-memory", default="1000GB", metavar="1000GB", help="of a node, for its learners"
    )
    parser.add_argument("--recipe", choices=TEMPLATES, default="mm_zero")
    parser.add_argument(
        "--device",
        metavar="GPU",
        help=f"{', '.join(DEVICES)}; by default the usual one of that memory",
    )
    parser.add_argument("--lora", action="store_true", help="adapters, though more would fit")
    parser.add_argument("--one-policy", action="store_true", help="all roles share one policy")
    parser.add_argument(
        "--games", type=int, metavar="N", help="per step; by default the recipe's template has them"
    )
    parser.add_argument(
        "--tokens", nargs="+", default=[], metavar="ROLE=N", help="mean tokens of a role's reply"
    )
    parser.add_argument(
        "--assume", nargs="+", default=[], metavar="NAME=VALUE", help="other assumptions"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE.yaml", help="write the configuration instead of "
        "printing it"
    )  # fmt: skip
    parser.add_argument(
        "--times", type=Path, metavar="FILE.yaml", help="write the best plan's service times, for "
        "launch/simulate.py (mm_zero)"
    )  # fmt: skip
    return parser


def _tokens(given: Sequence[str]) -> dict[str, float]:
    found = {}
    for one in given:
        role, _, text = one.partition("=")
        try:
            found[role] = float(text)
        except ValueError:
            raise ConfigError(f"--tokens {one!r}: want ROLE=NUMBER, e.g. coder=1500") from None
        if not found[role] >= 1:  # a NaN is not, either; `make_case` knows how many are too many
            raise ConfigError(f"--tokens {one!r}: want at least 1")
    return found
