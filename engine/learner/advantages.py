"""Credit of the rollouts of one group. Pure."""

from collections.abc import Sequence

import torch
from torch import Tensor

STD_FLOOR = 1e-6


def group_advantages(rewards: Sequence[float], *, divide_by_std: bool) -> Tensor:
    """Group-relative advantages (GRPO, arXiv:2402.03300): (r - mean) / (std + 1e-6).

    The standard deviation is unbiased (ddof 1). Returns [len(rewards)] float32; zeros for a
    group of one and for equal rewards. `divide_by_std=False` only centres (arXiv:2503.20783).
    """
    values = torch.tensor(tuple(rewards), dtype=torch.float64)
    # A constant group has no signal; its mean may differ from it by a rounding error.
    if values.numel() < 2 or bool((values == values[0]).all()):
        return torch.zeros(values.numel(), dtype=torch.float32)
    centred = values - values.mean()
    if divide_by_std:
        centred = centred / (values.std(correction=1) + STD_FLOOR)
    return centred.float()
