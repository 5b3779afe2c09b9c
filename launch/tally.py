"""What this attempt has added to the buffer's counters, which live over restarts."""

import time
from collections.abc import Iterable, Mapping

from engine.buffer import Buffer
from engine.routing import ServerPool


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
        """By counter: of this attempt, as saved last. They never fall."""

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

    def save(self) -> None:
        """Add what is new to the buffer's counters."""
        now: dict[str, float] = {"wall_s": self.attempt_s}
        for policy, pool in self._pools.items():
            now[f"measured/{policy}"] = self._measured[policy]
            now[f"generated/{policy}"] = pool.counts["tokens"] - self._measured[policy]
            now[f"trained/{policy}"] = self._trained[policy]
        for part, (worked_s, there_s) in self._worked.items():
            now[f"busy_s/{part}"], now[f"busy_of_s/{part}"] = worked_s, there_s
        # A restarted server counts its seconds anew: what was added stays added.
        amounts = {n: max(0.0, v - self.totals.get(n, 0.0)) for n, v in now.items()}
        self._buffer.add_all({name: amount for name, amount in amounts.items() if amount})
        self.totals = {n: max(v, self.totals.get(n, 0.0)) for n, v in now.items()}
