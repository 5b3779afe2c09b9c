"""Names of publications, and how old a token is. Pure; the buffer keeps the rows durably.

A *version* names one publication of one policy's weights: it grows, is never reused, and maps to
the *step* that the weights contain and the *attempt* (life of the run) that made them. A restore
sets a policy back to the step of a checkpoint; the weights beyond it are thrown away, but tokens
that they sampled may still be in the buffer.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Version:
    policy: str
    version: int
    step: int
    """Learner steps that the weights contain."""
    attempt: int


@dataclass(frozen=True, slots=True)
class Restore:
    policy: str
    attempt: int
    """The attempt that began with this restore."""
    step: int


KEPT = 2000
"""Versions of a policy that the ledger remembers. No group waits for as many steps as that."""


class VersionLedger:
    """The last versions, and every restore, of a run."""

    def __init__(self, versions: Iterable[Version] = (), restores: Iterable[Restore] = ()) -> None:
        self._versions: dict[str, dict[int, Version]] = {}
        """By policy, oldest first."""
        self._reserved: dict[tuple[str, int, int], Version] = {}
        """By policy, step and attempt."""
        self._last: dict[str, int] = {}
        for row in versions:
            self._record(row)
        self._restores: dict[str, list[Restore]] = {}
        for restore in restores:
            self.record_restore(restore)

    def reserve(self, policy: str, step: int, attempt: int) -> Version:
        """The version for weights of `step` in this attempt: the next one (1, 2, ...), unless it
        was reserved before."""
        row = self._reserved.get((policy, step, attempt))
        if row is None:
            row = Version(policy, self._last.get(policy, 0) + 1, step, attempt)
            self._record(row)
        return row

    def record_restore(self, restore: Restore) -> None:
        self._restores.setdefault(restore.policy, []).append(restore)

    def _record(self, row: Version) -> None:
        own = self._versions.setdefault(row.policy, {})
        own[row.version] = row
        self._reserved[row.policy, row.step, row.attempt] = row
        self._last[row.policy] = max(row.version, self._last.get(row.policy, 0))
        if len(own) > KEPT:
            oldest = own.pop(next(iter(own)))
            self._reserved.pop((oldest.policy, oldest.step, oldest.attempt), None)

    def newest(self, policy: str) -> int:
        """The last version reserved; 0 where there is none."""
        return self._last.get(policy, 0)

    def find(self, policy: str, version: int) -> Version:
        """Raises KeyError for a version that was never reserved, or is forgotten."""
        return self._versions[policy][version]

    def knows(self, policy: str, version: int) -> bool:
        """Whether the version was reserved, and is not forgotten."""
        return version in self._versions.get(policy, ())

    def age(self, policy: str, version: int, current_step: int) -> int:
        """Steps between the weights that sampled a token and the policy's current weights.

        The weights of all attempts form a tree, in which a restore starts a new branch; the age
        is the length of the path between two of its nodes. For weights in the current lineage
        that is `current_step - step`; for weights that a restore to step R threw away it is
        `(current_step - R) + (step - R)`: never negative, and 0 only for weights that are ours.

        Raises KeyError for an unknown version, ValueError where `current_step` lies before the
        version's own lineage (a restore was not recorded).
        """
        row = self.find(policy, version)
        fork = min(
            (r.step for r in self._restores.get(policy, ()) if r.attempt > row.attempt),
            default=row.step,
        )
        fork = min(fork, row.step)
        if current_step < fork:
            raise ValueError(
                f"{policy}: version {version} is of step {row.step}, "
                f"but the current step is {current_step}"
            )
        return (current_step - fork) + (row.step - fork)
