"""The presets of Vision-Zero: values of `VisionZeroConfig`, below what a config file says itself.

`vz_async` is ours: the config's own defaults. `vz_paper` is the text of the paper's second version
(arXiv:2509.25541v2), `vz_code` what the released code trains (wangqinsi1/Vision-Zero at fa3c01c).
What differs, and why: roles/README.md.
"""

from collections.abc import Mapping
from typing import Any

_PAPER_SCALE: Mapping[str, Any] = {
    "weight": 0.1,
    "votes": "counts",
    "scaled": False,
    "invalid": 0.0,
}
_NO_STOP_LOSS: Mapping[str, Any] = {"max_unreadable": 1.0, "min_distinct": 0.0}
"""Neither the paper nor the release stops training clues that are none."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "vz_async": {},
    "vz_paper": {
        "num_players": 5,
        "voters": "civilians",
        "refuse_game_talk": False,
        "pairs": {"spy_view": "blank"},
        "replicas": 1,
        "probe_share": 0.0,
        "clue_credit": {**_PAPER_SCALE, "baseline": "rae_post", "decay": 0.95},
        "decision": {"right": 1.0, "abstain": -0.5, "wrong": -1.0, "format": 0.0},
        "gate": {**_NO_STOP_LOSS, "debias": False},
    },
    "vz_code": {
        "rules": "release",
        "refuse_game_talk": False,
        "pairs": {"spy_view": "edited"},
        "replicas": 1,
        "probe_share": 0.0,
        "clue_credit": {**_PAPER_SCALE, "baseline": "rae_post", "decay": 0.9},
        "gate": {**_NO_STOP_LOSS, "switch": "cycle", "cycle": 1},
        "clue": {"temperature": 0.8, "max_new_tokens": 1024},
        "vote": {"temperature": 0.8, "max_new_tokens": 1024},
    },
}
