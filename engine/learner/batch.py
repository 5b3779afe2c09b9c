"""From groups to micro-batches of tensors.

A *row* is one prompt followed by several of its completions, which can see the prompt and
themselves but not each other: the prompt, often longer than the answer, is computed once. What
counts as trained is decided by who sampled a token (the sampler), never by the token's value: an
image placeholder that the model itself samples is text.

R: rows; L: longest row; T: sampled tokens, flat, rollout after rollout; I: distinct images;
P: patches of all of them; V: merged visual tokens of all of them; M: placeholders in all rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from engine.learner.advantages import group_advantages
from engine.types import Group, Rollout

MAX_SHARED_ROW_TOKENS = 400
"""Completions share a row up to this length: beyond it attention, quadratic in the row, costs more
than a repeated prompt (measured on the tiny base; large models rarely stay below it)."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """One picture as the vision tower takes it."""

    pixels_PD: Tensor
    """[patches, patch values] float32."""
    grid_thw: tuple[int, int, int]
    """In patches."""
    num_tokens: int
    """Placeholders that it takes in a prompt."""


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


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout with its advantage."""

    rollout: Rollout
    advantage: float


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and completions of it."""

    samples: tuple[Sample, ...]

    @property
    def images(self) -> tuple[bytes, ...]:
        return self.samples[0].rollout.images


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MicroBatch:
    """One forward and backward."""

    input_ids_RL: Tensor
    positions_3RL: Tensor
    attention_R1LL: Tensor
    """Bool; True: the query (third axis) sees the key (last axis). Padding sees itself."""
    is_image_RL: Tensor
    """Bool."""
    visual_M: Tensor
    """Int64: which of the V visual tokens each placeholder takes."""
    pixels_PD: Tensor
    grid_I3: Tensor
    """Distinct images only; both empty without images."""
    predict_T: Tensor
    """Int64 index into R * L of the position whose output predicts the token."""
    targets_T: Tensor
    temperatures_T: Tensor
    sampler_T: Tensor
    """Behaviour log-probs, nats."""
    advantages_T: Tensor
    sequences_T: Tensor
    """Int64: the rollout of the token, 0 .. num_sequences - 1 within the micro-batch."""
    num_sequences: int

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
        return replace(self, **moved)


Encode = Callable[[bytes], EncodedImage]
Expand = Callable[[Sequence[int], Sequence[EncodedImage]], ExpandedPrompt]


def samples_of(groups: Iterable[Group], *, divide_by_std: bool) -> list[Sample]:
    """All rollouts with their advantages: the recipe's own, or else group-relative."""
    samples: list[Sample] = []
    for group in groups:
        if group.advantages is None:
            advantages = group_advantages(group.rewards, divide_by_std=divide_by_std).tolist()
        else:
            advantages = list(group.advantages)
        samples += map(Sample, group.rollouts, advantages)
    return samples


def count_tokens(samples: Iterable[Sample]) -> int:
    """Sampled tokens: the denominator of the loss, whatever is masked later."""
    return sum(len(sample.rollout.token_ids) for sample in samples)


def micro_batches(
    samples: Sequence[Sample],
    *,
    encode: Encode,
    expand: Expand,
    token_budget: int,
    max_row_tokens: int = MAX_SHARED_ROW_TOKENS,
) -> list[MicroBatch]:
    """Every sample exactly once, in micro-batches of at most `token_budget` tokens.

    A micro-batch costs rows x longest row, padding included; only one that can't be split (a
    single row) may exceed the budget. Rows of one image stay together, so that the vision tower
    sees it once; otherwise rows are sorted by length. Each image is decoded once.
    """
    distinct = dict.fromkeys(png for sample in samples for png in sample.rollout.images)
    encoded = {png: encode(png) for png in distinct}
    prompts: dict[tuple[tuple[int, ...], tuple[bytes, ...]], ExpandedPrompt] = {}
    shared: dict[tuple[tuple[int, ...], tuple[bytes, ...]], list[Sample]] = {}
    for sample in samples:
        key = (sample.rollout.prompt_ids, sample.rollout.images)
        if key not in prompts:
            prompts[key] = expand(key[0], [encoded[png] for png in key[1]])
        shared.setdefault(key, []).append(sample)
    limit = min(max_row_tokens, token_budget)
    sized: list[tuple[Row, int]] = []
    for key, members in shared.items():
        prompt_tokens = prompts[key].ids.numel()
        sized += _rows(members, prompt_tokens, limit)
    return [_collate(rows, prompts, encoded) for rows in _pack(sized, token_budget=token_budget)]


def _rows(samples: list[Sample], prompt_tokens: int, limit: int) -> list[tuple[Row, int]]:
    """(row, tokens) of the samples of one prompt, each row at most `limit` tokens if it can."""
    rows: list[tuple[Row, int]] = []
    row: list[Sample] = []
    tokens = prompt_tokens
    for sample in sorted(samples, key=lambda s: len(s.rollout.token_ids)):
        # The last sampled token predicts nothing, so it is no input.
        more = len(sample.rollout.token_ids) - 1
        if row and tokens + more > limit:
            rows.append((Row(tuple(row)), tokens))
            row, tokens = [], prompt_tokens
        row.append(sample)
        tokens += more
    return [*rows, (Row(tuple(row)), tokens)]


def _pack(sized: list[tuple[Row, int]], *, token_budget: int) -> list[list[Row]]:
    """Fill micro-batches greedily, longest first, the rows of one image as one block."""
    blocks: dict[object, list[tuple[Row, int]]] = {}
    for number, (row, tokens) in enumerate(sized):
        blocks.setdefault(row.images or number, []).append((row, tokens))
    for block in blocks.values():
        block.sort(key=lambda entry: -entry[1])
    packed: list[list[Row]] = []
    current: list[Row] = []
    longest = 0
    for block in sorted(blocks.values(), key=lambda block: -block[0][1]):
        # A block that would fit into an empty micro-batch is not torn apart.
        whole = len(block) * block[0][1] <= token_budget
        grown = max(longest, block[0][1]) * (len(current) + len(block))
        if current and whole and grown > token_budget:
            packed.append(current)
            current, longest = [], 0
        for row, tokens in block:
            if current and max(longest, tokens) * (len(current) + 1) > token_budget:
                packed.append(current)
                current, longest = [], 0
            current.append(row)
            longest = max(longest, tokens)
    return [*packed, current] if current else packed


def _collate(
    rows: Sequence[Row],
    prompts: dict[tuple[tuple[int, ...], tuple[bytes, ...]], ExpandedPrompt],
    encoded: dict[bytes, EncodedImage],
) -> MicroBatch:
    """The tensors of some rows, padded on the right."""
    images: dict[bytes, int] = {}
    num_visual = 0
    for png in (png for row in rows for png in row.images):
        if png not in images:
            images[png] = num_visual
            num_visual += encoded[png].num_tokens
    row_prompts = [prompts[row.samples[0].rollout.prompt_ids, row.images] for row in rows]
    length = max(
        prompt.ids.numel() + sum(len(s.rollout.token_ids) - 1 for s in row.samples)
        for row, prompt in zip(rows, row_prompts, strict=True)
    )
    ids_RL = torch.zeros(len(rows), length, dtype=torch.long)
    positions_3RL = torch.zeros(3, len(rows), length, dtype=torch.long)
    part_RL = torch.full((len(rows), length), -1)  # 0: prompt; 1, 2, ..: completions; -1: padding
    is_image_RL = torch.zeros(len(rows), length, dtype=torch.bool)
    visual: list[Tensor] = []
    predict: list[Tensor] = []
    samples: list[Sample] = []
    for r, (row, prompt) in enumerate(zip(rows, row_prompts, strict=True)):
        end = prompt.ids.numel()
        ids_RL[r, :end], part_RL[r, :end] = prompt.ids, 0
        positions_3RL[:, r, :end], is_image_RL[r, :end] = prompt.positions, prompt.is_image
        visual += [
            torch.arange(images[png], images[png] + encoded[png].num_tokens) for png in row.images
        ]
        first = torch.tensor([r * length + end - 1])  # the prompt's end predicts first tokens
        for part, sample in enumerate(row.samples, start=1):
            inputs = torch.tensor(sample.rollout.token_ids[:-1], dtype=torch.long)
            start, end = end, end + inputs.numel()
            ids_RL[r, start:end], part_RL[r, start:end] = inputs, part
            positions_3RL[:, r, start:end] = prompt.next_position + torch.arange(end - start)
            predict += [first, r * length + torch.arange(start, end)]
            samples.append(sample)
    causal_LL = torch.ones(length, length, dtype=torch.bool).tril()
    same_RLL = part_RL[:, :, None] == part_RL[:, None, :]
    counts = torch.tensor([len(s.rollout.token_ids) for s in samples])

    def per_token(values: Iterable[float]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float32).repeat_interleave(counts)

    distinct = [encoded[png] for png in images]
    return MicroBatch(
        input_ids_RL=ids_RL,
        positions_3RL=positions_3RL,
        attention_R1LL=(causal_LL & (same_RLL | (part_RL == 0)[:, None, :]))[:, None],
        is_image_RL=is_image_RL,
        visual_M=torch.cat(visual) if visual else torch.zeros(0, dtype=torch.long),
        pixels_PD=torch.cat([image.pixels_PD for image in distinct])
        if distinct
        else torch.zeros(0, 0),
        grid_I3=torch.tensor([image.grid_thw for image in distinct]).reshape(-1, 3),
        predict_T=torch.cat(predict),
        targets_T=torch.tensor([t for s in samples for t in s.rollout.token_ids]),
        temperatures_T=per_token(s.rollout.sampling.temperature for s in samples),
        sampler_T=torch.tensor([x for s in samples for x in s.rollout.logprobs]),
        advantages_T=per_token(s.advantage for s in samples),
        sequences_T=torch.arange(len(samples)).repeat_interleave(counts),
        num_sequences=len(samples),
    )
