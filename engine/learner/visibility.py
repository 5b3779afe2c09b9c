"""Which tokens of a packed micro-batch see which: the plan that `attention.py` follows.

Tokens lie row after row; a row is a prompt and the completions of it. A completion sees its
prompt and itself, never another completion or row.

Q: queries of a call; K: keys; S: spans; L: the longest of a padded batch.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

_PADDING = 1.25
"""Spans share a padded batch while the longest is at most this times the shortest (plus 8)."""


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """Spans of about equal length, padded on the right to a batch."""

    shape: tuple[int, int, int]
    """Spans, their longest queries, their longest keys."""
    queries: Tensor
    """[S * longest] int64: which of the call's queries; padding repeats the span's last one."""
    keys: Tensor
    is_query: Tensor
    """[S * longest, 1, 1] float32: 1, or 0 for padding."""
    bias_S11L: Tensor | None
    """Float32: 0, or -inf for padded keys; None where causality hides them or there are none."""


@dataclass(frozen=True, slots=True, eq=False)
class Spans:
    """One variable-length call: the queries of span i see the keys of span i."""

    queries_Q: Tensor | None
    """Int64: the token of each query, span after span; None: all tokens, in their order."""
    keys_K: Tensor | None
    cu_queries: Tensor
    """[S + 1] int32: where each span begins among the queries, and the end."""
    cu_keys: Tensor
    max_queries: int
    max_keys: int
    causal: bool
    padded: tuple[Padded, ...]
    """The same as padded batches."""
    slots_Q: Tensor
    """Int64: where each query lies in the padded batches, one after the other."""
    slots_K: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Who sees whom in a micro-batch."""

    own: Spans
    prefix: Spans | None
    """None where no prompt has more than one completion."""

    def to(self, device: torch.device) -> "Plan":
        return _moved(self, device)


def _moved(value: Any, device: torch.device) -> Any:
    """`value` with every tensor in it on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (Plan, Spans, Padded)):
        return replace(
            value, **{f.name: _moved(getattr(value, f.name), device) for f in fields(value)}
        )
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value


Span = tuple[int, int]
"""First token, number of tokens."""


def plan_rows(rows: Sequence[tuple[int, Sequence[int]]]) -> Plan:
    """The plan of packed rows, each given as (prompt tokens, tokens of each completion).

    A completion may have no token (one sampled token is predicted by the prompt's end and is
    itself no input).
    """
    own: list[Span] = []
    completions: list[Span] = []
    prompts: list[Span] = []
    start = 0
    for prompt, lengths in rows:
        total = prompt + sum(lengths)
        if len(lengths) < 2:
            own.append((start, total))
        else:
            begins = itertools.accumulate(lengths[:-1], initial=start + prompt)
            own.append((start, prompt))
            own += [(begin, n) for begin, n in zip(begins, lengths, strict=True) if n]
            if total > prompt:
                completions.append((start + prompt, total - prompt))
                prompts.append((start, prompt))
        start += total
    prefix = None
    if completions:
        prefix = _spans(
            completions,
            prompts,
            causal=False,
            queries_Q=_indices(completions),
            keys_K=_indices(prompts),
        )
    return Plan(_spans(own, own, causal=True), prefix)


def _spans(
    queries: Sequence[Span],
    keys: Sequence[Span],
    *,
    causal: bool,
    queries_Q: Tensor | None = None,
    keys_K: Tensor | None = None,
) -> Spans:
    cu_queries, cu_keys = _offsets(queries), _offsets(keys)
    buckets = _buckets([(q[1], k[1]) for q, k in zip(queries, keys, strict=True)])
    padded = tuple(_pad(bucket, cu_queries, cu_keys, causal=causal) for bucket in buckets)
    return Spans(
        queries_Q=queries_Q,
        keys_K=keys_K,
        cu_queries=cu_queries,
        cu_keys=cu_keys,
        max_queries=max(n for _, n in queries),
        max_keys=max(n for _, n in keys),
        causal=causal,
        padded=padded,
        slots_Q=_slots(cu_queries, buckets, [part.shape[1] for part in padded]),
        slots_K=_slots(cu_keys, buckets, [part.shape[2] for part in padded]),
    )


def _indices(spans: Sequence[Span]) -> Tensor:
    return torch.cat([torch.arange(start, start + n) for start, n in spans])


def _offsets(spans: Sequence[Span]) -> Tensor:
    lengths = torch.tensor([0, *(n for _, n in spans)], dtype=torch.int32)
    return lengths.cumsum(0, dtype=torch.int32)


def _buckets(lengths: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Spans, by number, of about equal length in queries and in keys."""
    buckets: list[list[int]] = []
    shortest = (0, 0)
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i][::-1]):
        pairs = list(zip(lengths[i], shortest, strict=True))
        if buckets and all(max(pair) <= _PADDING * min(pair) + 8 for pair in pairs):
            buckets[-1].append(i)
        else:
            buckets.append([i])
            shortest = lengths[i]
    return buckets


def _pad(bucket: Sequence[int], cu_queries: Tensor, cu_keys: Tensor, *, causal: bool) -> Padded:
    queries_SL, is_query_SL = _pad_side(bucket, cu_queries)
    keys_SL, is_key_SL = _pad_side(bucket, cu_keys)
    bias = None
    if not causal and not bool(is_key_SL.all()):
        bias = torch.zeros(is_key_SL.shape).masked_fill(~is_key_SL, -torch.inf)[:, None, None]
    return Padded(
        shape=(len(bucket), queries_SL.shape[1], keys_SL.shape[1]),
        queries=queries_SL.flatten(),
        keys=keys_SL.flatten(),
        is_query=is_query_SL.flatten()[:, None, None].float(),
        bias_S11L=bias,
    )


def _pad_side(bucket: Sequence[int], cu: Tensor) -> tuple[Tensor, Tensor]:
    """[S, L] index of each query (or key), and whether it is no padding."""
    starts, lengths = cu[:-1][bucket, None].long(), cu.diff()[bucket, None].long()
    offsets = torch.arange(int(lengths.max()))[None]
    return starts + torch.minimum(offsets, lengths - 1), offsets < lengths


def _slots(cu: Tensor, buckets: Sequence[Sequence[int]], widths: Sequence[int]) -> Tensor:
    """Where each query (or key) of the call lies in the padded batches, one after the other."""
    slots = torch.empty(int(cu[-1]), dtype=torch.long)
    bounds = cu.tolist()
    first = 0
    for bucket, width in zip(buckets, widths, strict=True):
        for i in bucket:
            begin, end = bounds[i], bounds[i + 1]
            slots[begin:end] = torch.arange(first, first + end - begin)
            first += width
    return slots
