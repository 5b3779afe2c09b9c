"""What Qwen2.5-VL and Qwen3-VL share: pictures as patches of any number, and M-RoPE positions.

The prompt template writes `<|vision_start|>`, one `<|image_pad|>` per image and `<|vision_end|>`;
expansion repeats the placeholder only.
"""

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from engine.learner.base_model import check_base_model, compute_dtype, read_json
from engine.learner.batch import ExpandedPrompt, ImageSize, MicroBatch
from engine.learner.families.base import (
    PolicyModel,
    Seen,
    check_full_attention,
    expand_ids,
    load_model,
)
from engine.probe import SIDE


class QwenVLPolicy(PolicyModel):
    @property
    def language(self) -> Any:
        return self.model.model.language_model

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        blocks: Sequence[nn.Module] = self.model.model.visual.blocks
        return blocks

    def see(self, pixels_PD: Tensor, grid_I3: Tensor) -> Seen:
        seen = self.model.model.visual(pixels_PD, grid_thw=grid_I3)
        return seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())

    def blank(self, device: torch.device) -> tuple[Tensor, Tensor]:
        vision = self.model.config.vision_config
        side = vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels_PD = torch.zeros(side * side, width, device=device)
        return pixels_PD, torch.tensor([[1, side, side]], device=device)

    def decode(self, embeds_NH: Tensor, batch: MicroBatch, layers: list[Tensor]) -> Tensor:
        deep: Mapping[str, Any] = {}
        if layers:
            mask_1N = batch.is_image_N[None]
            deep = {"visual_pos_masks": mask_1N, "deepstack_visual_embeds": layers}
        hidden_1NH: Tensor = self.language(
            inputs_embeds=embeds_NH[None],
            position_ids=batch.positions_3N[:, None],
            use_cache=False,
            plan=batch.plan,
            **deep,
        ).last_hidden_state
        return hidden_1NH[0]


class QwenVL:
    """The family of one of Qwen's architectures. Raises ConfigError for a bad folder."""

    architecture: ClassVar[Any]
    """transformers' class that is trained."""
    body: ClassVar[Any]
    """transformers' class that knows the position ids."""
    policy: ClassVar[type[QwenVLPolicy]] = QwenVLPolicy

    def __init__(self, path: Path) -> None:
        check_base_model(path)
        config = AutoConfig.from_pretrained(path)
        check_full_attention(path, config.text_config)
        # Not transformers' own, which does not look into a Qwen3-VL's text_config.
        self.dtype: torch.dtype = getattr(torch, compute_dtype(read_json(path / "config.json")))
        self._image_token = int(config.image_token_id)
        ends = int(config.vision_start_token_id), int(config.vision_end_token_id)
        self.picture_ids: Sequence[int] = (ends[0], self._image_token, ends[1])
        self._vision: Any = config.vision_config
        self._merge = int(self._vision.spatial_merge_size)
        # By name: what transformers chooses depends on torchvision, and on how the folder calls it
        # (early Qwen2.5-VL and its children name a class that is gone).
        self._processor: Any = Qwen2VLImageProcessorPil.from_pretrained(path)
        self.picture_side: int = self._resized(SIDE, SIDE)[0]
        # Position ids come from Hugging Face's own code, which is a method of a model: a model
        # without layers on the meta device costs nothing.
        bare = copy.deepcopy(config)
        bare.text_config.num_hidden_layers = 0
        bare.vision_config.depth = 0
        with torch.device("meta"):
            self._layout = self.body(bare)

    def load(self, path: Path, *, device: torch.device, always_see: bool = False) -> PolicyModel:
        check_base_model(path)
        return self.policy(load_model(self.architecture, path, device), always_see=always_see)

    def measure(self, png: bytes) -> ImageSize:
        with Image.open(io.BytesIO(png)) as image:
            width, height = image.size
        patch = self._processor.patch_size
        rows, columns = self._resized(height, width)
        h, w = rows // patch, columns // patch
        return ImageSize((1, h, w), h * w // self._merge**2, h * w, self.patch_pairs(h, w))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Pixels (down, across) of a picture as the tower sees it."""
        size, factor = self._processor.size, self._processor.patch_size * self._merge
        rows, columns = smart_resize(
            height, width, factor, size["shortest_edge"], size["longest_edge"]
        )
        return rows, columns

    def patch_pairs(self, height: int, width: int) -> int:
        """Pairs of patches that see each other in a layer of the tower, its mean layer."""
        return (height * width) ** 2

    def encode(self, png: bytes) -> Tensor:
        with Image.open(io.BytesIO(png)) as image:
            features = self._processor(images=[image.convert("RGB")], return_tensors="pt")
        pixels_PD: Tensor = features["pixel_values"].float()
        return pixels_PD

    def expand(self, prompt_ids: Sequence[int], images: Sequence[ImageSize]) -> ExpandedPrompt:
        ids, is_image = expand_ids(prompt_ids, self._image_token, images)
        grids = torch.tensor([image.grid_thw for image in images]).reshape(-1, 3)
        rope_index: Callable[..., tuple[Tensor, Tensor]] = self._layout.get_rope_index
        positions, _ = rope_index(
            ids[None], mm_token_type_ids=is_image[None].int(), image_grid_thw=grids
        )
        return ExpandedPrompt(ids, is_image, positions[:, 0], int(positions.max()) + 1)
