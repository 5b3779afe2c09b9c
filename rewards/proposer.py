"""What a proposal earns: pictures that can be read, questions that split the solver."""

from collections.abc import Sequence
from dataclasses import dataclass

from rewards.diversity import Repetition
from rewards.reward import Reward, Score, reward

_ROUNDING = 1e-9
"""min(c, 1 - c) of c = 0.8 is below 0.2 in binary, but a mean at the threshold is not below it."""


@dataclass(frozen=True, slots=True)
class ProposerWeights:
    """Defaults of MM-Zero (arXiv:2603.09206)."""

    solvability_cap: float = 0.5
    """Most that solvability can earn: else answers get printed into the picture."""
    too_easy_below: float = 0.15
    """Mean difficulty of the rendered pictures below which the hard question is too easy."""
    too_easy_penalty: float = 0.3
    unparsable: float = -1.0


def proposer_reward(
    scores: Sequence[Score | None],
    repetition: Repetition | None = None,
    weights: ProposerWeights | None = None,
) -> Reward:
    """R = mean_k [min(s_k, cap) + d_k] - too_easy + repetition, k over the drawn SVGs.

    An SVG that did not render is None: it earns 0, and counts in the mean of R but not in that
    of the difficulty. The released code also adds -1 for a question that its service lost; here
    a lost request ends the game, so it cannot reach a reward.
    """
    weights = weights or ProposerWeights()
    repetition = repetition or Repetition()
    seen = [score for score in scores if score is not None]
    num = max(len(scores), 1)
    difficulty = sum(score.difficulty for score in seen)
    too_easy = bool(seen) and difficulty / len(seen) < weights.too_easy_below - _ROUNDING
    return reward(
        format=0.0,
        solvability=sum(min(score.solvability, weights.solvability_cap) for score in seen) / num,
        difficulty=difficulty / num,
        too_easy=-weights.too_easy_penalty if too_easy else 0.0,
        repeated_text=repetition.text,
        repeated_type=repetition.type,
    )


def unparsable_reward(weights: ProposerWeights | None = None) -> Reward:
    """What a reply that is no proposal earns; the same terms as `proposer_reward`."""
    weights = weights or ProposerWeights()
    return reward(
        format=weights.unparsable,
        solvability=0.0,
        difficulty=0.0,
        too_easy=0.0,
        repeated_text=0.0,
        repeated_type=0.0,
    )
