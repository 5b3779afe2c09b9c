"""What rollout servers tell of themselves at /metrics: busy seconds, and the whole text."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

import aiohttp

from engine.routing import ServerPool

PROBE_EVERY_S = 4.0
TIMEOUT_S = 1.0
MAX_BYTES = 4 << 20
BUSY = "sglang:busy_seconds_total"
"""Ours tell it."""
RUNNING = "sglang:num_running_reqs"
"""SGLang tells this: it worked where some request ran."""


class Probe:
    """Asks the servers of all policies, now and then."""

    def __init__(self, pools: Mapping[str, ServerPool], session: aiohttp.ClientSession) -> None:
        self._pools = pools
        self._session = session
        self._started_s = time.monotonic()
        self._asked_s = self._started_s
        self._running_s: dict[str, float] = {}
        """{url: seconds in which it ran something}, of servers that do not tell."""

    async def busy(self) -> dict[str, tuple[float, float]] | None:
        """{policy: (seconds its servers worked, seconds there were)} since the start; None: it is
        not yet time to ask again."""
        now_s = time.monotonic()
        since_s = now_s - self._asked_s
        if since_s < PROBE_EVERY_S:
            return None
        self._asked_s = now_s
        found: dict[str, tuple[float, float]] = {}
        for (policy, url), text in (await self.texts()).items():
            worked_s = self._worked_s(url, text, since_s)
            if worked_s is not None:
                before = found.get(policy, (0.0, 0.0))
                found[policy] = (before[0] + worked_s, before[1] + now_s - self._started_s)
        return found

    async def texts(self) -> dict[tuple[str, str], str]:
        """{(policy, url): its /metrics}; a server that does not answer is left out."""
        places = [(policy, url) for policy, pool in self._pools.items() for url in pool.ready]
        texts = await asyncio.gather(*(self._text(url) for _, url in places))
        return {place: text for place, text in zip(places, texts, strict=True) if text is not None}

    async def _text(self, url: str) -> str | None:
        try:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with self._session.get(f"{url}/metrics", timeout=timeout) as response:
                body = b""
                while len(body) < MAX_BYTES and (part := await response.content.readany()):
                    body += part
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return body.decode(errors="replace")

    def _worked_s(self, url: str, text: str, since_s: float) -> float | None:
        if (worked_s := _value(text, BUSY)) is not None:
            return worked_s
        if (running := _value(text, RUNNING)) is None:
            return None
        self._running_s[url] = self._running_s.get(url, 0.0) + (since_s if running else 0.0)
        return self._running_s[url]


def _value(text: str, name: str) -> float | None:
    """The sum of a metric's samples; None where it is not there."""
    found = []
    for line in text.splitlines():
        if line.startswith((f"{name}{{", f"{name} ")):
            after = line.rpartition("}")[2] if "}" in line else line.removeprefix(name)
            with suppress(ValueError, IndexError):  # a line that was cut off
                found.append(float(after.split()[0]))
    return sum(found) if found else None
