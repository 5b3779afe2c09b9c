"""Counters of a render pool, and percentiles of its recent times."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from engine.types import Invalid

_RECENT = 512
"""Times of which percentiles are taken: to sort them is most of what `as_dict` costs."""


class Measures:
    """What a pool has done; filled by the pool alone."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.invalid: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        """Workers that ended over a request, by reason; `cancelled`: the caller went away."""
        self.busy_s = 0.0
        self.cpu_s = 0.0
        self.running = 0
        self._waits: deque[float] = deque(maxlen=_RECENT)
        self._draws: deque[float] = deque(maxlen=_RECENT)

    def waited(self, seconds: float) -> None:
        self._waits.append(seconds)

    def drew(self, wall_s: float, cpu_s: float) -> None:
        self._draws.append(wall_s)
        self.cpu_s += cpu_s

    def came(self, result: Any, *, is_cached: bool) -> None:
        """A request got its answer."""
        self.counts["requests"] += 1
        self.counts["cached"] += is_cached
        if isinstance(result, Invalid):
            self.invalid[result.reason] += 1
        else:
            self.counts["rendered"] += 1
            self.counts["with_boxes"] += bool(result.boxes)

    def as_dict(self) -> dict[str, Any]:
        requests = self.counts["requests"]
        return {
            "rendered": self.counts["rendered"],
            "cached": self.counts["cached"],
            "hit_rate": self.counts["cached"] / requests if requests else 0.0,
            "with_boxes": self.counts["with_boxes"],
            "invalid": dict(self.invalid),
            "kills": self.kills.total(),
            "kills_by_reason": dict(self.kills),
            "recycled": self.counts["recycled"],
            "retried": self.counts["retried"],
            "wait_ms": _percentiles(self._waits),
            "draw_ms": _percentiles(self._draws),
            "busy_s": self.busy_s,
            "cpu_s": self.cpu_s,
            "running": self.running,
        }


def together(stats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several pools as of one (`RenderPool.stats`): sums; times are those of the pool that drew
    most, for percentiles don't add up."""
    most = max(stats, key=lambda one: one["rendered"])
    if len(stats) == 1:
        return dict(most)
    found = dict(most)
    for name, value in most.items():
        if isinstance(value, int | float):
            found[name] = sum(one[name] for one in stats)
        elif name in ("invalid", "kills_by_reason"):
            total = Counter[str]()
            for one in stats:
                total.update(one[name])
            found[name] = dict(total)
    requests = found["rendered"] + sum(found["invalid"].values())
    found["hit_rate"] = found["cached"] / requests if requests else 0.0
    return found


def summarise(stats: Mapping[str, Any]) -> str:
    """`RenderPool.stats` in a line."""
    refused = sum(stats["invalid"].values())
    parts = [f"{stats['rendered']} pictures, {refused} refused, {stats['hit_rate']:.0%} kept ones"]
    if stats["draw_ms"]:
        draw, wait = stats["draw_ms"], stats["wait_ms"]
        parts.append(f"drawing {draw['p50']:.0f} ms (p95 {draw['p95']:.0f})")
        parts.append(f"waiting {wait['p50']:.0f} ms (p95 {wait['p95']:.0f})")
    parts.append(f"{stats['kills']} kills, {stats['recycled']} recycled")
    return ", ".join(parts)


def _percentiles(seconds: deque[float]) -> dict[str, float]:
    """{p50, p95, p99} in milliseconds; empty where nothing was measured."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        f"p{q}": round(ordered[min(len(ordered) - 1, len(ordered) * q // 100)] * 1e3, 3)
        for q in (50, 95, 99)
    }
