"""Iterative-SPO: clues and votes are trained in turn (Vision-Zero, arXiv:2509.25541, A.2.3).

Votes first. Once the spy is found too easily there is nothing to learn from votes, so clues are
trained; once it is found too seldom, votes again. Pure: a tick makes the next state of the last.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Stage = Literal["decision", "clue"]

STREAMS: Mapping[Stage, frozenset[str]] = {
    "decision": frozenset({"voter"}),
    "clue": frozenset({"civilian", "spy"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """When to switch. Defaults: the paper's, but for `debias`. Raises ValueError for no rules."""

    switch: Literal["threshold", "cycle", "both"] = "threshold"
    """By how votes go (paper); every `cycle` ticks (released code); or by whichever comes first."""
    cycle: int = 10
    """Ticks between two switches. Source: released code, where it is not told another one."""
    clues_from_accuracy: float = 0.9
    clues_up_to_abstention: float = 0.1
    votes_from_error: float = 0.4
    """Error is 1 - accuracy."""
    votes_from_abstention: float = 0.5
    decay: float = 0.95
    """Of the averages, per tick."""
    min_dwell: int = 5
    """Ticks that a stage takes at least, as far as thresholds go; and values that a debiased
    average holds at least before they do. Of one game alone it would be 0 or 1."""
    patience: int | None = None
    """Ticks after which thresholds are not waited for any more. The paper lists 20 but does not
    use it; None: never."""
    debias: bool = True
    """Averages without the pull of their start at 0 (ours), which alone takes 45 ticks to .9."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay {self.decay} is not in [0, 1)")
        for name in ("cycle", "min_dwell", "patience"):
            if (ticks := getattr(self, name)) is not None and ticks < 1:
                raise ValueError(f"{name} is {ticks} ticks, want 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateState:
    """Where the gate stands; `GateState()` is the start of a run."""

    stage: Stage = "decision"
    accuracy: float = 0.0
    """Moving average from 0 on: how often the spy was found."""
    abstention: float = 0.0
    """Likewise, the share of votes that were N/A."""
    ticks: int = 0
    """Values in both averages."""
    dwell: int = 0
    """Ticks since the last switch."""

    def averages(self, rules: GateRules) -> tuple[float, float]:
        """Accuracy and abstention, as the rules compare them."""
        # Of nothing, 0.
        weight = 1.0 - rules.decay**self.ticks if rules.debias and self.ticks else 1.0
        return self.accuracy / weight, self.abstention / weight

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "GateState":
        """The inverse of `to_json`. Raises TypeError where `data` is not of its kind."""
        return cls(**data)


def tick(
    state: GateState, rules: GateRules, accuracy: float | None, abstention: float | None
) -> tuple[GateState, str | None]:
    """The state after one more step of the open streams; and where it switched, why, in words.

    `accuracy` is the share of the games since the last tick that found the spy, `abstention` the
    mean share of N/A in their votes; None where no game ended: the averages stay as they were.
    Raises ValueError where one is outside of [0, 1].
    """
    now = replace(state, dwell=state.dwell + 1)
    if accuracy is not None and abstention is not None:
        if not (0.0 <= accuracy <= 1.0 and 0.0 <= abstention <= 1.0):
            raise ValueError(f"accuracy {accuracy}, abstention {abstention}: not in [0, 1]")
        now = replace(
            now,
            accuracy=rules.decay * state.accuracy + (1.0 - rules.decay) * accuracy,
            abstention=rules.decay * state.abstention + (1.0 - rules.decay) * abstention,
            ticks=state.ticks + 1,
        )
    why = _why_switch(now, rules)
    if why is None:
        return now, None
    stage: Stage = "clue" if now.stage == "decision" else "decision"
    return replace(now, stage=stage, dwell=0), f"{stage} stage: {why}"


def open_streams(stage: Stage) -> frozenset[str]:
    """The streams that are trained in a stage."""
    return STREAMS[stage]


def _why_switch(state: GateState, rules: GateRules) -> str | None:
    if rules.switch != "threshold" and state.dwell >= rules.cycle:
        return f"every {rules.cycle} steps"
    if rules.switch == "cycle":
        return None
    # Of the paper's line 18, "A or B and d >= K", only (A or B) and d >= K makes sense.
    is_due = state.dwell >= rules.min_dwell and state.ticks >= _least_ticks(rules)
    if is_due and (why := _past_threshold(state, rules)):
        return why
    if rules.patience is not None and state.dwell >= rules.patience:
        return f"patience ended after {state.dwell} steps"
    return None


def _least_ticks(rules: GateRules) -> int:
    """Values that the averages need. Without debiasing their start at 0 holds back the first of
    them, as the paper has it."""
    return rules.min_dwell if rules.debias else 1


def _past_threshold(state: GateState, rules: GateRules) -> str | None:
    accuracy, abstention = state.averages(rules)
    if state.stage == "decision":
        if accuracy >= rules.clues_from_accuracy and abstention <= rules.clues_up_to_abstention:
            return (
                f"accuracy {accuracy:.3f} >= {rules.clues_from_accuracy}"
                f" and abstention {abstention:.3f} <= {rules.clues_up_to_abstention}"
            )
        return None
    if 1.0 - accuracy >= rules.votes_from_error:
        return f"error {1.0 - accuracy:.3f} >= {rules.votes_from_error}"
    if abstention >= rules.votes_from_abstention:
        return f"abstention {abstention:.3f} >= {rules.votes_from_abstention}"
    return None
