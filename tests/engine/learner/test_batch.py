"""From rows to tensors: every number of a rollout at its place, pictures once."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.learner.batch import (
    NO_AGE,
    ExpandedPrompt,
    ImageSize,
    MicroBatch,
    charged_advantages,
    collate,
    count_tokens,
    samples_of,
)
from engine.learner.packing import Prompt, Row, Sample, deal, make_rows
from engine.learner.presets import ObjectiveConfig
from engine.types import Group, Rollout, SamplingParams, Segment
from tests.engine.learner.learner_data import IMAGE, make_group, make_png, make_rollout


def size_of(png: bytes) -> ImageSize:
    """Two to five visual tokens, of four patches each."""
    tokens = 2 + png[-20] % 4
    return ImageSize((1, 2, 2 * tokens), tokens, 4 * tokens, (4 * tokens) ** 2)


def encode(png: bytes) -> Tensor:
    """Rows that tell pictures apart."""
    return torch.full((size_of(png).num_patches, 3), float(sum(png) % 9973))


def expand(sample: Sample) -> ExpandedPrompt:
    """Positions unlike the tokens' places, so that they can't be confused."""
    sizes = iter(map(size_of, sample.rollout.images))
    ids = torch.tensor(
        [
            t
            for t in sample.rollout.prompt_ids
            for _ in range(next(sizes).num_tokens if t == IMAGE else 1)
        ]
    )
    positions = torch.stack([torch.arange(len(ids)) * factor for factor in (1, 2, 3)])
    return ExpandedPrompt(ids, ids == IMAGE, positions, 1000 + len(ids))


def expanded(samples: Sequence[Sample]) -> dict[Prompt, ExpandedPrompt]:
    return {sample.prompt: expand(sample) for sample in samples}


def build(
    rows: Sequence[Row], samples: Sequence[Sample], ages: Mapping[int, int] | None = None
) -> MicroBatch:
    return collate(
        rows,
        prompts=expanded(samples),
        sizes={png: size_of(png) for s in samples for png in s.rollout.images},
        encode=encode,
        numbers={id(sample): i for i, sample in enumerate(samples)},
        ages=ages or {},
    )


def rows_of(samples: Sequence[Sample], limit: int = 10**6) -> list[Row]:
    return make_rows(samples, {p: e.ids.numel() for p, e in expanded(samples).items()}, limit)


groups = st.lists(
    st.builds(
        lambda seed, n, images, tokens, image_seed, temperature: make_group(
            seed,
            num_rollouts=n,
            num_images=images,
            prompt_tokens=tokens,
            image_seed=image_seed,
            temperature=temperature,
        ),
        st.integers(0, 99),
        st.integers(1, 5),
        st.integers(0, 2),
        st.integers(1, 12),
        st.integers(0, 3),
        st.sampled_from([0.5, 1.0]),
    ),
    min_size=1,
    max_size=6,
)


@given(groups=groups, budget=st.integers(1, 400), ranks=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_every_rollout_is_in_one_micro_batch_with_all_its_numbers(
    groups: list[Group], budget: int, ranks: int
) -> None:
    samples = samples_of(groups, ObjectiveConfig())
    lengths = {prompt: entry.ids.numel() for prompt, entry in expanded(samples).items()}
    dealt = deal(
        samples,
        lengths,
        ranks=ranks,
        token_budget=budget,
        cost=lambda rows: float(sum(row.tokens for row in rows)),
    )
    batches = [build(block, samples) for blocks in dealt for block in blocks]
    numbers = torch.cat([batch.rollouts_S for batch in batches])
    assert sorted(numbers.tolist()) == list(range(len(samples)))
    assert sum(batch.num_tokens for batch in batches) == count_tokens(samples)
    for batch in batches:
        seen = visible(batch)
        for sequence, number in enumerate(batch.rollouts_S.tolist()):
            check_sequence(batch, seen, sequence, samples[number])
        check_images(batch)


def check_sequence(batch: MicroBatch, seen: Tensor, sequence: int, sample: Sample) -> None:
    """What predicts a token, and all that attention lets it see, is the rollout and no more."""
    mine, rollout = batch.sequences_T == sequence, sample.rollout
    assert batch.targets_T[mine].tolist() == list(rollout.token_ids)
    assert torch.equal(batch.sampler_T[mine], torch.tensor(rollout.logprobs))
    assert set(batch.advantages_T[mine].tolist()) == {torch.tensor(sample.advantage).item()}
    assert set(batch.temperatures_T[mine].tolist()) == {rollout.sampling.temperature}
    prompt = expand(sample)
    ids = torch.cat([prompt.ids, torch.tensor(rollout.token_ids)])
    after = prompt.next_position + torch.arange(len(rollout.token_ids))
    positions = torch.cat([prompt.positions, after.expand(3, -1)], dim=1)
    for i, at in enumerate(batch.predict_T[mine].tolist()):
        context = seen[at].nonzero().flatten()
        assert context[-1] == at
        assert torch.equal(batch.input_ids_N[context], ids[: len(prompt.ids) + i])
        assert torch.equal(batch.positions_3N[:, context], positions[:, : len(context)])


def visible(batch: MicroBatch) -> Tensor:
    """[N, N] bool, read off the plan's spans."""
    n = batch.input_ids_N.numel()
    seen = torch.zeros(n, n, dtype=torch.bool)
    everything = torch.arange(n)
    for spans in filter(None, (batch.plan.own, batch.plan.prefix)):
        queries = everything if spans.queries_Q is None else spans.queries_Q
        keys = everything if spans.keys_K is None else spans.keys_K
        bounds = zip(spans.cu_queries.tolist(), spans.cu_keys.tolist(), strict=True)
        (q0, k0), *rest = bounds
        for q1, k1 in rest:
            block = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
            block = block.tril() if spans.causal else block
            at_q, at_k = queries[q0:q1], keys[k0:k1]
            assert not seen[at_q[:, None], at_k].any(), "seen twice"
            seen[at_q[:, None], at_k] = block
            q0, k0 = q1, k1
    return seen


def check_images(batch: MicroBatch) -> None:
    """Placeholders take the tokens of their own picture, in order; each picture is there once."""
    counts = (batch.grid_I3.prod(1) // 4).tolist()
    assert len(batch.pixels_PD) == 4 * sum(counts)
    assert len(batch.visual_M) == int(batch.is_image_N.sum())
    assert set(batch.visual_M.tolist()) == set(range(sum(counts)))
    assert torch.equal(batch.is_image_N, batch.input_ids_N == IMAGE)
    kinds = [batch.pixels_PD[4 * sum(counts[:i])].tolist() for i in range(len(counts))]
    assert len({tuple(kind) for kind in kinds}) == len(kinds)


def test_a_placeholder_takes_its_own_picture() -> None:
    """Two prompts with two pictures each, one of them shared, in another order."""
    a, b, c = (make_png(i) for i in (1, 2, 3))
    samples = [
        Sample(make_rollout(i, prompt_ids=(7, IMAGE, 8, IMAGE, 9), images=images), 1.0)
        for i, images in enumerate([(a, b), (c, a)])
    ]
    batch = build(rows_of(samples), samples)
    assert len(batch.grid_I3) == 3
    starts = {a: 0, b: size_of(a).num_tokens, c: size_of(a).num_tokens + size_of(b).num_tokens}
    want = [starts[png] + i for png in (a, b, c, a) for i in range(size_of(png).num_tokens)]
    assert batch.visual_M.tolist() == want
    assert batch.pixels_PD[4 * starts[c]].tolist() == encode(c)[0].tolist()


def test_without_pictures_there_are_no_pixels() -> None:
    samples = samples_of([make_group(1)], ObjectiveConfig())
    batch = build(rows_of(samples), samples)
    assert batch.pixels_PD.numel() == batch.grid_I3.numel() == batch.visual_M.numel() == 0
    assert batch.grid_I3.shape == (0, 3)


def test_a_placeholder_that_the_model_sampled_is_text() -> None:
    rollout = make_rollout(1, prompt_ids=(5, 6), num_tokens=4)
    object.__setattr__(rollout, "token_ids", (IMAGE, IMAGE, 3, 4))
    samples = [Sample(rollout, 1.0)]
    batch = build(rows_of(samples), samples)
    assert batch.input_ids_N.tolist() == [5, 6, IMAGE, IMAGE, 3]
    assert not batch.is_image_N.any()


def test_completions_share_the_prompts_last_token_as_predictor() -> None:
    """By hand: a prompt of three tokens, completions of two and one."""
    samples = [
        Sample(make_rollout(i, prompt_ids=(5, 6, 7), num_tokens=n), 1.0)
        for i, n in enumerate((2, 1))
    ]
    batch = build(rows_of(samples), samples)
    first, second = (s.rollout.token_ids for s in samples)
    assert batch.input_ids_N.tolist() == [5, 6, 7, first[0]]
    assert batch.targets_T.tolist() == [*first, *second]
    assert batch.predict_T.tolist() == [2, 3, 2]
    assert batch.sequences_T.tolist() == [0, 0, 1]
    assert batch.num_sequences == 2


def test_staleness_is_counted_token_by_token() -> None:
    """Versions 3, 7 and 9 sampled it; the learner was told the ages of two."""
    rollout = Rollout(
        policy="a",
        role="a",
        prompt_ids=(1, 2),
        token_ids=(3, 4, 5, 6, 7),
        logprobs=(-1.0,) * 5,
        segments=(Segment(0, 3), Segment(2, 7), Segment(4, 9)),
        finish="stop",
        sampling=SamplingParams(max_new_tokens=9),
        text="",
    )
    samples = [Sample(rollout, 1.0), Sample(make_rollout(1, prompt_ids=(1, 2), num_tokens=1), 0.0)]
    batch = build([Row(2, tuple(samples))], samples, {3: 4, 9: 0, 0: 7})
    assert batch.staleness_T.tolist() == [4, 4, NO_AGE, NO_AGE, 0, 7]
    assert set(build(rows_of(samples), samples).staleness_T.tolist()) == {NO_AGE}


def test_given_advantages_win_over_rewards() -> None:
    group = make_group(1, num_rollouts=2, advantages=(0.25, -3.0))
    assert [s.advantage for s in samples_of([group], ObjectiveConfig())] == [0.25, -3.0]


def test_a_rollout_pays_for_its_kl() -> None:
    """By hand: rewards 1 and 0 less a KL of 4 at 1/8 and none: 1/2 and 0, centred: +-1/4.

    Advantages that the recipe gave pay what is above the group's mean of 3.
    """
    rewarded = dataclasses.replace(make_group(1, num_rollouts=2), rewards=(1.0, 0.0))
    given = make_group(2, num_rollouts=2, advantages=(0.25, -3.0))
    objective = ObjectiveConfig(divide_by_std=False, kl_beta=0.125, kl_place="reward")
    groups = [rewarded, given]
    free = [s.advantage for s in samples_of(groups, objective)]
    assert free == [0.5, -0.5, 0.25, -3.0]
    nothing = charged_advantages(groups, torch.zeros(4), objective)
    assert nothing.tolist() == free
    charged = charged_advantages(groups, torch.tensor([4.0, 0.0, 1.0, 5.0]), objective)
    assert charged.tolist() == [0.25, -0.25, 0.5, -3.25]


def test_moving_a_micro_batch_moves_its_plan_too() -> None:
    samples = samples_of([make_group(1, num_images=1)], ObjectiveConfig())
    moved = build(rows_of(samples), samples).to(torch.device("meta"))
    assert moved.input_ids_N.device.type == moved.pixels_PD.device.type == "meta"
    assert moved.plan.own.cu_queries.device.type == "meta"
