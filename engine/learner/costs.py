"""What a model costs: floating-point operations and parameters, from its folder. No torch.

Used to balance micro-batches over ranks, to say which share of a device's peak was reached (MFU),
and by the memory model.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.learner.base_model import read_json, text_config, weight_shapes

_VISION = ("visual.", "vision_tower.", "multi_modal_projector.")

BACKWARD = 2
"""A backward pass costs twice its forward pass."""
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10": 125e12,
    "A10G": 70e12,
}
"""Dense bfloat16 FLOP/s by words of the device's name, from the data sheets; the longest match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The numbers that costs are made of."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    vision_intermediate: int
    language_params: int
    """Of the decoder's layers and its last norm."""
    embedding_params: int
    """Of the input embedding, which a tied output embedding shares."""
    head_params: int
    """Of an output embedding of its own; 0 where it is tied."""
    vision_params: int

    @property
    def params(self) -> int:
        return self.language_params + self.embedding_params + self.head_params + self.vision_params


def model_shape(path: Path) -> ModelShape:
    """The shape of the model in folder `path`, of any family.

    Raises ConfigError for a folder that can't be read, or whose config.json lacks a size.
    """
    file = path / "config.json"
    config = read_json(file)
    text, vision = text_config(config), config.get("vision_config") or {}
    sizes = dict.fromkeys(("language", "embedding", "head", "vision"), 0)
    for name, shape in weight_shapes(path).items():
        sizes[_part(name)] += math.prod(shape)
    if config.get("tie_word_embeddings", text.get("tie_word_embeddings")):
        sizes["head"] = 0  # some folders hold the tied tensor twice
    heads, hidden = _size(file, text, "num_attention_heads"), _size(file, text, "hidden_size")
    return ModelShape(
        layers=_size(file, text, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_size(file, text, "intermediate_size"),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        vocabulary=_size(file, text, "vocab_size"),
        vision_layers=_size(file, vision, "depth", "num_hidden_layers"),
        vision_hidden=_size(file, vision, "hidden_size"),
        vision_intermediate=_size(file, vision, "intermediate_size"),
        language_params=sizes["language"],
        embedding_params=sizes["embedding"],
        head_params=sizes["head"],
        vision_params=sizes["vision"],
    )


def _size(file: Path, section: Mapping[str, Any], *names: str) -> int:
    """The first of `names` that the section of `file` has."""
    for name in names:
        if section.get(name):
            return int(section[name])
    raise ConfigError(f"base model file {file}: it has no {' or '.join(names)}")


def _part(name: str) -> str:
    if any(part in name for part in _VISION):
        return "vision"
    if name.endswith("embed_tokens.weight"):
        return "embedding"
    return "head" if "lm_head." in name else "language"


def forward_flops(
    shape: ModelShape,
    *,
    tokens: float,
    pairs: float,
    scored: float,
    patches: float = 0,
    patch_pairs: float = 0,
) -> float:
    """FLOPs of one forward pass, a multiply-add counted as two.

    `tokens` through the decoder; `pairs` of a query and a key that it sees; `scored` tokens that
    get log-probs; `patches` through the vision tower and the `patch_pairs` of its attention. Each
    weight takes part in one multiply-add per token (per patch in the tower: its merger, which sees
    a quarter of them, is overestimated); a pair takes two of the size of a head, in every head.
    """
    output = shape.head_params or shape.embedding_params
    return (
        2 * shape.language_params * tokens
        + 4 * shape.layers * shape.heads * shape.head_dim * pairs
        + 2 * output * scored
        + 2 * shape.vision_params * patches
        + 4 * shape.vision_layers * shape.vision_hidden * patch_pairs
    )


def step_flops(forward: float) -> float:
    """FLOPs of training on what `forward` costs, without any recomputation."""
    return (1 + BACKWARD) * forward


@cache
def peak_flops(device_name: str) -> float | None:
    """Dense bfloat16 FLOP/s of a GPU by its name; None where it is not known."""
    # Whole words: an L40 is no L4, a GB200 no B200.
    found = [name for name in PEAKS if re.search(rf"(?<!\w){name}(?!\w)", device_name)]
    return PEAKS[max(found, key=len)] if found else None
