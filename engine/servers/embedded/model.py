"""The forward pass of Qwen3-VL over a Hugging Face module's own weights, laid out for serving.

The module stays the owner of the weights (names, loading, checksums); this class keeps fused
copies of the projections and rebuilds them after an update. Decoding one token of B rows costs
about fifteen torch operations per layer, whatever B is.

Shapes: B rows, L live columns, P prompt columns, H query heads, G key-value heads, D head size,
N layers, E hidden size, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.servers.embedded.vision import ImageFeatures

Module = Any
"""A transformers Qwen3VLForConditionalGeneration; its attributes are untyped there."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer; weights as F.linear takes them, [out, in]."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_scale: Tensor
    """[H + G, D] norm weights of queries and keys; the queries' include 1 / sqrt(D)."""
    out: Tensor
    """[H * D, E], transposed for addmm."""
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor
    """[M, E], transposed for addmm."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the model sees it: placeholders expanded, positions known."""

    token_ids: tuple[int, ...]
    positions: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    """Time, height and width position of every token."""
    next_position: int
    images: tuple[tuple[int, str], ...] = ()
    """(first column, digest) of every image."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a prompt leaves behind: keys [N, G, D, P], values [N, G, P, D], hidden [P or 1, E]."""

    keys: Tensor
    values: Tensor
    hidden: Tensor
    """After the final norm; the last row belongs to the last token."""


class TextModel:
    """The language model of a Qwen3-VL module, without autograd."""

    def __init__(self, module: Module, max_positions: int) -> None:
        config = module.config.text_config
        self.module = module
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.layers_count: int = config.num_hidden_layers
        self.head_dim: int = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        self.hidden: int = config.hidden_size
        self.vocab: int = config.vocab_size
        self.eps: float = config.rms_norm_eps
        rotary = module.model.language_model.rotary_emb
        if rotary.rope_type != "default":
            raise ValueError(f"rope type {rotary.rope_type!r} is not supported")
        self.dtype = module.dtype
        self.device = module.device
        angles = torch.outer(
            torch.arange(max_positions + 1, device=self.device).float(), rotary.inv_freq.float()
        )
        self.rotations = torch.polar(torch.ones_like(angles), angles)
        """[positions, D / 2] complex unit rotations."""
        axis = torch.zeros(self.head_dim // 2, dtype=torch.long, device=self.device)
        for index in (1, 2):
            axis[index : rotary.mrope_section[index] * 3 : 3] = index
        self.axis_of_frequency = axis
        self.refresh()

    def refresh(self) -> None:
        """Rebuild the fused weights from the module's parameters."""
        half = self.head_dim // 2
        # Rotating pairs (i, i + D/2) becomes one complex product once the pairs are neighbours.
        order = torch.arange(self.head_dim, device=self.device).view(2, half).t().reshape(-1)
        language = self.module.model.language_model
        self.layers = [self._fuse(layer, order) for layer in language.layers]
        self.embedding = language.embed_tokens.weight.data
        self.final_norm = language.norm.weight.data
        self.lm_head = self.module.lm_head.weight.data

    def _fuse(self, layer: Module, order: Tensor) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp

        def paired(tensor: Tensor) -> Tensor:
            return tensor.unflatten(0, (-1, self.head_dim))[:, order].flatten(0, 1)

        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (projection.weight.data for projection in projections)
        bias = None
        if attention.q_proj.bias is not None:
            qb, kb, vb = (projection.bias.data for projection in projections)
            bias = torch.cat([paired(qb), paired(kb), vb])
        scale = torch.cat(
            [
                (attention.q_norm.weight.data[order] * self.head_dim**-0.5).expand(self.heads, -1),
                attention.k_norm.weight.data[order].expand(self.kv_heads, -1),
            ]
        )
        return Layer(
            input_norm=layer.input_layernorm.weight.data,
            qkv=torch.cat([paired(q), paired(k), v]),
            qkv_bias=bias,
            qk_scale=scale,
            out=attention.o_proj.weight.data.t(),
            post_norm=layer.post_attention_layernorm.weight.data,
            gate_up=torch.cat([mlp.gate_proj.weight.data, mlp.up_proj.weight.data]),
            down=mlp.down_proj.weight.data.t(),
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., E] after the final norm -> [..., V] float32."""
        return F.linear(hidden, self.lm_head).float()

    def _project(self, layer: Layer, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, E], rotation [T, 1, D / 2] -> rotated (queries, keys) [T, H + G, D], values."""
        tokens, split = x.shape[0], (self.heads + self.kv_heads) * self.head_dim
        normed = F.rms_norm(x, (self.hidden,), layer.input_norm, self.eps)
        qkv = F.linear(normed, layer.qkv, layer.qkv_bias)
        qk = qkv[:, :split].reshape(tokens, self.heads + self.kv_heads, self.head_dim)
        qk = F.rms_norm(qk, (self.head_dim,), None, self.eps) * layer.qk_scale
        turned = torch.view_as_complex(qk.float().unflatten(-1, (-1, 2))) * rotation
        qk = torch.view_as_real(turned).flatten(-2).to(x.dtype)
        return qk, qkv[:, split:].view(tokens, self.kv_heads, self.head_dim)

    def _feed_forward(self, layer: Layer, x: Tensor) -> Tensor:
        normed = F.rms_norm(x, (self.hidden,), layer.post_norm, self.eps)
        gate, up = F.linear(normed, layer.gate_up).chunk(2, dim=-1)
        return torch.addmm(x, F.silu(gate) * up, layer.down)

    def decode(
        self,
        token_ids: Tensor,
        positions: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        mask: Tensor,
    ) -> Tensor:
        """One token for B rows; writes the last column of `keys` and `values`.

        Args:
            token_ids, positions: [B] int64.
            keys: per layer a view [B, G, D, L]; values: per layer a view [B, G, L, D].
            mask: [B, 1, 1, L], 0 or -inf, added to the attention scores.

        Returns:
            [B, E] hidden states after the final norm.
        """
        rows = token_ids.shape[0]
        x = self.embedding[token_ids]
        rotation = self.rotations[positions].unsqueeze(1)
        group = self.heads // self.kv_heads
        for layer, key_cache, value_cache in zip(self.layers, keys, values, strict=True):
            qk, value = self._project(layer, x, rotation)
            key_cache[..., -1] = qk[:, self.heads :]
            value_cache[:, :, -1] = value
            query = qk[:, : self.heads].view(rows, self.kv_heads, group, self.head_dim)
            scores = torch.matmul(query, key_cache)
            scores += mask
            mixed = torch.matmul(torch.softmax(scores, dim=-1), value_cache)
            x = torch.addmm(x, mixed.view(rows, -1), layer.out)
            x = self._feed_forward(layer, x)
        return F.rms_norm(x, (self.hidden,), self.final_norm, self.eps)

    def prefill(
        self,
        prompts: Sequence[Prompt],
        features: dict[str, ImageFeatures],
        *,
        all_positions: bool = False,
    ) -> list[Prefilled]:
        """Run whole prompts, padded on the left to the longest; one `Prefilled` per prompt."""
        batch, width = len(prompts), max(len(prompt.token_ids) for prompt in prompts)
        starts = [width - len(prompt.token_ids) for prompt in prompts]
        x, depth = self._embed(prompts, starts, width, features)
        rotation = self._rotation(prompts, starts, width)
        mask = self._causal_mask(starts, width)
        keys, values = [], []
        for index, layer in enumerate(self.layers):
            qk, value = self._project(layer, x, rotation)
            qk = qk.view(batch, width, -1, self.head_dim).transpose(1, 2)
            query, key = qk[:, : self.heads], qk[:, self.heads :]
            value = value.view(batch, width, self.kv_heads, self.head_dim).transpose(1, 2)
            keys.append(key.transpose(2, 3))
            values.append(value)
            group = self.heads // self.kv_heads
            mixed = F.scaled_dot_product_attention(
                query,
                key.repeat_interleave(group, dim=1),
                value.repeat_interleave(group, dim=1),
                attn_mask=mask,
                scale=1.0,
            )
            x = torch.addmm(x, mixed.transpose(1, 2).reshape(batch * width, -1), layer.out)
            x = self._feed_forward(layer, x)
            if index < len(depth):
                where, addition = depth[index]
                x[where] += addition
        states = F.rms_norm(x, (self.hidden,), self.final_norm, self.eps).view(batch, width, -1)
        stacked_keys, stacked_values = torch.stack(keys, 1), torch.stack(values, 1)
        return [
            Prefilled(
                keys=stacked_keys[i, ..., start:],
                values=stacked_values[i, :, :, start:],
                hidden=states[i, start:] if all_positions else states[i, -1:],
            )
            for i, start in enumerate(starts)
        ]

    def _embed(
        self,
        prompts: Sequence[Prompt],
        starts: Sequence[int],
        width: int,
        features: dict[str, ImageFeatures],
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Embeddings [B * P, E] with image features in place, and what each early layer adds."""
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        spans: list[tuple[int, ImageFeatures]] = []
        for i, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
            ids[i, start:] = torch.tensor(prompt.token_ids)
            for column, digest in prompt.images:
                spans.append((i * width + start + column, features[digest]))
        x = self.embedding[ids.to(self.device).view(-1)]
        if not spans:
            return x, []
        where = torch.cat(
            [torch.arange(first, first + image.merged.shape[0]) for first, image in spans]
        ).to(self.device)
        x[where] = torch.cat([image.merged for _, image in spans])
        levels = zip(*(image.deepstack for _, image in spans), strict=True)
        return x, [(where, torch.cat(level)) for level in levels]

    def _rotation(self, prompts: Sequence[Prompt], starts: Sequence[int], width: int) -> Tensor:
        """[B * P, 1, D / 2] complex; each frequency turns by its own axis' position."""
        positions = torch.zeros(3, len(prompts), width, dtype=torch.long)
        for i, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
            positions[:, i, start:] = torch.tensor(prompt.positions)
        by_axis = self.rotations[positions.to(self.device).view(3, -1)]
        index = self.axis_of_frequency.expand(1, by_axis.shape[1], -1)
        return by_axis.gather(0, index).squeeze(0).unsqueeze(1)

    def _causal_mask(self, starts: Sequence[int], width: int) -> Tensor:
        """[B, 1, P, P] bool; padding attends to itself, so that nothing is ever undefined."""
        column = torch.arange(width, device=self.device)
        causal = column <= column[:, None]
        live = column >= torch.tensor(starts, device=self.device)[:, None, None]
        return ((causal & live) | torch.eye(width, dtype=torch.bool, device=self.device))[:, None]


def adopt_parameters(module: Module, tensors: Sequence[tuple[str, Tensor]]) -> bool:
    """Let the module's parameters lie where these tensors lie. False, and nothing is changed, where
    one is unknown, or not of its parameter's shape, dtype and device."""
    own = module.state_dict(keep_vars=True)
    for name, tensor in tensors:
        target = own.get(name)
        if target is None or (target.shape, target.dtype) != (tensor.shape, tensor.dtype):
            return False
        if target.device != tensor.device:
            return False
    for name, tensor in tensors:
        own[name].data = tensor
    return True


def load_parameters(module: Module, tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Copy named tensors into the module's parameters, cast to their dtype.

    Returns the names that the module does not know; raises ValueError on a wrong shape.
    """
    own = module.state_dict(keep_vars=True)
    unknown = []
    for name, tensor in tensors:
        target = own.get(name)
        if target is None:
            unknown.append(name)
            continue
        if target.shape != tensor.shape:
            raise ValueError(
                f"{name}: shape {tuple(tensor.shape)} does not fit {tuple(target.shape)}"
            )
        target.data.copy_(tensor)
    return unknown
