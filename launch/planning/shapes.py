"""Parameters of a model from the numbers of its config.json alone; no weights, no torch.

Each formula counts the tensors of one family's modules. Where a folder has weights, their headers
say it (`engine.learner.costs.model_shape`).
"""

from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError
from engine.learner.base_model import text_config
from engine.learner.costs import ModelShape

COLOURS = 3
_BIASED = ("qwen2", "qwen2_5_vl")
"""Decoders whose q, k and v have biases; those of the others have norms of q and k."""


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape of the model that `config` (a config.json) describes.

    Raises ConfigError for a family that we do not know, or a number that is missing.
    """
    family = config.get("model_type")
    if family not in _TOWERS:
        raise ConfigError(
            f"config.json: model_type {family!r} has no formula; there are {', '.join(_TOWERS)}, "
            "or name a folder with weights"
        )
    text, vision = text_config(config), config.get("vision_config") or {}
    try:
        return _shape(config, str(family), text, vision)
    except KeyError as missing:
        raise ConfigError(f"config.json: {missing.args[0]} is missing") from None


def _shape(
    config: Mapping[str, Any], family: str, text: Mapping[str, Any], vision: Mapping[str, Any]
) -> ModelShape:
    hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
    embedding = int(text["vocab_size"]) * hidden
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return ModelShape(
        layers=int(text["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(text["intermediate_size"]),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        vocabulary=int(text["vocab_size"]),
        vision_layers=int(vision.get("depth") or vision["num_hidden_layers"]),
        vision_hidden=int(vision["hidden_size"]),
        vision_intermediate=int(vision["intermediate_size"]),
        language_params=_decoder(text, str(text.get("model_type") or family)),
        embedding_params=embedding,
        head_params=0 if tied else embedding,
        vision_params=_TOWERS[family](vision, hidden),
    )


def _decoder(text: Mapping[str, Any], kind: str) -> int:
    """Layers and the last norm: q, k, v, o; gate, up, down; norms; biases or norms of q and k."""
    hidden, inside = int(text["hidden_size"]), int(text["intermediate_size"])
    heads = int(text["num_attention_heads"])
    size = int(text.get("head_dim") or hidden // heads)
    q, k = heads * size, int(text.get("num_key_value_heads") or heads) * size
    layer = 2 * hidden * (q + k) + 3 * hidden * inside + 2 * hidden
    layer += q + 2 * k if kind.removesuffix("_text") in _BIASED else 2 * size
    return int(text["num_hidden_layers"]) * layer + hidden


def _qwen3_vl(vision: Mapping[str, Any], out: int) -> int:
    """Patches, positions, blocks of a plain MLP, one merger, and one more per deepstack level."""
    width, inside = int(vision["hidden_size"]), int(vision["intermediate_size"])
    joined = width * int(vision["spatial_merge_size"]) ** 2
    patch = COLOURS * int(vision["temporal_patch_size"]) * int(vision["patch_size"]) ** 2
    block = 4 * width**2 + 4 * width + 2 * width * inside + inside + width + 4 * width
    merger = joined**2 + joined + joined * out + out
    levels = len(vision["deepstack_visual_indexes"])
    return (
        (patch + 1) * width
        + int(vision["num_position_embeddings"]) * width
        + int(vision["depth"]) * block
        + (merger + 2 * width)
        + levels * (merger + 2 * joined)
    )


def _qwen2_5_vl(vision: Mapping[str, Any], out: int) -> int:
    """Patches, blocks of a gated MLP, one merger; norms have no biases."""
    width, inside = int(vision["hidden_size"]), int(vision["intermediate_size"])
    joined = width * int(vision["spatial_merge_size"]) ** 2
    patch = COLOURS * int(vision["temporal_patch_size"]) * int(vision["patch_size"]) ** 2
    block = 4 * width**2 + 4 * width + 3 * width * inside + 2 * inside + width + 2 * width
    merger = width + joined**2 + joined + joined * out + out
    return patch * width + int(vision["depth"]) * block + merger


def _internvl(vision: Mapping[str, Any], out: int) -> int:
    """Patches, class token, positions, blocks with layer scales, and the projector of four joined
    patches."""
    width, inside = int(vision["hidden_size"]), int(vision["intermediate_size"])
    down, across = (size // patch for size, patch in zip(*_sides(vision), strict=True))
    height, breadth = _sides(vision)[1]
    patches = COLOURS * height * breadth * width + width
    biases = 3 * width if vision.get("attention_bias", False) else 0
    block = 4 * width**2 + width + biases + 2 * width * inside + inside + width + 6 * width
    last = 0 if vision.get("use_mean_pooling", True) else 2 * width
    joined = 4 * width
    projector = 2 * joined + joined * out + out + out**2 + out
    places = width + (down * across + 1) * width
    return patches + places + int(vision["num_hidden_layers"]) * block + last + projector


def _sides(vision: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of a tile and of a patch, in pixels."""
    tile, patch = (
        (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
        for value in (vision["image_size"], vision["patch_size"])
    )
    return tile, patch


_TOWERS = {"qwen3_vl": _qwen3_vl, "qwen2_5_vl": _qwen2_5_vl, "internvl": _internvl}
