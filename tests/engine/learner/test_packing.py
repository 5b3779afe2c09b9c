"""Every sample exactly once, within the budget, balanced over ranks, whatever the sizes."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.learner import packing
from engine.learner.packing import Block, Prompt, Row, Sample, deal, make_blocks, make_rows
from engine.types import Rollout, SamplingParams, Segment

Sizes = Sequence[tuple[int, int, Sequence[int]]]
"""Of each prompt: (its tokens, number of its picture or 0, inputs of each completion)."""


def make_samples(sizes: Sizes) -> tuple[list[Sample], dict[Prompt, int]]:
    samples: list[Sample] = []
    prompt_tokens: dict[Prompt, int] = {}
    for number, (tokens, picture, inputs) in enumerate(sizes):
        images = (bytes([picture]),) if picture else ()
        prompt_tokens[(number,), images] = tokens
        samples += [Sample(make_rollout((number,), images, n + 1), 0.0) for n in inputs]
    return samples, prompt_tokens


def make_rollout(prompt_ids: tuple[int, ...], images: tuple[bytes, ...], num: int) -> Rollout:
    return Rollout(
        policy="a",
        role="a",
        prompt_ids=prompt_ids,
        images=images,
        token_ids=(1,) * num,
        logprobs=(0.0,) * num,
        segments=(Segment(0, 0),),
        finish="stop",
        sampling=SamplingParams(max_new_tokens=num),
        text="",
    )


def cost(rows: Sequence[Row]) -> float:
    """Attention's pairs, and a picture worth fifty tokens, once."""
    pictures = len({row.images for row in rows if row.images})
    return sum(row.tokens + 0.01 * row.pairs for row in rows) + 50.0 * pictures


def shape(dealt: Sequence[Sequence[Block]]) -> list[list[list[tuple[Prompt, list[int]]]]]:
    return [
        [[(row.prompt, [s.inputs for s in row.samples]) for row in block] for block in blocks]
        for blocks in dealt
    ]


def tokens_of(block: Block) -> int:
    return sum(row.tokens for row in block)


prompts = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.integers(0, 3),
        st.lists(st.integers(0, 60), min_size=1, max_size=6),
    ),
    min_size=1,
    max_size=12,
)


@given(sizes=prompts, ranks=st.integers(1, 5), budget=st.integers(1, 500))
@settings(max_examples=100, deadline=None)
def test_every_sample_once_and_the_budget_holds(sizes: Sizes, ranks: int, budget: int) -> None:
    samples, prompt_tokens = make_samples(sizes)
    dealt = deal(samples, prompt_tokens, ranks=ranks, token_budget=budget, cost=cost)
    assert len(dealt) == ranks
    rows = [row for blocks in dealt for block in blocks for row in block]
    assert Counter(id(s) for row in rows for s in row.samples) == Counter(map(id, samples))
    for row in rows:
        assert {sample.prompt for sample in row.samples} == {row.prompt}
        assert row.prompt_tokens == prompt_tokens[row.prompt]
    for block in (block for blocks in dealt for block in blocks):
        assert block
        one_sample = len(block) == 1 and len(block[0].samples) == 1
        assert tokens_of(block) <= budget or one_sample
    counts = [len(blocks) for blocks in dealt]
    assert max(counts) - min(counts) <= 1


@given(sizes=prompts, ranks=st.integers(1, 5), budget=st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_the_same_input_is_dealt_alike(sizes: Sizes, ranks: int, budget: int) -> None:
    """On another rank the objects are others; hash seeds and identities must not matter."""
    first, second = (
        deal(*make_samples(sizes), ranks=ranks, token_budget=budget, cost=cost) for _ in range(2)
    )
    assert shape(first) == shape(second)


@given(sizes=prompts, ranks=st.integers(2, 5))
@settings(max_examples=100, deadline=None)
def test_ranks_cost_the_same_within_the_largest_piece(sizes: Sizes, ranks: int) -> None:
    samples, prompt_tokens = make_samples(sizes)
    dealt = deal(samples, prompt_tokens, ranks=ranks, token_budget=10**6, cost=cost)
    # The budget never binds, so there is one micro-batch for each rank.
    loads = [sum(map(cost, blocks)) for blocks in dealt]
    share = math.ceil(sum(row.tokens for row in make_rows(samples, prompt_tokens, 10**6)) / ranks)
    pieces = make_blocks(make_rows(samples, prompt_tokens, 10**6, share), share)
    # What shares a picture in the same micro-batch by chance costs less than its parts.
    slack = 50.0 * len(pieces)
    assert max(loads) - min(loads) <= max(map(cost, pieces)) + slack
    if not any(picture for _, picture, _ in sizes):
        assert max(loads) - min(loads) <= max(map(cost, pieces)) + 1e-6


@given(sizes=prompts, ranks=st.integers(1, 4), budget=st.integers(100, 300))
@settings(max_examples=100, deadline=None)
def test_micro_batches_of_one_turn_are_of_about_one_size(
    sizes: Sizes, ranks: int, budget: int
) -> None:
    """The ranks wait for each other in every turn, so neighbours in cost compute together."""
    samples, prompt_tokens = make_samples(sizes)
    dealt = deal(samples, prompt_tokens, ranks=ranks, token_budget=budget, cost=cost)
    turns = [
        [cost(blocks[turn]) for blocks in dealt if turn < len(blocks)]
        for turn in range(max(map(len, dealt)))
    ]
    for turn, following in itertools.pairwise(turns):
        assert len(turn) == ranks
        assert min(turn) >= max(following)


def test_rows_of_one_picture_stay_together_where_they_fit() -> None:
    """Six prompts about three pictures, mixed: two prompts of twelve tokens fit."""
    samples, prompt_tokens = make_samples([(10, 1 + i % 3, (2,)) for i in range(6)])
    (blocks,) = deal(samples, prompt_tokens, ranks=1, token_budget=24, cost=cost)
    assert [len(block) for block in blocks] == [2, 2, 2]
    assert all(len({row.images for row in block}) == 1 for block in blocks)


def test_a_rank_gets_the_rest_of_its_pictures() -> None:
    """Three pictures whose rows fill a micro-batch and half of one, on three ranks."""
    samples, prompt_tokens = make_samples([(10, 1 + i // 3, (10 - i % 3,)) for i in range(9)])
    dealt = deal(samples, prompt_tokens, ranks=3, token_budget=40, cost=cost)
    assert [[len(block) for block in blocks] for blocks in dealt] == [[2, 1]] * 3
    for blocks in dealt:
        assert len({row.images for block in blocks for row in block}) == 1


def test_prompts_without_pictures_are_no_block() -> None:
    samples, prompt_tokens = make_samples([(10, 0, (2,)), (10, 0, (2,))])
    blocks = make_blocks(make_rows(samples, prompt_tokens, 99), 99)
    assert [len(block) for block in blocks] == [1, 1]


def test_completions_of_a_prompt_are_one_row_where_they_fit() -> None:
    samples, prompt_tokens = make_samples([(5, 0, (3, 0, 9)), (6, 0, (1,))])
    rows = make_rows(samples, prompt_tokens, 17)
    assert [row.tokens for row in rows] == [17, 7]
    # By hand: 15 pairs within the prompt; 6 + 45 within completions; 12 inputs see 5 each.
    assert rows[0].pairs == 15 + (6 + 0 + 45) + 12 * 5
    assert rows[0].scored == 4 + 1 + 10
    # One token less, and the prompt is computed twice.
    assert sorted(row.tokens for row in make_rows(samples, prompt_tokens, 16)) == [7, 8, 14]


def test_equal_prompts_about_other_pictures_are_other_rows() -> None:
    samples = [Sample(make_rollout((1,), (image,), 2), 0.0) for image in (b"a", b"b", b"a")]
    rows = make_rows(samples, {sample.prompt: 4 for sample in samples}, 99)
    assert [len(row.samples) for row in rows] == [2, 1]


def test_a_long_prompt_is_not_repeated_for_every_completion() -> None:
    """Two ranks, one prompt of 1000 tokens with 8 short completions: four each."""
    samples, prompt_tokens = make_samples([(1000, 0, (10,) * 8)])
    dealt = deal(samples, prompt_tokens, ranks=2, token_budget=8192, cost=cost)
    assert [[tokens_of(block) for block in blocks] for blocks in dealt] == [[1040], [1040]]


@given(sizes=prompts, ranks=st.integers(2, 8))
@settings(max_examples=100, deadline=None)
def test_a_rank_has_no_more_to_do_than_if_nothing_were_split(sizes: Sizes, ranks: int) -> None:
    """Splitting rows and pictures between ranks must not cost more than it saves."""
    samples, prompt_tokens = make_samples(sizes)
    whole = make_rows(samples, prompt_tokens, 10**6)
    dealt = deal(
        samples,
        prompt_tokens,
        ranks=ranks,
        token_budget=10**6,
        cost=lambda rows: tokens_of(list(rows)),
    )
    most = max(sum(map(tokens_of, blocks)) for blocks in dealt)
    share = sum(row.tokens for row in whole) / ranks
    # A fair share, and one for prompts computed again; the last piece: a prompt, a share of its
    # completions' tokens, and one completion.
    prompt = max(row.prompt_tokens for row in whole)
    assert most <= (share + prompt) + (prompt + share + max(s.inputs for s in samples))


def test_more_ranks_than_samples() -> None:
    samples, prompt_tokens = make_samples([(4, 0, (1,)), (9, 0, (2,))])
    dealt = deal(samples, prompt_tokens, ranks=5, token_budget=100, cost=cost)
    assert [len(blocks) for blocks in dealt] == [1, 1, 0, 0, 0]


def test_no_sample_at_all() -> None:
    assert deal([], {}, ranks=3, token_budget=10, cost=cost) == [[], [], []]


def test_a_thousand_prompts_that_pair_badly_are_dealt_in_few_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each takes a little more than half the budget: a micro-batch each, 375 more than hoped."""
    samples, prompt_tokens = make_samples([(5100 - i, 0, (9,)) for i in range(1000)])
    rounds: list[int] = []
    spread = packing._spread

    def counting(
        sizes: Sequence[int], costs: Sequence[float], *, bins: int, room: int
    ) -> list[list[int]]:
        if len(sizes) == len(samples):
            rounds.append(bins)
        return spread(sizes, costs, bins=bins, room=room)

    monkeypatch.setattr(packing, "_spread", counting)
    (blocks,) = deal(samples, prompt_tokens, ranks=1, token_budget=8192, cost=cost)
    assert len(blocks) == 1000
    assert len(rounds) <= 3
