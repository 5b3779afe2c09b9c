"""MMMU-Pro, as a picture, the question and its ten options in it."""

from functools import partial

from evals.benchmarks.mmmu_pro import DIRECT_VISION, ask_vision, extract, score, variant

__all__ = ["BENCHMARK", "extract", "score"]

BENCHMARK = variant(
    "mmmu_pro_vision",
    "MMMU-Pro (vision)",
    "vision",
    ask_vision,
    partial(ask_vision, instruction=DIRECT_VISION),
    {"image": bytes},
)
