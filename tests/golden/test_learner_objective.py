"""The objective against hand-worked numbers and an independent slow loop, gradients included."""

import math
import random
from dataclasses import dataclass

import pytest
import torch

from engine.learner.advantages import group_advantages
from engine.learner.corrections import log_ratio, sequence_mask, truncated_weights
from engine.learner.loss import Tokens, diagnostics, k3, policy_loss, surrogate

HYPER = {
    "eps_low": 0.2,
    "eps_high": 0.3,
    "dual_clip": 3.0,
    "weight_cap": 2.0,
    "sequence_band": (0.5, 2.0),
}


# --- advantages -------------------------------------------------------------------------------


def test_advantages_of_a_hand_worked_group() -> None:
    """(.9, .45, .2, -1): mean .1375, unbiased std .81176."""
    got = group_advantages((0.9, 0.45, 0.2, -1.0), divide_by_std=True)
    want = [0.93932, 0.38497, 0.07699, -1.40128]
    torch.testing.assert_close(got, torch.tensor(want), atol=1e-4, rtol=0)
    centred = group_advantages((0.9, 0.45, 0.2, -1.0), divide_by_std=False)
    torch.testing.assert_close(centred, torch.tensor([0.7625, 0.3125, 0.0625, -1.1375]))


@pytest.mark.parametrize("rewards", [(0.3,), (0.1,) * 7, ()])
def test_groups_without_contrast_have_zero_advantage(rewards: tuple[float, ...]) -> None:
    assert group_advantages(rewards, divide_by_std=True).tolist() == [0.0] * len(rewards)


# --- terms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio, advantage, value, slope",
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.5, 2.0, 2.6, 0.0),  # clipped at 1 + .3
        (0.5, 2.0, 1.0, 2.0),  # too small but improving: not clipped
        (0.5, -2.0, -1.6, 0.0),  # clipped at 1 - .2
        (1.5, -2.0, -3.0, -2.0),
        (9.0, -2.0, -6.0, 0.0),  # dual clip at 3
    ],
)
def test_surrogate_by_hand(ratio: float, advantage: float, value: float, slope: float) -> None:
    ratio_T = torch.tensor([ratio], requires_grad=True)
    got = surrogate(ratio_T, torch.tensor([advantage]), eps_low=0.2, eps_high=0.3, dual_clip=3.0)
    got.sum().backward()
    assert got.item() == pytest.approx(value)
    assert ratio_T.grad is not None
    assert ratio_T.grad.item() == pytest.approx(slope)


def test_without_dual_clip_the_loss_of_an_exploded_token_is_unbounded() -> None:
    args = (torch.tensor([9.0]), torch.tensor([-2.0]))
    assert surrogate(*args, eps_low=0.2, eps_high=0.3, dual_clip=None).item() == -18.0


def test_k3_by_hand() -> None:
    """pi = 1/2, ref = 1/4: x = -ln 2, k3 = .5 + .693147 - 1."""
    got = k3(torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)]))
    assert got.item() == pytest.approx(0.193147, abs=1e-6)


def test_ratios_do_not_overflow() -> None:
    far = log_ratio(torch.tensor([0.0, -900.0]), torch.tensor([-900.0, 0.0]))
    assert far.tolist() == [20.0, -20.0]
    weights = truncated_weights(torch.tensor([0.0]), torch.tensor([-900.0]), cap=2.0)
    assert weights.item() == 2.0


def test_sequence_mask_is_a_geometric_mean_per_rollout() -> None:
    """Gaps (ln 8, 0, 0): geometric mean 2, inside [.5, 2]; (ln 9,): outside."""
    gaps = [math.log(8), 0.0, 0.0, math.log(9)]
    keep = sequence_mask(
        torch.tensor(gaps),
        torch.zeros(4),
        torch.tensor([True] * 4),
        torch.tensor([0, 0, 0, 1]),
        num_sequences=2,
        band=(0.5, 2.0001),
    )
    assert keep.tolist() == [True, True, True, False]


# --- the whole loss against a slow loop ---------------------------------------------------------


@dataclass
class Case:
    theta: list[float]
    prox: list[float]
    mu: list[float]
    ref: list[float]
    adv: list[float]
    seq: list[int]


def random_case(seed: int) -> Case:
    rng = random.Random(seed)
    case = Case([], [], [], [], [], [])
    for sequence in range(rng.randint(1, 5)):
        advantage, drift = rng.gauss(0, 1), rng.gauss(0, 0.5)
        for _ in range(rng.randint(1, 6)):
            prox = -rng.expovariate(1)
            case.prox.append(prox)
            case.theta.append(prox + rng.gauss(0, 0.5))
            case.mu.append(rng.choice([prox - drift + rng.gauss(0, 0.4)] * 9 + [-math.inf]))
            case.ref.append(prox + rng.gauss(0, 0.3))
            case.adv.append(advantage)
            case.seq.append(sequence)
    return case


def slow_loss(case: Case, n: int, beta: float) -> tuple[float, list[float]]:
    """Loss and d loss / d theta, token by token, from the formula alone."""
    lo, hi, dual, cap, band = 0.8, 1.3, 3.0, 2.0, (0.5, 2.0)
    keep: dict[int, bool] = {}
    for s in set(case.seq):
        gaps = [
            case.prox[t] - case.mu[t]
            for t in range(len(case.seq))
            if case.seq[t] == s and math.isfinite(case.mu[t])
        ]
        keep[s] = bool(gaps) and band[0] <= math.exp(sum(gaps) / len(gaps)) <= band[1]
    loss, gradient = 0.0, []
    for t, a in enumerate(case.adv):
        slope = 0.0
        if keep[case.seq[t]] and math.isfinite(case.mu[t]):
            w = min(math.exp(case.prox[t] - case.mu[t]), cap)
            rho = math.exp(case.theta[t] - case.prox[t])
            if a >= 0:
                objective, d = (rho * a, rho * a) if rho <= hi else (hi * a, 0.0)
            elif rho < lo:
                objective, d = lo * a, 0.0
            elif rho > dual:
                objective, d = dual * a, 0.0
            else:
                objective, d = rho * a, rho * a
            loss -= w * objective
            slope -= w * d
        x = case.ref[t] - case.theta[t]
        loss += beta * (math.exp(x) - x - 1)
        slope += beta * (1 - math.exp(x))
        gradient.append(slope / n)
    return loss / n, gradient


@pytest.mark.parametrize("beta", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(40))
def test_loss_and_gradient_equal_a_slow_loop(seed: int, beta: float) -> None:
    case = random_case(seed)
    n = len(case.theta) + 3  # other micro-batches have tokens too
    theta = torch.tensor(case.theta, requires_grad=True)
    loss = policy_loss(
        theta,
        torch.tensor(case.prox),
        torch.tensor(case.mu),
        torch.tensor(case.adv),
        torch.tensor(case.seq),
        num_sequences=max(case.seq) + 1,
        num_loss_tokens=n,
        kl_beta=beta,
        reference_T=torch.tensor(case.ref),
        **HYPER,  # type: ignore[arg-type]
    )
    loss.backward()
    want, slopes = slow_loss(case, n, beta)
    assert loss.item() == pytest.approx(want, abs=1e-5)
    assert theta.grad is not None
    torch.testing.assert_close(theta.grad, torch.tensor(slopes), atol=1e-5, rtol=1e-4)


def one_sequence(theta: list[float], mu: list[float], adv: float, **over: object) -> torch.Tensor:
    theta_T = torch.tensor(theta, requires_grad=True)
    options = {**HYPER, "num_sequences": 1, "num_loss_tokens": len(theta), **over}
    policy_loss(
        theta_T,
        None,
        torch.tensor(mu),
        torch.full((len(theta),), adv),
        torch.zeros(len(theta), dtype=torch.long),
        **options,  # type: ignore[arg-type]
    ).backward()
    assert theta_T.grad is not None
    return theta_T.grad


def test_with_one_update_the_gradient_is_weight_times_advantage() -> None:
    """pi_prox := pi_theta: rho is 1 in value, and d rho / d theta is 1."""
    theta, mu = [-1.0, -2.0], [-1.2, -1.5]
    want = [-math.exp(0.2) * 1.5 / 2, -math.exp(-0.5) * 1.5 / 2]
    torch.testing.assert_close(one_sequence(theta, mu, 1.5), torch.tensor(want))


def test_a_good_token_becomes_likelier() -> None:
    assert (one_sequence([-1.0], [-1.0], 1.0) < 0).all()
    assert (one_sequence([-1.0], [-1.0], -1.0) > 0).all()


def test_a_dropped_token_does_not_shrink_the_denominator() -> None:
    both = one_sequence([-1.0, -2.0], [-1.0, -2.0], 1.0)
    for bad in (math.nan, -math.inf, math.inf):
        one = one_sequence([-1.0, -2.0], [-1.0, bad], 1.0)
        assert one.tolist() == [both[0].item(), 0.0]


def test_a_masked_rollout_has_no_gradient() -> None:
    assert not one_sequence([-1.0, -1.0], [-9.0, -9.0], 1.0).any()
    assert not one_sequence([-1.0], [math.nan], 1.0).any()


# --- diagnostics --------------------------------------------------------------------------------


def test_diagnostics_by_hand() -> None:
    """Ratios (2, 1/2) of rollout 0, (8) of rollout 1 (masked), one dropped token."""
    prox = [math.log(2), math.log(0.5), math.log(8), -1.0]
    tokens = Tokens(
        logprobs_T=torch.tensor([prox[0] + 1.0, prox[1], prox[2], -1.0]),
        proximal_T=torch.tensor(prox),
        sampler_T=torch.tensor([0.0, 0.0, 0.0, -math.inf]),
        advantages_T=torch.tensor([1.0, 1.0, -1.0, 1.0]),
        sequences_T=torch.tensor([0, 0, 1, 1]),
        entropy_T=torch.tensor([1.0, 2.0, 3.0, 2.0]),
    )
    got = diagnostics(tokens, eps_low=0.2, eps_high=0.3, weight_cap=2.5, sequence_band=(0.5, 2.0))
    assert got["dropped_tokens"] == 1
    assert got["ess"] == pytest.approx(10.5**2 / (3 * 68.25))
    assert got["ratio_mean"] == pytest.approx(3.5)
    assert got["ratio_max"] == pytest.approx(8)
    assert got["k1"] == pytest.approx(-math.log(8) / 3)
    assert got["k3"] == pytest.approx(2.5 - math.log(8) / 3)
    assert got["clipped_fraction"] == pytest.approx(1 / 3)
    assert got["truncated_fraction"] == pytest.approx(1 / 3)
    assert got["masked_fraction"] == pytest.approx(1 / 3)
    assert got["entropy"] == pytest.approx(2.0)


def test_diagnostics_of_nothing_but_dropped_tokens() -> None:
    nothing = torch.tensor([0.0])
    tokens = Tokens(
        logprobs_T=nothing,
        proximal_T=nothing,
        sampler_T=torch.tensor([math.nan]),
        advantages_T=nothing,
        sequences_T=torch.tensor([0]),
        entropy_T=nothing,
    )
    got = diagnostics(tokens, eps_low=0.2, eps_high=0.3, weight_cap=2.0, sequence_band=None)
    assert got == {"dropped_tokens": 1.0}
