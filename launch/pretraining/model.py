"""The tiny Qwen3-VL: its configuration, its folder, and a forward pass over a batch.

The forward pass runs the modules of transformers; it only knows beforehand that every picture is
96x96, hence 3x3 visual tokens, and that two questions about one picture share its features.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SIDE = 96
GRID = 3
"""Visual tokens along one side of a picture."""
PATCHES = 36
"""Patches of one picture, four to a visual token."""


def image_processor() -> Qwen2VLImageProcessorPil:
    """16-pixel patches, merged by 2; every picture is brought to about 96x96 pixels."""
    return Qwen2VLImageProcessorPil(
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    """Random weights, fp32, 1.4 M parameters."""

    def token(text: str) -> int:
        ids = tokenizer.convert_tokens_to_ids([text])
        assert isinstance(ids, list)
        return ids[0]

    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "initializer_range": 0.05,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": PATCHES,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
        dtype="float32",
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=[token("<|im_end|>"), token("<|endoftext|>")],
        pad_token_id=token("<|endoftext|>"),
    )
    return model


def save_folder(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """A normal Hugging Face folder, as a real Qwen3-VL has it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = image_processor().to_dict()
    # Both names of the processor: the plain one is resolved to the PIL backend where
    # torchvision is missing.
    processor["image_processor_type"] = "Qwen2VLImageProcessor"
    processor["processor_class"] = "Qwen3VLProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    video = {**processor, "video_processor_type": "Qwen3VLVideoProcessor"}
    del video["image_processor_type"]
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n")


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows of T tokens, right- or left-padded; V pictures."""

    ids_BT: torch.Tensor
    """int64; one image token per visual token."""
    mask_BT: torch.Tensor
    """int64; 0 at padding."""
    positions_3BT: torch.Tensor
    """int64; time, height, width."""
    patches: torch.Tensor
    """float32 [V * PATCHES, patch_dim], pictures one after the other."""
    picture_of_row: torch.Tensor
    """int64, the picture of each row that has one, in the order of the rows."""


def positions(ids: list[int], image_token: int) -> np.ndarray:
    """[3, len(ids)] rotary positions: a picture advances them by GRID, text by one."""
    out = np.empty((3, len(ids)), np.int64)
    at, i = 0, 0
    while i < len(ids):
        if ids[i] == image_token:
            cell = np.arange(GRID * GRID)
            out[:, i : i + GRID * GRID] = at + np.stack([cell * 0, cell // GRID, cell % GRID])
            i, at = i + GRID * GRID, at + GRID
        else:
            out[:, i] = at
            i, at = i + 1, at + 1
    return out


def collate(
    rows: list[list[int]], pictures: Sequence[int | None], patches: torch.Tensor, *,
    image_token: int, pad_token: int, pad_left: bool,
) -> Batch:  # fmt: skip
    """Pad `rows` (image tokens already expanded); `pictures[i]` is the picture of row i."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad_token, np.int64)
    mask = np.zeros_like(ids)
    place = np.zeros((3, *ids.shape), np.int64)
    for i, row in enumerate(rows):
        span = slice(longest - len(row), longest) if pad_left else slice(0, len(row))
        ids[i, span], mask[i, span] = row, 1
        place[:, i, span] = positions(row, image_token)
    of_row = torch.tensor([p for p in pictures if p is not None], dtype=torch.long)
    ids_BT, mask_BT, positions_3BT = map(torch.from_numpy, (ids, mask, place))
    return Batch(ids_BT, mask_BT, positions_3BT, patches, of_row)


def embed(
    model: Qwen3VLForConditionalGeneration, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor] | None]:
    """[B, T, D] inputs of the language model, [B, T] bool mask of the visual tokens, deepstack."""
    embeds = model.get_input_embeddings()(batch.ids_BT)
    if not len(batch.picture_of_row):
        return embeds, None, None
    count = len(batch.patches) // PATCHES
    grid = torch.tensor([[1, 2 * GRID, 2 * GRID]]).expand(count, 3)
    seen = model.model.visual(batch.patches, grid_thw=grid)

    def of_rows(features: torch.Tensor) -> torch.Tensor:
        return features.view(count, GRID * GRID, -1)[batch.picture_of_row].flatten(0, 1)

    mask = batch.ids_BT == model.config.image_token_id
    embeds = embeds.masked_scatter(mask[..., None], of_rows(seen.pooler_output))
    return embeds, mask, [of_rows(features) for features in seen.deepstack_features]


def hidden_states(model: Qwen3VLForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """[B, T, D] before the output layer; rows must be right-padded (no padding mask is used)."""
    embeds, visual, deepstack = embed(model, batch)
    output = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=batch.positions_3BT,
        visual_pos_masks=visual,
        deepstack_visual_embeds=deepstack,
        use_cache=False,
    )
    states: torch.Tensor = output.last_hidden_state
    return states
