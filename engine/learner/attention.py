"""Attention over a packed micro-batch: no padding, no leakage, prompts computed once.

Tokens lie row after row; a row is a prompt and the completions of it. A completion sees its
prompt and itself, never another completion or row. That is two variable-length calls whose
results are merged by their log-sum-exp:

    own:     each prompt and each completion sees itself, causally
    prefix:  the completions of a row see the row's prompt, all of it

    out = sum_i exp(lse_i - lse) out_i,   lse = log sum_i exp(lse_i)

The gradient of the merged softmax with respect to each part is what the kernel's own backward
gives for that part, if it is handed the *merged* out and lse: the probabilities that it
recomputes, exp(score - lse), are then those of the whole. (Ring attention, arXiv:2310.01889, rests
on the same identity.) A row with one completion is a single causal span, and needs no merging.

On CUDA in half precision a call is FlashAttention's variable-length kernel, as torch ships it.
Elsewhere spans of about equal length are padded to a batch each.

N: tokens; Q: queries of a call; S: spans; A: attention heads; G: key/value heads; D: head size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from engine.learner.visibility import Padded, Plan, Spans

IMPLEMENTATION = "streamzero"
"""The name by which models ask for this attention (`attn_implementation`)."""
_aten = torch.ops.aten


# -- kernels: one call forward, and backward from the merged out and lse ---------------------------


def _flash_forward(
    q_QAD: Tensor, k_KGD: Tensor, v_KGD: Tensor, spans: Spans, scale: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """(out [Q, A, D], lse [Q, A] float32, what the backward pass wants to have back)."""
    out_QAD, lse_AQ, *random, _ = _aten._flash_attention_forward(
        q_QAD, k_KGD, v_KGD, spans.cu_queries, spans.cu_keys, spans.max_queries, spans.max_keys,
        0.0, spans.causal, False, scale=scale,
    )  # fmt: skip
    return out_QAD, lse_AQ.T, tuple(random)


def _flash_backward(
    grad_QAD: Tensor,
    q_QAD: Tensor,
    k_KGD: Tensor,
    v_KGD: Tensor,
    out_QAD: Tensor,
    lse_QA: Tensor,
    random: tuple[Tensor, ...],
    spans: Spans,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the queries, keys and values."""
    grad_q, grad_k, grad_v = _aten._flash_attention_backward(
        grad_QAD.contiguous(), q_QAD, k_KGD, v_KGD, out_QAD, lse_QA.T.contiguous(),
        spans.cu_queries, spans.cu_keys, spans.max_queries, spans.max_keys, 0.0, spans.causal,
        *random, scale=scale,
    )  # fmt: skip
    return grad_q, grad_k, grad_v


def _batched(x: Tensor, index: Tensor, spans: int, num_heads: int) -> Tensor:
    """[S, A, L, D] of the rows `index` of x, its heads repeated to `num_heads`."""
    x_SLGD = x.index_select(0, index).unflatten(0, (spans, -1))
    repeats = num_heads // x.shape[1]
    if repeats > 1:
        x_SLGD = x_SLGD.repeat_interleave(repeats, dim=2)
    return x_SLGD.transpose(1, 2)


def _flat(parts: Sequence[Tensor], slots: Tensor) -> Tensor:
    """[Q, A, ...] in the call's order from padded batches [S, A, L, ...]."""
    return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts]).index_select(0, slots)


def _padded_forward(
    q_QAD: Tensor, k_KGD: Tensor, v_KGD: Tensor, spans: Spans, scale: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """As `_flash_forward`."""
    num_heads = q_QAD.shape[1]
    outs, log_sums = [], []
    for part in spans.padded:
        num_spans = part.shape[0]
        out_SALD, lse_SAL = _batch_forward(
            _batched(q_QAD, part.queries, num_spans, num_heads),
            _batched(k_KGD, part.keys, num_spans, num_heads),
            _batched(v_KGD, part.keys, num_spans, num_heads),
            part,
            spans.causal,
            scale,
        )
        outs.append(out_SALD)
        log_sums.append(lse_SAL)
    return _flat(outs, spans.slots_Q), _flat(log_sums, spans.slots_Q), ()


def _padded_backward(
    grad_QAD: Tensor,
    q_QAD: Tensor,
    k_KGD: Tensor,
    v_KGD: Tensor,
    out_QAD: Tensor,
    lse_QA: Tensor,
    random: tuple[Tensor, ...],
    spans: Spans,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_flash_backward`."""
    num_heads, num_groups = q_QAD.shape[1], k_KGD.shape[1]
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for part in spans.padded:
        num_spans = part.shape[0]
        # A padded query has no gradient, so it gives none to the keys that it sees.
        grad = grad_QAD.index_select(0, part.queries) * part.is_query.to(grad_QAD.dtype)
        lse_SLA = lse_QA.index_select(0, part.queries).unflatten(0, (num_spans, -1))
        grad_q, *grads_kv = _batch_backward(
            grad.unflatten(0, (num_spans, -1)).transpose(1, 2),
            _batched(q_QAD, part.queries, num_spans, num_heads),
            _batched(k_KGD, part.keys, num_spans, num_heads),
            _batched(v_KGD, part.keys, num_spans, num_heads),
            _batched(out_QAD, part.queries, num_spans, num_heads),
            lse_SLA.transpose(1, 2),
            part,
            spans.causal,
            scale,
        )
        found[0].append(grad_q)
        for total, grad_SALD in zip(found[1:], grads_kv, strict=True):
            total.append(grad_SALD.unflatten(1, (num_groups, -1)).sum(2))
    slots = (spans.slots_Q, spans.slots_K, spans.slots_K)
    grad_q, grad_k, grad_v = (_flat(g, at) for g, at in zip(found, slots, strict=True))
    return grad_q, grad_k, grad_v


def _batch_forward(
    q_SALD: Tensor, k_SALD: Tensor, v_SALD: Tensor, part: Padded, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """(out [S, A, L, D], lse [S, A, L] of dtype `_wide`) of one padded batch."""
    if q_SALD.device.type != "cpu":
        return _plain_forward(q_SALD, k_SALD, v_SALD, part, causal, scale)
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
        q_SALD, k_SALD, v_SALD, 0.0, causal, attn_mask=_full_bias(part, q_SALD), scale=scale
    )
    return out, lse


def _batch_backward(
    grad_SALD: Tensor,
    q_SALD: Tensor,
    k_SALD: Tensor,
    v_SALD: Tensor,
    out_SALD: Tensor,
    lse_SAL: Tensor,
    part: Padded,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if q_SALD.device.type != "cpu":
        return _plain_backward(
            grad_SALD, q_SALD, k_SALD, v_SALD, out_SALD, lse_SAL, part, causal, scale
        )
    grads: tuple[Tensor, Tensor, Tensor]
    grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad_SALD.contiguous(), q_SALD, k_SALD, v_SALD, out_SALD, lse_SAL.contiguous(), 0.0,
        causal, attn_mask=_full_bias(part, q_SALD), scale=scale,
    )  # fmt: skip
    return grads


def _plain_forward(
    q_SALD: Tensor, k_SALD: Tensor, v_SALD: Tensor, part: Padded, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """The same where no kernel is at hand that avoids hidden scores: CUDA in float32."""
    scores = _scores(q_SALD, k_SALD, part, causal, scale)
    lse = scores.logsumexp(-1)
    out = (scores - lse[..., None]).exp() @ v_SALD.to(scores.dtype)
    return out.to(q_SALD.dtype), lse


def _plain_backward(
    grad_SALD: Tensor,
    q_SALD: Tensor,
    k_SALD: Tensor,
    v_SALD: Tensor,
    out_SALD: Tensor,
    lse_SAL: Tensor,
    part: Padded,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    probs = (_scores(q_SALD, k_SALD, part, causal, scale) - lse_SAL[..., None]).exp()
    grad, q, k, v, out = (x.to(probs.dtype) for x in (grad_SALD, q_SALD, k_SALD, v_SALD, out_SALD))
    grad_scores = probs * (grad @ v.mT - (grad * out).sum(-1, keepdim=True)) * scale
    low = q_SALD.dtype
    return (grad_scores @ k).to(low), (grad_scores.mT @ q).to(low), (probs.mT @ grad).to(low)


def _scores(q: Tensor, k: Tensor, part: Padded, causal: bool, scale: float) -> Tensor:
    """[S, A, L, L] of dtype `_wide`, hidden ones -inf."""
    scores = q.to(_wide(q)) @ k.to(_wide(q)).mT * scale
    if part.bias_S11L is not None:
        scores = scores + part.bias_S11L
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores


def _wide(x: Tensor) -> torch.dtype:
    """Of log-sum-exps: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _full_bias(part: Padded, q_SALD: Tensor) -> Tensor | None:
    if part.bias_S11L is None:
        return None
    return part.bias_S11L.to(q_SALD.dtype).expand(-1, -1, q_SALD.shape[2], -1)


# -- the merged attention --------------------------------------------------------------------------


def _take(x: Tensor, index: Tensor | None) -> Tensor:
    return x if index is None else x.index_select(0, index)


class _PackedAttention(torch.autograd.Function):
    """See the module's docstring."""

    @staticmethod
    def forward(
        ctx: Any, q_NAD: Tensor, k_NGD: Tensor, v_NGD: Tensor, plan: Plan, scale: float
    ) -> Tensor:
        flash = q_NAD.is_cuda and q_NAD.dtype in (torch.float16, torch.bfloat16)
        run = _flash_forward if flash else _padded_forward
        out_NAD, lse_NA, random = run(q_NAD, k_NGD, v_NGD, plan.own, scale)
        if (prefix := plan.prefix) is not None:
            at, keys = prefix.queries_Q, prefix.keys_K
            seen_QAD, seen_QA, more = run(
                _take(q_NAD, at), _take(k_NGD, keys), _take(v_NGD, keys), prefix, scale
            )
            random = (*random, *more)
            own_QA = _take(lse_NA, at)
            lse_QA = torch.logaddexp(own_QA, seen_QA)
            own_QA1, seen_QA1 = ((x - lse_QA).exp()[..., None] for x in (own_QA, seen_QA))
            merged_QAD = own_QA1 * _take(out_NAD, at) + seen_QA1 * seen_QAD
            assert at is not None
            out_NAD.index_copy_(0, at, merged_QAD.to(out_NAD.dtype))
            lse_NA = lse_NA.index_copy(0, at, lse_QA)
        ctx.save_for_backward(q_NAD, k_NGD, v_NGD, out_NAD, lse_NA, *random)
        ctx.flash, ctx.plan, ctx.scale = flash, plan, scale
        return out_NAD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_NAD,) = grads
        q_NAD, k_NGD, v_NGD, out_NAD, lse_NA, *random = ctx.saved_tensors
        run = _flash_backward if ctx.flash else _padded_backward
        plan, each = ctx.plan, len(random) // (1 if ctx.plan.prefix is None else 2)
        totals = run(
            grad_NAD, q_NAD, k_NGD, v_NGD, out_NAD, lse_NA, tuple(random[:each]), plan.own,
            ctx.scale,
        )  # fmt: skip
        if plan.prefix is not None:
            at, keys = plan.prefix.queries_Q, plan.prefix.keys_K
            more = run(
                _take(grad_NAD, at), _take(q_NAD, at), _take(k_NGD, keys), _take(v_NGD, keys),
                _take(out_NAD, at), _take(lse_NA, at), tuple(random[each:]), plan.prefix, ctx.scale,
            )  # fmt: skip
            for total, index, grad in zip(totals, (at, keys, keys), more, strict=True):
                total.index_add_(0, index, grad)
        return (*totals, None, None)


def packed_attention(
    q_NAD: Tensor, k_NGD: Tensor, v_NGD: Tensor, plan: Plan, *, scale: float
) -> Tensor:
    """[N, A, D] softmax(scale q k) v over what `plan` lets each token see."""
    out: Tensor = _PackedAttention.apply(q_NAD, k_NGD, v_NGD, plan, scale)
    return out


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    plan: Plan | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """What transformers' layers call: [1, heads, N, D] each; [1, N, A, D].

    Without a plan (a vision tower, which hands over one picture at a time) all sees all.
    """
    if plan is None:
        assert not getattr(module, "is_causal", False), "a decoder's layer needs a plan"
        out = nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        return out.transpose(1, 2), None
    # Rotary angles are float32, so queries and keys may be wider than values.
    q_NAD, k_NGD, v_NGD = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return packed_attention(q_NAD, k_NGD, v_NGD, plan, scale=scaling)[None], None


AttentionInterface.register(IMPLEMENTATION, _attend)
