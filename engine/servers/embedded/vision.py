"""The vision tower of Qwen3-VL for many images of one size at once.

The reference implementation attends to each image in a Python loop; here images with equal
grids form one batch. Weights are read from the module, so nothing is stale after an update.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

Tower = Any
"""A transformers Qwen3VLVisionModel; its attributes are untyped there."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """One preprocessed image."""

    digest: str
    """SHA-256 of the encoded bytes: the image's identity."""
    patches: Tensor
    """[patches, channels * temporal * patch * patch] float32."""
    grid: tuple[int, int, int]
    """Time, height, width in patches."""


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What the language model gets of one image: [tokens, E], and the same per deepstack level."""

    merged: Tensor
    deepstack: tuple[Tensor, ...]


def encode(tower: Tower, images: Sequence[Pixels]) -> dict[str, ImageFeatures]:
    """{digest: features} of all images; equal grids are computed together."""
    by_grid: dict[tuple[int, int, int], dict[str, Pixels]] = {}
    for image in images:
        by_grid.setdefault(image.grid, {})[image.digest] = image
    found: dict[str, ImageFeatures] = {}
    for grid, batch in by_grid.items():
        patches = torch.stack([image.patches for image in batch.values()])
        merged, levels = _encode_grid(tower, patches, grid)
        for i, digest in enumerate(batch):
            found[digest] = ImageFeatures(merged[i], tuple(level[i] for level in levels))
    return found


def _encode_grid(
    tower: Tower, patches: Tensor, grid: tuple[int, int, int]
) -> tuple[Tensor, list[Tensor]]:
    """patches [B, N, pixels] of one grid -> [B, N / merge^2, E], and such per deepstack level."""
    weight = tower.patch_embed.proj.weight
    batch, count, _ = patches.shape
    patches = patches.to(weight.device, weight.dtype)
    x = F.linear(patches, weight.flatten(1), tower.patch_embed.proj.bias)
    place, cos, sin = _places(tower, x, grid)
    x = x + place
    heads = tower.config.num_heads
    levels = []
    for index, block in enumerate(tower.blocks):
        qkv = block.attn.qkv(block.norm1(x)).view(batch, count, 3, heads, -1)
        query, key, value = qkv.unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, cos, sin)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        x = x + block.attn.proj(mixed.transpose(1, 2).reshape(batch, count, -1))
        x = x + block.mlp(block.norm2(x))
        if index in tower.deepstack_visual_indexes:
            merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(index)]
            levels.append(merger(x.flatten(0, 1)).unflatten(0, (batch, -1)))
    return tower.merger(x.flatten(0, 1)).unflatten(0, (batch, -1)), levels


def _places(tower: Tower, x: Tensor, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The learned position embedding [N, width] of a grid, and its rotary cos and sin [N, D]."""
    sizes = torch.tensor([grid], device=x.device)
    indices, weights = get_vision_interpolation_indices_and_weights(
        sizes,
        num_grid_per_side=tower.num_grid_per_side,
        mode=tower.interpolation_mode,
        align_corners=tower.interpolation_align_corners,
        spatial_merge_size=tower.spatial_merge_size,
    )
    place = (tower.pos_embed(indices) * weights[:, :, None]).sum(1).to(x.dtype)
    cos, sin = tower.rotary_pos_emb(x, get_vision_position_ids(sizes, tower.spatial_merge_size))
    return place, cos, sin
