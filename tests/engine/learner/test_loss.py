"""The whole loss, for every preset: against a slow loop, in any split, and at the edges."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.learner.loss import (
    Tokens,
    diagnostics,
    policy_loss,
    proximal_logprobs,
    rollout_advantages,
)
from engine.learner.presets import PRESETS, ObjectiveConfig
from tests.engine.learner.slow_objective import Token, slow_loss

CHOICES = {name: ObjectiveConfig(preset=name) for name in PRESETS} | {
    "loglinear": ObjectiveConfig(preset="areal", proximal="approximated", weight_bounds=(0, 3)),
    "geometric_weights": ObjectiveConfig(weight_level="geometric", weight_bounds=(0.5, 1.5)),
    "product_mask": ObjectiveConfig(mask_level="product", mask_band=(0.2, 5), veto=0.05),
    "k1": ObjectiveConfig(kl_beta=0.3, kl_estimator="k1"),
    "k2": ObjectiveConfig(kl_beta=0.3, kl_estimator="k2", aggregation="sequence"),
    "entropy": ObjectiveConfig(entropy_bonus=0.2, preset="gspo", eps_low=0.2, eps_high=0.3),
    "on_policy": ObjectiveConfig(
        proximal="current", surrogate="cispo", eps_low=None, eps_high=None, dual_clip=None
    ),
}

FRESH = Token(theta=-1.0, prox=-1.0, mu=-1.0, ref=-1.0, entropy=1.0, age=0, advantage=1.0)

gaps = st.floats(-1.5, 1.5)
tokens = st.tuples(
    st.floats(-4, -0.1),
    gaps,
    st.one_of(gaps, gaps, gaps, gaps, st.sampled_from([-math.inf, math.nan, math.inf])),
    gaps,
    st.floats(0, 3),
    st.integers(0, 5),
)


@st.composite
def batches(draw: st.DrawFn) -> list[list[Token]]:
    """Rollouts, some of them empty; tokens of one rollout share the advantage."""
    rollouts = []
    for columns in draw(st.lists(st.lists(tokens, max_size=4), max_size=4)):
        advantage = draw(st.floats(-2, 2))
        rollouts.append(
            [
                Token(prox + moved, prox, prox + stale, prox + far, entropy, age, advantage)
                for prox, moved, stale, far, entropy, age in columns
            ]
        )
    return rollouts


def fast_loss(
    rollouts: Sequence[Sequence[Token]],
    objective: ObjectiveConfig,
    *,
    num_loss_tokens: int,
    num_loss_sequences: int,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, d loss / d theta and d loss / d entropy."""
    flat = [token for rollout in rollouts for token in rollout]

    def column(name: str, *, grad: bool = False) -> Tensor:
        values = [getattr(token, name) for token in flat]
        return torch.tensor(values, dtype=dtype, requires_grad=grad)

    theta_T, entropy_T = column("theta", grad=True), column("entropy", grad=True)
    loss = policy_loss(
        theta_T,
        column("prox"),
        column("mu"),
        column("advantage"),
        torch.tensor([s for s, r in enumerate(rollouts) for _ in r], dtype=torch.long),
        num_sequences=len(rollouts),
        num_loss_tokens=num_loss_tokens,
        num_loss_sequences=num_loss_sequences,
        objective=objective,
        reference_T=column("ref"),
        entropy_T=entropy_T,
        staleness_T=torch.tensor([token.age for token in flat], dtype=torch.long),
    )
    by_theta, by_entropy = torch.autograd.grad(
        loss, (theta_T, entropy_T), allow_unused=True, materialize_grads=True
    )
    return loss.detach(), by_theta, by_entropy


def random_rollouts(seed: int) -> list[list[Token]]:
    """Up to six rollouts of up to eight tokens, one sampler log-prob in ten lost."""
    rng = random.Random(seed)
    rollouts = []
    for _ in range(rng.randint(0, 6)):
        advantage, drift = rng.gauss(0, 1), rng.gauss(0, 0.5)
        rollout = []
        for _ in range(rng.randint(0, 8)):
            prox = -rng.expovariate(1)
            theta, mu = prox + rng.gauss(0, 0.5), prox - drift + rng.gauss(0, 0.4)
            mu = rng.choice([-math.inf, math.nan]) if rng.random() < 0.1 else mu
            ref, entropy = prox + rng.gauss(0, 0.3), rng.random()
            rollout.append(Token(theta, prox, mu, ref, entropy, rng.randint(0, 5), advantage))
        rollouts.append(rollout)
    return rollouts


def check_against_slow_loop(rollouts: list[list[Token]], objective: ObjectiveConfig) -> None:
    # Other micro-batches have tokens and rollouts too.
    counts = {"num_loss_tokens": 19, "num_loss_sequences": 7}
    want = slow_loss(rollouts, objective, **counts)
    loss, slopes, entropy_slopes = fast_loss(rollouts, objective, **counts)
    assert loss.item() == pytest.approx(want.loss, rel=1e-9, abs=1e-12)
    assert slopes.tolist() == pytest.approx(want.slopes, rel=1e-9, abs=1e-12)
    assert entropy_slopes.tolist() == pytest.approx(want.entropy_slopes)


@pytest.mark.parametrize("name", CHOICES)
def test_loss_and_gradient_equal_a_slow_loop(name: str) -> None:
    for seed in range(30):
        check_against_slow_loop(random_rollouts(seed), CHOICES[name])


@given(st.sampled_from(list(CHOICES)), batches())
def test_loss_and_gradient_equal_a_slow_loop_at_odd_values(
    name: str, rollouts: list[list[Token]]
) -> None:
    check_against_slow_loop(rollouts, CHOICES[name])


@pytest.mark.parametrize("name", CHOICES)
def test_any_split_into_micro_batches_gives_the_same_update(name: str) -> None:
    for seed in range(15):
        rollouts = random_rollouts(seed)
        counts = {
            "num_loss_tokens": 1 + sum(map(len, rollouts)),
            "num_loss_sequences": 1 + len(rollouts),
        }
        whole, slopes, _ = fast_loss(rollouts, CHOICES[name], **counts)
        order = list(range(len(rollouts)))
        random.Random(seed).shuffle(order)
        total, by_rollout = 0.0, {}
        for members in (order[:1], order[1:2], order[2:]):
            loss, mine, _ = fast_loss([rollouts[i] for i in members], CHOICES[name], **counts)
            total += loss.item()
            pieces = mine.split([len(rollouts[i]) for i in members]) if members else ()
            by_rollout |= dict(zip(members, pieces, strict=True))
        assert total == pytest.approx(whole.item(), rel=1e-9, abs=1e-12)
        summed = [slope for i in range(len(rollouts)) for slope in by_rollout[i].tolist()]
        assert summed == pytest.approx(slopes.tolist(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", CHOICES)
def test_float32_is_exact_enough(name: str) -> None:
    for seed in range(10):
        rollouts = random_rollouts(seed)
        counts = {"num_loss_tokens": 90, "num_loss_sequences": 6}
        want = slow_loss(rollouts, CHOICES[name], **counts)
        loss, slopes, _ = fast_loss(rollouts, CHOICES[name], **counts, dtype=torch.float32)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(want.loss, rel=1e-4, abs=1e-5)
        assert slopes.tolist() == pytest.approx(want.slopes, rel=1e-4, abs=1e-6)


def test_the_default_is_what_the_design_writes_down() -> None:
    """DESIGN's formula in torch, to the last bit: a run's loss trace must not change by accident.

    - sum min(w, 2) dualclip(min(r A, clip(r, .8, 1.3) A)) / N over rollouts whose geometric mean of
    pi_prox / mu lies in [.5, 2].
    """
    for seed in range(20):
        rollouts = [rollout for rollout in random_rollouts(seed) if rollout] or [[FRESH]]
        flat = [(s, t) for s, rollout in enumerate(rollouts) for t in rollout]
        sequences = torch.tensor([s for s, _ in flat])
        columns = [(t.theta, t.prox, t.mu, t.advantage) for _, t in flat]
        theta, prox, mu, advantages = torch.tensor(columns).T.contiguous()
        theta.requires_grad_()
        valid = mu.isfinite()
        gap = (prox - torch.where(valid, mu, prox)).clamp(-20, 20)
        mean = [gap[(sequences == s) & valid].mean().exp() for s in range(int(sequences[-1]) + 1)]
        keep = valid & torch.tensor([bool(0.5 <= m <= 2.0) for m in mean])[sequences]
        ratio = (theta - prox).clamp(-20, 20).exp()
        value = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.3) * advantages)
        value = torch.where(advantages < 0, torch.maximum(value, 3.0 * advantages), value)
        want = -torch.where(keep, gap.exp().clamp(max=2.0) * value, 0.0).sum() / 50
        got = policy_loss(
            theta,
            prox,
            mu,
            advantages,
            sequences,
            num_sequences=len(mean),
            num_loss_tokens=50,
            num_loss_sequences=7,
            objective=ObjectiveConfig(),
        )
        assert got.item() == want.item()
        assert torch.equal(torch.autograd.grad(got, theta)[0], torch.autograd.grad(want, theta)[0])


# --- edges ----------------------------------------------------------------------------------------


def one_rollout(
    theta: list[float], mu: list[float], advantage: float, objective: ObjectiveConfig
) -> Tensor:
    """The gradient, with one update per step."""
    theta_T = torch.tensor(theta, requires_grad=True)
    return torch.autograd.grad(one_loss(theta_T, mu, advantage, objective), theta_T)[0]


def one_loss(
    theta_T: Tensor, mu: list[float], advantage: float, objective: ObjectiveConfig
) -> Tensor:
    return policy_loss(
        theta_T,
        None,
        torch.tensor(mu),
        torch.full_like(theta_T, advantage),
        torch.zeros(len(mu), dtype=torch.long),
        num_sequences=1,
        num_loss_tokens=len(mu),
        num_loss_sequences=1,
        objective=objective,
        reference_T=theta_T.detach(),
        staleness_T=torch.ones_like(theta_T),
        entropy_T=torch.ones(len(mu), requires_grad=True),
    )


def test_with_one_update_the_gradient_is_weight_times_advantage() -> None:
    """pi_prox := pi_theta: r is 1 in value, and d r / d theta is 1."""
    want = [-math.exp(0.2) * 1.5 / 2, -math.exp(-0.5) * 1.5 / 2]
    got = one_rollout([-1.0, -2.0], [-1.2, -1.5], 1.5, ObjectiveConfig())
    torch.testing.assert_close(got, torch.tensor(want))


@pytest.mark.parametrize("name", CHOICES)
def test_a_good_token_becomes_likelier(name: str) -> None:
    assert (one_rollout([-1.0], [-1.0], 1.0, CHOICES[name]) < 0).all()
    assert (one_rollout([-1.0], [-1.0], -1.0, CHOICES[name]) > 0).all()


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_a_dropped_token_changes_nothing_but_itself(name: str, bad: float) -> None:
    """In particular it does not shrink the denominator."""
    both = one_rollout([-1.0, -2.0], [-1.0, -2.0], 1.0, CHOICES[name])
    one = one_rollout([-1.0, -2.0], [-1.0, bad], 1.0, CHOICES[name])
    kl = both - one_rollout([-1.0, -2.0], [-1.0, -2.0], 0.0, CHOICES[name])
    assert one.tolist() == pytest.approx([both[0].item(), both[1].item() - kl[1].item()])
    assert not one_rollout([-1.0], [bad], 1.0, ObjectiveConfig()).any()


@pytest.mark.parametrize("name", CHOICES)
def test_exploding_ratios_stay_finite(name: str) -> None:
    for mu in (-900.0, 900.0):
        assert one_rollout([-1.0, -1.0], [mu, -1.0], -1.0, CHOICES[name]).isfinite().all()


def test_a_masked_rollout_has_no_gradient() -> None:
    assert not one_rollout([-1.0, -1.0], [-9.0, -9.0], 1.0, ObjectiveConfig()).any()
    vetoed = ObjectiveConfig(mask_band=None, veto=1e-3)
    assert not one_rollout([-9.0, -1.0], [-1.0, -1.0], 1.0, vetoed).any()
    assert one_rollout([-9.0, -1.0], [-2.5, -1.0], 1.0, vetoed).all()


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("mu", [-1.0, -99.0, math.nan])
def test_a_broken_learner_does_not_hide_behind_a_mask(name: str, mu: float) -> None:
    """Its nan makes the loss nan, and the trainer skips the batch."""
    theta_T = torch.tensor([math.nan, -1.0], requires_grad=True)
    assert one_loss(theta_T, [mu, -1.0], 1.0, CHOICES[name]).isnan()


def test_a_broken_proximal_policy_does_not_hide_either() -> None:
    rollout = [Token(**{**asdict(FRESH), "prox": math.nan}), FRESH]
    loss, *_ = fast_loss([rollout], ObjectiveConfig(), num_loss_tokens=2, num_loss_sequences=1)
    assert loss.isnan()


def test_a_kl_in_the_reward_adds_nothing_to_the_loss() -> None:
    rollouts = random_rollouts(3)
    counts = {"num_loss_tokens": 90, "num_loss_sequences": 6}
    without = fast_loss(rollouts, ObjectiveConfig(preset="areal"), **counts)
    charged = fast_loss(rollouts, ObjectiveConfig(preset="areal", kl_beta=0.5), **counts)
    assert without[0] == charged[0]
    assert torch.equal(without[1], charged[1])


def test_what_the_objective_needs_must_be_given() -> None:
    theta_T = torch.tensor([-1.0], requires_grad=True)
    for objective, missing in (
        (ObjectiveConfig(kl_beta=0.1), "reference"),
        (ObjectiveConfig(entropy_bonus=0.1), "entropies"),
        (ObjectiveConfig(proximal="approximated"), "ages"),
    ):
        with pytest.raises(AssertionError, match=missing):
            policy_loss(
                theta_T,
                None,
                torch.tensor([-1.0]),
                torch.tensor([1.0]),
                torch.tensor([0]),
                num_sequences=1,
                num_loss_tokens=1,
                num_loss_sequences=1,
                objective=objective,
            )


def test_an_entropy_without_gradient_is_no_bonus() -> None:
    theta_T = torch.tensor([-1.0], requires_grad=True)
    with pytest.raises(AssertionError, match="without gradient"):
        policy_loss(
            theta_T,
            None,
            torch.tensor([-1.0]),
            torch.tensor([1.0]),
            torch.tensor([0]),
            num_sequences=1,
            num_loss_tokens=1,
            num_loss_sequences=1,
            objective=ObjectiveConfig(entropy_bonus=0.1),
            entropy_T=torch.tensor([2.0]),
        )


# --- advantages and the proximal policy, as configured --------------------------------------------


def test_advantages_follow_the_config() -> None:
    rewards = (1.0, 0.0, 0.0, 1.0)
    half, third = math.sqrt(1 / 3), 2 / 3
    for objective, first in (
        (ObjectiveConfig(), 0.5 / (half + 1e-6)),
        (ObjectiveConfig(std_eps=1.0), 0.5 / (half + 1)),
        (ObjectiveConfig(divide_by_std=False), 0.5),
        (ObjectiveConfig(preset="rloo"), third),
        (ObjectiveConfig(preset="nemo_rl"), third / (half + 1e-6)),
    ):
        got = rollout_advantages(rewards, objective)
        assert got.tolist() == pytest.approx([first, -first, -first, first])


def test_a_kl_in_the_reward_is_charged_before_the_baseline() -> None:
    objective = ObjectiveConfig(preset="rloo", kl_beta=0.1)
    got = rollout_advantages((1.0, 0.0), objective, kl=torch.tensor([2.0, -1.0]))
    assert got.tolist() == pytest.approx([0.7, -0.7])
    with pytest.raises(AssertionError, match="KL"):
        rollout_advantages((1.0, 0.0), objective)


@pytest.mark.parametrize(
    "proximal, want",
    [
        ("recomputed", [-2.0, -2.0]),
        ("current", [-1.0, -1.0]),
        ("sampler", [-3.0, -1.0]),  # the second one was lost
        ("approximated", [-1.5, -1.0]),
    ],
)
def test_the_proximal_policy_by_name(proximal: str, want: list[float]) -> None:
    objective = ObjectiveConfig.model_validate(
        {
            "proximal": proximal,
            **dict.fromkeys(
                ("weight_bounds", "mask_band", "eps_low", "eps_high", "dual_clip"), None
            ),
        }
    )
    got = proximal_logprobs(
        torch.tensor([-1.0, -1.0], requires_grad=True),
        torch.tensor([-2.0, -2.0]),
        torch.tensor([-3.0, math.nan]),
        objective=objective,
        staleness_T=torch.tensor([4, 4]),
    )
    assert got.tolist() == want
    assert not got.requires_grad


# --- diagnostics ----------------------------------------------------------------------------------


def stale_tokens() -> Tokens:
    """Ratios (2, 1/2) of rollout 0, (8) of rollout 1 (masked), one dropped token."""
    prox = [math.log(2), math.log(0.5), math.log(8), -1.0]
    return Tokens(
        logprobs_T=torch.tensor([prox[0] + 1.0, prox[1], prox[2], -1.0]),
        proximal_T=torch.tensor(prox),
        sampler_T=torch.tensor([0.0, 0.0, 0.0, -math.inf]),
        advantages_T=torch.tensor([1.0, 1.0, -1.0, 1.0]),
        sequences_T=torch.tensor([0, 0, 1, 1]),
        entropy_T=torch.tensor([1.0, 2.0, 3.0, 2.0]),
    )


def test_diagnostics_by_hand() -> None:
    got = diagnostics(stale_tokens(), objective=ObjectiveConfig(weight_bounds=(0, 2.5)))
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


@pytest.mark.parametrize(
    "name, clipped, truncated, masked",
    [
        ("grpo", 1, 0, 0),  # pi_theta / mu: 2e > 1.2; 1/2 is improving; 8 of a bad token
        ("tinker", 0, 0, 0),
        ("rloo", 0, 0, 0),
        ("icepop", 1, 1, 0),  # 8 is out of [.5, 5]; 1/2 is in it
        ("slime_mis", 1, 1, 1),
        ("verl_seq_tis", 1, 1, 0),  # product 1 of rollout 0
        ("gspo", 2, 0, 0),  # geometric means sqrt(e) and 8
        ("cispo", 2, 0, 0),  # 2e and 8 are above 5, whatever the advantage
    ],
)
def test_diagnostics_count_what_the_objective_does(
    name: str, clipped: int, truncated: int, masked: int
) -> None:
    got = diagnostics(stale_tokens(), objective=ObjectiveConfig(preset=name))
    shares = [got[f"{what}_fraction"] * 3 for what in ("clipped", "truncated", "masked")]
    assert shares == pytest.approx([clipped, truncated, masked])
    assert got["ess"] == pytest.approx(10.5**2 / (3 * 68.25)), "the data is as old as ever"


def test_diagnostics_of_nothing_but_dropped_tokens() -> None:
    nothing = torch.tensor([0.0])
    lost = Tokens(
        logprobs_T=nothing,
        proximal_T=nothing,
        sampler_T=torch.tensor([math.nan]),
        advantages_T=nothing,
        sequences_T=torch.tensor([0]),
        entropy_T=nothing,
    )
    assert diagnostics(lost, objective=ObjectiveConfig()) == {"dropped_tokens": 1.0}
