"""Every sample exactly once, within the budget, whatever the sizes."""

from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.learner.batch import (
    EncodedImage,
    ExpandedPrompt,
    MicroBatch,
    Sample,
    count_tokens,
    micro_batches,
    samples_of,
)
from tests.engine.learner.learner_data import IMAGE, make_group, make_png


def encode(png: bytes) -> EncodedImage:
    """Four visual tokens of four patches; the first byte of the pixels tells pictures apart."""
    return EncodedImage(torch.full((16, 3), float(hash(png) % 97)), (1, 4, 4), 4)


def expand(prompt_ids: object, images: object) -> ExpandedPrompt:
    ids = [token for t in prompt_ids for token in ([t] * 4 if t == IMAGE else [t])]  # type: ignore[attr-defined]
    tensor = torch.tensor(ids)
    positions = torch.arange(len(ids)).expand(3, -1)
    return ExpandedPrompt(tensor, tensor == IMAGE, positions, len(ids))


def build(samples: list[Sample], budget: int, max_row: int = 256) -> list[MicroBatch]:
    return micro_batches(
        samples, encode=encode, expand=expand, token_budget=budget, max_row_tokens=max_row
    )


def flat(batch: MicroBatch) -> list[tuple[tuple[int, ...], tuple[float, ...], float]]:
    """(token ids, sampler log-probs, advantage) of each rollout in the micro-batch."""
    rows = []
    for sequence in range(batch.num_sequences):
        mine = batch.sequences_T == sequence
        (advantage,) = set(batch.advantages_T[mine].tolist())
        rows.append(
            (
                tuple(batch.targets_T[mine].tolist()),
                tuple(batch.sampler_T[mine].tolist()),
                advantage,
            )
        )
    return rows


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 5), st.integers(0, 2), st.integers(1, 12), st.integers(0, 3)),
        min_size=1,
        max_size=8,
    ),
    budget=st.integers(1, 400),
    max_row=st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_every_sample_is_trained_once_and_the_budget_holds(
    sizes: list[tuple[int, int, int, int]], budget: int, max_row: int
) -> None:
    groups = [
        make_group(i, num_rollouts=n, num_images=k, prompt_tokens=p, image_seed=seed)
        for i, (n, k, p, seed) in enumerate(sizes)
    ]
    samples = samples_of(groups, divide_by_std=True)
    batches = build(samples, budget, max_row)
    got = Counter(row for batch in batches for row in flat(batch))
    float32 = lambda values: tuple(torch.tensor(values).tolist())  # noqa: E731
    want = Counter(
        (s.rollout.token_ids, float32(s.rollout.logprobs), torch.tensor(s.advantage).item())
        for s in samples
    )
    assert got == want
    assert sum(batch.num_tokens for batch in batches) == count_tokens(samples)
    for batch in batches:
        rows, length = batch.input_ids_RL.shape
        assert rows * length <= budget or rows == 1
        assert len(batch.visual_M) == int(batch.is_image_RL.sum())
        assert len(batch.pixels_PD) == 4 * (
            int(batch.visual_M.max()) + 1 if rows and len(batch.visual_M) else 0
        )


def test_completions_of_one_prompt_share_it_but_not_each_other() -> None:
    group = make_group(3, num_rollouts=3, prompt_tokens=4)
    (batch,) = build(samples_of([group], divide_by_std=True), 999)
    assert len(batch.input_ids_RL) == 1
    lengths = [len(rollout.token_ids) - 1 for rollout in group.rollouts]
    assert batch.input_ids_RL.shape[1] == 4 + sum(lengths)
    part = torch.tensor([0] * 4 + [i + 1 for i, n in enumerate(sorted(lengths)) for _ in range(n)])
    for query in range(len(part)):
        for key in range(len(part)):
            visible = key <= query and (part[key] == 0 or part[key] == part[query])
            assert bool(batch.attention_R1LL[0, 0, query, key]) == bool(visible)
    # Each completion starts at the same position, right after the prompt.
    for i in (1, 2, 3):
        here = batch.positions_3RL[0, 0, part == i].tolist()
        assert here == list(range(4, 4 + len(here)))


def test_an_image_is_seen_once_and_stays_in_one_micro_batch() -> None:
    """Six prompts about three pictures, mixed: two prompts fit a micro-batch."""
    groups = [make_group(i, num_images=1, image_seed=i % 3, num_rollouts=1) for i in range(6)]
    for rollout in (g.rollouts[0] for g in groups):
        object.__setattr__(rollout, "token_ids", (5,))
        object.__setattr__(rollout, "logprobs", (-1.0,))
    batches = build(samples_of(groups, divide_by_std=True), budget=2 * 12)
    assert [len(batch.grid_I3) for batch in batches] == [1, 1, 1]
    assert [len(batch.input_ids_RL) for batch in batches] == [2, 2, 2]


def test_given_advantages_win_over_rewards() -> None:
    group = make_group(1, num_rollouts=2, advantages=(0.25, -3.0))
    assert [s.advantage for s in samples_of([group], divide_by_std=True)] == [0.25, -3.0]


def test_images_are_decoded_once_per_batch() -> None:
    seen: list[bytes] = []

    def counting(png: bytes) -> EncodedImage:
        seen.append(png)
        return encode(png)

    groups = [make_group(i, num_images=2, image_seed=7) for i in range(4)]
    samples = samples_of(groups, divide_by_std=True)
    micro_batches(samples, encode=counting, expand=expand, token_budget=50)
    assert sorted(seen) == sorted({make_png(7), make_png(8, 64)})
