"""Corrections for data that other weights than the learner's have sampled. Pure.

T: sampled tokens, flat over all rollouts; S: rollouts. Log-probs in nats.
"""

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 before exp, so that a ratio is at most 4.9e8."""


def log_ratio(numerator_T: Tensor, denominator_T: Tensor) -> Tensor:
    """[T] numerator - denominator, clamped to +-20 (no gradient beyond), in float32."""
    gap_T = numerator_T.float() - denominator_T.float()
    return gap_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def truncated_weights(proximal_T: Tensor, sampler_T: Tensor, *, cap: float) -> Tensor:
    """[T] min(pi_prox / mu, cap), without gradient (truncated importance sampling).

    The weight of decoupled PPO (arXiv:2110.00641) with the upper bound of truncated importance
    sampling: data may be discounted without limit, but never amplified beyond `cap`.
    """
    return log_ratio(proximal_T, sampler_T).exp().clamp(max=cap).detach()


def sequence_mask(
    proximal_T: Tensor,
    sampler_T: Tensor,
    valid_T: Tensor,
    sequences_T: Tensor,
    *,
    num_sequences: int,
    band: tuple[float, float] | None,
) -> Tensor:
    """[T] bool: False for all tokens of a rollout whose pi_prox / mu is out of `band` on average.

    The average is the geometric mean over the rollout's `valid_T` tokens, so that the bound does
    not depend on its length. `sequences_T` [T] int64 names the rollout of each token. A rollout
    without any valid token is masked. `band=None` masks nothing else.
    """
    gap_T = torch.where(valid_T, log_ratio(proximal_T, sampler_T), 0.0).detach()
    zeros_S = gap_T.new_zeros(num_sequences)
    count_S = zeros_S.index_add(0, sequences_T, valid_T.to(gap_T.dtype))
    keep_S = count_S > 0
    if band is not None:
        mean_S = zeros_S.index_add(0, sequences_T, gap_T) / count_S.clamp(min=1)
        ratio_S = mean_S.exp()
        keep_S = keep_S & (ratio_S >= band[0]) & (ratio_S <= band[1])
    return keep_S[sequences_T]
