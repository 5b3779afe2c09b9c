"""What a learner can optimise: short functions from which `loss.py` builds the objective. Pure.

T: sampled tokens, flat over all rollouts; S: rollouts. `sequences_T` [T] int64 names the rollout of
each token, 0 .. num_sequences - 1. Log-probs are in nats, of logits / temperature. Arithmetic is
float32, or float64 where that comes in.

Denominators are counts over the whole update, over all its micro-batches and ranks, and are passed
in: any split of the rollouts gives the same update. What is masked never shrinks one.

theta: the policy that is differentiated; prox: the proximal policy, from which one update must not
move far; mu: the sampler's, which behaved. r = pi_theta / pi_prox, w = pi_prox / mu, A: advantage.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 before exp, so that a ratio is at most 4.9e8."""
K3_LIMIT = 10.0
"""Of k3 for one token: it grows with ref / pi, and a few stale tokens would be all of the loss."""
STD_EPS = 1e-6

Mean = Literal["geometric", "product"]
"""How the ratios of a rollout's tokens become one: exp(mean log w) or exp(sum log w)."""
Aggregation = Literal["token", "sequence", "constant"]

# --- advantages: [n] rewards of one group -> [n] float32 ---------------------------------------


def group_advantages(
    rewards: Sequence[float] | Tensor, *, divide_by_std: bool, eps: float = STD_EPS
) -> Tensor:
    """Group-relative advantages (GRPO, arXiv:2402.03300): (r - mean) / (std + eps).

    The standard deviation is unbiased (ddof 1). Zeros for a group of one and for equal rewards.
    `divide_by_std=False` only centres (Dr. GRPO, arXiv:2503.20783).
    """
    values = _as_float64(rewards)
    if _without_contrast(values):
        return torch.zeros(values.numel())
    centred = values - values.mean()
    return _scaled(centred, values, divide_by_std=divide_by_std, eps=eps)


def leave_one_out_advantages(
    rewards: Sequence[float] | Tensor, *, divide_by_std: bool = False, eps: float = STD_EPS
) -> Tensor:
    """r_i minus the mean of the *other* rewards (RLOO, arXiv:2402.14740): n / (n - 1) (r - mean).

    A baseline that does not depend on its own rollout leaves the policy gradient unbiased. The
    standard deviation, where asked for, is that of the whole group. Zeros for a group of one.
    """
    values = _as_float64(rewards)
    if _without_contrast(values):
        return torch.zeros(values.numel())
    num = values.numel()
    centred = (values - values.mean()) * (num / (num - 1))
    return _scaled(centred, values, divide_by_std=divide_by_std, eps=eps)


def _as_float64(rewards: Sequence[float] | Tensor) -> Tensor:
    if isinstance(rewards, Tensor):
        return rewards.detach().double()
    return torch.tensor(tuple(rewards), dtype=torch.float64)


def _without_contrast(values: Tensor) -> bool:
    # The mean of a constant group may differ from it by a rounding error.
    return values.numel() < 2 or bool((values == values[0]).all())


def _scaled(centred: Tensor, values: Tensor, *, divide_by_std: bool, eps: float) -> Tensor:
    if divide_by_std:
        centred = centred / (values.std(correction=1) + eps)
    return centred.float()


# --- ratios -------------------------------------------------------------------------------------


def log_ratio(numerator_T: Tensor, denominator_T: Tensor) -> Tensor:
    """[T] numerator - denominator, clamped to +-20 (no gradient beyond).

    Subtracted in float32 at least. One infinite operand gives +-20; nan stays nan, as does the
    difference of two equal infinities, so that a broken learner is seen and not trained.
    """
    return _difference(numerator_T, denominator_T).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def token_ratios(numerator_T: Tensor, denominator_T: Tensor) -> Tensor:
    """[T] exp(numerator - denominator) by token, in [2e-9, 4.9e8], without gradient."""
    return log_ratio(numerator_T, denominator_T).exp().detach()


def sequence_ratios(
    numerator_T: Tensor,
    denominator_T: Tensor,
    sequences_T: Tensor,
    *,
    num_sequences: int,
    mean: Mean = "geometric",
    valid_T: Tensor | None = None,
) -> Tensor:
    """[T] the ratio of a token's whole rollout, the same for all its tokens, without gradient.

    `geometric`: exp(mean_t x_t), which does not depend on the length; `product`: exp(sum_t x_t),
    the ratio of the rollout's probabilities, whose spread grows with it. x = numerator -
    denominator; the mean or sum is clamped to +-20, the single x is not: log-probs in which +10
    and -30 nats cancel would pass for good ones otherwise. Tokens that are not `valid_T` are left
    out; a rollout without any has ratio 1.
    """
    gap_T = _difference(numerator_T, denominator_T).detach()
    if valid_T is not None:
        gap_T = torch.where(valid_T, gap_T, 0.0)
    total_S = rollout_sums(gap_T, sequences_T, num_sequences=num_sequences)
    if mean == "geometric":
        counted_T = torch.ones_like(gap_T) if valid_T is None else valid_T.to(gap_T.dtype)
        count_S = rollout_sums(counted_T, sequences_T, num_sequences=num_sequences)
        total_S = total_S / count_S.clamp(min=1)
    return total_S.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()[sequences_T]


def rollout_sums(values_T: Tensor, sequences_T: Tensor, *, num_sequences: int) -> Tensor:
    """[S] sums of the tokens' values by rollout; 0 where it has none."""
    return values_T.new_zeros(num_sequences).index_add(0, sequences_T, values_T)


def _difference(left_T: Tensor, right_T: Tensor) -> Tensor:
    return _wide(left_T) - _wide(right_T)


def _wide(values_T: Tensor) -> Tensor:
    return values_T if values_T.dtype == torch.float64 else values_T.float()


# --- weights and masks: what is done about data that other weights sampled ----------------------


def truncated_weights(ratios_T: Tensor, *, cap: float, floor: float = 0.0) -> Tensor:
    """[T] clamp(w, floor, cap), without gradient (truncated importance sampling).

    Of `token_ratios(prox, mu)`: the weight of decoupled PPO (arXiv:2110.00641) under the cap of
    IMPALA (arXiv:1802.01561): data may be discounted without limit, never amplified beyond `cap`.
    Of `sequence_ratios(prox, mu, .., mean="product")`: truncation by sequence.
    """
    return ratios_T.detach().clamp(floor, cap)


def band_weights(ratios_T: Tensor, *, low: float, high: float) -> Tensor:
    """[T] w where low <= w <= high, else 0, without gradient (masked importance sampling).

    By token IcePop (arXiv:2510.18855), and AReaL's cap in the mode that masks; the rest of the
    rollout still trains. The token stays in every denominator.
    """
    return torch.where(band_mask(ratios_T, low=low, high=high), ratios_T.detach(), 0.0)


def band_mask(ratios_T: Tensor, *, low: float, high: float) -> Tensor:
    """[T] bool: low <= w <= high; nan is outside.

    Of `sequence_ratios(.., mean="geometric")` it masks whole rollouts, whatever their length.
    """
    return (ratios_T >= low) & (ratios_T <= high)


def veto_mask(ratios_T: Tensor, sequences_T: Tensor, *, num_sequences: int, floor: float) -> Tensor:
    """[T] bool: False for all tokens of a rollout that has any token with w < floor.

    Such a token is next to impossible for the learner: an engine that sampled it (a broken cache,
    wrong weights) can't be trusted with its neighbours. Source: slime's mismatch helper.
    """
    bad_T = (ratios_T < floor).float()
    return rollout_sums(bad_T, sequences_T, num_sequences=num_sequences)[sequences_T] == 0


# --- surrogates: [T], to be maximised -----------------------------------------------------------


def ppo_surrogate(
    ratios_T: Tensor,
    advantages_T: Tensor,
    *,
    eps_low: float | None,
    eps_high: float | None,
    dual_clip: float | None = None,
) -> Tensor:
    """[T] min(r A, clip(r, 1 - eps_low, 1 + eps_high) A), the gradient running through `ratios_T`.

    PPO (arXiv:1707.06347) with separate bounds (DAPO, arXiv:2503.14476); None leaves a side open,
    both None give r A. `dual_clip` = c > 1 (arXiv:1912.09729): for a negative advantage at least
    c A, so that a token whose probability exploded can't dominate; there the gradient is zero.
    """
    low = None if eps_low is None else 1 - eps_low
    high = None if eps_high is None else 1 + eps_high
    value_T = torch.minimum(ratios_T * advantages_T, _clamp(ratios_T, low, high) * advantages_T)
    if dual_clip is None:
        return value_T
    bounded_T = torch.maximum(value_T, dual_clip * advantages_T)
    return torch.where(advantages_T < 0, bounded_T, value_T)


def gspo_ratios(
    logprobs_T: Tensor,
    proximal_T: Tensor,
    sequences_T: Tensor,
    *,
    num_sequences: int,
    valid_T: Tensor | None = None,
) -> Tensor:
    """[T] GSPO's ratio s = exp(mean_t log r_t) of the rollout, for `ppo_surrogate`.

    The value is s; the gradient is s grad log pi_theta(token), token by token, as in GSPO-token
    (arXiv:2507.18071): sg(s) pi_theta / sg(pi_theta). With one advantage per rollout and tokens
    weighted alike within it, the rollout's gradient is that of s itself.
    """
    ratios_T = sequence_ratios(
        logprobs_T, proximal_T, sequences_T, num_sequences=num_sequences, valid_T=valid_T
    )
    return ratios_T * log_ratio(logprobs_T, logprobs_T.detach()).exp()


def cispo_surrogate(
    logprobs_T: Tensor,
    ratios_T: Tensor,
    advantages_T: Tensor,
    *,
    eps_low: float | None,
    eps_high: float | None,
) -> Tensor:
    """[T] sg(clip(r, 1 - eps_low, 1 + eps_high)) A log pi_theta (CISPO, arXiv:2506.13585).

    The clip bounds a token's weight and never removes its gradient. None leaves a side open. The
    cap is 1 + eps_high (TRL's CISPO takes its epsilon_high as the cap itself).
    """
    low = None if eps_low is None else 1 - eps_low
    high = None if eps_high is None else 1 + eps_high
    return _clamp(ratios_T, low, high).detach() * advantages_T * _wide(logprobs_T)


def reinforce_surrogate(logprobs_T: Tensor, advantages_T: Tensor) -> Tensor:
    """[T] A log pi_theta (Williams 1992): its gradient is A grad log pi_theta."""
    return advantages_T * _wide(logprobs_T)


def _clamp(values_T: Tensor, low: float | None, high: float | None) -> Tensor:
    return values_T if low is None and high is None else values_T.clamp(low, high)


# --- the proximal policy, where it is not recomputed ---------------------------------------------


def approximated_proximal(logprobs_T: Tensor, sampler_T: Tensor, staleness_T: Tensor) -> Tensor:
    """[T] log pi_prox ~ log mu + alpha (log pi_theta - log mu), without gradient; no forward.

    `staleness_T`: steps between the weights that sampled the token and the learner's. The proximal
    policy is one step behind the learner, so alpha = (staleness - 1) / staleness, between the two
    by log-linear interpolation. For staleness 0 and 1 (and below) it is mu. Source: AReaL's
    `loglinear`, whose v_theta - v_mu is the staleness.
    """
    logprobs_T, sampler_T = _wide(logprobs_T), _wide(sampler_T)
    staleness_T = staleness_T.to(logprobs_T.dtype)
    alpha_T = ((staleness_T - 1) / staleness_T.clamp(min=1)).clamp(min=0)
    moved_T = sampler_T + alpha_T * (logprobs_T - sampler_T)
    # 0 * inf is nan: where nothing moves, mu is taken as it is.
    return torch.where(alpha_T > 0, moved_T, sampler_T).detach()


# --- KL to a reference, and entropy ---------------------------------------------------------------


def k1(logprobs_T: Tensor, reference_T: Tensor) -> Tensor:
    """[T] log pi - log ref: an unbiased estimate of KL(pi || ref), of either sign.

    For the reward. As a loss its gradient is grad log pi, which is zero on average over pi: on
    fresh data it only adds noise. Source of k1, k2, k3: J. Schulman, "Approximating KL
    divergence" (2020).
    """
    return log_ratio(logprobs_T, reference_T)


def k2(logprobs_T: Tensor, reference_T: Tensor) -> Tensor:
    """[T] (log pi - log ref)^2 / 2 >= 0: biased in value, right in gradient.

    As a loss its gradient, (log pi - log ref) grad log pi, is on average over pi that of the
    reverse KL(pi || ref).
    """
    return log_ratio(logprobs_T, reference_T).square() / 2


def k3(logprobs_T: Tensor, reference_T: Tensor) -> Tensor:
    """[T] exp(x) - x - 1 >= 0 with x = log ref - log pi: unbiased in value, of low variance; at
    most `K3_LIMIT`, where its gradient ends (ref / pi above 13.6 or below 1.7e-5), as in verl,
    NeMo-RL and MM-Zero's released code.

    As a loss its gradient, (1 - ref / pi) grad log pi, is on average over pi that of the forward
    KL(ref || pi): it vanishes at the same policy, but is not the gradient of what it estimates.
    """
    gap_T = log_ratio(reference_T, logprobs_T)
    return (gap_T.exp() - gap_T - 1).clamp(max=K3_LIMIT)


def kl_in_reward(rewards: Sequence[float] | Tensor, kl: Tensor, *, beta: float) -> Tensor:
    """[n] float64 r - beta KL: rewards of a group, before advantages are taken.

    `kl` [n]: the sum over the rollout's tokens of an estimate (k1, as a rule) for the policy at
    the start of the step (arXiv:1909.08593). A constant, so that its gradient is a policy
    gradient: that of the reverse KL, unbiased with k1.
    """
    return _as_float64(rewards) - beta * kl.detach().double().to("cpu")


def kl_in_advantages(advantages: Sequence[float] | Tensor, kl: Tensor, *, beta: float) -> Tensor:
    """[n] float32 A - beta (KL - mean KL), for a group whose advantages the recipe gave.

    What centring does to the penalty of `kl_in_reward`, without touching what the recipe decided;
    the sum of the advantages stays as it was. Source of the centred form: tinker-cookbook.
    """
    kl = kl.detach().double().to("cpu")
    return (_as_float64(advantages) - beta * (kl - kl.mean())).float()


def entropy_bonus(entropy_T: Tensor, *, coefficient: float) -> Tensor:
    """[T] coefficient * H(pi_theta), to be maximised (arXiv:1602.01783).

    `entropy_T` [T] nats, of the whole distribution at each position and with gradient: minus the
    sampled log-prob has the right value, but zero gradient on average.
    """
    return coefficient * entropy_T


# --- from tokens to one number --------------------------------------------------------------------


def aggregate(
    values_T: Tensor,
    sequences_T: Tensor,
    *,
    num_sequences: int,
    by: Aggregation,
    num_loss_tokens: int,
    num_loss_sequences: int,
    constant: float | None = None,
) -> Tensor:
    """The scalar of one micro-batch; the micro-batches of an update add up.

    `token`: sum_t v / num_loss_tokens: every token counts alike (DAPO, arXiv:2503.14476).
    `sequence`: sum over rollouts of mean_t v, / num_loss_sequences: every rollout counts alike
    (GRPO, arXiv:2402.03300). Its mean is over all its tokens in `sequences_T`, masked ones too, so
    rollouts must be whole.
    `constant`: sum_t v / (num_loss_sequences * constant), e.g. the longest answer allowed: a
    token's weight depends on nothing that was sampled (Dr. GRPO, arXiv:2503.20783).

    `num_loss_tokens`, `num_loss_sequences`: over all micro-batches and ranks of the update.
    """
    if by == "token":
        return values_T.sum() / num_loss_tokens
    if by == "constant":
        assert constant is not None, "aggregation by a constant needs the constant"
        return values_T.sum() / (num_loss_sequences * constant)
    length_S = rollout_sums(torch.ones_like(values_T), sequences_T, num_sequences=num_sequences)
    mean_T = values_T / length_S[sequences_T]
    return mean_T.sum() / num_loss_sequences
