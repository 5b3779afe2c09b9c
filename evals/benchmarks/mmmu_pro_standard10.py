"""MMMU-Pro, with up to ten shuffled options, and pictures in questions and options."""

from functools import partial

from evals.benchmarks.mmmu_pro import DIRECT, ask_standard, extract, score, variant

__all__ = ["BENCHMARK", "extract", "score"]

BENCHMARK = variant(
    "mmmu_pro_standard10",
    "MMMU-Pro (standard, 10 options)",
    "standard (10 options)",
    ask_standard,
    partial(ask_standard, instruction=DIRECT),
    {"question": str, "image_1": bytes},
)
