"""Log-probs and entropies of sampled tokens, without ever holding the logits of a whole batch.

T: sampled tokens; H: hidden size; C: vocabulary. A vocabulary of 151,936 takes 0.6 MB of float32
per token, more than all else that a token needs. So tokens are scored in chunks; the backward
pass computes a chunk's logits again, and only float32 numbers per token live in between.
"""

from typing import Any

import torch
from torch import Tensor

LOGITS_PER_CHUNK = 1 << 26
"""Most logits held at once (256 MiB in float32)."""


class _Score(torch.autograd.Function):
    """With z = W h / temperature, lse = log sum exp z and p = exp(z - lse):

        log-prob = z[target] - lse            d/dz = onehot(target) - p
        entropy  = - sum p (z - lse)          d/dz = -p (z - lse + entropy)

    Where one chunk is enough, p is kept instead of computed again. At most three arrays of the
    size of a chunk's logits live at once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        weight_CH: Tensor,
        targets_T: Tensor,
        temps_T: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        low_CH = weight_CH.to(dtype)
        parts = _chunks(len(targets_T), len(weight_CH))
        found_4T = hidden_TH.new_zeros(4, len(targets_T), dtype=torch.float32)
        kept = None
        for part in parts:
            logits = _logits(hidden_TH[part], low_CH, temps_T[part])
            # lse in two parts, or it would be rounded as coarsely as the largest logit.
            peak = logits.amax(-1)
            probs = logits.sub_(peak[:, None]).exp()
            total = probs.sum(-1)
            logits.sub_(total.log()[:, None])
            probs.div_(total[:, None])
            found_4T[0, part], found_4T[1, part] = peak, total.log()
            found_4T[2, part] = logits.gather(1, targets_T[part, None])[:, 0]
            found_4T[3, part] = -logits.mul_(probs).sum(-1)
            kept = probs if len(parts) == 1 else None
            del logits, probs
        peaks_T, log_sums_T, logprobs_T, entropy_T = (row.clone() for row in found_4T)
        ctx.save_for_backward(
            hidden_TH, weight_CH, targets_T, temps_T, peaks_T, log_sums_T, entropy_T, kept
        )
        ctx.dtype = dtype
        ctx.set_materialize_grads(False)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (
            hidden_TH, weight_CH, targets_T, temps_T, peaks_T, log_sums_T, entropy_T, kept
        ) = ctx.saved_tensors  # fmt: skip
        # One factor of d z / d logits for both.
        logprobs_T, surprises_T = (None if grad is None else grad / temps_T for grad in grads)
        low_CH = weight_CH.to(ctx.dtype)
        parts = _chunks(len(targets_T), len(weight_CH))
        grad_hidden_TH = torch.zeros_like(hidden_TH)
        sum_dtype = torch.float32 if len(parts) > 1 else weight_CH.dtype
        grad_weight_CH = (
            torch.zeros_like(weight_CH, dtype=sum_dtype) if ctx.needs_input_grad[1] else None
        )
        for part in parts:
            probs = kept
            if probs is None:
                logits = _logits(hidden_TH[part], low_CH, temps_T[part])
                probs = logits.sub_(peaks_T[part, None]).sub_(log_sums_T[part, None]).exp_()
                del logits
            grad = _grad_logits(
                probs,
                targets_T[part],
                entropy_T[part],
                None if logprobs_T is None else logprobs_T[part],
                None if surprises_T is None else surprises_T[part],
            )
            del probs
            grad = grad.to(ctx.dtype)
            grad_hidden_TH[part] = (grad @ low_CH).to(hidden_TH.dtype)
            if grad_weight_CH is not None:
                grad_weight_CH += grad.T @ hidden_TH[part].to(ctx.dtype)
            del grad
        if grad_weight_CH is not None:
            grad_weight_CH = grad_weight_CH.to(weight_CH.dtype)
        return grad_hidden_TH, grad_weight_CH, None, None, None


def _chunks(num_tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS_PER_CHUNK // vocabulary)
    return [slice(i, i + size) for i in range(0, num_tokens, size)]


def _logits(hidden_TH: Tensor, weight_CH: Tensor, temps_T: Tensor) -> Tensor:
    return (hidden_TH.to(weight_CH.dtype) @ weight_CH.T).float().div_(temps_T[:, None])


def _grad_logits(
    probs_TC: Tensor,
    targets_T: Tensor,
    entropy_T: Tensor,
    grad_logprobs_T: Tensor | None,
    grad_entropy_T: Tensor | None,
) -> Tensor:
    if grad_logprobs_T is None:
        grad_TC = torch.zeros_like(probs_TC)
    else:
        grad_TC = probs_TC * -grad_logprobs_T[:, None]
        grad_TC.scatter_add_(1, targets_T[:, None], grad_logprobs_T[:, None])
    if grad_entropy_T is not None:
        # p log p is 0 where p is, although log p is not finite.
        surprise_TC = torch.special.xlogy(probs_TC, probs_TC)
        surprise_TC.addcmul_(probs_TC, entropy_T[:, None])
        grad_TC.addcmul_(surprise_TC, -grad_entropy_T[:, None])
    return grad_TC


def score(
    hidden_TH: Tensor, weight_CH: Tensor, targets_T: Tensor, temperatures_T: Tensor
) -> tuple[Tensor, Tensor]:
    """([T] log-probs of `targets_T` at logits / temperature; [T] entropies), nats, float32.

    `weight_CH`: the output embedding; logits are multiplied in its dtype, under autocast in
    autocast's, and everything after that is float32. Gradients flow into `hidden_TH` and
    `weight_CH` from both.
    """
    device = hidden_TH.device.type
    mixed = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if mixed else weight_CH.dtype
    logprobs_T, entropy_T = _Score.apply(hidden_TH, weight_CH, targets_T, temperatures_T, dtype)
    return logprobs_T, entropy_T
