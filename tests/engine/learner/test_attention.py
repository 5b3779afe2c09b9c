"""Packed attention against dense masked softmax; what is not seen changes nothing.

N: tokens; A: attention heads; G: key/value heads; D: head size.
"""

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.learner import attention
from engine.learner.attention import packed_attention
from engine.learner.visibility import Padded, Plan, Spans, plan_rows

Rows = Sequence[tuple[int, Sequence[int]]]

SCALE = 0.3
FEW: Rows = [(3, (2, 4)), (1, ()), (5, (0, 3, 1)), (20, (9,))]
ROWS: Rows = [
    (3, (2, 4)),
    (1, ()),
    (5, (0, 3, 1)),
    (40, (30,)),
    (2, (0,)),
    (1, (1, 1, 1, 1)),
    (60, (2, 90, 0)),
    (6, (0, 0)),
]
"""Every shape of a row: none, one, many, empty completions; lengths that never share a bucket."""


def visible(rows: Rows) -> Tensor:
    """[N, N] bool: does the query see the key; over all pairs, from the definition."""
    owners = torch.tensor(
        [
            (row, part)
            for row, (prompt, lengths) in enumerate(rows)
            for part, n in enumerate((prompt, *lengths))
            for _ in range(n)
        ]
    )
    row_N, part_N = owners.unbind(1)
    is_same_row = row_N[:, None] == row_N
    is_past = torch.arange(len(owners))[:, None] >= torch.arange(len(owners))
    return is_same_row & is_past & ((part_N == 0) | (part_N[:, None] == part_N))


def dense(q_NAD: Tensor, k_NGD: Tensor, v_NGD: Tensor, rows: Rows, *, scale: float) -> Tensor:
    """The same in float64 by one masked softmax over all tokens."""
    repeats = q_NAD.shape[1] // k_NGD.shape[1]
    q, k, v = q_NAD.double(), k_NGD.double(), v_NGD.double()
    k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    scores_ANN = torch.einsum("qad,kad->aqk", q, k) * scale
    scores_ANN = scores_ANN.masked_fill(~visible(rows), -torch.inf)
    return torch.einsum("aqk,kad->qad", scores_ANN.softmax(-1), v)


def num_tokens(rows: Rows) -> int:
    return sum(prompt + sum(lengths) for prompt, lengths in rows)


def draw(
    rows: Rows,
    *,
    heads: int = 4,
    groups: int = 2,
    size: int = 8,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    spread: float = 1.0,
) -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values, and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    n = num_tokens(rows)
    q, k, v, grad = (
        (spread * torch.randn(n, num, size, generator=generator, dtype=torch.float64)).to(dtype)
        for num in (heads, groups, groups, heads)
    )
    return [q, k, v], grad


def run(
    call: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor, *args: object
) -> list[Tensor]:
    """[output, gradients of q, k and v]."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = call(*leaves, *args, scale=SCALE)
    out.backward(grad.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def check(rows: Rows, *, tolerance: float, **how: object) -> None:
    inputs, grad = draw(rows, **how)  # type: ignore[arg-type]
    want = run(dense, inputs, grad, rows)
    got = run(packed_attention, inputs, grad, plan_rows(rows))
    assert len(got) == len(want) == 4
    for name, ours, theirs in zip(("out", "q", "k", "v"), got, want, strict=True):
        assert ours.dtype == inputs[0].dtype
        error = (ours.double() - theirs.double()).abs().max().item()
        assert error <= tolerance, (name, error)


# -- the kernels: the CPU's own, plain mathematics, FlashAttention -----------------------------


def flash_forward(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
    dropout_p: float, is_causal: bool, return_debug_mask: bool, *, scale: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """aten::_flash_attention_forward in plain PyTorch, as strict as the kernel about its inputs."""
    for cu, x, longest in ((cu_q, q, max_q), (cu_k, k, max_k), (cu_k, v, max_k)):
        assert cu.dtype == torch.int32
        assert cu.is_contiguous()
        assert x.stride(-1) == 1
        assert cu[0] == 0
        assert cu[-1] == len(x)
        assert cu.diff().min() > 0
        assert cu.diff().max() == longest
    assert (dropout_p, return_debug_mask) == (0.0, False)
    out, lse = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    for at_q, at_k in spans_of(cu_q, cu_k):
        scores = flash_scores(q[at_q], k[at_k], is_causal, scale)
        lse[:, at_q] = scores.logsumexp(-1)
        out[at_q] = torch.einsum("aqk,kad->qad", scores.softmax(-1), heads_of(v[at_k], q)).to(
            q.dtype
        )
    state = torch.tensor([11, 12], dtype=torch.uint64), torch.tensor(13, dtype=torch.uint64)
    return out, lse, *state, q.new_empty(0)


def flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu_q: Tensor,
    cu_k: Tensor, max_q: int, max_k: int, dropout_p: float, is_causal: bool, rng_state: Tensor,
    unused: Tensor, *, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """aten::_flash_attention_backward: probabilities are exp(score - lse), of the lse given."""
    assert (rng_state.tolist(), unused.item()) == ([11, 12], 13)
    assert lse.shape == (q.shape[1], q.shape[0])
    assert lse.dtype == torch.float32
    assert all(x.is_contiguous() for x in (lse, grad, out))
    assert grad.shape == out.shape == q.shape
    assert (dropout_p, int(cu_q.diff().max()), int(cu_k.diff().max())) == (0.0, max_q, max_k)
    grad_q, grad_k, grad_v = (torch.zeros_like(x) for x in (q, k, v))
    for at_q, at_k in spans_of(cu_q, cu_k):
        g, o, queries = (x[at_q].float() for x in (grad, out, q))
        keys, values = heads_of(k[at_k], q), heads_of(v[at_k], q)
        probs = (flash_scores(q[at_q], k[at_k], is_causal, scale) - lse[:, at_q, None]).exp()
        inner = torch.einsum("qad,kad->aqk", g, values) - (g * o).sum(-1).T[..., None]
        grad_q[at_q] = (torch.einsum("aqk,kad->qad", probs * inner, keys) * scale).to(q.dtype)
        for total, found in (
            (grad_k, torch.einsum("aqk,qad->kad", probs * inner, queries) * scale),
            (grad_v, torch.einsum("aqk,qad->kad", probs, g)),
        ):
            total[at_k] = found.unflatten(1, (k.shape[1], -1)).sum(2).to(k.dtype)
    return grad_q, grad_k, grad_v


def spans_of(cu_q: Tensor, cu_k: Tensor) -> list[tuple[slice, slice]]:
    pairs = (list(itertools.pairwise(cu.tolist())) for cu in (cu_q, cu_k))
    return [(slice(*q), slice(*k)) for q, k in zip(*pairs, strict=True)]


def heads_of(x: Tensor, q: Tensor) -> Tensor:
    return x.float().repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def flash_scores(q: Tensor, k: Tensor, is_causal: bool, scale: float) -> Tensor:
    """Causality is aligned to the bottom right, as FlashAttention's is."""
    scores = torch.einsum("qad,kad->aqk", q.float(), heads_of(k, q)) * scale
    hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + len(k) - len(q))
    return scores.masked_fill(hidden, -torch.inf) if is_causal else scores


@pytest.fixture(params=["cpu", "plain", "flash"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the three ways to compute a call."""
    name: str = request.param
    if name == "plain":
        monkeypatch.setattr(attention, "_batch_forward", attention._plain_forward)
        monkeypatch.setattr(attention, "_batch_backward", attention._plain_backward)
    elif name == "flash":
        fake = SimpleNamespace(
            _flash_attention_forward=flash_forward, _flash_attention_backward=flash_backward
        )
        monkeypatch.setattr(attention, "_aten", fake)
        monkeypatch.setattr(attention, "_padded_forward", attention._flash_forward)
        monkeypatch.setattr(attention, "_padded_backward", attention._flash_backward)
    return name


@pytest.mark.parametrize("heads, groups", [(1, 1), (4, 4), (4, 2), (6, 1)])
def test_values_and_gradients_are_those_of_dense_attention(
    kernel: str, heads: int, groups: int
) -> None:
    check(ROWS, heads=heads, groups=groups, tolerance=1e-5)


def test_in_double_precision_nothing_is_rounded_to_float32(
    kernel: str,
) -> None:
    # FlashAttention has no float64, and its log-sum-exps are float32.
    check(ROWS, dtype=torch.float64, tolerance=1e-5 if kernel == "flash" else 1e-13)


def test_in_half_precision_it_is_as_near_as_one_rounding(kernel: str) -> None:
    check(ROWS, dtype=torch.bfloat16, tolerance=0.15)


def test_large_scores_neither_overflow_nor_lose_the_softmax(kernel: str) -> None:
    """Scores around 1e4: a weight is 0 or 1, in the merge too."""
    spread = 6.0 if kernel == "flash" else 60.0  # float32 cannot tell such sums apart
    check(ROWS, spread=spread, dtype=torch.float64, tolerance=1e-1 if kernel == "flash" else 1e-6)


row = st.tuples(st.integers(1, 40), st.lists(st.integers(0, 40), max_size=4))


@given(
    rows=st.lists(row, min_size=1, max_size=5),
    groups=st.sampled_from([1, 2, 4]),
    repeats=st.integers(1, 3),
    size=st.sampled_from([4, 16, 24]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_rows_are_as_dense_attention_has_them(
    rows: Rows, groups: int, repeats: int, size: int, seed: int
) -> None:
    check(rows, heads=groups * repeats, groups=groups, size=size, seed=seed, tolerance=2e-5)


def test_a_pack_of_thousands_of_tokens() -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(0, 40, (9, 9), generator=generator).tolist()
    rows = [(n + 1, completions) for n, *completions in lengths]
    rows += [(700, (3, 500, 0, 40)), (1, (600,))]
    assert num_tokens(rows) > 3000
    check(rows, heads=2, groups=1, size=4, tolerance=1e-4)


# -- no leakage --------------------------------------------------------------------------------


def test_a_token_changes_what_sees_it_and_nothing_else(kernel: str) -> None:
    """To the last bit."""
    rows = FEW
    inputs, _ = draw(rows)
    plan, seen = plan_rows(rows), visible(rows)
    has_choice = seen.sum(1) > 1  # the softmax over a single key is constant
    before = packed_attention(*inputs, plan, scale=SCALE)
    for token in range(len(seen)):
        affected = (has_choice & (torch.arange(len(seen)) == token), has_choice & seen[:, token])
        for i, want in enumerate((*affected, seen[:, token])):
            changed = [x.clone() for x in inputs]
            changed[i][token] += 3.0 * torch.randn(8)
            after = packed_attention(*changed, plan, scale=SCALE)
            differs = (after != before).flatten(1).any(1)
            assert torch.equal(differs, want), ("qkv"[i], token, differs.nonzero().flatten())


def test_a_broken_token_breaks_no_other_completion_and_no_other_row(kernel: str) -> None:
    """Not a number times a weight of 0 is not a number: what is hidden must not even be read."""
    rows = FEW
    inputs, grad = draw(rows)
    plan, seen = plan_rows(rows), visible(rows)
    for token in range(len(seen)):
        may_break = seen[:, token] | seen[token]  # kernels do read a span's own future
        for i in (0, 1, 2):
            changed = [x.clone() for x in inputs]
            changed[i][token] = torch.nan
            out, *grads = run(packed_attention, changed, grad, plan)
            broken = out.isnan().flatten(1).any(1)
            assert broken.any() or i < 2  # the CPU's kernel takes the NaN of a lone score for 0
            assert not (broken & ~may_break).any(), ("qkv"[i], token)
            for found in grads:
                reach = may_break | (seen[may_break].any(0))
                assert not (found.isnan().flatten(1).any(1) & ~reach).any(), ("qkv"[i], token)


def test_the_gradient_of_a_token_reaches_what_it_sees_and_nothing_else(kernel: str) -> None:
    rows = FEW
    inputs, _ = draw(rows)
    plan, seen = plan_rows(rows), visible(rows)
    for token in range(len(seen)):
        grad = torch.zeros_like(inputs[0])
        grad[token] = 1.0
        _, grad_q, grad_k, grad_v = run(packed_attention, inputs, grad, plan)
        reached_v, reached_k = ((g != 0).flatten(1).any(1) for g in (grad_v, grad_k))
        assert torch.equal(reached_v, seen[token])
        assert not (reached_k & ~seen[token]).any()
        # The softmax over a single key is constant.
        assert (grad_k.abs().max() > 1e-4) == (seen[token].sum() > 1)
        assert not grad_q[torch.arange(len(seen)) != token].any()


def test_a_row_does_not_depend_on_its_neighbours(kernel: str) -> None:
    """Alone or in a pack that shares no bucket with it: the same bits."""
    alone: Rows = [(20, (7, 9, 0))]
    inputs, grad = draw(alone)
    others: Rows = [(200, (90, 1)), (400, ())]
    more, more_grad = draw(others, seed=1)
    both = [torch.cat([x, y]) for x, y in zip(inputs, more, strict=True)]
    want = run(packed_attention, inputs, grad, plan_rows(alone))
    got = run(packed_attention, both, torch.cat([grad, more_grad]), plan_rows([*alone, *others]))
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours[: len(theirs)], theirs, rtol=0, atol=1e-6)


def test_the_order_of_completions_does_not_matter(kernel: str) -> None:
    inputs, grad = draw([(9, (5, 2, 8))])
    order = torch.tensor([*range(9), *range(16, 24), *range(9, 14), *range(14, 16)])
    want = run(packed_attention, inputs, grad, plan_rows([(9, (5, 2, 8))]))
    got = run(
        packed_attention, [x[order] for x in inputs], grad[order], plan_rows([(9, (8, 5, 2))])
    )
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs[order], rtol=0, atol=2e-6)


# -- the plan ----------------------------------------------------------------------------------


def padded_tokens(spans: Spans) -> int:
    return sum(part.shape[0] * part.shape[1] for part in spans.padded)


@given(rows=st.lists(st.tuples(st.integers(1, 900), st.lists(st.integers(0, 900), max_size=5)),
                     min_size=1, max_size=12))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_padding_is_bounded(rows: Rows) -> None:
    """Within a bucket no span is more than 1.25**2 times another, and a few tokens."""
    plan = plan_rows(rows)
    assert padded_tokens(plan.own) <= 1.25 * num_tokens(rows) + 8 * len(plan.own.cu_queries)
    for spans in (plan.own, *([plan.prefix] if plan.prefix else [])):
        assert sum(part.shape[0] for part in spans.padded) == len(spans.cu_queries) - 1
        assert int(spans.cu_queries[-1]) == sum(int(part.is_query.sum()) for part in spans.padded)
        for part in spans.padded:
            lengths = part.is_query.view(part.shape[:2]).sum(1)
            assert lengths.max() <= 1.25 * (1.25 * lengths.min() + 8) + 8


def test_a_single_completion_needs_no_merging() -> None:
    plan = plan_rows([(5, (3,)), (4, ()), (2, (0, 0))])
    assert plan.prefix is None
    assert plan.own.cu_queries.tolist() == [0, 8, 12, 14]


def test_all_completions_of_a_row_see_the_prompt_in_one_span() -> None:
    plan = plan_rows([(5, (3, 2)), (4, (1,)), (2, (0, 6))])
    assert plan.own.cu_queries.tolist() == [0, 5, 8, 10, 15, 17, 23]
    assert plan.prefix is not None
    assert plan.prefix.queries_Q is not None
    assert plan.prefix.queries_Q.tolist() == [5, 6, 7, 8, 9, *range(17, 23)]
    assert plan.prefix.keys_K is not None
    assert plan.prefix.keys_K.tolist() == [0, 1, 2, 3, 4, 15, 16]
    assert not plan.prefix.causal


def test_a_plan_moves_with_all_its_tensors() -> None:
    def tensors(value: Plan | Spans | Padded) -> list[Tensor]:
        found = []
        for name in value.__slots__:
            item = getattr(value, name)
            for entry in item if isinstance(item, tuple) else (item,):
                if isinstance(entry, Tensor):
                    found.append(entry)
                elif isinstance(entry, (Plan, Spans, Padded)):
                    found += tensors(entry)
        return found

    plan = plan_rows(ROWS)
    moved = tensors(plan.to(torch.device("meta")))
    assert len(moved) == len(tensors(plan)) > 10
    assert {x.device.type for x in moved} == {"meta"}
    assert {x.device.type for x in tensors(plan)} == {"cpu"}


# -- torch's and transformers' side ------------------------------------------------------------


def test_torch_knows_the_flash_operators_as_we_call_them() -> None:
    """On the meta device: argument order, types and result shapes are torch's own."""
    rows: Rows = [(5, (3, 2)), (4, (1,))]
    plan = plan_rows(rows).to(torch.device("meta"))
    q = torch.empty(15, 4, 16, dtype=torch.bfloat16, device="meta")
    k = v = torch.empty(15, 2, 16, dtype=torch.bfloat16, device="meta")
    out, lse_NA, state = attention._flash_forward(q, k, v, plan.own, SCALE)
    assert (out.shape, out.dtype) == (q.shape, q.dtype)
    assert (lse_NA.shape, lse_NA.dtype) == ((15, 4), torch.float32)
    assert len(state) == 2
    grads = attention._flash_backward(q, q, k, v, out, lse_NA, state, plan.own, SCALE)
    assert [g.shape for g in grads] == [q.shape, k.shape, v.shape]


def test_layers_call_it_by_name_with_a_plan_and_without() -> None:
    rows: Rows = [(5, (3, 2))]
    (q, k, v), _ = draw(rows, heads=4, groups=4)
    layered = [x.transpose(0, 1)[None] for x in (q, k, v)]
    call = attention.AttentionInterface._global_mapping[attention.IMPLEMENTATION]
    out, weights = call(nn.Module(), *layered, None, scaling=SCALE, plan=plan_rows(rows))
    assert weights is None
    torch.testing.assert_close(out[0], dense(q, k, v, rows, scale=SCALE).float(), rtol=0, atol=1e-5)
    out, _ = call(nn.Module(), *layered, None, scaling=SCALE, is_causal=False)
    scores = torch.einsum("qad,kad->aqk", q, k) * SCALE
    everything = torch.einsum("aqk,kad->qad", scores.softmax(-1), v)
    torch.testing.assert_close(out[0], everything, rtol=0, atol=1e-5)


def test_a_decoder_without_a_plan_is_refused() -> None:
    """It would see the future."""
    layer = nn.Module()
    layer.is_causal = True
    x = torch.zeros(1, 2, 5, 8)
    with pytest.raises(AssertionError, match="plan"):
        attention._attend(layer, x, x, x, None, scaling=1.0)


def test_wider_queries_are_cast_to_the_values_type() -> None:
    """Rotary angles are float32, so bf16 projections come out of them wider."""
    (q, k, v), _ = draw([(5, (3, 2))])
    layered = [x.transpose(0, 1)[None] for x in (q, k, v.bfloat16())]
    out, _ = attention._attend(
        nn.Module(), *layered, None, scaling=SCALE, plan=plan_rows([(5, (3, 2))])
    )
    assert out.dtype == torch.bfloat16
