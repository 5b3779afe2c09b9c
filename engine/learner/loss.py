"""The learner's objective and its diagnostics. Pure.

    L = - sum_t w_t dualclip(min(rho A, clip(rho, 1 - el, 1 + eh) A)) / N + beta sum_t k3_t / N

rho = pi_theta / pi_prox, w = stop_grad(min(pi_prox / mu, C)): decoupled PPO (arXiv:2110.00641)
with separate clip bounds (DAPO, arXiv:2503.14476) and a dual clip (arXiv:1912.09729). N counts
all sampled tokens of the update over all ranks: what is masked or dropped never shrinks it.

T: sampled tokens, flat over all rollouts. Log-probs in nats, of logits / temperature.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.learner.corrections import log_ratio, sequence_mask, truncated_weights


def surrogate(
    ratio_T: Tensor,
    advantages_T: Tensor,
    *,
    eps_low: float,
    eps_high: float,
    dual_clip: float | None,
) -> Tensor:
    """[T] PPO's pessimistic objective (to be maximised).

    For a negative advantage it is at least `dual_clip` * A, so that a token whose probability
    exploded can't dominate; there the gradient is zero.
    """
    clipped_T = ratio_T.clamp(1 - eps_low, 1 + eps_high)
    value_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    if dual_clip is None:
        return value_T
    bounded_T = torch.maximum(value_T, dual_clip * advantages_T)
    return torch.where(advantages_T < 0, bounded_T, value_T)


def k3(logprobs_T: Tensor, reference_T: Tensor) -> Tensor:
    """[T] the estimate exp(x) - x - 1 >= 0 of KL(pi || ref), x = log ref - log pi.

    Source: J. Schulman, "Approximating KL divergence" (2020).
    """
    gap_T = log_ratio(reference_T, logprobs_T)
    return gap_T.exp() - gap_T - 1


def policy_loss(
    logprobs_T: Tensor,
    proximal_T: Tensor | None,
    sampler_T: Tensor,
    advantages_T: Tensor,
    sequences_T: Tensor,
    *,
    num_sequences: int,
    num_loss_tokens: int,
    eps_low: float,
    eps_high: float,
    dual_clip: float | None,
    weight_cap: float,
    sequence_band: tuple[float, float] | None,
    kl_beta: float = 0.0,
    reference_T: Tensor | None = None,
) -> Tensor:
    """The scalar loss of one micro-batch; micro-batches of one update add up.

    `proximal_T=None` means pi_prox := stop_grad(pi_theta): one update per step. A token whose
    sampler log-prob is not finite is dropped. The KL term needs no mu, so it covers every token.
    Rollouts must be whole: the sequence mask looks at all tokens of one.
    """
    proximal_T = logprobs_T.detach() if proximal_T is None else proximal_T.detach()
    valid_T = torch.isfinite(sampler_T)
    # Replaced before exp: inf * 0 would be nan in the gradient.
    sampler_T = torch.where(valid_T, sampler_T, proximal_T)
    keep_T = valid_T & sequence_mask(
        proximal_T, sampler_T, valid_T, sequences_T, num_sequences=num_sequences, band=sequence_band
    )
    objective_T = truncated_weights(proximal_T, sampler_T, cap=weight_cap) * surrogate(
        log_ratio(logprobs_T, proximal_T).exp(),
        advantages_T,
        eps_low=eps_low,
        eps_high=eps_high,
        dual_clip=dual_clip,
    )
    loss = -torch.where(keep_T, objective_T, 0.0).sum()
    if kl_beta:
        assert reference_T is not None, "kl_beta needs the reference's log-probs"
        loss = loss + kl_beta * k3(logprobs_T, reference_T.detach()).sum()
    return loss / num_loss_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What the diagnostics look at: all tokens of one step, no gradient. All [T]."""

    logprobs_T: Tensor
    """The learner's, at the update that trained the token."""
    proximal_T: Tensor
    sampler_T: Tensor
    advantages_T: Tensor
    sequences_T: Tensor
    entropy_T: Tensor


@torch.no_grad()
def diagnostics(
    tokens: Tokens,
    *,
    eps_low: float,
    eps_high: float,
    weight_cap: float,
    sequence_band: tuple[float, float] | None,
) -> dict[str, float]:
    """How far the data is from the learner; decides nothing.

    ess: effective sample size of pi_prox / mu as a share of the tokens, in (0, 1];
    k1, k3: estimates of KL(mu || pi_prox), nats per token; clipped_fraction: tokens whose gradient
    the clip removes; truncated_fraction: whose weight the cap cut; masked_fraction: lost to the
    sequence mask; dropped_tokens: whose sampler log-prob was not finite. Empty without any
    token with a finite one.
    """
    valid_T = torch.isfinite(tokens.sampler_T)
    num_valid = int(valid_T.sum())
    dropped = float(valid_T.numel() - num_valid)
    if num_valid == 0:
        return {"dropped_tokens": dropped}
    num_sequences = int(tokens.sequences_T.max()) + 1
    keep_T = sequence_mask(
        tokens.proximal_T,
        torch.where(valid_T, tokens.sampler_T, tokens.proximal_T),
        valid_T,
        tokens.sequences_T,
        num_sequences=num_sequences,
        band=sequence_band,
    )[valid_T]
    proximal_T, advantages_T = tokens.proximal_T[valid_T], tokens.advantages_T[valid_T]
    gap_T = log_ratio(proximal_T, tokens.sampler_T[valid_T])
    weight_T = gap_T.double().exp()
    rho_T = log_ratio(tokens.logprobs_T[valid_T], proximal_T).exp()
    clipped_T = torch.where(advantages_T > 0, rho_T > 1 + eps_high, rho_T < 1 - eps_low)
    return {
        "dropped_tokens": dropped,
        "ess": float(weight_T.sum() ** 2 / (weight_T.square().sum() * num_valid)),
        "ratio_mean": float(weight_T.mean()),
        "ratio_max": float(weight_T.max()),
        "k1": float(-gap_T.mean()),
        "k3": float((weight_T - 1 - gap_T).mean()),
        "clipped_fraction": float((clipped_T & (advantages_T != 0)).float().mean()),
        "truncated_fraction": float((weight_T > weight_cap).float().mean()),
        "masked_fraction": float((~keep_T).float().mean()),
        "entropy": float(tokens.entropy_T.mean()),
    }
