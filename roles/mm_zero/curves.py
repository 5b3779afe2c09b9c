"""How the three roles change together: the curves of the paper's figure on co-evolution.

From the notes of recent games (`roles.mm_zero.gallery`), as {chart: {series: value}}. Its release
takes them from the files of a whole phase (tools for plots of co-evolution); here they are means
over the newest games, while they are played.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from roles.mm_zero.content import CONTENT_TYPES

Proposals = Sequence[Mapping[str, Any]]
"""The note "proposals" of one game."""


def play_curves(games: Sequence[Proposals]) -> dict[str, dict[str, float]]:
    """Charts of the newest games; what they do not tell is left out.

    Over pictures: share of easy votes for the given answer (solvability), share of the majority
    on the hard question and 1 - |2 share - 1| (difficulty), solvability - share (the easy-hard
    gap), and the length of the SVG in characters. Over drawings: the share that rendered. Over
    proposals: entropy of the content types, divided by log of their number (1: even).
    """
    proposals = [row["proposal"] for game in games for row in game if "proposal" in row]
    drawings = [drawing for game in games for row in game for drawing in row.get("drawings") or ()]
    pictures = [drawing for drawing in drawings if "picture" in drawing]
    shares = [picture["hard"]["share"] for picture in pictures]
    solvable = [picture["solvability"] for picture in pictures]
    found: dict[str, dict[str, float | None]] = {
        "Solvability and difficulty": {
            "solvability (easy)": _mean(solvable),
            "agreement (hard)": _mean(shares),
            "difficulty (hard)": _mean([1 - abs(2 * share - 1) for share in shares]),
        },
        "Easy-hard gap": {
            "gap": _mean([easy - hard for easy, hard in zip(solvable, shares, strict=True)])
        },
        "Drawings that render": {
            "coder": _mean([float("picture" in drawing) for drawing in drawings])
        },
        "Diversity of content types, entropy": {
            "proposer": _entropy([str(one.get("content_type", "")) for one in proposals])
        },
        "Complexity of pictures, characters of SVG": {
            "coder": _mean([float(len(picture["svg"])) for picture in pictures])
        },
    }
    told = {
        chart: {name: value for name, value in series.items() if value is not None}
        for chart, series in found.items()
    }
    return {chart: series for chart, series in told.items() if series}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _entropy(types: Sequence[str]) -> float | None:
    """- sum_t p_t log p_t / log 7, p_t the share of content type t."""
    if not types:
        return None
    shares = [number / len(types) for number in Counter(types).values()]
    return -sum(share * math.log(share) for share in shares) / math.log(len(CONTENT_TYPES))
