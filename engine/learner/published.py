"""What is published: a policy's weights as they are, or a copy of them.

A policy's servers get its weights as they are (`Current`); those of a follower
(`engine.layout.Follower`) get a copy that was made of them some steps ago (`Pinned`).
"""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from engine.buckets import NamedTensors, dtype_name
from engine.learner.group import LearnerGroup
from engine.learner.trainer import PolicyTrainer
from engine.server_link import ServerLink
from engine.weight_names import Sent


class Weights(Protocol):
    """What is published, and what it is compared with."""

    step: int
    """Of the policy whose weights they are."""
    layout: dict[str, Sent]
    """What all tensors are, in their order."""
    adapted: frozenset[str]
    """With adapters: names of the only tensors that ever change."""

    def renew(self) -> None:
        """From now on they are its weights of now."""
        ...

    def tensors(self) -> NamedTensors:
        """By their published names; all of them must be taken, once."""
        ...

    def scores(self) -> list[float]:
        """Log-probs of the probe."""
        ...


class Current:
    """A policy's weights; whoever asks for them or their scores starts a collective."""

    def __init__(self, group: LearnerGroup, policy: str) -> None:
        self._group = group
        self._policy = policy
        self.layout, self.adapted = _layout(group.trainers[policy])
        self.renew()

    def renew(self) -> None:
        self.step = self._group.trainers[self._policy].step_count

    def tensors(self) -> NamedTensors:
        # Whole tensors are gathered one by one: without the command the other ranks would never
        # join in, and the whole model is never on one device at once.
        self._group.broadcast({"kind": "gather", "policy": self._policy}, {})
        return self._group.trainers[self._policy].named_weights()

    def scores(self) -> list[float]:
        command = {"kind": "score", "policy": self._policy}
        scores: list[float] = self._group.execute(*self._group.broadcast(command, {}))
        return scores


class Pinned:
    """A copy in host memory of a policy's weights; only `renew` is a collective."""

    def __init__(self, group: LearnerGroup, policy: str) -> None:
        self._current = Current(group, policy)
        self._device = group.trainers[policy].device
        self.layout, self.adapted = self._current.layout, self._current.adapted
        self.renew()

    def renew(self) -> None:
        self._current.renew()
        self.step = self._current.step
        self._scores = self._current.scores()
        self._tensors: dict[str, Tensor] = {}  # the old copy goes first: room for one is enough
        for name, tensor in self._current.tensors():
            self._tensors[name] = tensor.to("cpu", copy=True)

    def tensors(self) -> NamedTensors:
        return ((name, part.to(self._device)) for name, part in self._tensors.items())

    def scores(self) -> list[float]:
        return self._scores


def changed_only(weights: Weights) -> NamedTensors:
    """For servers that hold an older version of the same weights: with adapters only the tensors
    into which they are merged. All are gathered, few are sent."""
    if not weights.adapted:
        return weights.tensors()
    return ((name, tensor) for name, tensor in weights.tensors() if name in weights.adapted)


def _layout(trainer: PolicyTrainer) -> tuple[dict[str, Sent], frozenset[str]]:
    dtype = dtype_name(trainer.published_dtype)
    layout: dict[str, Sent] = {}
    adapted = set()
    for name, parameter, adapter in trainer._published:
        published = trainer.model.published_name(name)
        layout[published] = Sent(dtype, tuple(parameter.shape))
        if adapter is not None:
            adapted.add(published)
    return layout, frozenset(adapted)


@dataclass(slots=True)
class Published:
    """What the servers of one policy or follower have, or are to have."""

    version: int
    weights: Weights
    links: dict[str, ServerLink] = field(default_factory=dict)
    """Of servers that hold a version of these weights, or are being filled."""
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
