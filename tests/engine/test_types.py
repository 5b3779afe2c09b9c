"""The words that cross packages refuse what contradicts itself."""

from typing import Any

import pytest

from engine.types import Group, SamplingParams, Segment, version_range
from tests.engine.fakes import make_rollout


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"token_ids": (), "logprobs": ()}, "at least one token"),
        ({"logprobs": (-0.5,)}, "1 log-probs for 2 tokens"),
        ({"segments": ()}, "do not partition"),
        ({"segments": (Segment(1, 3),)}, "do not partition"),
        ({"segments": (Segment(0, 3), Segment(2, 4))}, "do not partition"),
        ({"segments": (Segment(0, 3), Segment(0, 4))}, "do not partition"),
    ],
)
def test_a_rollout_is_whole(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_rollout(**changes)


def group(**changes: Any) -> Group:
    rollouts = (make_rollout(token=1), make_rollout(token=2))
    fields: dict[str, Any] = {"stream": "s", "game": 1, "rollouts": rollouts, "rewards": (0.0, 1.0)}
    return Group(**{**fields, **changes})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rollouts": (), "rewards": ()}, "empty group"),
        ({"rewards": (1.0,)}, "1 rewards for 2 rollouts"),
        ({"rewards": (1.0, float("nan"))}, "not all finite"),
        ({"terms": ({},)}, "1 term rows"),
        ({"advantages": (1.0,)}, "1 advantages"),
        ({"advantages": (1.0, float("inf"))}, "not all finite"),
        ({"rollouts": (make_rollout("a"), make_rollout("b"))}, "more than one policy"),
    ],
)
def test_a_group_fits_its_rollouts(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        group(**changes)


def test_signal_is_a_difference_in_reward_or_an_advantage() -> None:
    assert group().has_signal
    assert not group(rewards=(0.5, 0.5)).has_signal
    assert group(rewards=(0.5, 0.5), advantages=(0.0, 1.0)).has_signal
    assert not group(advantages=(0.0, 0.0)).has_signal


def test_version_range_spans_every_token_of_each_policy() -> None:
    rollouts = [
        make_rollout("a", segments=(Segment(0, 4), Segment(1, 6))),
        make_rollout("a", version=5),
        make_rollout("b", version=2),
    ]
    assert version_range(rollouts) == {"a": (4, 6), "b": (2, 2)}


def test_only_plain_sampling_is_trainable() -> None:
    assert SamplingParams(max_new_tokens=1, temperature=0.7).is_trainable
    for cut in ({"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.1}, {"temperature": 0.0}):
        assert not SamplingParams(max_new_tokens=1, **cut).is_trainable  # type: ignore[arg-type]
