"""What an answer earns: to agree with the majority, in the form that was asked for."""

from dataclasses import dataclass

from rewards.reward import Reward, reward


@dataclass(frozen=True, slots=True)
class SolverWeights:
    """Defaults of MM-Zero (arXiv:2603.09206)."""

    correct: float = 0.9
    format: float = 0.1


def solver_reward(
    *, is_correct: bool, is_well_formed: bool, weights: SolverWeights | None = None
) -> Reward:
    """R = 0.9 correct + 0.1 format.

    Correct is what the label says, a majority vote (TTRL, arXiv:2504.16084). Source:
    arXiv:2603.09206, and `cot_val_solver.py` of its release. Terms: correct, format.
    """
    weights = weights or SolverWeights()
    return reward(
        correct=weights.correct if is_correct else 0.0,
        format=weights.format if is_well_formed else 0.0,
    )
