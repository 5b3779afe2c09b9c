"""What differs between two evaluations beside the model: a change may then not be the model's."""

from collections.abc import Mapping, Sequence
from typing import Any

from evals.report.results import BenchmarkResult

_SAMPLING = ("temperature", "top_p", "max_new_tokens")


def differences(before: Sequence[BenchmarkResult], after: Sequence[BenchmarkResult]) -> list[str]:
    """One line for each difference, with the benchmarks that have it; those of one side only are
    not looked at."""
    old = {result.name: result for result in before}
    found: dict[str, list[str]] = {}
    for result in after:
        if result.name in old:
            for said in _between(old[result.name], result):
                found.setdefault(said, []).append(result.benchmark.title)
    return [
        f"compared with another {said}, so a change may not be the model's: {', '.join(titles)}"
        for said, titles in found.items()
    ]


def _between(before: BenchmarkResult, after: BenchmarkResult) -> list[str]:
    """What differs: its name, before and after."""
    old, new = sampling_of(before), sampling_of(after)
    told = [
        f"{name} (before {old[name]}, after {new[name]})" for name in new if old[name] != new[name]
    ]
    if after.benchmark.judged_by_default and _are_other(_judge(before), _judge(after)):
        told.append(f"judge (before {_named(_judge(before))}, after {_named(_judge(after))})")
    if before.fingerprint != after.fingerprint:
        told.append(
            f"data fingerprint (before {before.fingerprint[:12]} of revision {before.revision}, "
            f"after {after.fingerprint[:12]} of {after.revision})"
        )
    return told


def sampling_of(result: BenchmarkResult) -> dict[str, Any]:
    """How answers were drawn: by the settings, else as the benchmark says."""
    given = result.settings.get("settings") or {}
    own = {name: getattr(result.benchmark, name) for name in _SAMPLING}
    set_ = {name: given[name] for name in _SAMPLING if given.get(name) is not None}
    return {**own, **set_, "number of samples": result.samples, "seed": given.get("seed", 0)}


def _judge(result: BenchmarkResult) -> Mapping[str, Any]:
    return result.settings.get("judge") or {}


def _are_other(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """By what both say of themselves: an older result says less. One of them may be none at all."""
    both = first.keys() & second.keys()
    return bool(first) != bool(second) or any(first[name] != second[name] for name in both)


def _named(judge: Mapping[str, Any]) -> str:
    return " as ".join(str(judge[name]) for name in ("loaded", "model") if name in judge) or "none"
