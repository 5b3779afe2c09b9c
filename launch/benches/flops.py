"""What a step must compute, and what the device could: the two sides of a utilisation.

Needed are, forward and backward: each distinct prompt once, each picture once, each sampled token
but the last of its rollout, scores for sampled tokens alone:

    3 (2 W_decoder N + 4 L d pairs + 2 W_output T + 2 W_vision P + 4 L_v d_v P_pairs)

N tokens, T of them sampled, P patches; `pairs` of a token and one that it sees, L layers of width
d (`engine.learner.costs`). What a trainer computes beyond that (prompts again, padding, activations
again) is its own affair and counts for nothing.
"""

import time
from collections.abc import Callable, Sequence

import torch

from engine.learner.batch import ImageSize
from engine.learner.costs import ModelShape, forward_flops, peak_flops, step_flops
from engine.types import Group


def needed(
    groups: Sequence[Group], shape: ModelShape, measure: Callable[[bytes], ImageSize]
) -> float:
    """FLOPs of one step on `groups`."""
    tokens = pairs = scored = 0
    prompts = set()
    pictures: dict[bytes, ImageSize] = {}
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        for png in rollout.images:
            pictures[png] = pictures.get(png) or measure(png)
        length = len(rollout.prompt_ids)
        length += sum(pictures[png].num_tokens - 1 for png in rollout.images)
        if (prompt := (rollout.prompt_ids, rollout.images)) not in prompts:
            prompts.add(prompt)
            tokens += length
            pairs += length * (length + 1) // 2
        inputs = len(rollout.token_ids) - 1
        tokens += inputs
        pairs += inputs * length + inputs * (inputs + 1) // 2
        scored += len(rollout.token_ids)
    forward = forward_flops(
        shape,
        tokens=tokens,
        pairs=pairs,
        scored=scored,
        patches=sum(picture.num_patches for picture in pictures.values()),
        patch_pairs=sum(picture.patch_pairs for picture in pictures.values()),
    )
    return step_flops(forward)


def peak(device: str, dtype: torch.dtype) -> tuple[float, str]:
    """(FLOP/s, what it is): of the data sheet, or of large products measured here.

    On a CPU the product runs on this process's threads, and its seconds are the processor's.
    """
    if device != "cpu":
        name = torch.cuda.get_device_name()
        known = peak_flops(name)
        if known is not None and dtype == torch.bfloat16:
            return known, f"{name}, bf16 dense"
    side = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = float("inf")
    for _ in range(12):
        started = clock()
        (a @ b)[0, 0].item()
        best = min(best, clock() - started)
    return 2 * side**3 / best, f"product of {side} x {side}, measured"
