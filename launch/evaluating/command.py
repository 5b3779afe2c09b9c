"""`launch/evaluate.py` behind its command line: one model, or all checkpoints of a run."""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import ConfigError
from engine.rundir import RunDir
from evals.benchmark import Benchmark
from evals.benchmarks import benchmarks as benchmarks_of
from evals.report.curves import write_curves
from evals.report.results import BenchmarkResult, read_results, result_of
from evals.report.summary import Summary, summarise
from evals.report.writing import write
from launch.config import load_root
from launch.evaluating.contamination import check_run
from launch.evaluating.evaluation import Evaluated, evaluate
from launch.evaluating.models import step_of

_OUT = Path("runs/evals")


async def run(options: argparse.Namespace) -> int:
    """Evaluate what the options name, and write the reports; the exit status."""
    chosen = choose(options.benchmarks, benchmarks_of(options.regime))
    if options.run is not None:
        return await _run_of_checkpoints(options, chosen)
    out = options.out or _OUT / _name(options.model)
    against = _against(options, chosen)
    evaluated = await evaluate(options, options.model, chosen, out)
    _report(evaluated, out / options.regime, against, options.cache)
    return status_of(evaluated)


def choose(names: Sequence[str], known: Mapping[str, Benchmark]) -> list[Benchmark]:
    """The benchmarks that are named, in the order of the regime. Raises ConfigError."""
    unknown = sorted(set(names) - {*known, "all"})
    if unknown:
        raise ConfigError(f"--benchmarks: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in known if "all" in names or name in names]


def checkpoints_of(run: Path, policy: str) -> list[Path]:
    """The base of a run, then its checkpoints, oldest first. Raises ConfigError."""
    folder = RunDir(run)
    if not folder.config.is_file():
        raise ConfigError(f"--run: {run} has no config.yaml")
    base = load_root(folder.config).model.base
    found = sorted(folder.checkpoints(policy).glob("step-[0-9]*"))
    if not found:
        raise ConfigError(f"--run: {folder.checkpoints(policy)} has no checkpoint")
    return [Path(base), *found]


def status_of(evaluated: Evaluated) -> int:
    """0 where every row has its answers; 1 where some are missing."""
    return int(any(outcome.missing for outcome in evaluated.outcomes))


async def _run_of_checkpoints(options: argparse.Namespace, chosen: Sequence[Benchmark]) -> int:
    """Evaluate the base of a run and every checkpoint of one policy, one after the other."""
    out, status = options.out or _OUT / options.run.name, 0
    if options.contamination:
        arguments = (options.run, chosen, options.data, out / options.regime)
        print(await asyncio.to_thread(check_run, *arguments), flush=True)
    base: list[BenchmarkResult] = []
    summaries: dict[int, Summary] = {}
    for folder in checkpoints_of(options.run, options.policy):
        step = step_of(folder)
        own = out / f"step-{step:08d}"
        evaluated = await evaluate(options, str(folder), chosen, own)
        results = _report(evaluated, own / options.regime, base, options.cache)
        summaries[step] = summarise(results, base)
        base = base or results
        status |= status_of(evaluated)
    title = f"{options.run.name}: {options.policy}, {options.regime}"
    print(write_curves(summaries, out / options.regime, title))
    return status


def _name(model: str) -> str:
    """A folder's name for a model's results: its own, with a checkpoint's policy."""
    path = Path(model)
    is_checkpoint = path.name.startswith("step-")
    return "-".join(path.parts[-2:]) if is_checkpoint or not path.is_dir() else path.resolve().name


def _against(options: argparse.Namespace, chosen: Sequence[Benchmark]) -> Sequence[BenchmarkResult]:
    """The results that --against names, before anything is asked. Raises ConfigError."""
    if options.against is None:
        return []
    return read_results(options.against / options.regime, {one.name: one for one in chosen})


def _report(
    evaluated: Evaluated, folder: Path, against: Sequence[BenchmarkResult], cache: Path
) -> list[BenchmarkResult]:
    """Write the report of one model beside its records, and print its tables."""
    results = [
        result_of(outcome, evaluated.model, evaluated.settings) for outcome in evaluated.outcomes
    ]
    print(write(results, folder, against=against, images=cache / "images"), flush=True)
    return results
