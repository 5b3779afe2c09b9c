"""The presets of MM-Zero: values of `MMZeroConfig`, below what a config file says itself.

`mm_zero` is the paper's method with the release's defects mended: the config's own defaults.
`mm_zero_code` gives the numbers of the released code. What differs, and why: roles/README.md.
"""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "mm_zero": {},
    "mm_zero_code": {
        "rules": "release",
        "parser": "release",
        "show_hard_answer": True,
        "proposer": {"temperature": 1.0, "top_p": 0.99},
        "coder": {"temperature": 0.7, "top_p": 0.95},
        "solver": {"temperature": 1.0, "top_p": 0.99},
        "reward": {"too_easy_tolerance": 0.0},
        "diversity": {"population": "game"},
        "filters": {"coder_spread": None, "min_valid": 0.0},
    },
}
