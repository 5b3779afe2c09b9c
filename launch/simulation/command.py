"""What the command line of `launch/simulate.py` asks for."""

import argparse
import gc
import math
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engine.errors import ConfigError
from launch.config import RootConfig, load_root
from launch.simulation.calibration import learned
from launch.simulation.figure import figure
from launch.simulation.outcome import Outcome
from launch.simulation.run import check_length, simulate
from launch.simulation.scaling import SCHEDULES, num_gpus, scaled, scheduled, why_fixed
from launch.simulation.service_times import (
    ServiceTimes,
    read_service_times,
    write_service_times,
)
from launch.simulation.table import details, table
from launch.simulation.validate import WARM_UP, validate


def run(args: argparse.Namespace) -> int:
    """Print what was asked for: the exit status. Raises ConfigError for bad input."""
    with less_garbage_collection():
        return _run(args)


@contextmanager
def less_garbage_collection() -> Iterator[None]:
    """A simulation makes many small objects and few cycles."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _run(args: argparse.Namespace) -> int:
    if args.validate:
        return validate(args.runs, shlex.split(args.run_with))
    config = load_root(args.config, args.overrides)
    if args.chart and not args.gpus:
        raise ConfigError("--chart draws over the number of GPUs: give --gpus too")
    if args.seconds is not None and not 0 < args.seconds < math.inf:
        raise ConfigError(f"--seconds {args.seconds:g}: want a number above 0, or leave it out")
    schedules = _schedules(config, args.schedules)  # hours may lie before the last one's turn
    times = _times(args)
    if args.save_times:
        write_service_times(times, args.save_times)
    layouts = {
        gpus: scaled(config, times, gpus, games_too=args.scale_games)
        for gpus in args.gpus or [num_gpus(config.layout)]
    }
    wanted = {
        (gpus, name): (scheduled(own, name), costs)
        for gpus, (own, costs) in layouts.items()
        for name in schedules
    }
    results: dict[tuple[int, str], Outcome] = {}
    for (gpus, name), (own, costs) in wanted.items():
        began_s = time.perf_counter()
        results[gpus, name] = _simulated(own, costs, args)
        seconds = time.perf_counter() - began_s
        print(f"{gpus} {name}: {seconds:.1f} s{_servers_of(own, name)}", flush=True)
    print(table(results))
    if not args.gpus:
        for (_, name), outcome in results.items():
            print(f"\n{name}\n{details(outcome)}")
    if args.chart:
        args.chart.write_text(figure(results))
    return 0


def _servers_of(config: RootConfig, name: str) -> str:
    """What is to be said of a schedule whose servers should follow the demand, and can't."""
    reason = why_fixed(config) if "elastic" in SCHEDULES[name] else None
    return "" if reason is None else f"; servers stay as they are: {reason}"


def _schedules(config: RootConfig, wanted: Sequence[str] | None) -> Sequence[str]:
    """Those to simulate. Raises ConfigError where one that was asked for needs more steps. Of all,
    which nobody asked for by name, those that do are left out, unless none is left."""
    if wanted is not None:
        for name in wanted:
            check_length(scheduled(config, name))
        return wanted
    too_short: dict[str, ConfigError] = {}
    for name in SCHEDULES:
        try:
            check_length(scheduled(config, name))
        except ConfigError as error:
            too_short[name] = error
    if len(too_short) == len(SCHEDULES):
        raise next(iter(too_short.values()))
    for name, problem in too_short.items():
        print(f"{name}: left out: {problem}", flush=True)
    return [name for name in SCHEDULES if name not in too_short]


def _simulated(config: RootConfig, times: ServiceTimes, args: argparse.Namespace) -> Outcome:
    try:
        return simulate(config, times, seed=args.seed, seconds=args.seconds)
    except ConfigError:  # is a ValueError, and says what is wrong by itself
        raise
    except ValueError as error:
        given = "" if args.seconds is None else f", --seconds {args.seconds:g}"
        raise ConfigError(f"run.steps {config.run.steps}{given}: {error}") from None


def _times(args: argparse.Namespace) -> ServiceTimes:
    if args.times:
        return read_service_times(args.times)
    return learned(args.from_run, load_root(args.from_run / "config.yaml"), WARM_UP)
