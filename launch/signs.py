"""Signs that self-play is collapsing, read from the lines of `metrics.jsonl`.

The thresholds are those at which runs of the tiny base that went wrong could be told from those
that went well (learning rates of 1e-4 and more); they warn, they stop nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MIN_GROUPS = 50
MAX_CONSISTENCY = 0.8
MIN_KEPT = 0.35
MAX_FALL = 0.15
"""Of a share on the development set, from its first point."""
FALLING = {
    "proposer_real_hard": "the proposer's hard questions are hard ones less often",
    "coder_faithful": "drawings show their caption less often, whatever the rewards say",
    "solver_hard_t1": "the solver answers hard questions worse",
}
MAX_GRAD_GROWTH = 3.0
MIN_ESS = 0.5
NUM_STEPS = 10
"""Steps at the start and at the end over which learner metrics are averaged."""


def warnings(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each sign that the newest records show; empty: none."""
    return [*_solver_signs(records), *_dev_signs(records), *_learner_signs(records)]


def _solver_signs(records: Sequence[Mapping[str, Any]]) -> list[str]:
    groups = [row for row in records if row["kind"] == "groups"]
    solver = groups[-1].get("streams", {}).get("solver", {}) if groups else {}
    if solver.get("num_groups", 0) < MIN_GROUPS:
        return []
    found = []
    share = solver.get("extra/share")
    if share is not None and share > MAX_CONSISTENCY:
        found.append(
            f"the solver's votes agree in {share:.0%} of the answers (over {MAX_CONSISTENCY:.0%}): "
            "its own majority teaches it nothing new"
        )
    if solver["kept"] < MIN_KEPT:
        found.append(
            f"only {solver['kept']:.0%} of the solver's groups can be trained on "
            f"(under {MIN_KEPT:.0%}): questions are too easy, or too hard, for it"
        )
    return found


def _dev_signs(records: Sequence[Mapping[str, Any]]) -> list[str]:
    curve = [row["means"] for row in records if row["kind"] == "dev" and row.get("means")]
    found = []
    for name, meaning in FALLING.items():
        values = [means[name] for means in curve if means.get(name) is not None]
        if len(values) > 1 and values[0] - values[-1] > MAX_FALL:
            found.append(
                f"{name} fell from {values[0]:.2f} to {values[-1]:.2f} on the dev set: {meaning}"
            )
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
