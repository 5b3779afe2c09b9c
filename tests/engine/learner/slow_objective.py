"""The objective once more, in floats and loops, from the formulas alone: what the fast one must be.

Knows nothing of `engine.learner.objectives`. Gradients are worked out by hand.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.learner.presets import ObjectiveConfig


@dataclass(frozen=True)
class Token:
    theta: float
    prox: float
    """Recomputed at the start of the step."""
    mu: float
    """Not finite: the sampler's log-prob was lost."""
    ref: float
    entropy: float
    age: int
    advantage: float


@dataclass(frozen=True)
class Slow:
    loss: float
    slopes: list[float]
    """d loss / d theta, token by token."""
    entropy_slopes: list[float]


def exp(x: float) -> float:
    return math.exp(max(-20.0, min(20.0, x)))


def proximal(token: Token, cfg: ObjectiveConfig) -> float:
    if cfg.proximal == "recomputed":
        return token.prox
    if cfg.proximal == "current" or not math.isfinite(token.mu):
        return token.theta
    if cfg.proximal == "sampler":
        return token.mu
    alpha = max(token.age - 1, 0) / token.age if token.age else 0.0
    return (1 - alpha) * token.mu + alpha * token.theta


def mean_ratio(rollout: Sequence[tuple[float, float]], level: str, own: float) -> float:
    """Of pairs (numerator, denominator); `own`: the token's log-ratio."""
    if level == "token":
        return exp(own)
    gaps = [a - b for a, b in rollout]
    return exp(sum(gaps) / (len(gaps) if level == "geometric" else 1))


def gain(token: Token, rollout: Sequence[Token], cfg: ObjectiveConfig) -> tuple[float, float]:
    """What the token adds to be maximised, and its derivative."""
    if not math.isfinite(token.mu):
        return 0.0, 0.0
    valid = [other for other in rollout if math.isfinite(other.mu)]
    stale = [(proximal(other, cfg), other.mu) for other in valid]
    moved = [(other.theta, proximal(other, cfg)) for other in valid]
    own_stale = proximal(token, cfg) - token.mu
    if cfg.mask_band is not None:
        low, high = cfg.mask_band
        if not low <= mean_ratio(stale, cfg.mask_level, own_stale) <= high:
            return 0.0, 0.0
    if cfg.veto is not None and any(exp(p - m) < cfg.veto for p, m in stale):
        return 0.0, 0.0
    weight = 1.0
    if cfg.weight_bounds is not None:
        low, high = cfg.weight_bounds
        weight = mean_ratio(stale, cfg.weight_level, own_stale)
        if cfg.weight_action == "truncate":
            weight = max(low, min(high, weight))
        elif not low <= weight <= high:
            weight = 0.0
    level = "geometric" if cfg.surrogate == "gspo" else "token"
    ratio = mean_ratio(moved, level, token.theta - proximal(token, cfg))
    value, slope = surrogate(token, ratio, cfg)
    return weight * value, weight * slope


def surrogate(token: Token, ratio: float, cfg: ObjectiveConfig) -> tuple[float, float]:
    a = token.advantage
    if cfg.surrogate == "reinforce":
        return a * token.theta, a
    low = -math.inf if cfg.eps_low is None else 1 - cfg.eps_low
    high = math.inf if cfg.eps_high is None else 1 + cfg.eps_high
    if cfg.surrogate == "cispo":
        capped = max(low, min(high, ratio))
        return capped * a * token.theta, capped * a
    if a >= 0:
        return (ratio * a, ratio * a) if ratio <= high else (high * a, 0.0)
    if ratio < low:
        return low * a, 0.0
    if cfg.dual_clip is not None and ratio > cfg.dual_clip:
        return cfg.dual_clip * a, 0.0
    return ratio * a, ratio * a


def kl(token: Token, cfg: ObjectiveConfig) -> tuple[float, float]:
    x = token.theta - token.ref
    return {
        "k1": (x, 1.0),
        "k2": (x * x / 2, x),
        "k3": (exp(-x) - 1 + x, 1 - exp(-x)) if exp(-x) - 1 + x <= 10 else (10.0, 0.0),
    }[cfg.kl_estimator]


def slow_loss(
    rollouts: Sequence[Sequence[Token]],
    cfg: ObjectiveConfig,
    *,
    num_loss_tokens: int,
    num_loss_sequences: int,
) -> Slow:
    loss = 0.0
    slopes, entropy_slopes = [], []
    for rollout in rollouts:
        for token in rollout:
            share = 1 / num_loss_tokens
            if cfg.aggregation == "sequence":
                share = 1 / (len(rollout) * num_loss_sequences)
            elif cfg.aggregation == "constant":
                share = 1 / (cfg.aggregation_constant or math.nan) / num_loss_sequences
            value, slope = gain(token, rollout, cfg)
            penalty, pull = kl(token, cfg) if cfg.kl_place == "loss" else (0.0, 0.0)
            loss += share * (-value + cfg.kl_beta * penalty - cfg.entropy_bonus * token.entropy)
            slopes.append(share * (-slope + cfg.kl_beta * pull))
            entropy_slopes.append(-share * cfg.entropy_bonus)
    return Slow(loss, slopes, entropy_slopes)
