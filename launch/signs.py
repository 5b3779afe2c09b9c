"""Signs that self-play is collapsing, read from the lines of `metrics.jsonl`.

The thresholds are those at which runs of the tiny base that went wrong could be told from those
that went well (learning rates of 1e-4 and more); they warn, they stop nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MIN_GROUPS = 200
"""Of the solver, before anything is said: some fifteen games. Fewer make every share fall."""
MAX_CONSISTENCY = 0.8
MIN_KEPT = 0.35
MIN_LABEL_TRUE = 0.45
MAX_FALL = 0.15
"""Of a share, since its first value."""
FALLING = {
    "real_hard": "the proposer asks fewer hard questions that are hard ones",
    "faithful": "drawings show their caption less often, whatever the rewards say",
}
"""Signs of the games in play."""
FALLING_ON_DEV = {
    "coder_faithful": FALLING["faithful"],
    "solver_hard_t1": "the solver answers hard questions worse",
}
MAX_GRAD_GROWTH = 3.0
MIN_ESS = 0.5
NUM_STEPS = 10
"""Steps at the start and at the end over which learner metrics are averaged."""


def warnings(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """One sentence for each sign that the newest records show; empty: none."""
    rows = list(records)
    return [*_game_signs(rows), *_dev_signs(rows), *_learner_signs(rows)]


def _game_signs(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """`signs` are the means of `evals.games.game_signs` over recent games."""
    known = [
        row.get("signs", {})
        for row in records
        if row["kind"] == "groups"
        and row["streams"].get("solver", {}).get("num_groups", 0) >= MIN_GROUPS
    ]
    if not known:
        return []
    now, found = known[-1], []
    if (share := now.get("consistency")) is not None and share > MAX_CONSISTENCY:
        found.append(
            f"{share:.0%} of the solver's votes agree (over {MAX_CONSISTENCY:.0%}): "
            "its own majority teaches it nothing new"
        )
    if (kept := now.get("kept")) is not None and kept < MIN_KEPT:
        found.append(
            f"only {kept:.0%} of the hard questions can train the solver (under {MIN_KEPT:.0%}): "
            "they are too easy, or too hard, for it"
        )
    if (true := now.get("label_true")) is not None and true < MIN_LABEL_TRUE:
        found.append(
            f"only {true:.0%} of the labels are true of the picture (under {MIN_LABEL_TRUE:.0%}): "
            "the solver learns its own errors"
        )
    return found + _falls(known, FALLING, "in play")


def _dev_signs(records: Sequence[Mapping[str, Any]]) -> list[str]:
    curve = [row["means"] for row in records if row["kind"] == "dev" and row.get("means")]
    return _falls(curve, FALLING_ON_DEV, "on the dev set")


def _falls(
    curve: Sequence[Mapping[str, float]], meanings: Mapping[str, str], where: str
) -> list[str]:
    found = []
    for name, meaning in meanings.items():
        values = [means[name] for means in curve if means.get(name) is not None]
        if values and values[0] - values[-1] > MAX_FALL:
            found.append(f"{name} fell from {values[0]:.2f} to {values[-1]:.2f} {where}: {meaning}")
    return found


def _learner_signs(records: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    steps = [row for row in records if row["kind"] == "step" and not row.get("skipped")]
    for policy in dict.fromkeys(row["policy"] for row in steps):
        own = [row.get("metrics", {}) for row in steps if row["policy"] == policy]
        if len(own) < 2 * NUM_STEPS:
            continue
        first, last = _mean(own[:NUM_STEPS], "grad_norm"), _mean(own[-NUM_STEPS:], "grad_norm")
        if first and last and last > MAX_GRAD_GROWTH * first:
            found.append(f"{policy}: the gradient norm grew from {first:.2f} to {last:.2f}")
        ess = _mean(own[-NUM_STEPS:], "ess")
        if ess is not None and ess < MIN_ESS:
            found.append(
                f"{policy}: the effective sample size is {ess:.0%} of the tokens: "
                "its servers' weights, or its data, are far from its own"
            )
    return found


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return sum(values) / len(values) if values else None
