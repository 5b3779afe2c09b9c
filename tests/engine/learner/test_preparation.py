"""What ranks decide alone, they decide alike."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from engine.learner import preparation
from engine.learner.batch import NO_AGE
from engine.learner.config import LearnerConfig
from engine.learner.costs import ModelShape, forward_flops, model_shape
from engine.learner.families import ModelFamily, family_of
from engine.learner.packing import Sample
from engine.learner.preparation import Part, Prepared, prepare
from engine.learner.visibility import Plan
from engine.types import Group, Segment
from tests.engine.learner.learner_data import make_group

GROUPS = [
    make_group(
        i, num_rollouts=1 + i % 4, num_images=i % 3, prompt_tokens=3 + 5 * i, image_seed=i % 2
    )
    for i in range(9)
]


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> ModelFamily:
    return family_of(tiny_base)


@pytest.fixture(scope="module")
def shape(tiny_base: Path) -> ModelShape:
    return model_shape(tiny_base)


def prepare_ranks(
    family: ModelFamily, shape: ModelShape, *, ranks: int, budget: int = 120, updates: int = 1
) -> list[Prepared]:
    cfg = LearnerConfig(tokens_per_micro_batch=budget, updates_per_step=updates)
    return [
        prepare(GROUPS, cfg=cfg, family=family, shape=shape, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]


def trained(part: Part) -> list[int]:
    """The numbers of the samples that this rank trains."""
    kept = part.batches[: len(part.batches) - part.idle]
    return [number for batch in kept for number in batch.rollouts_S.tolist()]


def contents(samples: Sequence[Sample]) -> Counter[tuple[tuple[int, ...], float]]:
    return Counter((sample.rollout.token_ids, sample.advantage) for sample in samples)


@pytest.mark.parametrize(
    "ranks, budget, updates", [(1, 120, 1), (2, 120, 1), (3, 60, 2), (5, 900, 3)]
)
def test_ranks_cover_all_samples_once_and_agree_on_the_rest(
    family: ModelFamily, shape: ModelShape, ranks: int, budget: int, updates: int
) -> None:
    prepared = prepare_ranks(family, shape, ranks=ranks, budget=budget, updates=updates)
    first = prepared[0]
    assert len(first.parts) == updates
    assert sorted(g.game for g in first.groups) == [g.game for g in GROUPS]
    for number, part in enumerate(first.parts):
        parts = [rank.parts[number] for rank in prepared]
        assert sorted(n for p in parts for n in trained(p)) == list(range(len(part.samples)))
        for other in parts:
            assert list(other.groups) == list(part.groups)
            assert contents(other.samples) == contents(part.samples)
            # Collectives match only if all run equally many micro-batches.
            assert len(other.batches) == len(part.batches)
            assert (other.flops, other.image_passes) == (part.flops, part.image_passes)
            assert 0 <= other.idle <= 1


def test_an_idle_rank_repeats_a_micro_batch_that_counts_for_nothing(
    family: ModelFamily, shape: ModelShape
) -> None:
    """One group of one rollout, two ranks."""
    group = make_group(1, num_rollouts=1, num_images=1)
    busy, idle = (
        prepare([group], cfg=LearnerConfig(), family=family, shape=shape, rank=rank, ranks=2).parts[
            0
        ]
        for rank in (0, 1)
    )
    assert (busy.idle, idle.idle) == (0, 1)
    assert torch.equal(busy.batches[0].input_ids_N, idle.batches[0].input_ids_N)
    assert busy.image_passes == idle.image_passes == 1


def test_no_groups_are_no_parts(family: ModelFamily, shape: ModelShape) -> None:
    prepared = prepare([], cfg=LearnerConfig(updates_per_step=3), family=family, shape=shape)
    assert list(prepared.parts) == prepared.samples == prepared.groups == []


def test_more_updates_than_groups(family: ModelFamily, shape: ModelShape) -> None:
    cfg = LearnerConfig(updates_per_step=7)
    prepared = prepare(GROUPS[:2], cfg=cfg, family=family, shape=shape)
    assert sorted(len(part.groups) for part in prepared.parts) == [1, 1]


def test_the_order_of_updates_follows_from_the_batch(
    family: ModelFamily, shape: ModelShape
) -> None:
    """Shuffled, the same every time, and another batch's is another."""

    def order(groups: list[Group]) -> list[int]:
        cfg = LearnerConfig(updates_per_step=3)
        prepared = prepare(groups, cfg=cfg, family=family, shape=shape)
        return [group.game for group in prepared.groups]

    once = order(GROUPS)
    torch.manual_seed(5)  # whatever else was drawn in the meantime
    assert order(GROUPS) == once != [group.game for group in GROUPS]
    renamed = [dataclasses.replace(group, game=group.game + 100) for group in GROUPS]
    assert [game - 100 for game in order(renamed)] != once


def test_a_single_update_keeps_the_order(family: ModelFamily, shape: ModelShape) -> None:
    (prepared,) = prepare_ranks(family, shape, ranks=1)
    assert list(prepared.groups) == GROUPS


def test_staleness_is_that_of_each_token(family: ModelFamily, shape: ModelShape) -> None:
    group = make_group(4, num_rollouts=2, num_images=0)
    rollouts = [
        dataclasses.replace(
            rollout,
            token_ids=(1, 2, 3),
            logprobs=(-1.0,) * 3,
            segments=(Segment(0, 2), Segment(1 + i, 5)),
        )
        for i, rollout in enumerate(group.rollouts)
    ]
    group = dataclasses.replace(group, rollouts=tuple(rollouts))

    def staleness(ages: dict[int, int]) -> dict[int, list[int]]:
        prepared = prepare([group], cfg=LearnerConfig(), family=family, shape=shape, ages=ages)
        (batch,) = prepared.parts[0].batches
        return {
            number: batch.staleness_T[batch.sequences_T == i].tolist()
            for i, number in enumerate(batch.rollouts_S.tolist())
        }

    assert staleness({2: 4, 5: 1}) == {0: [4, 1, 1], 1: [4, 4, 1]}
    assert staleness({}) == {0: [NO_AGE] * 3, 1: [NO_AGE] * 3}
    cfg = LearnerConfig.model_validate({"objective": {"proximal": "approximated"}})
    with pytest.raises(ValueError, match=r"needs the ages of versions \[5\]"):
        prepare([group], cfg=cfg, family=family, shape=shape, ages={2: 4})


def test_a_picture_is_encoded_once_per_part_and_only_where_it_is_needed(
    family: ModelFamily, shape: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[bytes] = Counter()
    encode = family.encode

    def counting(png: bytes) -> torch.Tensor:
        seen[png] += 1
        return encode(png)

    monkeypatch.setattr(family, "encode", counting, raising=False)
    (prepared,) = prepare_ranks(family, shape, ranks=1, budget=40)
    used = {png for sample in prepared.samples for png in sample.rollout.images}
    assert set(seen) == used
    assert set(seen.values()) == {1}
    one_of_two = prepare_ranks(family, shape, ranks=2, budget=40)[0]
    needed = {
        png
        for number in trained(one_of_two.parts[0])
        for png in one_of_two.samples[number].rollout.images
    }
    seen.clear()
    cfg = LearnerConfig(tokens_per_micro_batch=40)
    prepare(GROUPS, cfg=cfg, family=family, shape=shape, rank=0, ranks=2)
    assert set(seen) == needed


def test_flops_are_those_of_all_micro_batches(family: ModelFamily, shape: ModelShape) -> None:
    """Counted again from the tensors that the micro-batches hold."""
    (prepared,) = prepare_ranks(family, shape, ranks=1)
    (part,) = prepared.parts
    assert len(part.batches) > 2
    assert len(part.shared.grid_I3) > 0
    patches = part.shared.grid_I3.prod(1)
    total = forward_flops(
        shape,
        tokens=0,
        pairs=0,
        scored=0,
        patches=int(patches.sum()),
        patch_pairs=int((patches**2).sum()),
    )
    for batch in part.batches:
        patches = batch.grid_I3.prod(1)
        total += forward_flops(
            shape,
            tokens=batch.input_ids_N.numel(),
            pairs=num_pairs(batch.plan),
            scored=batch.num_tokens,
            patches=int(patches.sum()),
            patch_pairs=int((patches**2).sum()),
        )
    assert part.flops == pytest.approx(total, rel=1e-9)
    pictures = [part.shared.grid_I3, *(batch.grid_I3 for batch in part.batches)]
    assert part.image_passes == sum(map(len, pictures))
    assert part.image_passes == len({png for s in part.samples for png in s.rollout.images})


@pytest.mark.parametrize("share, kept", [(0.0, 0), (0.1, 1), (9.0, 2)])
def test_shared_pictures_are_bounded_and_the_rest_seen_again(
    family: ModelFamily,
    shape: ModelShape,
    share: float,
    kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two pictures of six tokens, each in several micro-batches of sixty."""
    monkeypatch.setattr(preparation, "SHARED_SHARE", share)
    groups = [make_group(i, num_rollouts=30, num_images=1, image_seed=i) for i in (1, 2)]
    cfg = LearnerConfig(tokens_per_micro_batch=60)
    (part,) = prepare(groups, cfg=cfg, family=family, shape=shape).parts
    assert len(part.shared.grid_I3) == kept
    assert part.shares == (kept > 0)
    pictures = [part.shared.grid_I3, *(batch.grid_I3 for batch in part.batches)]
    assert part.image_passes == sum(map(len, pictures))
    assert (part.image_passes == 2) == (kept == 2)
    assert all(batch.visual_M.numel() for batch in part.batches)


def test_ranks_know_of_each_other_that_they_share(family: ModelFamily, shape: ModelShape) -> None:
    """A picture fills two micro-batches of one rank and one of the other, which joins its look."""
    large = make_group(1, num_rollouts=30, num_images=1)
    small = [make_group(2 + i, num_rollouts=5) for i in range(6)]
    cfg = LearnerConfig(tokens_per_micro_batch=60)
    first, second = (
        prepare([large, *small], cfg=cfg, family=family, shape=shape, rank=rank, ranks=2).parts[0]
        for rank in (0, 1)
    )
    assert first.shares
    assert second.shares
    assert sorted(len(part.shared.grid_I3) for part in (first, second)) == [0, 1]


def num_pairs(plan: Plan) -> int:
    own = plan.own.cu_queries.diff()
    pairs = int((own * (own + 1) // 2).sum())
    if plan.prefix is not None:
        pairs += int((plan.prefix.cu_queries.diff() * plan.prefix.cu_keys.diff()).sum())
    return pairs
