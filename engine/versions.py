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


class VersionLedger:
    """Every version and every restore of a run."""

    def __init__(self, versions: Iterable[Version] = (), restores: Iterable[Restore] = ()) -> None:
        self._versions = {(row.policy, row.version): row for row in versions}
        self._last: dict[str, int] = {}
        for policy, version in self._versions:
            self._last[policy] = max(version, self._last.get(policy, 0))
        self._restores: dict[str, list[Restore]] = {}
        for restore in restores:
            self.record_restore(restore)

    def reserve(self, policy: str, step: int, attempt: int) -> Version:
        """The next version of `policy` (1, 2, ...), for weights of `step`."""
        version = self._last.get(policy, 0) + 1
        row = Version(policy, version, step, attempt)
        self._versions[policy, version] = row
        self._last[policy] = version
        return row

    def record_restore(self, restore: Restore) -> None:
        self._restores.setdefault(restore.policy, []).append(restore)

    def newest(self, policy: str) -> int:
        """The last version reserved; 0 where there is none."""
        return self._last.get(policy, 0)

    def find(self, policy: str, version: int) -> Version:
        """Raises KeyError for a version that was never reserved."""
        return self._versions[policy, version]

    def age(self, policy: str, version: int, current_step: int) -> int:
        """Steps between the weights that sampled a token and the policy's current weights.

        The weights of all attempts form a tree, in which a restore starts a new branch; the age
        is the length of the path between two of its nodes. For weights in the current lineage
        that is `current_step - step`; for weights that a restore to step R threw away it is
        `(current_step - R) + (step - R)`: never negative, and 0 only for weights that are ours.

        Raises KeyError for an unknown version, ValueError where `current_step` lies before the
        version's own lineage (a restore was not recorded).
        """
        row = self._versions[policy, version]
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
