"""Scores against log_softmax in float64; chunks change nothing but memory.

T: sampled tokens; H: hidden size; C: vocabulary.
"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from engine.learner import scoring
from engine.learner.scoring import score

HIDDEN, VOCABULARY = 12, 50


def plain(
    hidden_TH: Tensor, weight_CH: Tensor, targets_T: Tensor, temperatures_T: Tensor
) -> tuple[Tensor, Tensor]:
    """The same in float64, by torch's own log_softmax."""
    logits = hidden_TH.double() @ weight_CH.double().T / temperatures_T.double()[:, None]
    logprobs_TC = logits.log_softmax(-1)
    # 0 log 0 is 0, with gradient 0.
    surprise_TC = torch.where(logprobs_TC < -700, 0.0, logprobs_TC.exp() * logprobs_TC)
    return logprobs_TC.gather(1, targets_T[:, None])[:, 0], -surprise_TC.sum(-1)


def draw(
    num_tokens: int, *, seed: int = 0, spread: float = 1.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, HIDDEN, generator=generator) * spread
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    targets = torch.randint(0, VOCABULARY, (num_tokens,), generator=generator)
    temperatures = torch.rand(num_tokens, generator=generator) + 0.5
    return hidden.to(dtype), weight.to(dtype), targets, temperatures


Scorer = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def run(
    scorer: Scorer, inputs: Sequence[Tensor], *, logprobs: bool = True, entropies: bool = True
) -> list[Tensor]:
    """[log-probs, entropies, gradients of hidden states and weights] for random gradients."""
    hidden, weight = (x.clone().requires_grad_() for x in inputs[:2])
    found = scorer(hidden, weight, *inputs[2:])
    generator = torch.Generator().manual_seed(9)
    loss = torch.zeros((), dtype=torch.float64)
    for is_used, values in zip((logprobs, entropies), found, strict=True):
        factors = torch.randn(len(values), generator=generator, dtype=torch.float64)
        if is_used:
            loss = loss + (values.double() * factors).sum()
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return [*(x.detach() for x in found), hidden.grad, weight.grad]


@pytest.fixture(params=[1 << 26, 7 * VOCABULARY, 1])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once; seven tokens each; one each, though even one is over the bound."""
    monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", request.param)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("logprobs, entropies", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("num_tokens", [1, 7, 23])
def test_values_and_gradients_are_those_of_log_softmax(
    num_tokens: int, logprobs: bool, entropies: bool
) -> None:
    inputs = draw(num_tokens)
    got = run(score, inputs, logprobs=logprobs, entropies=entropies)
    want = run(plain, inputs, logprobs=logprobs, entropies=entropies)
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5)


@given(
    num_tokens=st.integers(1, 12),
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
)
@settings(max_examples=50, deadline=None)
def test_any_tokens(num_tokens: int, seed: int, spread: float) -> None:
    inputs = draw(num_tokens, seed=seed, spread=spread)
    for ours, theirs in zip(run(score, inputs), run(plain, inputs), strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_chunks")
def test_two_equal_logits_and_one_far_below() -> None:
    """By hand: p = (1/2, 1/2, 0): log-prob -log 2, entropy log 2 nats, at any temperature."""
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[3.0], [3.0], [-9000.0]])
    for temperature in (0.1, 1.0, 7.0):
        logprobs, entropy = score(hidden, weight, torch.tensor([1]), torch.tensor([temperature]))
        assert logprobs.item() == pytest.approx(-math.log(2), abs=1e-6)
        assert entropy.item() == pytest.approx(math.log(2), abs=1e-6)


def test_temperature_divides_the_logits_of_its_own_token_only() -> None:
    hidden, weight, targets, temperatures = draw(5)
    ours = score(hidden, weight, targets, temperatures)
    theirs = score(hidden / temperatures[:, None], weight, targets, torch.ones(5))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("_chunks")
def test_extreme_logits_are_exact() -> None:
    """Logits of +-1e4: a float32 there is 1e-3 wide, an entropy must not be."""
    weight = torch.tensor([[1e4], [1e4 - 1], [-1e4], [0.0]])
    hidden = torch.tensor([[1.0], [1.0], [-1.0], [0.0]])
    inputs = (hidden, weight, torch.tensor([0, 2, 0, 3]), torch.ones(4))
    got, want = run(score, inputs), run(plain, inputs)
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(got[1].double(), want[1], rtol=0, atol=2e-4)
    assert all(x.isfinite().all() for x in got)
    # Weights of 1e4 enter the gradient of a hidden state as they are.
    torch.testing.assert_close(got[2].double(), want[2].double(), rtol=0, atol=0.01)
    torch.testing.assert_close(got[3].double(), want[3].double(), rtol=0, atol=1e-6)


def test_what_is_not_finite_is_not_hidden() -> None:
    hidden, weight, targets, temperatures = draw(3)
    hidden[1] = torch.inf
    logprobs, entropy = score(hidden, weight, targets, temperatures)
    assert logprobs.isfinite().tolist() == entropy.isfinite().tolist() == [True, False, True]


@pytest.mark.usefixtures("_chunks")
def test_no_token_at_all() -> None:
    logprobs, entropy, grad_hidden, grad_weight = run(score, draw(0))
    assert logprobs.shape == entropy.shape == (0,)
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert grad_hidden.shape == (0, HIDDEN)
    assert not grad_weight.any()


@pytest.mark.usefixtures("_chunks")
def test_in_half_precision_only_the_product_is_rounded() -> None:
    """bf16 has 8 bits: a logit of 4 is off by up to 0.016; nothing may add to that."""
    inputs = draw(23, dtype=torch.bfloat16)
    got = run(score, inputs)
    rounded = run(
        lambda h, w, targets, temps: plain(
            (h @ w.T).float(), torch.eye(VOCABULARY), targets, temps
        ),
        inputs,
    )
    assert [x.dtype for x in got] == [torch.float32] * 2 + [torch.bfloat16] * 2
    for ours, theirs in zip(got[:2], rounded[:2], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(got[2:], run(plain, inputs)[2:], strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=0.05, atol=0.1)


@pytest.mark.usefixtures("_chunks")
def test_under_autocast_only_the_product_is_rounded() -> None:
    """float32 masters, bf16 arithmetic: as with weights that are bf16 themselves."""
    hidden, weight, targets, temperatures = draw(23)
    low = hidden.bfloat16()
    weight = weight.bfloat16().float()

    def autocast(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return score(*inputs)

    got = run(autocast, (low, weight, targets, temperatures))
    want = run(score, (low, weight.bfloat16(), targets, temperatures))
    assert got[3].dtype == torch.float32
    for ours, theirs in zip(got[:3], want[:3], strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(got[3], want[3].float(), rtol=0.02, atol=0.05)


def test_chunks_change_no_value_and_gradients_only_by_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = draw(40)
    whole = run(score, inputs)
    monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", 3 * VOCABULARY)
    for ours, theirs in zip(run(score, inputs), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_a_frozen_output_embedding_gets_no_gradient() -> None:
    hidden, weight, targets, temperatures = draw(4)
    hidden.requires_grad_()
    logprobs, _ = score(hidden, weight, targets, temperatures)
    logprobs.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_a_gradient_may_be_asked_for_twice() -> None:
    hidden, weight, targets, temperatures = draw(6)
    hidden.requires_grad_()
    logprobs, entropy = score(hidden, weight, targets, temperatures)
    loss = (logprobs + entropy).sum()
    first, second = (torch.autograd.grad(loss, hidden, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


class LiveLogits(TorchDispatchMode):
    """Counts the elements that live at once in tensors with a vocabulary's width."""

    def __init__(self) -> None:
        super().__init__()
        self.live = WeakIdKeyDictionary()
        self.most = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence = (),
        kwargs: dict | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor.dim() > 1 and VOCABULARY in tensor.shape:
                self.live[tensor.untyped_storage()] = tensor.untyped_storage().nbytes() // 4
        self.most = max(self.most, sum(self.live.values()))
        return out


@pytest.mark.parametrize("entropies", [False, True])
def test_never_more_than_three_chunks_of_logits(
    monkeypatch: pytest.MonkeyPatch, entropies: bool
) -> None:
    """400 tokens, eight at a time: logits of all would be fifty chunks."""
    chunk = 8 * VOCABULARY
    monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", chunk)
    inputs = draw(400)
    weight = VOCABULARY * HIDDEN
    with LiveLogits() as forward:
        score(*inputs)
    assert chunk + weight <= forward.most <= 2 * chunk + weight
    with LiveLogits() as both:
        run(score, inputs, entropies=entropies)
    # The weight, a copy that is a leaf, its gradient, and what a chunk adds to that.
    assert forward.most <= both.most <= 3 * chunk + 4 * weight
