"""Folders of random Qwen3-VL models, for measuring sizes that nobody wants to download.

`2b` and `8b` have the shapes of Qwen3-VL-2B and -8B (2,127,532,032 and 8,767,123,696 parameters, as
they have); `60m` is what two cores train in seconds. Weights are random, so only times, memory and
agreement mean something.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

TINY = Path(__file__).resolve().parents[1] / "tiny_base_model"
"""Its tokenizer is copied: nobody reads made-up tokens. Its special ids are the first."""
_COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One model's shape."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    vision_layers: int
    vision_hidden: int
    vision_intermediate: int
    vision_heads: int
    deepstack: tuple[int, ...]
    dtype: torch.dtype


SIZES = {
    "60m": Size(
        layers=10, hidden=512, intermediate=1536, heads=8, kv_heads=4, head_dim=64,
        vocabulary=32768, tied=True, vision_layers=4, vision_hidden=384,
        vision_intermediate=1536, vision_heads=6, deepstack=(1,), dtype=torch.float32,
    ),
    "2b": Size(
        layers=28, hidden=2048, intermediate=6144, heads=16, kv_heads=8, head_dim=128,
        vocabulary=151936, tied=True, vision_layers=24, vision_hidden=1024,
        vision_intermediate=4096, vision_heads=16, deepstack=(5, 11, 17), dtype=torch.bfloat16,
    ),
    "8b": Size(
        layers=36, hidden=4096, intermediate=12288, heads=32, kv_heads=8, head_dim=128,
        vocabulary=151936, tied=False, vision_layers=27, vision_hidden=1152,
        vision_intermediate=4304, vision_heads=16, deepstack=(8, 16, 24), dtype=torch.bfloat16,
    ),
}  # fmt: skip


def config_of(size: Size, layers: int = 0) -> Qwen3VLConfig:
    """The configuration; `layers` > 0 keeps only so many decoder layers."""
    rotary = size.head_dim // 2
    sections = [rotary - 2 * (rotary * 5 // 16), rotary * 5 // 16, rotary * 5 // 16]
    return Qwen3VLConfig(
        text_config={
            "vocab_size": size.vocabulary,
            "hidden_size": size.hidden,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": layers or size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "head_dim": size.head_dim,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": size.tied,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": sections,
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": size.vision_intermediate,
            "num_heads": size.vision_heads,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": size.hidden,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": list(size.deepstack),
        },
        image_token_id=6,
        video_token_id=7,
        vision_start_token_id=3,
        vision_end_token_id=4,
        tie_word_embeddings=size.tied,
        dtype=size.dtype,
    )


def make(folder: Path, name: str, *, side: int, layers: int, seed: int, device: str) -> Path:
    """Write a model of `SIZES[name]` that takes pictures of `side` x `side` pixels as they are."""
    size = SIZES[name]
    torch.manual_seed(seed)
    with torch.device(device):
        model = Qwen3VLForConditionalGeneration._from_config(
            config_of(size, layers), dtype=size.dtype
        )
    model.generation_config = GenerationConfig(eos_token_id=[2, 0], pad_token_id=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for file in _COPIED:
        shutil.copy(TINY / file, folder / file)
    processor = json.loads((TINY / "preprocessor_config.json").read_text())
    processor["size"] = {"shortest_edge": side * side, "longest_edge": side * side}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
