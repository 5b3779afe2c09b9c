"""InternVL3, as transformers has it (the Hub's `-hf` folders): pictures as tiles of one size.

A picture is cut into the grid of tiles, at most `max_patches`, whose shape is nearest to its own;
with more than one tile a thumbnail of the whole comes last. Each tile takes `image_seq_length`
tokens.

The prompt template writes one `<IMG_CONTEXT>` per image. Expansion makes `<img>`, the placeholders
of all its tiles, and `</img>` of it, as the model's own processor does: a template that writes
`<img>` itself would have it twice, there and here. Positions count tokens, on one axis.

By its source SGLang 0.5.23 takes pictures with token ids for no InternVL: `-hf` folders run on its
transformers backend, whose processor wants text. The learner is ready before that server is.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from engine.errors import ConfigError
from engine.learner.base_model import check_base_model, compute_dtype, read_json
from engine.learner.batch import ExpandedPrompt, ImageSize, MicroBatch
from engine.learner.families.base import (
    PolicyModel,
    Seen,
    check_full_attention,
    expand_ids,
    load_model,
)

DECODERS = ("qwen2", "qwen3")
"""Kinds of `text_config` that are known to work: InternVL3's and InternVL3.5's."""
AROUND = ("<img>", "</img>")
"""What stands before and after the placeholders of an image."""
_TILES = {"crop_to_patches": True}
"""What the model's processor asks of its image processor, whatever the folder's own default."""


class InternVLPolicy(PolicyModel):
    published_prefixes = (
        ("model.language_model.", "language_model.model."),
        ("model.", ""),
        ("lm_head.", "language_model.lm_head."),
    )

    @property
    def language(self) -> Any:
        return self.model.model.language_model

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        layers: Sequence[nn.Module] = self.model.model.vision_tower.encoder.layer
        return layers

    def see(self, pixels_PD: Tensor, grid_I3: Tensor) -> Seen:
        config = self.model.config
        shape = (config.vision_config.num_channels, *config.vision_config.image_size)
        seen = self.model.model.get_image_features(
            pixels_PD.unflatten(1, shape),
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )
        return (seen.pooler_output.flatten(0, 1),)

    def blank(self, device: torch.device) -> tuple[Tensor, Tensor]:
        vision = self.model.config.vision_config
        width = vision.num_channels * math.prod(vision.image_size)
        return torch.zeros(1, width, device=device), torch.tensor([[1, 1, 1]], device=device)

    def decode(self, embeds_NH: Tensor, batch: MicroBatch, layers: list[Tensor]) -> Tensor:
        hidden_1NH: Tensor = self.language(
            inputs_embeds=embeds_NH[None],
            position_ids=batch.positions_3N[:1],
            use_cache=False,
            plan=batch.plan,
        ).last_hidden_state
        return hidden_1NH[0]


class InternVL:
    """The family of InternVLForConditionalGeneration. Raises ConfigError for a bad folder."""

    def __init__(self, path: Path) -> None:
        check_base_model(path)
        config = AutoConfig.from_pretrained(path)
        if config.text_config.model_type not in DECODERS:
            raise ConfigError(
                f"base model {path}: a decoder of {config.text_config.model_type} is not "
                f"supported; use one of {', '.join(DECODERS)}"
            )
        check_full_attention(path, config.text_config)
        # Not transformers' own, which does not look into a Qwen3-VL's text_config.
        self.dtype: torch.dtype = getattr(torch, compute_dtype(read_json(path / "config.json")))
        self._image_token = int(config.image_token_id)
        self.picture_ids: Sequence[int] = (self._image_token,)
        self._start, self._end = (_token_id(path, token) for token in AROUND)
        self._tokens = int(config.image_seq_length)
        # By name: what transformers chooses depends on torchvision.
        self._processor: Any = GotOcr2ImageProcessorPil.from_pretrained(path)
        self.picture_side: int = config.vision_config.image_size[0]
        self._grid = _grid(path, config, self._processor.size)

    def load(self, path: Path, *, device: torch.device, always_see: bool = False) -> PolicyModel:
        check_base_model(path)
        model = load_model(InternVLForConditionalGeneration, path, device)
        return InternVLPolicy(model, always_see=always_see)

    def measure(self, png: bytes) -> ImageSize:
        with Image.open(io.BytesIO(png)) as image:
            width, height = image.size
        tiles = self._processor.get_number_of_image_patches(height, width, _TILES)
        patches = math.prod(self._grid) + 1  # and the class token
        return ImageSize(
            (tiles, *self._grid), tiles * self._tokens, tiles * patches, tiles * patches**2
        )

    def encode(self, png: bytes) -> Tensor:
        with Image.open(io.BytesIO(png)) as image:
            features = self._processor(images=[image.convert("RGB")], return_tensors="pt", **_TILES)
        pixels_PD: Tensor = features["pixel_values"].float().flatten(1)
        return pixels_PD

    def expand(self, prompt_ids: Sequence[int], images: Sequence[ImageSize]) -> ExpandedPrompt:
        ids, is_image = expand_ids(
            prompt_ids, self._image_token, images, before=[self._start], after=[self._end]
        )
        positions = torch.arange(len(ids)).expand(3, -1)
        return ExpandedPrompt(ids, is_image, positions, len(ids))


def _token_id(path: Path, token: str) -> int:
    found = Tokenizer.from_file(str(path / "tokenizer.json")).token_to_id(token)
    if found is None:
        raise ConfigError(f"base model {path}: its tokenizer has no {token}")
    return int(found)


def _grid(path: Path, config: Any, size: Any) -> tuple[int, int]:
    """Patches of a tile, (down, across). Raises ConfigError where the folder's files disagree."""
    vision = config.vision_config
    height, width = vision.image_size
    down, across = height // vision.patch_size[0], width // vision.patch_size[1]
    tokens = int(down * across * config.downsample_ratio**2)
    if (size["height"], size["width"]) != (height, width) or tokens != config.image_seq_length:
        raise ConfigError(
            f"base model {path}: tiles of {size['height']} x {size['width']} pixels and "
            f"{config.image_seq_length} tokens do not fit a tower for {height} x {width} pixels "
            f"and {tokens} tokens"
        )
    return down, across
