"""Logits -> tokens and behaviour log-probs, for all rows at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

_INSIDE = 1.0 - 2.0**-20
"""Keeps a uniform draw strictly inside the support, whatever the sum of the weights rounds to."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """Limits of the rows that have any; [B] each."""

    top_p: Tensor
    """1 where unlimited."""
    top_k: Tensor
    """V where unlimited."""
    min_p: Tensor
    """0 where unlimited."""


def sample(
    logits: Tensor,
    temperature: Tensor,
    truncation: Truncation | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: [B, V] float32.
        temperature: [B] float32; 0 takes the most likely token.
        truncation: top-p, top-k, min-p, or None where no row has any.

    Returns:
        tokens [B] int64, and log-probs [B]: log_softmax(logits / temperature) at the token, before
        any truncation (as SGLang reports them); at temperature 0, log_softmax(logits).
    """
    greedy = temperature == 0
    logprobs = torch.log_softmax(logits / temperature.masked_fill(greedy, 1.0)[:, None], dim=-1)
    weights = logprobs.exp()
    if truncation is not None:
        weights = truncate(weights, truncation)
    cumulative = weights.cumsum(dim=-1)
    draw = torch.rand(logits.shape[0], 1, generator=generator, device=logits.device) * _INSIDE
    tokens = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True)
    tokens = tokens.clamp_max(logits.shape[1] - 1)
    if bool(greedy.any()):
        best = logits.argmax(dim=-1, keepdim=True)
        tokens = torch.where(greedy[:, None], best, tokens)
    return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)


def truncate(weights: Tensor, limits: Truncation) -> Tensor:
    """Zero the weights [B, V] outside of each row's top-k, top-p and min-p support, in this order.

    Not renormalised. The most likely token always stays.
    """
    ordered, index = weights.sort(dim=-1, descending=True)
    rank = torch.arange(weights.shape[1], device=weights.device)
    keep = rank < limits.top_k[:, None]
    ordered = ordered * keep
    total = ordered.sum(dim=-1, keepdim=True)
    before = ordered.cumsum(dim=-1) - ordered
    keep &= before <= limits.top_p[:, None] * total
    keep &= ordered >= limits.min_p[:, None] * ordered[:, :1]
    keep[:, 0] = True
    return torch.zeros_like(weights).scatter(1, index, ordered * keep)
