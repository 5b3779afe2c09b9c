"""`launch/evaluate.py` behind its command line: one model, two that are crossed, or all checkpoints
of a run."""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.rundir import RunDir
from evals.benchmark import Benchmark
from evals.benchmarks import benchmarks as benchmarks_of
from evals.report.crossing import crossed_of, write_crossed
from evals.report.curves import write_curves
from evals.report.results import BenchmarkResult, read_results, result_of
from evals.report.summary import Summary, summarise
from evals.report.writing import write
from evals.runner import Outcome
from launch.config import load_root
from launch.evaluating.contamination import check_run
from launch.evaluating.evaluation import Evaluated, evaluate
from launch.evaluating.models import step_of

_OUT = Path("runs/evals")


async def run(options: argparse.Namespace) -> int:
    """Evaluate what the options name, and write the reports; the exit status."""
    chosen = choose(options.benchmarks, benchmarks_of(options.regime))
    check_prompt(options.prompt, chosen)
    if options.run is not None:
        return await _run_of_checkpoints(options, chosen)
    out = options.out or _OUT / _name(options.model)
    if options.crossed is not None:
        return await _crossed(options, chosen, out)
    against, status = _against(options, chosen), 0
    blind: Sequence[BenchmarkResult] = []
    if options.blind_baseline:
        unseeing = changed(options, blind=True)
        before = await _evaluation(unseeing, options.model, chosen, out / "blind")
        blind, status = before.summary.results, before.status
    own = await _evaluation(options, options.model, chosen, out, against, blind)
    return own.status | status


def choose(names: Sequence[str], known: Mapping[str, Benchmark]) -> list[Benchmark]:
    """The benchmarks that are named, in the order of the regime. Raises ConfigError."""
    unknown = sorted(set(names) - {*known, "all"})
    if unknown:
        raise ConfigError(f"--benchmarks: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in known if "all" in names or name in names]


def check_prompt(prompt: str | None, chosen: Sequence[Benchmark]) -> None:
    """Raises ConfigError where one of the benchmarks has no prompt of that name."""
    for one in chosen:
        if prompt is not None and prompt not in one.prompts:
            said = ", ".join(one.prompts) or "only one"
            raise ConfigError(f"--prompt: {one.name} ({one.regime}) has {said}, not {prompt!r}")


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
    """0 where every row has its answers; 1 where some are missing, where a judge gave no reply, or
    where it gave none that can be read."""
    return int(any(outcome.missing or _is_unjudged(outcome) for outcome in evaluated.outcomes))


def _is_unjudged(outcome: Outcome) -> bool:
    """A reply that can't be read is kept, and asked for no more: a few of them are a result."""
    failed = [record for record in outcome.records if "judge_failed" in record["flags"]]
    is_silent = any(not record["judge"]["replies"] for record in failed)
    return is_silent or (len(failed) == len(outcome.records) > 0)


async def _run_of_checkpoints(options: argparse.Namespace, chosen: Sequence[Benchmark]) -> int:
    """Evaluate the base of a run and every checkpoint of one policy, one after the other."""
    out, status = options.out or _OUT / options.run.name, 0
    if options.contamination:
        revisions = options.cache / "revisions.json"
        arguments = (options.run, chosen, options.data, out / options.regime, revisions)
        print(await asyncio.to_thread(check_run, *arguments), flush=True)
    base: Sequence[BenchmarkResult] = []
    summaries: dict[int, Summary] = {}
    for folder in checkpoints_of(options.run, options.policy):
        step = step_of(folder)
        own = await _evaluation(options, str(folder), chosen, out / f"step-{step:08d}", base)
        summaries[step] = own.summary
        base = base or own.summary.results
        status |= own.status
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


async def _crossed(options: argparse.Namespace, chosen: Sequence[Benchmark], out: Path) -> int:
    """Base and trained model, each asked as the benchmarks say and as the trained one is."""
    plain = {"system": None, "instruction": None}
    runs, status = [], 0
    for who, model in (("base", options.crossed), ("trained", options.model)):
        for how, asked in (("base", plain), ("trained", {})):
            folder = out / f"{who}-model-{how}-prompt"
            own = await _evaluation(changed(options, **asked), model, chosen, folder)
            runs.append(own.summary.results)
            status |= own.status
    title = f"{options.crossed} (base) and {options.model} (trained), {options.regime}"
    print(write_crossed(crossed_of(runs), out / options.regime, title), flush=True)
    return status


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model, evaluated and reported on."""

    summary: Summary
    status: int
    """Of the command: see `status_of`."""


async def _evaluation(
    options: argparse.Namespace,
    model: str,
    chosen: Sequence[Benchmark],
    out: Path,
    against: Sequence[BenchmarkResult] = (),
    blind: Sequence[BenchmarkResult] = (),
) -> Evaluation:
    """Evaluate one model, write the report beside its records, and print its tables."""
    evaluated = await evaluate(options, model, chosen, out)
    results = [
        result_of(outcome, evaluated.model, evaluated.settings) for outcome in evaluated.outcomes
    ]
    summary = summarise(results, against, blind)
    print(write(summary, out / options.regime, images=options.cache / "images"), flush=True)
    return Evaluation(summary, status_of(evaluated))


def changed(options: argparse.Namespace, **values: Any) -> argparse.Namespace:
    """The same options but for these."""
    return argparse.Namespace(**{**vars(options), **values})
