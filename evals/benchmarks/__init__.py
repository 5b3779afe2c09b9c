"""The twelve benchmarks, by name; a module is imported when its regime is asked for."""

from collections.abc import Mapping
from importlib import import_module

from evals.benchmark import Benchmark, Regime

NAMES = (
    "mmsi",
    "mathverse",
    "mathvision",
    "mathvista",
    "mm_vet",
    "mmmu_pro_standard4",
    "visnumbench",
    "mmmu_pro_standard10",
    "mmmu_pro_vision",
    "hallusionbench",
    "mmmu",
    "chartqa",
)
"""In MM-Zero's order, which is that of every table."""


def benchmarks(regime: Regime) -> Mapping[str, Benchmark]:
    """{name: benchmark} of all twelve under one regime. Raises ValueError for another regime."""
    if regime == "mm_zero":
        found: Mapping[str, Benchmark] = import_module("evals.regimes.mm_zero").BENCHMARKS
        return found
    if regime == "official":
        return {name: import_module(f"evals.benchmarks.{name}").BENCHMARK for name in NAMES}
    raise ValueError(f"regime {regime!r} is neither official nor mm_zero")
