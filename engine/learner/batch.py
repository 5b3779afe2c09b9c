"""From rows to the tensors of a micro-batch.

Tokens lie packed, row after row, prompt before completions, without padding. What counts as
trained is decided by who sampled a token (the sampler), never by the token's value: an image
placeholder that the model itself samples is text.

N: tokens of a micro-batch; T: sampled tokens, flat, rollout after rollout; I: distinct images;
P: rows of pixel values of all of them; D: their length; V: visual tokens of all of them; M:
placeholders in all prompts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import repeat
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from engine.learner.loss import rollout_advantages
from engine.learner.objectives import kl_in_advantages
from engine.learner.packing import Prompt, Row, Sample
from engine.learner.presets import ObjectiveConfig
from engine.learner.visibility import Plan, plan_rows
from engine.types import Group, Rollout

NO_AGE = -1
"""Staleness of a token of whose weights the learner was not told."""


@dataclass(frozen=True, slots=True)
class ImageSize:
    """What a picture will take, known from its header alone."""

    grid_thw: tuple[int, int, int]
    """In patches (a family that cuts tiles: tiles, height and width of one)."""
    num_tokens: int
    """Placeholders that it takes in a prompt."""
    num_patches: int
    """That the vision tower sees."""
    patch_pairs: int
    """Pairs of patches that see each other there."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpandedPrompt:
    """A prompt with as many placeholders as its images have tokens."""

    ids: Tensor
    """[N] int64."""
    is_image: Tensor
    """[N] bool: a visual token takes the place of the embedding."""
    positions: Tensor
    """[3, N] int64: time, height, width."""
    next_position: int
    """Position of the first sampled token, on all three axes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """One forward and backward."""

    input_ids_N: Tensor
    positions_3N: Tensor
    plan: Plan
    """Who sees whom."""
    is_image_N: Tensor
    """Bool."""
    visual_M: Tensor
    """Int64: which visual token each placeholder takes: those of the part's shared pictures come
    first, then the V of its own."""
    pixels_PD: Tensor
    grid_I3: Tensor
    """Of its own distinct images; both empty without any."""
    predict_T: Tensor
    """Int64 index into N of the position whose output predicts the token."""
    targets_T: Tensor
    temperatures_T: Tensor
    sampler_T: Tensor
    """Behaviour log-probs, nats."""
    advantages_T: Tensor
    staleness_T: Tensor
    """Int64: age in steps of the weights that sampled the token; `NO_AGE`: unknown."""
    sequences_T: Tensor
    """Int64: the rollout of the token, 0 .. num_sequences - 1 within the micro-batch."""
    rollouts_S: Tensor
    """Int64: the number of each sequence's sample within the batch."""

    @property
    def num_sequences(self) -> int:
        return len(self.rollouts_S)

    @property
    def num_tokens(self) -> int:
        """Sampled tokens."""
        return self.targets_T.numel()

    def to(self, device: torch.device) -> Self:
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, plan=self.plan.to(device), **moved)


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """What the vision tower takes at once; both empty without images."""

    pixels_PD: Tensor
    grid_I3: Tensor

    def to(self, device: torch.device) -> Self:
        return replace(
            self,
            pixels_PD=self.pixels_PD.to(device, non_blocking=True),
            grid_I3=self.grid_I3.to(device, non_blocking=True),
        )


def stack(
    images: Sequence[bytes], sizes: Mapping[bytes, ImageSize], encode: Callable[[bytes], Tensor]
) -> Pictures:
    """Distinct `images`; `encode`: pixel values [rows, D] of one."""
    return Pictures(
        torch.cat([encode(png) for png in images]) if images else torch.zeros(0, 0),
        torch.tensor([sizes[png].grid_thw for png in images]).reshape(-1, 3),
    )


def samples_of(groups: Iterable[Group], objective: ObjectiveConfig) -> list[Sample]:
    """All rollouts with their advantages: the recipe's own, or else those of the objective.

    A KL in the reward is still 0 here: it is known when both models have seen the tokens.
    """
    samples: list[Sample] = []
    for group in groups:
        if group.advantages is not None:
            advantages = list(group.advantages)
        else:
            no_kl = torch.zeros(len(group.rewards))
            advantages = rollout_advantages(group.rewards, objective, kl=no_kl).tolist()
        samples += map(Sample, group.rollouts, advantages)
    return samples


def charged_advantages(groups: Iterable[Group], kl: Tensor, objective: ObjectiveConfig) -> Tensor:
    """[samples] float32 advantages once each rollout's KL `kl` [samples] is taken off its reward.

    Where the recipe gave advantages there is no reward to charge: there the KL, centred over the
    group, is taken off these.
    """
    charged: list[Tensor] = []
    first = 0
    for group in groups:
        own = kl[first : first + len(group.rollouts)]
        first += len(group.rollouts)
        if group.advantages is None:
            charged.append(rollout_advantages(group.rewards, objective, kl=own))
        else:
            charged.append(kl_in_advantages(group.advantages, own, beta=objective.kl_beta))
    return torch.cat(charged)


def count_tokens(samples: Iterable[Sample]) -> int:
    """Sampled tokens: the denominator of the loss, whatever is masked later."""
    return sum(len(sample.rollout.token_ids) for sample in samples)


def collate(
    rows: Sequence[Row],
    *,
    prompts: Mapping[Prompt, ExpandedPrompt],
    sizes: Mapping[bytes, ImageSize],
    encode: Callable[[bytes], Tensor],
    numbers: Mapping[int, int],
    ages: Mapping[int, int] = MappingProxyType({}),
    shared: Sequence[bytes] = (),
) -> MicroBatch:
    """The tensors of some rows.

    `encode`: pixel values [rows, D] of a picture; `numbers`: {id(sample): its number in the
    batch}; `ages`: {version: steps since its weights were the newest}; `shared`: pictures that the
    tower sees for several micro-batches at once.
    """
    images: dict[bytes, int] = {}  # where its visual tokens begin
    num_visual = 0
    for png in (*shared, *(png for row in rows for png in row.images)):
        if png not in images:
            images[png] = num_visual
            num_visual += sizes[png].num_tokens
    own = stack(list(images)[len(shared) :], sizes, encode)
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    is_image: list[Tensor] = []
    visual: list[Tensor] = []
    predict: list[Tensor] = []
    samples: list[Sample] = []
    start = 0
    for row in rows:
        prompt = prompts[row.prompt]
        ids.append(prompt.ids)
        positions.append(prompt.positions)
        is_image.append(prompt.is_image)
        visual += [
            torch.arange(images[png], images[png] + sizes[png].num_tokens) for png in row.images
        ]
        end = start + row.prompt_tokens
        first = torch.tensor([end - 1])  # the prompt's end predicts first tokens
        for sample in row.samples:
            inputs = torch.tensor(sample.rollout.token_ids[:-1], dtype=torch.long)
            offsets = torch.arange(len(inputs))
            ids.append(inputs)
            positions.append((prompt.next_position + offsets).expand(3, -1))
            is_image.append(torch.zeros(len(inputs), dtype=torch.bool))
            predict += [first, end + offsets]
            end += len(inputs)
            samples.append(sample)
        start = end
    counts = torch.tensor([len(s.rollout.token_ids) for s in samples])

    def per_token(values: Iterable[float]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float32).repeat_interleave(counts)

    no_images = torch.zeros(0, dtype=torch.long)
    return MicroBatch(
        input_ids_N=torch.cat(ids),
        positions_3N=torch.cat(positions, dim=1),
        plan=plan_rows([(row.prompt_tokens, [s.inputs for s in row.samples]) for row in rows]),
        is_image_N=torch.cat(is_image),
        visual_M=torch.cat(visual) if visual else no_images,
        pixels_PD=own.pixels_PD,
        grid_I3=own.grid_I3,
        predict_T=torch.cat(predict),
        targets_T=torch.tensor([t for s in samples for t in s.rollout.token_ids]),
        temperatures_T=per_token(s.rollout.sampling.temperature for s in samples),
        sampler_T=torch.tensor([x for s in samples for x in s.rollout.logprobs]),
        advantages_T=per_token(s.advantage for s in samples),
        staleness_T=torch.tensor([age for s in samples for age in _staleness(s.rollout, ages)]),
        sequences_T=torch.arange(len(samples)).repeat_interleave(counts),
        rollouts_S=torch.tensor([numbers[id(sample)] for sample in samples]),
    )


def _staleness(rollout: Rollout, ages: Mapping[int, int]) -> Iterator[int]:
    """Per token: the age of what sampled it."""
    ends = [*(segment.first for segment in rollout.segments[1:]), len(rollout.token_ids)]
    for segment, end in zip(rollout.segments, ends, strict=True):
        yield from repeat(ages.get(segment.version, NO_AGE), end - segment.first)
