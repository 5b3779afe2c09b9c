"""What can be done for a batch before its step: advantages, dealing to the ranks, tensors.

Touches no weights, so it may run in a thread while another batch trains. Every rank prepares its
own share of the same groups; what it decides is the same on all.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor

from engine.learner.batch import (
    ImageSize,
    MicroBatch,
    Pictures,
    collate,
    samples_of,
    stack,
)
from engine.learner.config import LearnerConfig
from engine.learner.costs import ModelShape, forward_flops
from engine.learner.families import ModelFamily
from engine.learner.packing import Block, Row, Sample, deal
from engine.types import Group

SHARED_SHARE = 0.5
"""Pictures that micro-batches share take at most this part of a micro-batch's tokens: what the
tower made of them is kept to the end of the update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one optimiser update is made of."""

    groups: Sequence[Group]
    samples: Sequence[Sample]
    """Of all ranks, group after group."""
    batches: Sequence[MicroBatch]
    """Of this rank, in host memory; as many on every rank."""
    idle: int
    """How many of them, the last ones, count for nothing: other ranks have more to do."""
    shared: Pictures
    """Those in more than one of this rank's micro-batches: the tower sees them once, before these.
    """
    shares: bool
    """Some rank has such pictures: all see, so that collectives match."""
    flops: float
    """Of one forward pass over all ranks' micro-batches."""
    image_passes: int
    """Pictures that go through the vision tower, over all ranks."""

    def to(self, device: torch.device) -> Self:
        batches = [batch.to(device) for batch in self.batches]
        return replace(self, batches=batches, shared=self.shared.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A batch, ready to train on."""

    parts: Sequence[Part]

    @property
    def samples(self) -> list[Sample]:
        return [sample for part in self.parts for sample in part.samples]

    @property
    def groups(self) -> list[Group]:
        return [group for part in self.parts for group in part.groups]


def prepare(
    groups: Sequence[Group],
    *,
    cfg: LearnerConfig,
    family: ModelFamily,
    shape: ModelShape,
    rank: int = 0,
    ranks: int = 1,
    ages: Mapping[int, int] = MappingProxyType({}),
) -> Prepared:
    """The micro-batches of rank `rank` of `ranks`, one part for each update of the step.

    `ages`: {version: steps since its weights were the newest}. Raises ValueError where the
    objective needs one that is not given, and for a prompt that does not fit its pictures.
    """
    if cfg.objective.proximal == "approximated":
        segments = (s for group in groups for r in group.rollouts for s in r.segments)
        if unknown := {segment.version for segment in segments} - ages.keys():
            raise ValueError(
                f"objective.proximal: approximated needs the ages of versions {sorted(unknown)}"
            )
    return Prepared(
        parts=[
            _prepare_part(part, cfg, family, shape, rank, ranks, ages)
            for part in _split(groups, cfg.updates_per_step)
        ]
    )


def _split(groups: Sequence[Group], updates: int) -> list[list[Group]]:
    """The groups of each update, shuffled if there are several."""
    num_parts = min(updates, len(groups))
    if num_parts < 2:
        return [list(groups)] if groups else []
    # The order follows from the batch: the same after a resume and on every rank.
    generator = torch.Generator().manual_seed(groups[0].game)
    order = torch.randperm(len(groups), generator=generator).tolist()
    return [[groups[i] for i in order[part::num_parts]] for part in range(num_parts)]


def _prepare_part(
    groups: Sequence[Group],
    cfg: LearnerConfig,
    family: ModelFamily,
    shape: ModelShape,
    rank: int,
    ranks: int,
    ages: Mapping[int, int],
) -> Part:
    samples = samples_of(groups, cfg.objective)
    sizes = {
        png: family.measure(png)
        for png in dict.fromkeys(png for sample in samples for png in sample.rollout.images)
    }
    prompts = {
        sample.prompt: family.expand(
            sample.rollout.prompt_ids, [sizes[png] for png in sample.rollout.images]
        )
        for sample in {sample.prompt: sample for sample in samples}.values()
    }

    def cost(rows: Sequence[Row]) -> float:
        return rows_flops(rows, sizes, shape)

    dealt = deal(
        samples,
        {prompt: expanded.ids.numel() for prompt, expanded in prompts.items()},
        ranks=ranks,
        token_budget=cfg.tokens_per_micro_batch,
        cost=cost,
    )
    most = max(map(len, dealt))
    mine = dealt[rank]
    # All ranks run equally many, so that collectives match: an idle one repeats the cheapest.
    filler = min((block for blocks in dealt for block in blocks), key=cost)
    idle = most - len(mine)
    encoded: dict[bytes, Tensor] = {}

    def encode(png: bytes) -> Tensor:
        if png not in encoded:
            encoded[png] = family.encode(png)
        return encoded[png]

    numbers = {id(sample): i for i, sample in enumerate(samples)}

    def shared_of(blocks: Iterable[Block]) -> list[bytes]:
        return _shared(blocks, sizes, cfg.tokens_per_micro_batch * SHARED_SHARE)

    shared = shared_of(mine)
    batches = [
        collate(
            block,
            prompts=prompts,
            sizes=sizes,
            encode=encode,
            numbers=numbers,
            ages=ages,
            shared=shared,
        )
        for block in [*mine, *[filler] * idle]
    ]
    by_rank = [[row for block in blocks for row in block] for blocks in dealt]
    return Part(
        groups=groups,
        samples=samples,
        batches=batches,
        idle=idle,
        shared=stack(shared, sizes, encode),
        shares=any(map(shared_of, dealt)),
        flops=sum(map(cost, by_rank)),  # a picture counts once among the rows of a rank
        image_passes=sum(_passes(blocks, shared_of(blocks)) for blocks in dealt),
    )


def _shared(blocks: Iterable[Block], sizes: Mapping[bytes, ImageSize], room: float) -> list[bytes]:
    """Pictures in more than one of a rank's micro-batches, as far as `room` tokens hold them."""
    found = Counter(png for block in blocks for png in _images(block))
    shared: list[bytes] = []
    for png, num_blocks in found.items():
        if num_blocks > 1 and sizes[png].num_tokens <= room:
            shared.append(png)
            room -= sizes[png].num_tokens
    return shared


def _passes(blocks: Iterable[Block], shared: Collection[bytes]) -> int:
    """Pictures that go through a rank's tower, in all."""
    own = sum(png not in shared for block in blocks for png in _images(block))
    return len(shared) + own


def rows_flops(rows: Sequence[Row], sizes: Mapping[bytes, ImageSize], shape: ModelShape) -> float:
    """FLOPs of one forward pass over `rows`, each of their pictures seen once."""
    images = [sizes[png] for png in _images(rows)]
    return forward_flops(
        shape,
        tokens=sum(row.tokens for row in rows),
        pairs=sum(row.pairs for row in rows),
        scored=sum(row.scored for row in rows),
        patches=sum(image.num_patches for image in images),
        patch_pairs=sum(image.patch_pairs for image in images),
    )


def _images(rows: Sequence[Row]) -> list[bytes]:
    """Distinct pictures, in an order that is the same in every process."""
    return list(dict.fromkeys(png for row in rows for png in row.images))
