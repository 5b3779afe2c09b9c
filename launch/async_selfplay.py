"""Self-play. The one command of the project.

    torchrun --standalone --max-restarts=3 --nproc-per-node=2 launch/async_selfplay.py CONFIG

starts one process per rank; each finds its job in the config's layout: learner rank, or host of
rollout servers. Rank 0 also starts the engine. Called by plain python instead, this script checks
everything first and then runs torchrun. On M nodes that share the folder of runs, on each of them
(--shutdown-timeout: 30 more than `run.stop_s`):

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nnodes=M --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT \
        --rdzv-conf=join_timeout=1800 --max-restarts=3 --shutdown-timeout=990 \
        launch/async_selfplay.py CONFIG
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

# Lets `torchrun launch/async_selfplay.py` and `python launch/async_selfplay.py` find the packages.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import ConfigError, EngineError, FatalError
from engine.nodes import visible_gpus

CONFIGS = Path(__file__).resolve().parent / "configs"
EXIT_BAD_INPUT = 2


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/async_selfplay.py",
        description="Asynchronous streaming self-play. Without CONFIG: the "
        "quickstart on CPU, mm_zero_8gpu on 8 GPUs.",
        epilog="example: launch/async_selfplay.py launch/configs/quickstart.yaml run.seed=1",
    )
    parser.add_argument("config", nargs="?", type=Path, help="a YAML file of launch/configs/")
    parser.add_argument("overrides", nargs="*", help="section.key=value, values are YAML")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run run.name from its checkpoint"
    )
    parser.add_argument(
        "--new-name", action="store_true", help="take the first free one of NAME, NAME-2, ..."
    )
    args = parser.parse_intermixed_args(argv)
    if args.config is not None and "=" in str(args.config) and not args.config.exists():
        args.overrides.insert(0, str(args.config))
        args.config = None
    if args.config is None:
        has_eight = len(visible_gpus()) >= 8
        args.config = CONFIGS / ("mm_zero_8gpu.yaml" if has_eight else "quickstart.yaml")
    return args


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    try:
        if "RANK" not in os.environ:
            return run_under_torchrun(args)
        return run_rank(args)
    except KeyboardInterrupt:
        print("streamzero: stopped before anything was started", file=sys.stderr)
        return 128 + signal.SIGINT
    except ConfigError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"streamzero: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except EngineError as error:
        print(f"streamzero: rank {os.environ.get('RANK')}: {error}", file=sys.stderr)
        return 1


def run_under_torchrun(args: argparse.Namespace) -> int:
    """Check all that one process can check, run torchrun as a child, say how it ended."""
    from engine import children
    from engine.layout import killed_after_s, world_size
    from engine.rundir import RunDir
    from launch.config import load_root
    from launch.preflight import changes, check_before_start, finished, free_name
    from launch.result import print_result
    from launch.saved import unsaved

    overrides = list(args.overrides)
    config = load_root(args.config, overrides)
    if args.new_name and not args.resume:
        overrides.append(f"run.name={free_name(config.run.root, config.run.name)}")
        config = load_root(args.config, overrides)
    check_before_start(config, resume=args.resume)
    run = RunDir(config.run.root / config.run.name)
    if args.resume:
        if (summary := finished(config, run)) is not None:
            print("streamzero: this run has made all its steps; nothing to resume")
            print_result(summary, run)
            return 0
        for change in changes(config, run):
            print(f"streamzero: resumed with another setting: {change}")
    run.create()
    log = run.logs / "torchrun.log"
    stopped: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        stopped.append(number)
        for process in started:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    # Said when it is true: from here on an interrupt reaches the ranks, which save.
    print(f"streamzero: run {run.path}; Ctrl-C saves and stops, --resume continues", flush=True)
    with tempfile.TemporaryDirectory(prefix="streamzero-") as folder:
        options, env = torchrun_on_one_node(Path(folder))
        command = [
            sys.executable, "-m", "torch.distributed.run", *options,
            f"--shutdown-timeout={killed_after_s(config.run)}",
            f"--max-restarts={config.run.max_restarts}",
            f"--nproc-per-node={world_size(config.layout)}",
            __file__, str(args.config), *overrides, *(["--resume"] if args.resume else []),
        ]  # fmt: skip
        child = children.spawn(
            command, log=log, keep_stdout=True, die_with_parent=signal.SIGTERM, env=env
        )
        started.append(child)
        if stopped:  # it came before there was anybody to hear it
            child.send_signal(stopped[0])
        status = child.wait()
    if stopped:
        again = shlex.join(
            [sys.executable, __file__, str(args.config.resolve()), *overrides, "--resume"]
        )
        if not any((run.path / "checkpoints").glob("*/step-*")):
            print("streamzero: stopped before anything was saved")
        elif left := unsaved(run):
            steps = ", ".join(
                f"{policy} {saved} of {made}" for policy, (saved, made) in left.items()
            )
            print(
                f"streamzero: stopped, but not all steps were saved in time ({steps}; run.stop_s "
                f"is {config.run.stop_s:g}); continue with: {again}"
            )
        else:
            print(f"streamzero: stopped and saved; continue with: {again}")
        return 128 + stopped[0]
    if status and run.fatal.exists():
        print(f"streamzero: {run.fatal.read_text()}", file=sys.stderr)
    elif status:
        print(f"streamzero: the run failed; {log} ends with:", file=sys.stderr)
        print(children.last_lines(log, 25), file=sys.stderr)
    return status


def torchrun_on_one_node(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Options and environment with which torchrun listens nowhere: its stores are files of
    `folder`. Those of `--standalone` would listen on every interface, and let anybody in."""
    options = [
        "--nnodes=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={folder / 'rendezvous'}",
        "--rdzv-conf=store_type=file",
    ]
    return options, {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "STREAMZERO_STORE_FILE": str(folder / "store"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def run_rank(args: argparse.Namespace) -> int:
    """The job of this rank. Torch is imported only from here on."""
    from engine.rundir import RunDir
    from launch.config import load_root
    from launch.ranks import run_rank as run

    config = load_root(args.config, args.overrides)
    try:
        return run(config, resume=args.resume)
    except FatalError as error:  # torchrun restarts whatever ends badly: rank 0 looks for this
        with suppress(OSError):
            RunDir(config.run.root / config.run.name).fatal.write_text(str(error))
        raise


def end_as_rank(argv: Sequence[str]) -> NoReturn:
    """`main`, then the end of this process, whatever happened: Python takes seconds to take torch
    apart, would wait for threads that wait for a dead peer, and the next attempt waits for it."""
    code = 1
    try:
        code = main(argv)
    except SystemExit as end:  # argparse has said why
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  the agent only sees the status
        traceback.print_exc()
    finally:
        with suppress(OSError):  # a full disk
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if "RANK" in os.environ:
        end_as_rank(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
