"""What an update costs the requests in flight, for each `weights.pause`; see `weights.py`."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import torch
from transformers import Qwen3VLForConditionalGeneration

from engine.server_link import ServerLink
from engine.weights import publish

MODES = ("retract", "in_place", "abort", "drain")
_PROMPT = tuple(range(3, 38))


@dataclass(slots=True)
class _Asked:
    """One request, also where it had to be asked a second time."""

    times_s: list[float] = field(default_factory=list)
    """When its chunks arrived; first, when it was asked."""
    tokens: int = 0
    again: int = 0
    """Tokens computed again."""

    def stall_s(self) -> float:
        return max(b - a for a, b in zip(self.times_s[1:], self.times_s[2:], strict=False))


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one update, or of none."""

    mode: str
    update_s: float
    stall_s: float
    late_s: float
    again: int
    tokens: int

    def row(self) -> str:
        return (
            f"| {self.mode} | {self.update_s:.3f} | {self.stall_s:.3f} | {self.late_s:.3f} "
            f"| {self.again} of {self.tokens} |"
        )


def print_modes(url: str, model_dir: Path, in_flight: int, new_tokens: int) -> None:
    """A table of all modes, and of no update at all."""
    print("\n| in flight | update s | stall s | late s | tokens computed again |")
    print("|---|---|---|---|---|")
    module: Any = Qwen3VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32)
    weights = [(name, tensor.detach()) for name, tensor in module.named_parameters()]
    link = ServerLink(url)
    link.connect()
    for version, mode in enumerate(("none", *MODES)):
        # Once for the machine to get used to it.
        costs = [
            asyncio.run(measure(link, weights, mode, 2 * version + i, in_flight, new_tokens))
            for i in range(2)
        ]
        print(costs[-1].row())
    link.close()


async def measure(
    link: ServerLink,
    weights: Sequence[tuple[str, torch.Tensor]],
    mode: str,
    version: int,
    in_flight: int,
    new_tokens: int,
) -> Cost:
    """Start the requests, publish when the last has half of its tokens, wait for all."""

    def update() -> float:
        if mode == "none":
            return 0.0
        pause = None if mode == "drain" else mode
        report = publish(weights, [link], version=version, pause_mode=pause, timeout_s=60)
        if report.failed:
            raise SystemExit(report.servers[link.url].error)
        return report.seconds

    # A client's own limit of connections would be a queue.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        asked = [_Asked() for _ in range(in_flight)]
        late = _Asked()
        tasks = [asyncio.create_task(_ask(session, link.url, one, new_tokens)) for one in asked]
        while min(one.tokens for one in asked) < new_tokens // 2:
            for task in tasks:
                if task.done():
                    task.result()  # it failed, and so does this
            await asyncio.sleep(0.002)
        updating = asyncio.create_task(asyncio.to_thread(update))
        await asyncio.sleep(0.01)
        await _ask(session, link.url, late, 8)
        seconds = await updating
        await asyncio.gather(*tasks)
    return Cost(
        mode,
        seconds,
        statistics.mean(one.stall_s() for one in asked),
        late.times_s[1] - late.times_s[0],
        sum(one.again for one in asked),
        sum(one.tokens for one in asked),
    )


async def _ask(session: aiohttp.ClientSession, url: str, asked: _Asked, new_tokens: int) -> None:
    """One request to its end; where it is aborted, the rest is asked for by what there is."""
    asked.times_s.append(time.perf_counter())
    ids: list[int] = []
    while asked.tokens < new_tokens:
        before = len(ids)
        body = {
            "input_ids": [*_PROMPT, *ids],
            "stream": True,
            "sampling_params": {"max_new_tokens": new_tokens - before, "ignore_eos": True},
        }
        answer: dict[str, Any] = {}
        async with session.post(f"{url}/generate", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                answer = json.loads(line.removeprefix(b"data: "))
                if len(answer["output_ids"]) > asked.tokens - before:
                    asked.times_s.append(time.perf_counter())
                asked.tokens = before + len(answer["output_ids"])
        asked.again += _again(answer["meta_info"], before)
        ids += answer["output_ids"]


def _again(meta: dict[str, Any], resent: int) -> int:
    """Generated tokens that were part of a prefill: sent again, or retracted with their request,
    which then goes on with another version."""
    retracted = meta.get("num_retractions", 0) and len(meta["weight_versions"]) > 1
    return resent + (meta["weight_versions"][-1]["start"] if retracted else 0)
