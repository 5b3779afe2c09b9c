"""The learner's objective, put together from `objectives.py` as the config says; diagnostics. Pure.

    L = aggregate(- w m surrogate(r, A) + beta KL - c H)

r = pi_theta / pi_prox, w a weight and m a mask from pi_prox / mu, H the entropy. The default is
decoupled PPO (arXiv:2110.00641) with separate clip bounds, a dual clip, w = min(pi_prox / mu, C)
and a mask on the rollout's geometric mean, over all sampled tokens of the update.

T: sampled tokens, flat over all rollouts; S: rollouts. Log-probs in nats, of logits / temperature.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.learner.objectives import (
    aggregate,
    approximated_proximal,
    band_mask,
    band_weights,
    cispo_surrogate,
    entropy_bonus,
    group_advantages,
    gspo_ratios,
    k1,
    k2,
    k3,
    kl_in_reward,
    leave_one_out_advantages,
    log_ratio,
    ppo_surrogate,
    reinforce_surrogate,
    sequence_ratios,
    token_ratios,
    truncated_weights,
    veto_mask,
)
from engine.learner.presets import Level, ObjectiveConfig

KL: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def policy_loss(
    logprobs_T: Tensor,
    proximal_T: Tensor | None,
    sampler_T: Tensor,
    advantages_T: Tensor,
    sequences_T: Tensor,
    *,
    num_sequences: int,
    num_loss_tokens: int,
    num_loss_sequences: int,
    objective: ObjectiveConfig,
    reference_T: Tensor | None = None,
    entropy_T: Tensor | None = None,
    staleness_T: Tensor | None = None,
) -> Tensor:
    """The scalar loss of one micro-batch; the micro-batches of an update add up.

    `proximal_T`: the recomputed log-probs; None means pi_prox := stop_grad(pi_theta), as with one
    update per step. Rollouts must be whole. A token whose sampler log-prob is not finite is
    dropped: it counts in the denominators alone. KL and entropy need no mu, so they cover every
    token. A nan of the learner's own makes the loss nan, whatever is masked.
    `reference_T`, `entropy_T` (with gradient) and `staleness_T` are needed by a KL in the loss, an
    entropy bonus and an approximated proximal policy.
    """
    valid_T = torch.isfinite(sampler_T)
    rollouts = _Rollouts(sequences_T, num_sequences, valid_T)
    proximal_T = proximal_logprobs(
        logprobs_T, proximal_T, sampler_T, objective=objective, staleness_T=staleness_T
    )
    # Replaced before exp: inf * 0 would be nan in the gradient.
    sampler_T = torch.where(valid_T, sampler_T, proximal_T)
    counts_T = valid_T & _mask(proximal_T, sampler_T, rollouts, objective)
    gain_T = _weights(proximal_T, sampler_T, rollouts, objective) * _surrogate(
        logprobs_T, proximal_T, advantages_T, rollouts, objective
    )
    # A learner that is broken must not hide behind a mask: its nan reaches the loss.
    broken_T = logprobs_T.isnan() | proximal_T.isnan()
    loss_T = -torch.where(counts_T | broken_T, gain_T, 0.0)
    if objective.kl_beta and objective.kl_place == "loss":
        assert reference_T is not None, "a KL in the loss needs the reference's log-probs"
        kl_T = KL[objective.kl_estimator](logprobs_T, reference_T.detach())
        loss_T = loss_T + objective.kl_beta * kl_T
    if objective.entropy_bonus:
        assert entropy_T is not None, "entropy_bonus needs the entropies"
        assert entropy_T.requires_grad or not logprobs_T.requires_grad, "entropy without gradient"
        loss_T = loss_T - entropy_bonus(entropy_T, coefficient=objective.entropy_bonus)
    return aggregate(
        loss_T,
        sequences_T,
        num_sequences=num_sequences,
        by=objective.aggregation,
        num_loss_tokens=num_loss_tokens,
        num_loss_sequences=num_loss_sequences,
        constant=objective.aggregation_constant,
    )


def proximal_logprobs(
    logprobs_T: Tensor,
    proximal_T: Tensor | None,
    sampler_T: Tensor,
    *,
    objective: ObjectiveConfig,
    staleness_T: Tensor | None = None,
) -> Tensor:
    """[T] log pi_prox, without gradient, of the policy that `objective.proximal` names.

    Where it would be made of a sampler log-prob that is not finite: stop_grad(pi_theta).
    """
    current_T = logprobs_T.detach()
    if objective.proximal == "recomputed" and proximal_T is not None:
        return proximal_T.detach()
    if objective.proximal == "sampler":
        return torch.where(torch.isfinite(sampler_T), sampler_T, current_T)
    if objective.proximal == "approximated":
        assert staleness_T is not None, "an approximated proximal policy needs the tokens' ages"
        approximate_T = approximated_proximal(current_T, sampler_T, staleness_T)
        return torch.where(torch.isfinite(sampler_T), approximate_T, current_T)
    return current_T


def rollout_advantages(
    rewards: Sequence[float], objective: ObjectiveConfig, *, kl: Tensor | None = None
) -> Tensor:
    """[n] float32 advantages of one group's rollouts.

    `kl` [n]: each rollout's summed KL estimate, to be taken off its reward first; needed where the
    objective has its KL in the reward.
    """
    if objective.kl_beta and objective.kl_place == "reward":
        assert kl is not None, "a KL in the reward needs the rollouts' KL"
        rewards = kl_in_reward(rewards, kl, beta=objective.kl_beta).tolist()
    if objective.advantage == "group":
        return group_advantages(
            rewards, divide_by_std=objective.divide_by_std, eps=objective.std_eps
        )
    return leave_one_out_advantages(
        rewards, divide_by_std=objective.divide_by_std, eps=objective.std_eps
    )


@dataclass(frozen=True, slots=True)
class _Rollouts:
    """Which rollout a token is of, and whether it has a sampler log-prob."""

    sequences_T: Tensor
    num: int
    valid_T: Tensor


def _ratios(proximal_T: Tensor, sampler_T: Tensor, rollouts: _Rollouts, level: Level) -> Tensor:
    """[T] w = pi_prox / mu, of the token or of its rollout, without gradient."""
    if level == "token":
        return token_ratios(proximal_T, sampler_T)
    return sequence_ratios(
        proximal_T,
        sampler_T,
        rollouts.sequences_T,
        num_sequences=rollouts.num,
        mean=level,
        valid_T=rollouts.valid_T,
    )


def _weights(
    proximal_T: Tensor, sampler_T: Tensor, rollouts: _Rollouts, objective: ObjectiveConfig
) -> Tensor:
    """[T] float, without gradient."""
    if objective.weight_bounds is None:
        return torch.ones_like(proximal_T)
    low, high = objective.weight_bounds
    ratios_T = _ratios(proximal_T, sampler_T, rollouts, objective.weight_level)
    if objective.weight_action == "truncate":
        return truncated_weights(ratios_T, floor=low, cap=high)
    return band_weights(ratios_T, low=low, high=high)


def _mask(
    proximal_T: Tensor, sampler_T: Tensor, rollouts: _Rollouts, objective: ObjectiveConfig
) -> Tensor:
    """[T] bool: the token counts."""
    keep_T = torch.ones_like(proximal_T, dtype=torch.bool)
    if objective.mask_band is not None:
        low, high = objective.mask_band
        ratios_T = _ratios(proximal_T, sampler_T, rollouts, objective.mask_level)
        keep_T = band_mask(ratios_T, low=low, high=high)
    if objective.veto is not None:
        keep_T = keep_T & veto_mask(
            token_ratios(proximal_T, sampler_T),
            rollouts.sequences_T,
            num_sequences=rollouts.num,
            floor=objective.veto,
        )
    return keep_T


def _surrogate(
    logprobs_T: Tensor,
    proximal_T: Tensor,
    advantages_T: Tensor,
    rollouts: _Rollouts,
    objective: ObjectiveConfig,
) -> Tensor:
    """[T] what is to be maximised."""
    if objective.surrogate == "reinforce":
        return reinforce_surrogate(logprobs_T, advantages_T)
    low, high = objective.eps_low, objective.eps_high
    ratios_T = _policy_ratios(logprobs_T, proximal_T, rollouts, objective)
    if objective.surrogate == "cispo":
        return cispo_surrogate(logprobs_T, ratios_T, advantages_T, eps_low=low, eps_high=high)
    return ppo_surrogate(
        ratios_T, advantages_T, eps_low=low, eps_high=high, dual_clip=objective.dual_clip
    )


def _policy_ratios(
    logprobs_T: Tensor, proximal_T: Tensor, rollouts: _Rollouts, objective: ObjectiveConfig
) -> Tensor:
    """[T] r = pi_theta / pi_prox, by token or, for GSPO, by rollout."""
    if objective.surrogate != "gspo":
        return log_ratio(logprobs_T, proximal_T).exp()
    return gspo_ratios(
        logprobs_T,
        proximal_T,
        rollouts.sequences_T,
        num_sequences=rollouts.num,
        valid_T=rollouts.valid_T,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What the diagnostics look at: all tokens of one step, no gradient. All [T]."""

    logprobs_T: Tensor
    """The learner's, at the update that trained the token."""
    proximal_T: Tensor
    """The learner's at the start of the step, or the approximation in its place; never mu, so that
    the age of the data shows whatever the objective does about it."""
    sampler_T: Tensor
    advantages_T: Tensor
    sequences_T: Tensor
    entropy_T: Tensor


@torch.no_grad()
def diagnostics(tokens: Tokens, *, objective: ObjectiveConfig) -> dict[str, float]:
    """How far the data is from the learner; decides nothing.

    ess: effective sample size of pi_prox / mu as a share of the tokens, in (0, 1];
    k1, k3: estimates of KL(mu || pi_prox), nats per token; clipped_fraction: tokens whose gradient
    the clip removes (CISPO: whose weight it cuts); truncated_fraction: whose weight is out of
    bounds, cut or 0; masked_fraction: lost to the mask or the veto; dropped_tokens: whose sampler
    log-prob was not finite. Empty without any token with a finite one.
    """
    finite_T = torch.isfinite(tokens.sampler_T)
    num_valid = int(finite_T.sum())
    dropped = float(finite_T.numel() - num_valid)
    if num_valid == 0:
        return {"dropped_tokens": dropped}
    logprobs_T, proximal_T = tokens.logprobs_T[finite_T], tokens.proximal_T[finite_T]
    sampler_T, advantages_T = tokens.sampler_T[finite_T], tokens.advantages_T[finite_T]
    sequences_T = tokens.sequences_T[finite_T]
    rollouts = _Rollouts(
        sequences_T, int(sequences_T.max()) + 1, torch.ones_like(sequences_T, dtype=torch.bool)
    )
    gap_T = log_ratio(proximal_T, sampler_T)
    weight_T = gap_T.double().exp()
    # With pi_prox := mu there is neither weight nor mask, and the clip looks at pi_theta / mu.
    anchor_T = sampler_T if objective.proximal == "sampler" else proximal_T
    clipped_T = _clipped(logprobs_T, anchor_T, advantages_T, rollouts, objective)
    return {
        "dropped_tokens": dropped,
        "ess": float(weight_T.sum() ** 2 / (weight_T.square().sum() * num_valid)),
        "ratio_mean": float(weight_T.mean()),
        "ratio_max": float(weight_T.max()),
        "k1": float(-gap_T.mean()),
        "k3": float((weight_T - 1 - gap_T).mean()),
        "clipped_fraction": _share(clipped_T),
        "truncated_fraction": _share(_out_of_bounds(anchor_T, sampler_T, rollouts, objective)),
        "masked_fraction": _share(~_mask(anchor_T, sampler_T, rollouts, objective)),
        "entropy": float(tokens.entropy_T.mean()),
    }


def _clipped(
    logprobs_T: Tensor,
    proximal_T: Tensor,
    advantages_T: Tensor,
    rollouts: _Rollouts,
    objective: ObjectiveConfig,
) -> Tensor:
    """[T] bool: the clip acts on the token. The dual clip, which is rare, is not counted."""
    ratios_T = _policy_ratios(logprobs_T, proximal_T, rollouts, objective)
    above_T = below_T = torch.zeros_like(ratios_T, dtype=torch.bool)
    if objective.eps_high is not None:
        above_T = ratios_T > 1 + objective.eps_high
    if objective.eps_low is not None:
        below_T = ratios_T < 1 - objective.eps_low
    if objective.surrogate == "cispo":
        acts_T = above_T | below_T
    else:
        acts_T = torch.where(advantages_T > 0, above_T, below_T)
    return acts_T & (advantages_T != 0)


def _out_of_bounds(
    proximal_T: Tensor, sampler_T: Tensor, rollouts: _Rollouts, objective: ObjectiveConfig
) -> Tensor:
    """[T] bool: the weight is not w itself."""
    if objective.weight_bounds is None:
        return torch.zeros_like(proximal_T, dtype=torch.bool)
    low, high = objective.weight_bounds
    ratios_T = _ratios(proximal_T, sampler_T, rollouts, objective.weight_level)
    return ~band_mask(ratios_T, low=low, high=high)


def _share(flags_T: Tensor) -> float:
    return float(flags_T.float().mean())
