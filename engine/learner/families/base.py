"""A causal vision-language model as the learner sees it, and the protocol of a family.

A family expands prompts (placeholders, position ids), measures and encodes pictures, loads a
trainable model and names its weights. Everything else in the learner is the same for all.

N, T, I, P, D, V, M: see `engine.learner.batch`; H: hidden size; C: vocabulary.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from engine.errors import ConfigError
from engine.learner.attention import IMPLEMENTATION
from engine.learner.batch import ExpandedPrompt, ImageSize, MicroBatch, Pictures
from engine.learner.scoring import score

Seen = tuple[Tensor, ...]
"""What the vision tower made of some pictures, [V, H] each: visual tokens, then what enters the
first decoder layers (Qwen3-VL's deepstack; nothing for most families)."""


class ModelFamily(Protocol):
    @property
    def dtype(self) -> torch.dtype:
        """Of the weights in the folder, and so of published weights."""
        ...

    @property
    def picture_ids(self) -> Sequence[int]:
        """What stands for a picture in a prompt as sent: one placeholder, and what a template
        writes around it."""
        ...

    @property
    def picture_side(self) -> int:
        """Pixels of a square picture that is not resized, about `engine.probe.SIDE`."""
        ...

    def load(self, path: Path, *, device: torch.device, always_see: bool = False) -> "PolicyModel":
        """The model in float32 (master weights), without dropout. `always_see`: run the vision
        tower for micro-batches without images too, so that all ranks join its collectives.

        Raises ConfigError for a folder that lacks a weight.
        """
        ...

    def measure(self, png: bytes) -> ImageSize:
        """What a picture will take; reads its header only.

        Raises ValueError for a shape that the family's processor refuses.
        """
        ...

    def encode(self, png: bytes) -> Tensor:
        """[rows, D] float32: the picture as the vision tower takes it."""
        ...

    def expand(self, prompt_ids: Sequence[int], images: Sequence[ImageSize]) -> ExpandedPrompt:
        """Ids as sent (one placeholder per image) to ids as the model sees them: exactly what the
        model's own processor makes of them, and a server counts as `prompt_tokens`.

        Raises ValueError if the placeholders are not as many as the images, or nothing is asked.
        """
        ...


class PolicyModel(nn.Module):
    """Hugging Face's modules, called so that pictures and prompts are computed once.

    A family says where the parts are and how pictures enter; see `families/qwen_vl.py`.
    """

    model: Any
    """Hugging Face's."""
    published_prefixes: ClassVar[Sequence[tuple[str, str]]] = ()
    """(how a parameter's name begins here, how it begins in checkpoints), the first that fits."""

    def __init__(self, model: nn.Module, *, always_see: bool = False) -> None:
        super().__init__()
        # eval: the log-probs must be those of the sampler, which has no dropout.
        self.model = model.eval()
        self._always_see = always_see

    # -- of a family ---------------------------------------------------------------------------

    @property
    def language(self) -> Any:
        """The decoder: `embed_tokens`, `layers`, and its own forward."""
        raise NotImplementedError

    @property
    def vision_blocks(self) -> Sequence[nn.Module]:
        raise NotImplementedError

    def see(self, pixels_PD: Tensor, grid_I3: Tensor) -> Seen:
        """The vision tower on distinct images."""
        raise NotImplementedError

    def blank(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(pixels_PD, grid_I3) of the smallest picture that there can be, all zero."""
        raise NotImplementedError

    def decode(self, embeds_NH: Tensor, batch: MicroBatch, layers: list[Tensor]) -> Tensor:
        """[N, H] last hidden states. `layers`: [M, H] each, what `see` gave for the first decoder
        layers, by placeholder."""
        raise NotImplementedError

    # -- the same for all ----------------------------------------------------------------------

    def look(self, pictures: Pictures) -> Seen:
        """What `forward` takes as `shared`.

        Without pictures nothing, [0, H] each, yet with a gradient path through the whole tower.
        """
        if pictures.grid_I3.numel():
            return self.see(pictures.pixels_PD, pictures.grid_I3)
        return tuple(x_VH[:0] for x_VH in self.see(*self.blank(pictures.grid_I3.device)))

    def forward(self, batch: MicroBatch, shared: Seen = ()) -> tuple[Tensor, Tensor]:
        """Returns ([T] log-probs of `targets_T` at logits / temperature; [T] entropy of the same
        distributions), nats, float32, both with gradient.

        `shared`: of the pictures that the micro-batch has in common with others.
        """
        embeds_NH = self.language.embed_tokens(batch.input_ids_N)
        seen = shared
        if batch.grid_I3.numel():
            own = self.see(batch.pixels_PD, batch.grid_I3)
            seen = tuple(map(torch.cat, zip(shared, own, strict=True))) if shared else own
        elif self._always_see:
            # Zero, but with a gradient path through the whole vision tower.
            blank = self.see(*self.blank(embeds_NH.device))
            embeds_NH = embeds_NH + torch.stack([x.sum() for x in blank]).sum() * 0.0
        layers: list[Tensor] = []
        if batch.visual_M.numel():
            visual_MH, *layers = (x_VH[batch.visual_M] for x_VH in seen)
            embeds_NH = embeds_NH.masked_scatter(
                batch.is_image_N[:, None], visual_MH.to(embeds_NH.dtype)
            )
        hidden_NH = self.decode(embeds_NH, batch, layers)
        return score(
            hidden_NH[batch.predict_T],
            self.output_embedding(),
            batch.targets_T,
            batch.temperatures_T,
        )

    def output_embedding(self) -> Tensor:
        """[C, H]; the input embedding where they are tied."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name here, parameter), each parameter once: a tied output embedding has no name."""
        yield from self.model.named_parameters()

    def published_name(self, name: str) -> str:
        """The name of the parameter `name` in the files on the Hub, which servers expect.

        transformers 5 renames on loading, and back on saving; SGLang (0.5.23) takes a Qwen2.5-VL
        by the old names only: of the new ones it skips some and fails at the others.
        """
        for here, there in self.published_prefixes:
            if name.startswith(here):
                return there + name.removeprefix(here)
        return name

    def shards(self) -> Iterator[nn.Module]:
        """Submodules that are worth sharding by themselves, innermost first."""
        yield from self.vision_blocks
        yield from self.language.layers

    def checkpoint_activations(self) -> None:
        """From now on a layer's activations are computed again in the backward pass: one more
        forward (a third of the step's FLOPs), and only the layers' inputs are kept."""
        for block in self.shards():
            # Inside of the module's hooks: those that gather its shards run once per pass.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def load_model(architecture: Any, path: Path, device: torch.device) -> Any:
    """A transformers model in float32 whose layers call `engine.learner.attention`.

    Raises ConfigError where a weight is missing: transformers would start it at random.
    """
    model, found = architecture.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ConfigError(
            f"base model {path}: no weights for {missing[0]} and {len(missing) - 1} more; "
            "download the whole folder again"
        )
    model.set_attn_implementation(IMPLEMENTATION)
    return model.to(device)


def check_full_attention(path: Path, text_config: Any) -> None:
    """Raise ConfigError for a decoder with layers that do not see the whole past."""
    kinds = set(getattr(text_config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise ConfigError(
            f"base model {path}: layers of {sorted(kinds)[0]} are not supported; "
            "set use_sliding_window to false in config.json if the model was trained without"
        )


def expand_ids(
    prompt_ids: Sequence[int],
    image_token: int,
    images: Sequence[ImageSize],
    *,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """([N] ids with every placeholder repeated to the size of its image, [N] is_image).

    `before`, `after`: what the processor puts around an image. Raises ValueError unless there is
    one placeholder per image, and something to answer.
    """
    found = sum(token == image_token for token in prompt_ids)
    if found != len(images) or not prompt_ids:
        raise ValueError(f"{found} image placeholders for {len(images)} images")
    remaining = iter(images)
    ids: list[int] = []
    for token in prompt_ids:
        if token == image_token:
            ids += [*before, *[token] * next(remaining).num_tokens, *after]
        else:
            ids.append(token)
    ids_N = torch.tensor(ids)
    return ids_N, ids_N == image_token
