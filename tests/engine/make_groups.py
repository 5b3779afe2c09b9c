"""Groups and rollouts for tests that care about their bookkeeping, not their content."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.types import Group, Rollout, SamplingParams, Segment

PNG = b"\x89PNG\r\n\x1a\n picture "


def make_rollout(
    policy: str = "solver",
    versions: Sequence[int] = (1,),
    images: Sequence[bytes] = (PNG,),
    text: str = "4",
) -> Rollout:
    num_tokens = len(versions) + 1
    return Rollout(
        policy=policy,
        role=policy,
        prompt_ids=(1, 2, 3),
        images=tuple(images),
        token_ids=tuple(range(5, 5 + num_tokens)),
        logprobs=tuple(-0.25 * (i + 1) for i in range(num_tokens)),
        segments=tuple(Segment(i, version) for i, version in enumerate(versions)),
        finish="stop",
        sampling=SamplingParams(max_new_tokens=8),
        text=text,
        server="http://127.0.0.1:1",
        started_s=1.5,
        finished_s=2.5,
    )


def make_group(
    game: int = 1,
    stream: str = "solver",
    versions: Sequence[int] = (1,),
    rewards: Sequence[float] = (0.0, 1.0),
    judges: Mapping[str, tuple[int, int]] | None = None,
    images: Sequence[bytes] = (PNG,),
    extra: Mapping[str, Any] | None = None,
    policy: str | None = None,
) -> Group:
    """A group of the policy named as its stream, or of `policy`."""
    policy = policy or stream
    return Group(
        stream=stream,
        game=game,
        rollouts=tuple(make_rollout(policy, versions, images) for _ in rewards),
        rewards=tuple(rewards),
        terms=tuple({"right": reward} for reward in rewards),
        versions=dict(judges or {}) | {policy: (min(versions), max(versions))},
        extra=dict(extra or {}),
    )
