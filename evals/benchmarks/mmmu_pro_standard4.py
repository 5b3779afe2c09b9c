"""MMMU-Pro, with four options, and pictures in questions and options."""

from functools import partial

from evals.benchmarks.mmmu_pro import DIRECT, ask_standard, extract, score, variant

__all__ = ["BENCHMARK", "extract", "score"]

BENCHMARK = variant(
    "mmmu_pro_standard4",
    "MMMU-Pro (standard, 4 options)",
    "standard (4 options)",
    ask_standard,
    partial(ask_standard, instruction=DIRECT),
    {"question": str, "image_1": bytes},
)
