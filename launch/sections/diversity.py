"""What the diversity terms of the proposer's reward did: who was charged, and did it help?"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

from launch.charts import line_chart, share_bar
from launch.sections.proposals import Proposed
from launch.sections.run import Run
from launch.sections.tables import decimal, grid, share, table
from roles.mm_zero.content import CONTENT_TYPES

PREFIX = "repeated_"
"""Of the terms that charge for repetition (`rewards.proposer`)."""
NUM_COMPARED = 100
WINDOW = 40
SMOOTH = 20


def diversity(run: Run) -> str:
    """From the valid proposals of the games that the run's notes tell of."""
    valid = [proposed for proposed in run.proposals if proposed.invalid is None]
    names = sorted({n for proposed in valid for n in proposed.terms if n.startswith(PREFIX)})
    if not names:
        return ""
    number = min(NUM_COMPARED, len(valid) // 2)
    early, late = valid[:number], valid[len(valid) - number :]
    caption = (
        f"The first and the last {number} of {len(valid)} valid proposals. Entropy of the content "
        f"types: - sum of p log p over their shares p, divided by log {len(CONTENT_TYPES)}; "
        "1 is an even mixture, 0 a single type."
    )
    rows = [
        (f"{name}, mean", *(f"{_term(part, name):+.3f}" for part in (early, late)))
        for name in names
    ]
    rows += [
        ("charged for any repetition", *(share(_charged(part), 1) for part in (early, late))),
        ("distinct captions", *(str(len({p.caption for p in part})) for part in (early, late))),
        ("entropy of the content types", *(decimal(entropy(part)) for part in (early, late))),
    ]
    parts = [table(("", "early", "late"), rows, caption)] if number else []
    return "".join([*parts, _types(early, late), grid(_charts(valid, names))])


def entropy(proposals: Sequence[Proposed]) -> float:
    """- sum_t p_t log p_t / log 7, p_t the share of content type t."""
    numbers = Counter(proposed.content_type for proposed in proposals).values()
    total = sum(numbers)
    terms = (n / total * math.log(total / n) for n in numbers)
    return sum(terms) / math.log(len(CONTENT_TYPES))


def _term(proposals: Sequence[Proposed], name: str) -> float:
    return sum(p.terms.get(name, 0.0) for p in proposals) / max(len(proposals), 1)


def _charged(proposals: Sequence[Proposed]) -> float:
    """The share that some term of repetition charged."""
    charged = (
        any(value < 0 for name, value in p.terms.items() if name.startswith(PREFIX))
        for p in proposals
    )
    return sum(charged) / max(len(proposals), 1)


def _types(early: Sequence[Proposed], late: Sequence[Proposed]) -> str:
    counts = [Counter(proposed.content_type for proposed in part) for part in (early, late)]
    rows = []
    for name in dict.fromkeys((*CONTENT_TYPES, *counts[0], *counts[1])):
        shares = [count[name] / max(count.total(), 1) for count in counts]
        cells = "".join(f"<td>{part:.0%}</td><td>{share_bar(part)}</td>" for part in shares)
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    head = "<tr><th>content type</th><th>early</th><th></th><th>late</th><th></th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _charts(valid: Sequence[Proposed], names: Sequence[str]) -> list[str]:
    games = [(game, list(own)) for game, own in groupby(valid, key=lambda p: p.game)]
    charges = {
        name: [(float(game), _term(own, name)) for game, own in games]
        for name in names
        if any(p.terms.get(name) for p in valid)
    }
    charged = {"charged": [(float(game), _charged(own)) for game, own in games]}
    last = f"the last {WINDOW} valid proposals"
    return [
        line_chart("Charge for repetition, mean of a game", charges, x_label="game", smooth=SMOOTH),
        line_chart(
            "Share of valid proposals that were charged", charged, x_label="game", smooth=SMOOTH
        ),
        line_chart(
            f"Entropy of the content types, {last}", _rolling(valid, entropy), x_label="game"
        ),
        line_chart(
            f"Distinct captions, {last}",
            _rolling(valid, lambda part: len({p.caption for p in part})),
            x_label="game",
        ),
    ]


def _rolling(
    valid: Sequence[Proposed], measure: Callable[[Sequence[Proposed]], float]
) -> dict[str, list[tuple[float, float]]]:
    """`measure` of each full window that ends with a game."""
    ends = [
        end
        for end in range(WINDOW, len(valid) + 1)
        if end == len(valid) or valid[end].game != valid[end - 1].game
    ]
    return {
        "proposer": [
            (float(valid[end - 1].game), measure(valid[end - WINDOW : end])) for end in ends
        ]
    }
