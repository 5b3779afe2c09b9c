"""Every function of the objectives: by hand, against a slow loop, its gradient, at the edges."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from engine.learner import objectives as o

INF, NAN = math.inf, math.nan

logprobs = st.floats(-6, 0)
rewards = st.lists(st.floats(-2, 2), min_size=2, max_size=6).filter(
    lambda r: max(r) - min(r) > 1e-3
)


@st.composite
def columns(draw: st.DrawFn, num: int = 2) -> tuple[list[int], list[list[float]]]:
    """The rollout of each token (some rollouts may have none), and `num` log-probs of each."""
    sequences = draw(st.lists(st.integers(0, 3), max_size=8))
    size = len(sequences)
    return sequences, [draw(st.lists(logprobs, min_size=size, max_size=size)) for _ in range(num)]


def f64(values: Sequence[float], *, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def i64(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def close(got: Tensor, want: Sequence[float]) -> None:
    torch.testing.assert_close(got.double(), f64(want), atol=1e-9, rtol=1e-9)


def slopes(make: Callable[[Tensor], Tensor], at: Sequence[float]) -> list[float]:
    """d sum(make(x)) / d x."""
    x = f64(at, grad=True)
    make(x).sum().backward()
    assert x.grad is not None
    return x.grad.tolist()


# --- advantages -----------------------------------------------------------------------------------


def test_group_advantages_by_hand() -> None:
    """(.9, .45, .2, -1): mean .1375, unbiased std .81176."""
    group = (0.9, 0.45, 0.2, -1.0)
    want = torch.tensor([0.93932, 0.38497, 0.07699, -1.40128])
    torch.testing.assert_close(
        o.group_advantages(group, divide_by_std=True), want, atol=1e-4, rtol=0
    )
    centred = o.group_advantages(torch.tensor(group), divide_by_std=False)
    torch.testing.assert_close(centred, torch.tensor([0.7625, 0.3125, 0.0625, -1.1375]))
    rough = o.group_advantages((0.0, 2.0), divide_by_std=True, eps=math.sqrt(2))
    torch.testing.assert_close(rough, torch.tensor([-1.0, 1.0]) / (2 * math.sqrt(2)))


def test_leave_one_out_advantages_by_hand() -> None:
    """1 against the mean of (0, 0, 1); 0 against that of (1, 0, 1)."""
    got = o.leave_one_out_advantages((1, 0, 0, 1))
    torch.testing.assert_close(got, torch.tensor([2 / 3, -2 / 3, -2 / 3, 2 / 3]))


@given(rewards)
def test_advantages_equal_a_slow_loop(group: list[float]) -> None:
    n = len(group)
    mean = sum(group) / n
    std = math.sqrt(sum((r - mean) ** 2 for r in group) / (n - 1))
    baselines = [(sum(group) - r) / (n - 1) for r in group]
    for got, want in (
        (o.group_advantages(group, divide_by_std=False), [r - mean for r in group]),
        (o.group_advantages(group, divide_by_std=True), [(r - mean) / (std + 1e-6) for r in group]),
        (o.leave_one_out_advantages(group), [r - b for r, b in zip(group, baselines, strict=True)]),
        (
            o.leave_one_out_advantages(group, divide_by_std=True, eps=0.1),
            [(r - b) / (std + 0.1) for r, b in zip(group, baselines, strict=True)],
        ),
    ):
        assert got.dtype == torch.float32
        assert got.tolist() == pytest.approx(want, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("group", [(0.3,), (0.1,) * 7, ()])
@pytest.mark.parametrize("divide_by_std", [True, False])
def test_groups_without_contrast_have_zero_advantage(
    group: tuple[float, ...], divide_by_std: bool
) -> None:
    for function in (o.group_advantages, o.leave_one_out_advantages):
        assert function(group, divide_by_std=divide_by_std).tolist() == [0.0] * len(group)


# --- ratios ---------------------------------------------------------------------------------------


def test_log_ratios_at_the_edges() -> None:
    left = f64([0, -900, INF, -INF, 0, 0, -INF, NAN, 3])
    right = f64([-900, 0, 0, 0, -INF, INF, -INF, 0, 1])
    got = o.log_ratio(left, right).tolist()
    assert got[:6] == [20, -20, 20, -20, 20, -20]
    assert math.isnan(got[6])
    assert math.isnan(got[7])
    assert got[8] == 2
    assert slopes(lambda x: o.log_ratio(x, right[:2]), [0, -900]) == [0, 0]
    assert slopes(lambda x: o.log_ratio(x, right[8:]), [3]) == [1]


def test_ratios_are_computed_in_float32_at_least() -> None:
    half = torch.tensor([-1.0], dtype=torch.bfloat16)
    assert o.log_ratio(half, half).dtype == torch.float32
    assert o.token_ratios(f64([-1]), f64([-2])).dtype == torch.float64


def test_ratios_by_hand() -> None:
    """Gaps (ln 8, 0, 0): product 8, geometric mean 2; (ln 9) alone."""
    prox, mu = f64([math.log(8), 0, 0, math.log(9)]), f64([0, 0, 0, 0])
    at = {"sequences_T": i64([0, 0, 0, 1]), "num_sequences": 2}
    close(o.token_ratios(prox, mu), [8, 1, 1, 9])
    close(o.sequence_ratios(prox, mu, **at), [2, 2, 2, 9])  # type: ignore[arg-type]
    close(o.sequence_ratios(prox, mu, mean="product", **at), [8, 8, 8, 9])  # type: ignore[arg-type]
    without = torch.tensor([False, True, True, False])
    close(o.sequence_ratios(prox, mu, valid_T=without, **at), [1, 1, 1, 1])  # type: ignore[arg-type]


@given(columns(), st.data())
def test_sequence_ratios_equal_a_slow_loop(
    case: tuple[list[int], list[list[float]]], data: st.DataObject
) -> None:
    sequences, (prox, mu) = case
    valid = [data.draw(st.booleans()) for _ in sequences]
    for mean in ("geometric", "product"):
        want = []
        for sequence in sequences:
            gaps = [
                p - m
                for p, m, s, v in zip(prox, mu, sequences, valid, strict=True)
                if s == sequence and v
            ]
            total = sum(gaps) / (max(len(gaps), 1) if mean == "geometric" else 1)
            want.append(math.exp(max(-20.0, min(20.0, total))))
        got = o.sequence_ratios(
            f64(prox),
            f64(mu),
            i64(sequences),
            num_sequences=4,
            mean=mean,  # type: ignore[arg-type]
            valid_T=torch.tensor(valid, dtype=torch.bool),
        )
        close(got, want)


def test_opposite_extremes_of_a_rollout_do_not_cancel_in_the_clamp() -> None:
    """+10 and -60 nats: together e^-20, not e^(10 - 20)."""
    got = o.sequence_ratios(
        f64([10, -60]), f64([0, 0]), i64([0, 0]), num_sequences=1, mean="product"
    )
    close(got, [math.exp(-20)] * 2)


def test_weights_have_no_gradient() -> None:
    x = f64([-1, -2], grad=True)
    ratios = o.token_ratios(x, f64([-2, -2]))
    by_sequence = o.sequence_ratios(x, f64([-2, -2]), i64([0, 0]), num_sequences=1)
    for weights in (ratios, by_sequence, o.truncated_weights(x.exp(), cap=1)):
        assert not weights.requires_grad
    assert not o.band_weights(x.exp(), low=0, high=9).requires_grad


# --- weights and masks ----------------------------------------------------------------------------


def test_weights_and_masks_by_hand() -> None:
    ratios = f64([0.25, 0.5, 1.0, 5.0, 5.5])
    close(o.truncated_weights(ratios, cap=2), [0.25, 0.5, 1, 2, 2])
    close(o.truncated_weights(ratios, cap=2, floor=0.5), [0.5, 0.5, 1, 2, 2])
    close(o.band_weights(ratios, low=0.5, high=5), [0, 0.5, 1, 5, 0])
    assert o.band_mask(ratios, low=0.5, high=5).tolist() == [False, True, True, True, False]
    assert not o.band_mask(f64([NAN]), low=0, high=9).any()


@given(columns(num=1), st.floats(0.05, 0.9), st.floats(1, 4))
def test_weights_and_masks_equal_a_slow_loop(
    case: tuple[list[int], list[list[float]]], low: float, high: float
) -> None:
    sequences, (gaps,) = case
    ratios = [math.exp(gap + 2) for gap in gaps]
    inside = [low <= ratio <= high for ratio in ratios]
    close(
        o.truncated_weights(f64(ratios), cap=high, floor=low),
        [min(max(ratio, low), high) for ratio in ratios],
    )
    close(
        o.band_weights(f64(ratios), low=low, high=high),
        [ratio if keep else 0 for ratio, keep in zip(ratios, inside, strict=True)],
    )
    assert o.band_mask(f64(ratios), low=low, high=high).tolist() == inside
    vetoed = {s for s, ratio in zip(sequences, ratios, strict=True) if ratio < low}
    kept = o.veto_mask(f64(ratios), i64(sequences), num_sequences=4, floor=low)
    assert kept.tolist() == [s not in vetoed for s in sequences]


def test_one_impossible_token_voids_its_rollout_only() -> None:
    ratios = torch.tensor([1.0, 9e-5, 1.0, 1.1e-4])
    kept = o.veto_mask(ratios, i64([0, 0, 1, 1]), num_sequences=3, floor=1e-4)
    assert kept.tolist() == [False, False, True, True]


# --- surrogates -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ratio, advantage, value, slope",
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.5, 2.0, 2.6, 0.0),  # clipped at 1 + .3
        (0.5, 2.0, 1.0, 2.0),  # too small but improving: not clipped
        (0.5, -2.0, -1.6, 0.0),  # clipped at 1 - .2
        (1.5, -2.0, -3.0, -2.0),
        (9.0, -2.0, -6.0, 0.0),  # dual clip at 3
        (9.0, 0.0, 0.0, 0.0),
    ],
)
def test_ppo_surrogate_by_hand(ratio: float, advantage: float, value: float, slope: float) -> None:
    clip = partial(
        o.ppo_surrogate, advantages_T=f64([advantage]), eps_low=0.2, eps_high=0.3, dual_clip=3.0
    )
    close(clip(f64([ratio])), [value])
    assert slopes(clip, [ratio]) == [pytest.approx(slope)]


def test_without_a_clip_the_surrogate_is_unbounded() -> None:
    one = (f64([9, 9]), f64([-2, 2]))
    close(o.ppo_surrogate(*one, eps_low=0.2, eps_high=0.3), [-18, 2.6])
    close(o.ppo_surrogate(*one, eps_low=None, eps_high=None), [-18, 18])
    close(o.ppo_surrogate(*one, eps_low=0.2, eps_high=None), [-18, 18])
    close(o.ppo_surrogate(f64([0.1]), f64([-2]), eps_low=None, eps_high=0.2), [-0.2])


@given(
    st.lists(st.tuples(st.floats(0.01, 9), st.floats(-3, 3)), max_size=6),
    st.one_of(st.none(), st.floats(0.05, 0.9)),
    st.one_of(st.none(), st.floats(0.05, 4)),
    st.one_of(st.none(), st.floats(1.1, 5)),
)
def test_ppo_surrogate_equals_a_slow_loop(
    tokens: list[tuple[float, float]],
    eps_low: float | None,
    eps_high: float | None,
    dual_clip: float | None,
) -> None:
    want = []
    for ratio, advantage in tokens:
        low = -INF if eps_low is None else 1 - eps_low
        high = INF if eps_high is None else 1 + eps_high
        value = min(ratio * advantage, min(max(ratio, low), high) * advantage)
        if dual_clip is not None and advantage < 0:
            value = max(value, dual_clip * advantage)
        want.append(value)
    got = o.ppo_surrogate(
        f64([ratio for ratio, _ in tokens]),
        f64([advantage for _, advantage in tokens]),
        eps_low=eps_low,
        eps_high=eps_high,
        dual_clip=dual_clip,
    )
    close(got, want)


def test_gspo_ratios_by_hand() -> None:
    """Gaps (ln 4, 0): s = 2 for both tokens, each with its own gradient; one token alone: e^.5."""
    prox, sequences = f64([0, 0, 0]), i64([0, 0, 1])
    ratios = partial(o.gspo_ratios, proximal_T=prox, sequences_T=sequences, num_sequences=2)
    at = [math.log(4), 0, 0.5]
    close(ratios(f64(at)), [2, 2, math.exp(0.5)])
    only_first = i64([1, 0, 0])
    assert slopes(ratios, at) == pytest.approx([2, 2, math.exp(0.5)])
    assert slopes(lambda x: ratios(x) * only_first, at) == pytest.approx([2, 0, 0])


@given(columns(), st.floats(-2, 2))
def test_gspo_has_the_gradient_of_the_sequence_ratio(
    case: tuple[list[int], list[list[float]]], advantage: float
) -> None:
    """Averaged over each rollout, token by token is the same as exp(mean) differentiated."""
    sequences, (theta, prox) = case
    length = [sequences.count(s) for s in sequences]
    got = slopes(
        lambda x: (
            o.gspo_ratios(x, f64(prox), i64(sequences), num_sequences=4) * advantage / f64(length)
        ),
        theta,
    )
    want = []
    for sequence, size in zip(sequences, length, strict=True):
        gaps = [p - q for p, q, s in zip(theta, prox, sequences, strict=True) if s == sequence]
        want.append(advantage * math.exp(sum(gaps) / size) / size)
    assert got == pytest.approx(want)


def test_cispo_surrogate_by_hand() -> None:
    """log pi = -1; the weight is clipped to [.8, 1.3], the gradient never removed."""
    ratios, advantages = f64([0.5, 1.1, 9]), f64([-2, 2, 2])
    clip = partial(
        o.cispo_surrogate, ratios_T=ratios, advantages_T=advantages, eps_low=0.2, eps_high=0.3
    )
    close(clip(f64([-1, -1, -1])), [1.6, -2.2, -2.6])
    assert slopes(clip, [-1, -1, -1]) == pytest.approx([-1.6, 2.2, 2.6])
    close(
        o.cispo_surrogate(f64([-1] * 3), ratios, advantages, eps_low=None, eps_high=4),
        [1, -2.2, -10],
    )


def test_the_cap_of_cispo_has_no_gradient() -> None:
    x = f64([-1.0], grad=True)
    ratios = o.log_ratio(x, f64([-1.1])).exp()
    o.cispo_surrogate(x, ratios, f64([2]), eps_low=None, eps_high=4).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([2 * math.exp(0.1)])


def test_reinforce_surrogate_by_hand() -> None:
    reinforce = partial(o.reinforce_surrogate, advantages_T=f64([2, -1]))
    close(reinforce(f64([-0.5, -3])), [-1, 3])
    assert slopes(reinforce, [-0.5, -3]) == [2, -1]


# --- the proximal policy --------------------------------------------------------------------------


def test_approximated_proximal_by_hand() -> None:
    """Between mu = -3 and theta = -1 at (s - 1) / s: ages 0 and 1 stay at mu, 2 is half way."""
    got = o.approximated_proximal(f64([-1] * 5), f64([-3] * 5), i64([0, 1, 2, 4, -1]))
    close(got, [-3, -3, -2, -1.5, -3])
    assert not o.approximated_proximal(f64([-1], grad=True), f64([-3]), i64([5])).requires_grad


@given(st.lists(st.tuples(logprobs, logprobs, st.integers(0, 40)), max_size=6))
def test_approximated_proximal_equals_its_definition_in_versions(
    tokens: list[tuple[float, float, int]],
) -> None:
    want = []
    for theta, mu, version in tokens:
        current, proximal = 40, 39
        moved = 0.0 if current == version else (proximal - version) / (current - version)
        want.append(mu + min(max(moved, 0), 1) * (theta - mu))
    thetas, mus, versions = zip(*tokens, strict=True) if tokens else ((), (), ())
    got = o.approximated_proximal(f64(thetas), f64(mus), i64([40 - v for v in versions]))
    close(got, want)


def test_a_token_that_the_learner_excludes_stays_at_mu_while_fresh() -> None:
    got = o.approximated_proximal(f64([-INF, -INF]), f64([-3, -3]), i64([1, 2]))
    assert got.tolist() == [-3, -INF]


# --- KL and entropy -------------------------------------------------------------------------------


def test_kl_estimates_by_hand() -> None:
    """pi = 1/2, ref = 1/4: log pi - log ref = ln 2."""
    pair = (f64([math.log(0.5)]), f64([math.log(0.25)]))
    close(o.k1(*pair), [math.log(2)])
    close(o.k2(*pair), [math.log(2) ** 2 / 2])
    close(o.k3(*pair), [math.log(2) - 0.5])
    close(o.k3(*reversed(pair)), [1 - math.log(2)])


@given(columns())
def test_kl_estimates_and_gradients_equal_a_slow_loop(
    case: tuple[list[int], list[list[float]]],
) -> None:
    _, (theta, ref) = case
    gaps = [p - q for p, q in zip(theta, ref, strict=True)]
    for function, value, slope in (
        (o.k1, lambda x: x, lambda x: 1.0),
        (o.k2, lambda x: x * x / 2, lambda x: x),
        (
            o.k3,
            lambda x: min(10, math.exp(-x) - 1 + x),
            lambda x: 1 - math.exp(-x) if math.exp(-x) - 1 + x <= 10 else 0,
        ),
    ):
        close(function(f64(theta), f64(ref)), [value(x) for x in gaps])
        got = slopes(partial(function, reference_T=f64(ref)), theta)
        assert got == pytest.approx([slope(x) for x in gaps], abs=1e-9)


def test_one_stale_token_is_not_all_of_the_kl() -> None:
    """The reference gives it .15, the policy 1e-6: without a bound its k3 is 150,000."""
    theta = f64([math.log(1e-6), math.log(0.15 / 13), math.nan], grad=True)
    ref = f64([math.log(0.15), math.log(0.15), -1.0])
    values = o.k3(theta, ref)
    close(values[:2], [10, 12 - math.log(13)])
    (slope,) = torch.autograd.grad(values[:2].sum(), theta)
    close(slope[:2], [0, -12])
    assert values[2].isnan(), "a broken learner is seen"


def test_each_kl_estimate_has_the_gradient_that_its_docstring_claims() -> None:
    """Exact expectations over a vocabulary of four, sampled from pi itself."""
    logits, ref = f64([0.3, -1.0, 0.8, 0.1], grad=True), f64([0.0, 0.5, -0.5, 0.2]).log_softmax(0)
    pi = logits.log_softmax(0)

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    reverse = gradient((pi.exp() * (pi - ref)).sum())
    forward = gradient((ref.exp() * (ref - pi)).sum())
    weight = pi.exp().detach()
    torch.testing.assert_close(gradient((weight * o.k1(pi, ref)).sum()), torch.zeros_like(reverse))
    torch.testing.assert_close(gradient((weight * o.k2(pi, ref)).sum()), reverse)
    torch.testing.assert_close(gradient((weight * o.k3(pi, ref)).sum()), forward)
    # In the reward: the penalty is a constant, and the policy gradient does the rest.
    in_reward = weight * o.k1(pi, ref).detach() * pi
    torch.testing.assert_close(gradient(in_reward.sum()), reverse)


def test_kl_in_the_reward_by_hand() -> None:
    kl = o.rollout_sums(f64([0.5, 1.5, -1]), i64([0, 0, 1]), num_sequences=3)
    close(kl, [2, -1, 0])
    close(o.kl_in_reward([1, 0, 0], kl, beta=0.1), [0.8, 0.1, 0])
    got = o.kl_in_advantages((0.25, -3.0, 1.0), kl, beta=0.3)
    want = [0.25 - 0.3 * 5 / 3, -3 + 0.3 * 4 / 3, 1 + 0.3 / 3]
    assert got.tolist() == pytest.approx(want)
    assert got.sum().item() == pytest.approx(-1.75)
    alone = o.kl_in_advantages([2.0], f64([7]), beta=0.3)
    assert alone.tolist() == [2.0]


@given(rewards, st.data())
def test_both_ways_to_charge_a_kl_agree_where_advantages_are_centred_rewards(
    group: list[float], data: st.DataObject
) -> None:
    kl = f64(data.draw(st.lists(st.floats(0, 2), min_size=len(group), max_size=len(group))))
    charged = o.group_advantages(o.kl_in_reward(group, kl, beta=0.5), divide_by_std=False)
    centred = o.group_advantages(group, divide_by_std=False)
    torch.testing.assert_close(
        o.kl_in_advantages(centred, kl, beta=0.5), charged, atol=1e-5, rtol=1e-5
    )


def test_entropy_bonus_by_hand() -> None:
    bonus = partial(o.entropy_bonus, coefficient=0.01)
    close(bonus(f64([2, 0])), [0.02, 0])
    assert slopes(bonus, [2, 0]) == [0.01, 0.01]


# --- aggregation ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "by, constant, value, slope",
    [
        ("token", None, 10 / 8, [1 / 8] * 4),
        ("sequence", None, (2 + 4) / 3, [1 / 9, 1 / 9, 1 / 9, 1 / 3]),
        ("constant", 5, 10 / 15, [1 / 15] * 4),
    ],
)
def test_aggregate_by_hand(
    by: o.Aggregation, constant: float | None, value: float, slope: list[float]
) -> None:
    """Rollouts (1, 2, 3) and (4); the update has 8 tokens in 3 rollouts."""
    add = partial(
        o.aggregate,
        sequences_T=i64([0, 0, 0, 1]),
        num_sequences=2,
        by=by,
        num_loss_tokens=8,
        num_loss_sequences=3,
        constant=constant,
    )
    close(add(f64([1, 2, 3, 4])).reshape(1), [value])
    assert slopes(add, [1, 2, 3, 4]) == pytest.approx(slope)


@given(columns(num=1), st.sampled_from(["token", "sequence", "constant"]))
def test_aggregate_equals_a_slow_loop(
    case: tuple[list[int], list[list[float]]], by: o.Aggregation
) -> None:
    sequences, (values,) = case
    want = 0.0
    for value, sequence in zip(values, sequences, strict=True):
        share = {"token": 1 / 11, "sequence": 1 / (sequences.count(sequence) * 7)}
        want += value * share.get(by, 1 / (7 * 2.5))
    got = o.aggregate(
        f64(values),
        i64(sequences),
        num_sequences=4,
        by=by,
        num_loss_tokens=11,
        num_loss_sequences=7,
        constant=2.5,
    )
    assert got.item() == pytest.approx(want, abs=1e-12)


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        partial(o.log_ratio, denominator_T=f64([-1, -2.5, -0.3])),
        partial(
            o.ppo_surrogate, advantages_T=f64([1, -1, 2]), eps_low=0.2, eps_high=0.3, dual_clip=3
        ),
        partial(
            o.cispo_surrogate,
            ratios_T=f64([0.5, 1, 9]),
            advantages_T=f64([1, -1, 2]),
            eps_low=0.2,
            eps_high=0.3,
        ),
        partial(o.reinforce_surrogate, advantages_T=f64([1, -1, 2])),
        partial(o.k1, reference_T=f64([-1, -2.5, -0.3])),
        partial(o.k2, reference_T=f64([-1, -2.5, -0.3])),
        partial(o.k3, reference_T=f64([-1, -2.5, -0.3])),
        partial(o.entropy_bonus, coefficient=0.3),
        partial(o.rollout_sums, sequences_T=i64([0, 0, 2]), num_sequences=3),
        partial(
            o.aggregate,
            sequences_T=i64([0, 0, 2]),
            num_sequences=3,
            by="sequence",
            num_loss_tokens=9,
            num_loss_sequences=4,
        ),
    ],
    ids=lambda function: function.func.__name__,
)
def test_gradients_away_from_kinks(function: Callable[[Tensor], Tensor]) -> None:
    assert gradcheck(function, f64([-1.3, -2.1, -0.7], grad=True))
    assert gradcheck(function, f64([0.91, 1.07, 1.21], grad=True))


def test_nothing_fails_without_tokens() -> None:
    none, no_sequences = f64([]), i64([])
    at = {"sequences_T": no_sequences, "num_sequences": 0}
    for got in (
        o.log_ratio(none, none),
        o.token_ratios(none, none),
        o.sequence_ratios(none, none, **at),  # type: ignore[arg-type]
        o.gspo_ratios(none, none, **at),  # type: ignore[arg-type]
        o.band_weights(none, low=0, high=1),
        o.veto_mask(none, floor=0.1, **at),  # type: ignore[arg-type]
        o.ppo_surrogate(none, none, eps_low=0.2, eps_high=0.2, dual_clip=3),
        o.cispo_surrogate(none, none, none, eps_low=0.2, eps_high=0.2),
        o.approximated_proximal(none, none, i64([])),
        o.k3(none, none),
    ):
        assert got.numel() == 0
    for by in ("token", "sequence", "constant"):
        total = o.aggregate(
            none,
            by=by,  # type: ignore[arg-type]
            num_loss_tokens=3,
            num_loss_sequences=1,
            constant=4,
            **at,  # type: ignore[arg-type]
        )
        assert total.item() == 0.0
