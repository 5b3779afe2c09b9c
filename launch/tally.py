"""What this attempt has added to the buffer's counters, which live over restarts.

They are saved with every record of the run (`launch.watching`), and when it stops: a crash of the
engine loses some fifteen seconds of tokens, of work and of wall time.
"""

import time
from collections.abc import Iterable, Mapping

from engine.buffer import Buffer
from engine.routing import ServerPool

SAVE_EVERY_S = 10.0


class Tally:
    """Tokens generated, measured and trained by policy; seconds worked by part; wall time."""

    def __init__(self, buffer: Buffer, pools: Mapping[str, ServerPool]) -> None:
        self._buffer = buffer
        self._pools = pools
        self._trained: dict[str, int] = dict.fromkeys(pools, 0)
        self._measured: dict[str, int] = dict.fromkeys(pools, 0)
        self._worked: dict[str, tuple[float, float]] = {}
        self._started_s = time.monotonic()
        self._wall_before_s = buffer.counters().get("wall_s", 0.0)
        self.totals: dict[str, float] = {}
        """By counter: of this attempt, as counted last. They never fall."""
        self._saved: dict[str, float] = {}
        self._saved_s = -SAVE_EVERY_S

    @property
    def attempt_s(self) -> float:
        return time.monotonic() - self._started_s

    @property
    def elapsed_s(self) -> float:
        """Over all attempts."""
        return self._wall_before_s + self.attempt_s

    @property
    def parts(self) -> Iterable[str]:
        """Those that told of their work."""
        return sorted(self._worked)

    def trained(self, policy: str, tokens: int) -> None:
        self._trained[policy] += tokens

    def measured(self, policy: str, tokens: int) -> None:
        """Tokens sampled for a measurement are not self-play's."""
        self._measured[policy] += tokens

    def worked(self, part: str, worked_s: float, there_s: float) -> None:
        """A part worked so many seconds of those that it was there, in this attempt."""
        self._worked[part] = (worked_s, there_s)

    def count(self) -> None:
        """Bring `totals` up to date, and now and then the buffer."""
        self._count()
        if self.attempt_s - self._saved_s >= SAVE_EVERY_S:
            self._save()

    def save(self) -> None:
        """Add what is new to the buffer's counters, now."""
        self._count()
        self._save()

    def _count(self) -> None:
        now: dict[str, float] = {"wall_s": self.attempt_s}
        for policy, pool in self._pools.items():
            now[f"measured/{policy}"] = self._measured[policy]
            now[f"generated/{policy}"] = pool.counts["tokens"] - self._measured[policy]
            now[f"trained/{policy}"] = self._trained[policy]
        for part, (worked_s, there_s) in self._worked.items():
            now[f"busy_s/{part}"], now[f"busy_of_s/{part}"] = worked_s, there_s
        # Tokens of a measurement are told of after they were generated: what was added stays added.
        self.totals = {n: max(v, self.totals.get(n, 0.0)) for n, v in now.items()}

    def _save(self) -> None:
        self._saved_s = self.attempt_s
        amounts = {n: v - self._saved.get(n, 0.0) for n, v in self.totals.items()}
        self._buffer.add_all({name: amount for name, amount in amounts.items() if amount})
        self._saved = dict(self.totals)
