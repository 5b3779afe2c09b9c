"""What differs between model architectures, behind one narrow protocol; Qwen3-VL.

A family expands prompts (placeholders, position ids), encodes pictures, loads a trainable model
and names its weights. Everything else in the learner is the same for all.

R, L, T, ...: see `engine.learner.batch`; H: hidden size; C: vocabulary.
"""

import copy
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoImageProcessor, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from engine.errors import ConfigError
from engine.learner.base_model import check_base_model
from engine.learner.batch import EncodedImage, ExpandedPrompt, MicroBatch

LOGITS_PER_CHUNK = 1 << 26
"""Most logits held at once (256 MiB in fp32); more tokens are recomputed chunk by chunk."""


class PolicyModel(nn.Module):
    """A causal VLM as the learner sees it: log-probs of what was sampled."""

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Returns ([T] log-probs of `targets_T` at logits / temperature, nats, with gradient;
        [T] entropy of the same distributions, nats, without). float32."""
        raise NotImplementedError

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name in the checkpoint, parameter), each parameter once."""
        raise NotImplementedError

    def shards(self) -> Iterator[nn.Module]:
        """Submodules that are worth sharding by themselves, innermost first."""
        raise NotImplementedError


class ModelFamily(Protocol):
    @property
    def dtype(self) -> torch.dtype:
        """Of the weights in the folder, and so of published weights."""
        ...

    def load(self, path: Path, *, device: torch.device, always_see: bool = False) -> PolicyModel:
        """The model in float32 (master weights), without dropout. `always_see`: run the vision
        tower for micro-batches without images too, so that all ranks join its collectives."""
        ...

    def encode(self, png: bytes) -> EncodedImage: ...

    def expand(
        self, prompt_ids: Sequence[int], images: Sequence[EncodedImage]
    ) -> ExpandedPrompt: ...


class Qwen3VL:
    """The family of Qwen3VLForConditionalGeneration. Raises ConfigError for a bad folder."""

    def __init__(self, path: Path) -> None:
        check_base_model(path)
        config = AutoConfig.from_pretrained(path)
        self.dtype: torch.dtype = config.dtype or torch.float32
        self._image_token = int(config.image_token_id)
        self._merge = int(config.vision_config.spatial_merge_size)
        # Without torchvision transformers falls back to PIL; say so, so that it never differs.
        self._processor = AutoImageProcessor.from_pretrained(path, backend="pil")
        # Position ids come from Hugging Face's own code, which is a method of a model: a model
        # without layers on the meta device costs nothing.
        bare = copy.deepcopy(config)
        bare.text_config.num_hidden_layers = 0
        bare.vision_config.depth = 0
        with torch.device("meta"):
            self._layout = Qwen3VLModel(bare)

    def load(self, path: Path, *, device: torch.device, always_see: bool = False) -> PolicyModel:
        check_base_model(path)
        model = Qwen3VLForConditionalGeneration.from_pretrained(
            path, dtype=torch.float32, attn_implementation="sdpa"
        )
        nn.Module.to(model, device)  # transformers' own `to` is not typed
        return Qwen3VLPolicy(model, always_see=always_see)

    def encode(self, png: bytes) -> EncodedImage:
        """Decode and cut one picture into patches, exactly as the model's processor does."""
        with Image.open(io.BytesIO(png)) as image:
            features = self._processor(images=[image.convert("RGB")], return_tensors="pt")
        t, h, w = (int(n) for n in features["image_grid_thw"][0])
        return EncodedImage(
            features["pixel_values"].float(), (t, h, w), t * h * w // self._merge**2
        )

    def expand(self, prompt_ids: Sequence[int], images: Sequence[EncodedImage]) -> ExpandedPrompt:
        """Repeat each placeholder to the size of its image; positions by `get_rope_index`.

        Raises ValueError if the placeholders are not as many as the images, or nothing is asked.
        """
        num_placeholders = sum(token == self._image_token for token in prompt_ids)
        if num_placeholders != len(images) or not prompt_ids:
            raise ValueError(f"{num_placeholders} image placeholders for {len(images)} images")
        remaining = iter(images)
        repeats = torch.tensor(
            [
                next(remaining).num_tokens if token == self._image_token else 1
                for token in prompt_ids
            ]
        )
        ids = torch.tensor(tuple(prompt_ids)).repeat_interleave(repeats)
        is_image = ids == self._image_token
        grids = torch.tensor([image.grid_thw for image in images]).reshape(-1, 3)
        rope_index: Callable[..., tuple[Tensor, Tensor]] = self._layout.get_rope_index
        positions, _ = rope_index(
            ids[None], mm_token_type_ids=is_image[None].int(), image_grid_thw=grids
        )
        return ExpandedPrompt(ids, is_image, positions[:, 0], int(positions.max()) + 1)


class Qwen3VLPolicy(PolicyModel):
    """Hugging Face's modules, called so that shared images and prompts are computed once."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, *, always_see: bool = False) -> None:
        super().__init__()
        # eval: the log-probs must be those of the sampler, which has no dropout.
        self.model = model.eval()
        self._always_see = always_see

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        language = self.model.model.language_model
        embeds_RLH = language.embed_tokens(batch.input_ids_RL)
        deepstack: list[Tensor] | None = None
        if batch.grid_I3.numel():
            visual_VH, layers = self._see(batch.pixels_PD, batch.grid_I3)
            visual_MH = visual_VH[batch.visual_M].to(embeds_RLH.dtype)
            embeds_RLH = embeds_RLH.masked_scatter(batch.is_image_RL[..., None], visual_MH)
            deepstack = [layer_VH[batch.visual_M] for layer_VH in layers]
        elif self._always_see:
            embeds_RLH = embeds_RLH + self._blank(embeds_RLH.device)
        hidden_RLH = language(
            inputs_embeds=embeds_RLH,
            attention_mask=batch.attention_R1LL,
            position_ids=batch.positions_3RL,
            visual_pos_masks=batch.is_image_RL if deepstack else None,
            deepstack_visual_embeds=deepstack,
            use_cache=False,
        ).last_hidden_state
        hidden_TH = hidden_RLH.flatten(0, 1)[batch.predict_T]
        return self._score(hidden_TH, batch.targets_T, batch.temperatures_T)

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        # named_parameters() names a tied lm_head once, as the embedding: as checkpoints do.
        yield from self.model.named_parameters()

    def shards(self) -> Iterator[nn.Module]:
        yield from self.model.model.visual.blocks
        yield from self.model.model.language_model.layers

    def _see(self, pixels_PD: Tensor, grid_I3: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[V, H] visual tokens of the distinct images, and the same for each deepstack layer."""
        seen = self.model.model.visual(pixels_PD, grid_thw=grid_I3)
        return seen.pooler_output, list(seen.deepstack_features)

    def _blank(self, device: torch.device) -> Tensor:
        """Zero, but with a gradient path through the whole vision tower."""
        vision = self.model.config.vision_config
        side = vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels_PD = torch.zeros(side * side, width, device=device)
        visual_VH, layers = self._see(pixels_PD, torch.tensor([[1, side, side]], device=device))
        return sum((layer.sum() for layer in layers), visual_VH.sum()) * 0.0

    def _score(
        self, hidden_TH: Tensor, targets_T: Tensor, temps_T: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, never holding more than LOGITS_PER_CHUNK logits."""
        chunk = max(1, LOGITS_PER_CHUNK // self.model.config.text_config.vocab_size)
        if len(targets_T) <= chunk:
            return self._score_chunk(hidden_TH, targets_T, temps_T)
        parts = [
            checkpoint(self._score_chunk, *part, use_reentrant=False)
            for part in zip(*(x.split(chunk) for x in (hidden_TH, targets_T, temps_T)), strict=True)
        ]
        logprobs, entropies = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _score_chunk(
        self, hidden_TH: Tensor, targets_T: Tensor, temps_T: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits_TC = self.model.lm_head(hidden_TH).float() / temps_T[:, None]
        logprobs_TC = logits_TC.log_softmax(-1)
        with torch.no_grad():
            entropy_T = -(logprobs_TC.exp() * logprobs_TC).sum(-1)
        # Not gather(): FSDP2's hooks do not like an output that is a view.
        return -F.nll_loss(logprobs_TC, targets_T, reduction="none"), entropy_T


def family_of(path: Path) -> ModelFamily:
    """The family of the model in folder `path`. Raises ConfigError for an unknown one."""
    config = AutoConfig.from_pretrained(path)
    if config.model_type == "qwen3_vl":
        return Qwen3VL(path)
    raise ConfigError(f"base model {path}: no model family for model_type {config.model_type}")
