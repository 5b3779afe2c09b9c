"""What a proposal earns: pictures that can be read, questions that split the solver."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewards.diversity import Repetition
from rewards.reward import Reward, Score, reward


@dataclass(frozen=True, slots=True)
class ProposerWeights:
    """Defaults of MM-Zero (arXiv:2603.09206)."""

    solvability_cap: float = 0.5
    """Most that solvability can earn: else answers get printed into the picture."""
    too_easy_below: float = 0.15
    """Mean difficulty of the rendered pictures below which the hard question is too easy."""
    too_easy_penalty: float = 0.3
    too_easy_tolerance: float = 1e-9
    """min(c, 1 - c) of c = 0.8 is below 0.2 in binary; a mean that is at the threshold but for such
    rounding is not below it. The released code has none."""
    unparsable: float = -1.0


def proposer_reward(
    scores: Sequence[Score | None],
    repetition: Repetition | None = None,
    weights: ProposerWeights | None = None,
) -> Reward:
    """R = mean_k [min(s_k, cap) + d_k] - too_easy + repetition, k over the drawn SVGs.

    too_easy = `too_easy_penalty` where at least one SVG rendered and the mean d_k of those that
    did is below `too_easy_below`. An SVG that did not render is None: it earns 0, and counts in
    the mean of R but not in that of the difficulty. Source: arXiv:2603.09206, and
    `proposer_reward.py` of its release. Terms: format, solvability, difficulty, too_easy,
    repeated_text, repeated_type, repeated_image.
    """
    weights = weights or ProposerWeights()
    repetition = repetition or Repetition()
    seen = [score for score in scores if score is not None]
    num = max(len(scores), 1)
    difficulties = [score.difficulty for score in seen]
    # numpy's mean, whose rounding decides at the threshold where there is no tolerance.
    too_easy = bool(seen) and (
        float(np.mean(difficulties)) < weights.too_easy_below - weights.too_easy_tolerance
    )
    return reward(
        format=0.0,
        solvability=sum(min(score.solvability, weights.solvability_cap) for score in seen) / num,
        difficulty=sum(difficulties) / num,
        too_easy=-weights.too_easy_penalty if too_easy else 0.0,
        repeated_text=repetition.text,
        repeated_type=repetition.type,
        repeated_image=repetition.image,
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
        repeated_image=0.0,
    )
