"""Which rollouts are computed together: rows, micro-batches, ranks. Pure.

A *row* is a prompt and completions of it: the prompt, often longer than the answers, is computed
once. Rows of one picture stay together, or at least on one rank, so that the vision tower sees
it once. Micro-batches are filled by cost (FLOPs), within a bound on tokens; nothing is padded.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.types import Rollout

Prompt = tuple[tuple[int, ...], tuple[bytes, ...]]
"""Token ids as sent, and the pictures."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One rollout with its advantage."""

    rollout: Rollout
    advantage: float

    @property
    def prompt(self) -> Prompt:
        return self.rollout.prompt_ids, self.rollout.images

    @property
    def inputs(self) -> int:
        """Sampled tokens that are inputs: the last one predicts nothing."""
        return len(self.rollout.token_ids) - 1


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and completions of it."""

    prompt_tokens: int
    """With its pictures' tokens."""
    samples: tuple[Sample, ...]

    @property
    def prompt(self) -> Prompt:
        return self.samples[0].prompt

    @property
    def images(self) -> tuple[bytes, ...]:
        return self.samples[0].rollout.images

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + sum(sample.inputs for sample in self.samples)

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees."""
        prompt = self.prompt_tokens
        own = sum(s.inputs * (s.inputs + 1) // 2 + s.inputs * prompt for s in self.samples)
        return prompt * (prompt + 1) // 2 + own

    @property
    def scored(self) -> int:
        return sum(len(sample.rollout.token_ids) for sample in self.samples)


Block = list[Row]
"""Rows that stay together because they share a picture."""


def make_rows(
    samples: Iterable[Sample],
    prompt_tokens: Mapping[Prompt, int],
    limit: int,
    share: float = math.inf,
) -> list[Row]:
    """Every sample in one row of at most `limit` tokens (more only if a single sample has).

    What would be one row of more than `share` tokens becomes as many rows as it has shares, for
    several ranks to compute. No more: each row computes the prompt again.
    """
    shared: dict[Prompt, list[Sample]] = {}
    for sample in samples:
        shared.setdefault(sample.prompt, []).append(sample)
    rows: list[Row] = []
    for prompt, members in shared.items():
        start = prompt_tokens[prompt]
        members.sort(key=lambda sample: -sample.inputs)
        inputs = [sample.inputs for sample in members]
        parts = math.ceil((start + sum(inputs)) / share) if share < math.inf else 1
        for part in _spread(inputs, inputs, bins=parts, room=limit - start):
            rows.append(Row(start, tuple(members[i] for i in part)))
    return rows


def make_blocks(rows: Iterable[Row], limit: int) -> list[Block]:
    """Rows of the same pictures as one block, as far as `limit` tokens allow."""
    by_images: dict[object, list[Row]] = {}
    for number, row in enumerate(rows):
        by_images.setdefault(row.images or number, []).append(row)
    blocks: list[Block] = []
    for members in by_images.values():
        block: Block = []
        for row in sorted(members, key=lambda row: -row.tokens):
            if block and sum(r.tokens for r in block) + row.tokens > limit:
                blocks.append(block)
                block = []
            block.append(row)
        blocks.append(block)
    return blocks


def deal(
    samples: Sequence[Sample],
    prompt_tokens: Mapping[Prompt, int],
    *,
    ranks: int,
    token_budget: int,
    cost: Callable[[Sequence[Row]], float],
) -> list[list[Block]]:
    """The micro-batches of each rank, every sample exactly once.

    A micro-batch has at most `token_budget` tokens (more only if one sample has). Micro-batches
    that the ranks compute at the same time, the i-th of each, cost about the same, whatever their
    number of samples is. Some ranks may have one micro-batch less than others. The same input
    gives the same result on every rank.
    """
    rows = make_rows(samples, prompt_tokens, token_budget)
    limit = token_budget
    if ranks > 1:
        # No piece should be larger than a fair share: the other ranks would wait for it.
        share = math.ceil(sum(row.tokens for row in rows) / ranks)
        limit = min(token_budget, share)
        rows = make_rows(samples, prompt_tokens, token_budget, share)
    blocks = sorted(make_blocks(rows, limit), key=lambda block: (-cost(block), block[0].tokens))
    sizes = [sum(row.tokens for row in block) for block in blocks]
    costs = [cost(block) for block in blocks]
    bins = ranks * math.ceil(sum(sizes) / (token_budget * ranks))
    spread = _spread(sizes, costs, bins=bins, room=token_budget)
    while len(spread) > bins:
        # It took more than hoped for; with all of them open from the start they fill evenly.
        bins = ranks * math.ceil(len(spread) / ranks)
        spread = _spread(sizes, costs, bins=bins, room=token_budget)
    filled = [[row for i in part for row in blocks[i]] for part in spread]
    filled.sort(key=cost, reverse=True)
    return _to_ranks(filled, ranks)


def _to_ranks(blocks: Sequence[Block], ranks: int) -> list[list[Block]]:
    """Each rank one of the first `ranks` blocks, then one of the next, and so on: of those, one
    whose pictures it has already."""
    dealt: list[list[Block]] = [[] for _ in range(ranks)]
    known: list[set[bytes]] = [set() for _ in range(ranks)]
    for start in range(0, len(blocks), ranks):
        free = list(range(ranks))
        for block in blocks[start : start + ranks]:
            images = {png for row in block for png in row.images}
            rank = max(free, key=lambda rank: len(images & known[rank]))
            free.remove(rank)
            dealt[rank].append(block)
            known[rank] |= images
    return dealt


def _spread(
    sizes: Sequence[int], costs: Sequence[float], *, bins: int, room: int
) -> list[list[int]]:
    """The numbers of the items in each of `bins` bins of about equal cost, largest costs first.

    Each item into the cheapest bin that has room for its size, into one bin more where none has.
    An item larger than `room` has a bin of its own. Bins that stay empty are left out.
    """
    filled: list[list[int]] = [[] for _ in range(min(bins, len(sizes)))]
    loads, used = [0.0] * len(filled), [0] * len(filled)
    for number, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
        has_room = [i for i, n in enumerate(used) if not filled[i] or n + size <= room]
        if has_room:
            best = min(has_room, key=loads.__getitem__)
        else:
            best = len(filled)
            filled.append([])
            loads.append(0.0)
            used.append(0)
        filled[best].append(number)
        loads[best] += cost
        used[best] += size
    return [part for part in filled if part]
