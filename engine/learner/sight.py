"""Pictures that several micro-batches share: seen once, for all of them.

Where the rows of a picture exceed `tokens_per_micro_batch`, its micro-batches read copies of what
the vision tower made of it. Gradients gather in the copies, and go back through the tower once,
after the last micro-batch; until then the tower's activations are kept.
"""

import torch
from torch import Tensor

from engine.learner.families.base import Seen


class Sight:
    """`seen`: from `PolicyModel.look`, with gradient; nothing where nothing is shared."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        # Sums over micro-batches are float32, whatever the tower computes in.
        self._copies = [x.detach().float().requires_grad_(x.requires_grad) for x in seen]

    def copies(self) -> Seen:
        """For one micro-batch."""
        return tuple(copy.to(x.dtype) for copy, x in zip(self._copies, self._seen, strict=True))

    def backward(self) -> None:
        """Through the tower: a collective, also where this rank's pictures have no gradient."""
        outputs: list[Tensor] = []
        gradients: list[Tensor] = []
        for x, copy in zip(self._seen, self._copies, strict=True):
            if x.requires_grad:
                outputs.append(x)
                gradients.append((torch.zeros_like(x) if copy.grad is None else copy.grad).to(x))
        torch.autograd.backward(outputs, gradients)
