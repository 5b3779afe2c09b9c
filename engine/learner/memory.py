"""What the ranks of a learner group will hold: bytes on each device and on their host. No torch.

Each term is one product of the model's sizes. A step passes through *moments* that need different
things; a device must have room for the largest of them. `memory_check` compares it with what there
is.

c: bytes of a number of forward and backward (2: bfloat16); p: policies; s: ranks that share a copy
of the weights; P: parameters; T: of them, those that train (adapters, with LoRA); P_l: of a decoder
layer; C x H: of an output embedding; R: of FSDP2's root group (embeddings, and what of the vision
tower is no block); N: tokens of the largest micro-batch; r: ranks of the group on one host.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.learner.activations import (
    MERGERS,
    PATCH_NUMBERS,
    activation_bytes,
    adapter_params,
    layer_bytes,
    passing_bytes,
    working_bytes,
)
from engine.learner.costs import ModelShape

GB = 10**9
LOGITS_PER_CHUNK = 1 << 26
"""As in `scoring`, which needs torch."""
PATCHES_PER_TOKEN = 4
"""The vision towers merge 2 x 2."""
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
CHECKPOINTS = "checkpoints being written"
"""The term of what a host's ranks copy for a checkpoint of every policy, and write."""

Terms = Mapping[str, float]
"""{what: bytes}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a learner group trains, as far as memory is concerned."""

    policies: int
    ranks: int
    shard: int | None = None
    """Ranks that share a copy of the weights; None: all."""
    here: Sequence[int] | None = None
    """Those of its ranks that are on the host in question, counted within the group; None: all."""
    tokens_per_micro_batch: int
    longest_row: int = 0
    """Tokens of the longest reply with its prompt, which no bound on a micro-batch cuts."""
    compute_bytes: int = 2
    """Of a number of forward and backward, and of published weights."""
    activation_checkpointing: bool = False
    offload_optimizer: bool = False
    lora_rank: int | None = None
    reference: bool = False
    """Whether there is a KL anchor."""
    own_references: bool = False
    """Whether each policy has one of its own (`reference_steps`), also in its checkpoints."""
    updates_per_step: int = 1
    followers: int = 0
    """Pinned copies of policies (`engine.layout.Follower`)."""
    prefetch: int = 2
    """Batches that are prepared ahead of the one that trains, at most."""
    overlap: bool = False
    """Whether weights are sent from copies in host memory."""
    bucket_mb: float = 64.0
    visual_share: float = 0.25
    """Of a micro-batch's tokens, those that are pictures. An assumption; with answers of a thousand
    tokens it is less."""
    shared_share: float = 0.25
    """Tokens of pictures that micro-batches share, as a part of a micro-batch's. An assumption:
    such pictures have long answers, so that there are few (`preparation.SHARED_SHARE` at most)."""
    micro_batches: int = 8
    """Of a rank in a step, which are on the device together. An assumption."""

    @property
    def copies(self) -> int:
        """s: ranks that share a copy of the weights."""
        return self.shard or self.ranks

    @property
    def ranks_here(self) -> Sequence[int]:
        return range(self.ranks) if self.here is None else self.here

    @property
    def tokens(self) -> int:
        """N: of the largest micro-batch."""
        return max(self.tokens_per_micro_batch, self.longest_row)

    @property
    def patches(self) -> float:
        """That the vision tower sees in a micro-batch; a longer row is one of text."""
        return self.tokens_per_micro_batch * self.visual_share * PATCHES_PER_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes by moment and by term."""

    device: Mapping[str, Terms]
    """Of each rank: {moment: terms}."""
    host: Mapping[str, Terms]
    """Of the group's ranks on one host (`Setup.here`) together: {moment: terms}."""

    @property
    def device_bytes(self) -> float:
        """At the worst moment."""
        return _total(worst(self.device)[1])

    @property
    def host_bytes(self) -> float:
        return _total(worst(self.host)[1])

    def __str__(self) -> str:
        """The terms of the worst moment on device and host, in GB, and the totals of the others."""
        return "\n".join([*_lines("device", self.device), *_lines("host", self.host)])


def worst(moments: Mapping[str, Terms]) -> tuple[str, Terms]:
    """The moment that needs most, and its terms, largest first."""
    name, terms = max(moments.items(), key=lambda item: _total(item[1]))
    return name, dict(sorted(terms.items(), key=lambda item: -item[1]))


def _total(terms: Terms) -> float:
    return sum(terms.values())


def _lines(title: str, moments: Mapping[str, Terms]) -> Iterator[str]:
    name, terms = worst(moments)
    yield f"{title}: {_total(terms) / GB:.1f} GB, {name}"
    for term, value in terms.items():
        if value:
            yield f"{value / GB:9.2f}  {term}"
    for other, found in moments.items():
        if other != name:
            yield f"  ({other}: {_total(found) / GB:.1f})"


def learner_memory(shape: ModelShape, setup: Setup) -> MemoryEstimate:
    """What the ranks of a group need that train policies of `shape` side by side."""
    return MemoryEstimate(device=_device(shape, setup), host=_host(shape, setup))


def _device(shape: ModelShape, setup: Setup) -> dict[str, Terms]:
    """The moments of a device. Always there is `_always`; while a micro-batch is computed also

        gradients        4 P / s, float32: of the micro-batches before
        batch            all micro-batches of the step: pixel values, ids, per-token numbers
        activations      `activation_bytes`; with checkpointing the layers' inputs
        shared pictures  `activation_bytes` of those that several micro-batches share, and float32
                         copies of what the tower made of them, with gradients
        root group       c R, gathered from the forward pass to the end of the backward pass

    and by moment

        output layer     (4 + c) C H, gradient of the output embedding, summed in float32;
                         12 bytes x logits of a chunk
        decoder layer    c C H, that gradient; the layer computed again, if checkpointed; N x
                         `working_bytes`; 3 c P_l gathered (this layer, the next one, and its buffer
                         on the way); (c + 8) P_l, gradients on their way, two layers' in float32
        root group       (4 + c) R, gradients before they are summed over ranks, or 4 R + 4 R / s
                         after that, without activations
        reference        before any gradient: c R, its root group; 3 c P_l; 8 bytes x logits of a
                         chunk; N x `passing_bytes`

    Otherwise

        update           gradients, and 8 P / s, Adam's moments of the policy
        publication      (4 + c) C H, a whole tensor gathered and cast; 3 buckets: gathered, joined,
                         and the one before, which is being sent
        loading          4 max(R, P_l), the largest group before it is sharded
    """
    c, head = setup.compute_bytes, shape.vocabulary * shape.hidden
    root, layer = _root_params(shape), shape.language_params / shape.layers
    trained, full = _trained(shape, setup), setup.lora_rank is None
    tokens = setup.tokens
    chunk = min(LOGITS_PER_CHUNK, tokens * shape.vocabulary)
    always = _always(shape, setup)
    stepping = always | {"gradients": 4 * trained / setup.copies, "batch": _batch_bytes(setup)}
    moments = {"Adam's moments": max(always["Adam's moments"], 8 * trained / setup.copies)}
    if setup.updates_per_step > 1:  # the next update's backward pass finds them on the device
        stepping |= moments
    computing = stepping | {
        "activations": _kept(shape, setup),
        "shared pictures": _shared(shape, setup),
        "root group, gathered": c * root,
    }
    gathered = {"layers, gathered": 3 * c * layer}
    again = layer_bytes(shape, c) * tokens if setup.activation_checkpointing else 0.0
    buckets = {"buckets": 3 * max(setup.bucket_mb * 2**20, c * head)}
    found = {
        "backward pass of the output layer": computing
        | {"gradient of the output embedding": (4 + c) * head * full, "logits": 12 * chunk},
        "backward pass of a decoder layer": computing
        | gathered
        | {
            "gradient of the output embedding": c * head * full,
            "layer, computed again": again,
            "working set": working_bytes(shape, c) * tokens,
            "layers' gradients": (c + 8) * (layer if full else trained / shape.layers),
        },
        "gradients of the root group": stepping
        | {"root's gradients": max((4 + c) * root, 4 * root * (1 + 1 / setup.copies)) * full},
        "update": stepping | moments,
        "publication": always | buckets | {"whole tensor": (4 + c) * head},
        "loading": always | {"group, not yet sharded": 4 * max(root, layer)},
    }
    if setup.reference:
        found["forward pass of the reference"] = (
            {term: value for term, value in stepping.items() if term != "gradients"}
            | gathered
            | {
                "reference's root group": c * root,
                "logits": 8 * chunk,
                "working set": passing_bytes(shape, c) * tokens,
            }
        )
    return {moment: _with_allowance(terms) for moment, terms in found.items()}


def _always(shape: ModelShape, setup: Setup) -> dict[str, float]:
    """What stays on the device:

    master weights   4 p P / s, float32; with LoRA of the adapters only
    frozen bases     c p P / s, with LoRA
    reference        4 P / s, or that of each policy
    Adam's moments   8 p P / s; offloaded they are there during an update only
    """
    trained, models = _trained(shape, setup), setup.policies / setup.copies
    return {
        "master weights": 4 * trained * models,
        "frozen bases": 0.0
        if setup.lora_rank is None
        else setup.compute_bytes * shape.params * models,
        "reference": 4 * shape.params / setup.copies * _num_references(setup),
        "Adam's moments": 0.0 if setup.offload_optimizer else 8 * trained * models,
    }


def _num_references(setup: Setup) -> int:
    if not setup.reference:
        return 0
    return setup.policies if setup.own_references else 1


def _host(shape: ModelShape, setup: Setup) -> dict[str, Terms]:
    """The moments of one host. What servers and the engine hold there is not counted.

    Each of the r ranks there holds, of its own

        processes   the interpreter
        offloaded   8 p T / s x 1.44, its shard of the moments; each copy of the weights has them
        batches     p (1 + prefetch) prepared ones: one trains, the others wait
        loading     4 P, the whole model in float32: every rank reads it, before FSDP2 shards it

    Each of the s ranks of the *first* copy, which alone writes the shards of a checkpoint, also

        checkpoint  12 p T / s, masters and moments that are being written; 4 p P / s more where
                    policies have references of their own

    And rank 0 of the group, alone

        checkpoint  c p P, the whole models in it
        pins        c P for each follower, and with overlap for each policy
    """
    trained, here = _trained(shape, setup), setup.ranks_here
    ranks, writers = len(here), sum(rank < setup.copies for rank in here)
    published = setup.compute_bytes * shape.params * (0 in here)
    moments, state = 8 * trained / setup.copies, 12 * trained / setup.copies
    state += 4 * shape.params / setup.copies * setup.own_references
    batches = (1 + setup.prefetch) * _batch_bytes(setup)
    processes = {"processes": PROCESS * ranks}
    return {
        "training": processes
        | {
            "offloaded moments": setup.policies
            * (ranks * moments * PINNED * setup.offload_optimizer),
            CHECKPOINTS: setup.policies * (writers * state + published),
            "followers": setup.followers * published,
            "weights being sent": setup.policies * published * setup.overlap,
            "prepared batches": setup.policies * ranks * batches,
        },
        "loading": processes | {"models being read": 4 * shape.params * ranks},
    }


def _with_allowance(terms: Terms) -> Terms:
    return {**terms, "context": CONTEXT, "fragmentation": FRAGMENTATION * _total(terms)}


def _kept(shape: ModelShape, setup: Setup) -> float:
    return activation_bytes(
        shape,
        tokens=setup.tokens,
        patches=setup.patches if setup.lora_rank is None else 0,  # adapters are the decoder's
        compute_bytes=setup.compute_bytes,
        checkpointing=setup.activation_checkpointing,
        lora_rank=setup.lora_rank,
    )


def _shared(shape: ModelShape, setup: Setup) -> float:
    if setup.lora_rank is not None:  # adapters are the decoder's
        return 0.0
    patches = setup.tokens_per_micro_batch * setup.shared_share * PATCHES_PER_TOKEN
    kept = activation_bytes(
        shape,
        tokens=0,
        patches=patches,
        compute_bytes=setup.compute_bytes,
        checkpointing=setup.activation_checkpointing,
    )
    copies = 2 * 4 * MERGERS * shape.hidden * patches / PATCHES_PER_TOKEN
    return kept + copies


def _batch_bytes(setup: Setup) -> float:
    pixels = 4 * PATCH_NUMBERS * setup.patches
    return setup.micro_batches * (BYTES_PER_TOKEN * setup.tokens_per_micro_batch + pixels)


def _trained(shape: ModelShape, setup: Setup) -> float:
    return shape.params if setup.lora_rank is None else adapter_params(shape, setup.lora_rank)


def _root_params(shape: ModelShape) -> float:
    """Embeddings, and of the vision tower what is no block (a block: 4 V^2 + 2 V W)."""
    inside = 4 * shape.vision_hidden**2 + 2 * shape.vision_hidden * shape.vision_intermediate
    outside = max(0, shape.vision_params - shape.vision_layers * inside)
    return shape.embedding_params + shape.head_params + outside
