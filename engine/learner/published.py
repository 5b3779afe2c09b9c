"""What is published: a policy's weights as they are, or a copy of them.

A policy's servers get its weights as they are (`Current`); those of a follower
(`engine.layout.Follower`) get a copy that was made of them some steps ago (`Pinned`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from engine.buckets import NamedTensors
from engine.learner.group import LearnerGroup
from engine.weight_names import Sent
from engine.weights import ServerResult


class Weights(Protocol):
    """What is published, and what it is compared with."""

    policy: str
    """Whose weights they are."""
    step: int
    """Of it."""
    layout: dict[str, Sent]
    """What all tensors are, in their order."""
    has_shares: bool
    """Whether all ranks send them, each to its share of the servers; else rank 0 sends them."""

    def renew(self) -> None:
        """From now on they are its weights of now."""
        ...

    def tensors(self) -> NamedTensors:
        """By their published names; all of them must be taken, once."""
        ...

    def send(
        self, senders: Mapping[str, int], version: int, *, changed_only: bool
    ) -> dict[str, ServerResult]:
        """By broadcast, to these servers ({url: rank that sends}); `LearnerGroup.weights` says what
        `changed_only` is."""
        ...

    def scores(self) -> list[float]:
        """Log-probs of the probe."""
        ...


class Current:
    """A policy's weights; whoever asks for them or their scores starts a collective."""

    has_shares = True

    def __init__(self, group: LearnerGroup, policy: str) -> None:
        self._group = group
        self.policy = policy
        self.layout = group.layouts[policy]
        self.renew()

    def renew(self) -> None:
        self.step = self._group.trainers[self.policy].step_count

    def tensors(self) -> NamedTensors:
        # Whole tensors are gathered one by one: without the command the other ranks would never
        # join in, and the whole model is never on one device at once.
        self._group.control.broadcast({"kind": "gather", "policy": self.policy}, {})
        return self._group.weights(self.policy)

    def send(
        self, senders: Mapping[str, int], version: int, *, changed_only: bool
    ) -> dict[str, ServerResult]:
        command = {
            "kind": "send",
            "policy": self.policy,
            "senders": dict(senders),
            "version": version,
            "changed_only": changed_only,
        }
        results: dict[str, ServerResult] = self._group.run(command)
        return results

    def scores(self) -> list[float]:
        scores: list[float] = self._group.run({"kind": "score", "policy": self.policy})
        return scores


class Pinned:
    """A copy in host memory of a policy's weights; only `renew` is a collective."""

    has_shares = False

    def __init__(self, group: LearnerGroup, policy: str) -> None:
        self._group = group
        self._current = Current(group, policy)
        self._device = group.trainers[policy].device
        if self._device.type == "cuda":  # of this thread: the one that sends has none of its own
            self._device = torch.device("cuda", torch.cuda.current_device())
        self.policy, self.layout = policy, self._current.layout
        self.renew()

    def renew(self) -> None:
        self._current.renew()
        self.step = self._current.step
        self._scores = self._current.scores()
        self._tensors: dict[str, Tensor] = {}  # the old copy goes first: room for one is enough
        for name, tensor in self._current.tensors():
            self._tensors[name] = tensor.to("cpu", copy=True)

    def tensors(self) -> NamedTensors:
        return self._of(self._tensors)

    def send(
        self, senders: Mapping[str, int], version: int, *, changed_only: bool
    ) -> dict[str, ServerResult]:
        changed = self._group.trainers[self.policy].adapted if changed_only else None
        tensors = self._of(changed or self._tensors)
        return self._group.sender.send(tensors, list(senders), version)

    def _of(self, names: Collection[str]) -> NamedTensors:
        return (
            (name, tensor.to(self._device))
            for name, tensor in self._tensors.items()
            if name in names
        )

    def scores(self) -> list[float]:
        return self._scores


ATTEMPTS = 5
"""Of filling a server with one version, if it is found to hold something else each time."""


@dataclass(slots=True)
class Published:
    """What the servers of one policy or follower have, or are to have."""

    version: int
    weights: Weights
    senders: dict[str, int] = field(default_factory=dict)
    """{url: rank that sends to it} of its servers that have ever been there."""
    unproven: dict[str, tuple[int, int]] = field(default_factory=dict)
    """{url: (version, times)} of servers that were found to hold something else."""
    linked: set[str] = field(default_factory=set)
    """URLs of servers that hold a version of these weights, or are being filled."""
    count: int = 0
    """Publications so far."""
    probe_gap: float = 0.0
    """Largest difference of log-probs at the last probe, nats."""
    seconds: float = 0.0
    """What the last publication took, proof included."""
    cpu_s: float = 0.0
    """Of that, processor time of this process, all of its threads."""
    sent_bytes: int = 0
    """What the last publication sent to each server."""

    def is_hopeless(self, url: str) -> bool:
        """Whether the server got this version often enough, and never held it."""
        version, times = self.unproven.get(url, (0, 0))
        return version == self.version and times >= ATTEMPTS
