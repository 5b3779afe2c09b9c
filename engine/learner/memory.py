"""What a learner's rank will hold: bytes on its device and on its host, before anything starts.

A sum of products of a model's sizes (no torch): each term is one line of `learner_memory`. A step
passes through *moments* that need different things; a device must have room for the largest of
them. The coefficients follow from our forward and backward code; tests compare them with what
autograd keeps, and with the live tensors of real steps.

c: bytes of a number of forward and backward (2: bfloat16); P: parameters, of which P_l are in a
decoder layer, C x H in an output embedding and R in FSDP2's root group (embeddings, norms, and what
of the vision tower is no block); p: policies; s: ranks that share a copy of the weights; N: tokens
of a micro-batch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.learner.base_model import read_json
from engine.learner.costs import ModelShape

GB = 10**9
LOGITS_PER_CHUNK = 1 << 26
"""As in `scoring`, which needs torch."""
VISUAL_SHARE = 0.25
"""Of the tokens of a micro-batch, those that are pictures: an assumption. With rollouts of a
thousand tokens on pictures of 800 it is far less."""
PATCHES_PER_TOKEN = 4
"""The vision towers merge 2 x 2."""
PATCH_NUMBERS = 3 * 2 * 16 * 16
"""Pixel values of a patch (Qwen3-VL's; other families have fewer)."""
MERGERS = 4
"""Projections to the decoder: one, and three for its first layers (Qwen3-VL's deepstack)."""
ADAPTED = 7
"""Linear layers of a decoder layer that LoRA adapts at most."""
MICRO_BATCHES = 8
"""Of a rank in a step: an assumption; a batch waits on the device as a whole."""
BYTES_PER_TOKEN = 200
"""Ids, positions, attention plan and per-token numbers of a prepared batch."""
PINNED = 1 / math.log(2)
"""torch hands out pinned memory in powers of two: 1.44 times the bytes, the average over sizes."""
CONTEXT = 2.5 * GB
"""CUDA's context, cuBLAS's workspaces and NCCL's buffers (groups of ranks and of servers)."""
FRAGMENTATION = 0.05
"""Of what tensors take: what the caching allocator can't use."""
PROCESS = 4 * GB
"""A rank's interpreter with torch, CUDA's libraries and the staging of transfers."""

Terms = Mapping[str, float]
"""{what: bytes}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes by moment and by term."""

    device: Mapping[str, Terms]
    """Of each rank: {moment: terms}."""
    host: Mapping[str, Terms]
    """Of the host of rank 0: its `shard` ranks together."""

    @property
    def device_bytes(self) -> float:
        """At the worst moment."""
        return max(sum(terms.values()) for terms in self.device.values())

    @property
    def host_bytes(self) -> float:
        return max(sum(terms.values()) for terms in self.host.values())

    def __str__(self) -> str:
        """The terms of the worst moment of each, in GB, and the totals of the others."""
        return "\n\n".join(
            _table(name, moments)
            for name, moments in (("device", self.device), ("host", self.host))
        )


def worst(moments: Mapping[str, Terms]) -> tuple[str, Terms]:
    """The moment that needs most, and its terms, largest first."""
    name, terms = max(moments.items(), key=lambda item: sum(item[1].values()))
    return name, dict(sorted(terms.items(), key=lambda item: -item[1]))


def _table(title: str, moments: Mapping[str, Terms]) -> str:
    name, terms = worst(moments)
    lines = [f"{title}: {sum(terms.values()) / GB:.1f} GB at {name}"]
    lines += [f"  {value / GB:8.2f}  {term}" for term, value in terms.items() if value]
    others = [
        f"{other} {sum(found.values()) / GB:.1f}"
        for other, found in moments.items()
        if other != name
    ]
    return "\n".join(lines + ([f"  (at {', '.join(others)})"] if others else []))


def learner_memory(
    shape: ModelShape,
    *,
    policies: int,
    ranks: int,
    tokens_per_micro_batch: int,
    shard: int | None = None,
    compute_bytes: int = 2,
    activation_checkpointing: bool = False,
    offload_optimizer: bool = False,
    lora_rank: int | None = None,
    reference: bool = False,
    updates_per_step: int = 1,
    followers: int = 0,
    bucket_mb: float = 64.0,
    visual_share: float = VISUAL_SHARE,
    micro_batches: int = MICRO_BATCHES,
) -> MemoryEstimate:
    """What the ranks of a group need that train `policies` of `shape` side by side.

    Always on the device:

        masters             4 p P / s, float32; with LoRA of the adapters only
        frozen base         c p P / s, with LoRA
        reference           4 P / s
        Adam's moments      8 p P / s; if offloaded 8 P / s, and only from the first update of a
                            step to its end
        batch               all micro-batches: pixel values, ids and per-token numbers

    While a micro-batch is computed, also

        gradients           4 P / s, float32: of the micro-batches before
        activations         `activation_bytes`; with checkpointing the layers' inputs
        root group          c R, gathered from the forward pass to the end of the backward pass

    and by moment

        output layer        (4 + c) C H, gradient of the output embedding, summed in float32;
                            12 bytes x logits of a chunk
        decoder layer       c C H, that gradient; a layer computed again, if checkpointed; working
                            set N x `working_bytes`; 3 c P_l gathered (this layer, the next one,
                            and its buffer on the way); (c + 8) P_l gradients on their way, two
                            layers' in float32
        reference's pass    c R, its root group; 3 c P_l; 8 bytes x logits of a chunk; working set
        root's gradients    (4 + c) R before they are summed over ranks, or 4 R + 4 R / s after

    Otherwise

        update              masters, gradients and all moments of the policy
        publication         (4 + c) C H, a whole tensor, gathered and cast; 3 buckets (gathered,
                            joined, and the one before, which is being sent)
        loading             4 P, a whole model before it is sharded

    On the host (with s ranks on one): moments 8 p P x 1.44, if offloaded; snapshots of all
    policies being written, 12 P each + c P whole on rank 0; followers c P each; two prepared
    batches a rank; or at the start 4 P a rank, the model as it is read. What servers and the
    engine hold there is not counted.
    """
    c, shard = compute_bytes, shard or ranks
    layer, root = _layer_params(shape), _root_params(shape)
    head = shape.vocabulary * shape.hidden
    trained = shape.params if lora_rank is None else _adapter_params(shape, lora_rank)
    grown = 0 if lora_rank is not None else 1  # 1 where the model's own weights have gradients
    patches = tokens_per_micro_batch * visual_share * PATCHES_PER_TOKEN
    kept = activation_bytes(
        shape,
        tokens=tokens_per_micro_batch,
        patches=patches * grown,
        compute_bytes=c,
        checkpointing=activation_checkpointing,
        lora_rank=lora_rank,
    )
    again = layer_bytes(shape, c) * tokens_per_micro_batch if activation_checkpointing else 0
    chunk = min(LOGITS_PER_CHUNK, tokens_per_micro_batch * shape.vocabulary)
    batch = micro_batches * (BYTES_PER_TOKEN * tokens_per_micro_batch + 4 * PATCH_NUMBERS * patches)
    moments = 8 * trained / shard
    always = {
        "master weights": 4 * policies * trained / shard,
        "frozen base": 0 if lora_rank is None else c * policies * shape.params / shard,
        "reference": 4 * shape.params / shard if reference else 0,
        "Adam's moments": 0 if offload_optimizer else policies * moments,
    }
    gradients = {"gradients": 4 * trained / shard, "batch": batch}
    computing = always | gradients | {"activations": kept, "root group, gathered": c * root}
    if offload_optimizer and updates_per_step > 1:
        computing["Adam's moments"] = moments
    device: dict[str, Terms] = {
        "the output layer": computing
        | {
            "gradient of the output embedding": (4 + c) * head * grown,
            "logits": 12 * chunk,
        },
        "a decoder layer": computing
        | {
            "gradient of the output embedding": c * head * grown,
            "layer, computed again": again,
            "working set of a layer": working_bytes(shape, c) * tokens_per_micro_batch,
            "layers, gathered": 3 * c * layer,
            "layers' gradients": (c + 8) * (layer if grown else trained / shape.layers),
        },
        "the root's gradients": always
        | gradients
        | {"root's gradients": max((4 + c) * root, 4 * root * (1 + 1 / shard)) * grown},
        "the update": always
        | gradients
        | {"Adam's moments": moments if offload_optimizer else policies * moments},
        "publication": always
        | {
            "whole tensor": (4 + c) * head,
            "buckets": 3 * max(bucket_mb * 2**20, c * head),
        },
        "loading": {
            term: value * (policies - 1) / policies if term != "reference" else value
            for term, value in always.items()
        }
        | {"whole model": 4 * shape.params},
    }
    if reference:
        device["the reference's pass"] = computing | {
            "reference's root group": c * root,
            "layers, gathered": 3 * c * layer,
            "logits": 8 * chunk,
            "working set of a layer": (3 * c * shape.intermediate + (4 + 2 * c) * shape.hidden)
            * tokens_per_micro_batch,
        }
    host = {
        "running": {
            "offloaded moments": 8 * policies * trained * PINNED if offload_optimizer else 0,
            "checkpoints being written": policies * (12 * trained + c * shape.params),
            "followers": followers * c * shape.params,
            "prepared batches": 2 * shard * batch,
            "processes": PROCESS * shard,
        },
        "loading": {"models being read": 4 * shape.params * shard, "processes": PROCESS * shard},
    }
    return MemoryEstimate(
        device={moment: _with_allowance(terms) for moment, terms in device.items()}, host=host
    )


def _with_allowance(terms: Terms) -> Terms:
    return {
        **terms,
        "context": CONTEXT,
        "fragmentation": FRAGMENTATION * sum(terms.values()),
    }


def activation_bytes(
    shape: ModelShape,
    *,
    tokens: float,
    patches: float,
    compute_bytes: int,
    checkpointing: bool,
    lora_rank: int | None = None,
) -> float:
    """What autograd keeps of a forward pass.

    A decoder layer keeps `layer_bytes` a token, a vision block `block_bytes` a patch; checkpointed,
    both keep their inputs: c H and c V. Beside them, a token: (4 + c) H of the last norm, c H of
    those that are scored, 2 c D of rotary angles; a patch: its pixels, and 4 c V in each merger.
    """
    c = compute_bytes
    layer = c * shape.hidden if checkpointing else layer_bytes(shape, c)
    block = c * shape.vision_hidden if checkpointing else block_bytes(shape, c)
    adapters = 0 if lora_rank is None or checkpointing else ADAPTED * c * lora_rank
    token = shape.layers * (layer + adapters) + (4 + 2 * c) * shape.hidden + 2 * c * shape.head_dim
    patch = shape.vision_layers * block + MERGERS * 4 * c * shape.vision_hidden + c * PATCH_NUMBERS
    return token * tokens + patch * patches


def layer_bytes(shape: ModelShape, compute_bytes: int) -> float:
    """Bytes per token that autograd keeps of a decoder layer (Qwen3's, with q/k norms):

        H (8 + 4 c)           two norms: the input in float32, normalised, scaled
        heads D (4 + 3 c)     q before its norm in float32, normalised, turned; attention's output
        kv_heads D (4 + 3 c)  k the same, and v
        F 4 c                 gate, its activation, up, their product
        4 (2 heads + kv_heads)  log-sum-exp of attention, and the norms' scales

    Layers without q/k norms (Qwen2.5, InternVL) keep less.
    """
    c = compute_bytes
    return (
        (8 + 4 * c) * shape.hidden
        + (4 + 3 * c) * (shape.heads + shape.kv_heads) * shape.head_dim
        + 4 * c * shape.intermediate
        + 4 * (2 * shape.heads + shape.kv_heads)
    )


def block_bytes(shape: ModelShape, compute_bytes: int) -> float:
    """Bytes per patch that autograd keeps of a vision block (Qwen3-VL's), V wide, W inside:

    V 11 c                two norms: input and output; q, k, v as one; q, k turned; attention's
                          output as it was computed, and joined over pictures
    W 2 c                 before and after the activation
    """
    return compute_bytes * (11 * shape.vision_hidden + 2 * shape.vision_intermediate)


def working_bytes(shape: ModelShape, compute_bytes: int) -> float:
    """Bytes per token that the backward pass of a decoder layer needs for itself.

    Its MLP: c (2 F + H), gradients of gate and up, and the one that came in. Its attention: copies
    of q, k, v, the output and its gradient for the completions, and gradients of both calls,
    c (8 heads + 6 kv_heads) D, with 4 heads D of the kernel's own; by then what the MLP kept is
    free: 4 c F + (4 + 2 c) H.
    """
    c, size = compute_bytes, shape.head_dim
    mlp = c * (2 * shape.intermediate + shape.hidden)
    attention = c * (8 * shape.heads + 6 * shape.kv_heads) * size + 4 * shape.heads * size
    freed = 4 * c * shape.intermediate + (4 + 2 * c) * shape.hidden
    return max(mlp, attention - freed)


def _layer_params(shape: ModelShape) -> float:
    return shape.language_params / max(1, shape.layers)


def _root_params(shape: ModelShape) -> float:
    """Embeddings, and of the vision tower what is no block (4 V^2 + 2 V W)."""
    inside = 4 * shape.vision_hidden**2 + 2 * shape.vision_hidden * shape.vision_intermediate
    outside = max(0, shape.vision_params - shape.vision_layers * inside)
    return shape.embedding_params + shape.head_params + outside


def _adapter_params(shape: ModelShape, rank: int) -> float:
    """rank (in + out) of all seven linear layers of every decoder layer."""
    q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * (shape.hidden + q) + 2 * (shape.hidden + k)
    return shape.layers * rank * (attention + 3 * (shape.hidden + shape.intermediate))
