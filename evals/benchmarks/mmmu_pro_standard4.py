"""MMMU-Pro, with four options, and pictures in questions and options."""

from evals.benchmarks.mmmu_pro import ask_standard, extract, score, variant

__all__ = ["BENCHMARK", "extract", "score"]

BENCHMARK = variant(
    "mmmu_pro_standard4",
    "MMMU-Pro (standard, 4 options)",
    "standard (4 options)",
    ask_standard,
    {"question": str, "image_1": bytes},
)
