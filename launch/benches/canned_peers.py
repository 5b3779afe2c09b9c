"""Rollout servers and a learner without a model: whom an engine talks to, in one process.

    python -m launch.benches.canned_peers MODEL_DIR ADDRESS [--servers 2] [--answer-tokens 1000]

The servers answer at once, what `canned_replies` makes; the learner says of every batch that it has
trained on it, and publishes. The first line of stdout is {policy: [url]}; GET /stats of any server
tells what has been done so far.
"""

import argparse
import asyncio
import base64
import json
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from aiohttp import web

from engine.encoding import TextEncoder
from engine.transport import LearnerSocket, Message
from launch.benches.canned_replies import ROLES, answer_body, canned_replies

_MAX_BODY_BYTES = 64 << 20
_PNG_HEAD = 32
"""Characters of base64 in which a PNG's size stands."""
_RECEIVE_S = 0.5
_METRICS = (
    "loss", "entropy", "grad_norm", "k1", "k3", "ess", "ratio_mean", "ratio_max", "lr",
    "clipped_fraction", "masked_fraction", "sampler_gap", "tokens_per_s", "prepare_s",
    "forward_s", "backward_s", "update_s", "step_s", "publish_s", "probe_gap",
)  # fmt: skip
"""As many as a learner tells of a step."""


class Servers:
    """The servers of all policies, and what they and the learner have done."""

    def __init__(self, encoder: TextEncoder, *, tokens: int, number: int) -> None:
        self._encoder = encoder
        self._replies = {
            role: cycle(canned_replies(encoder, role, tokens=tokens, number=number))
            for role in ROLES
        }
        self.versions: dict[str, int] = dict.fromkeys(ROLES, 0)
        self.counts: Counter[str] = Counter()
        self.steps: dict[str, int] = dict.fromkeys(ROLES, 0)

    def app_of(self, policy: str) -> web.Application:
        async def generate(request: web.Request) -> web.Response:
            return self._generated(policy, json.loads(await request.read()))

        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.router.add_post("/generate", generate)
        app.router.add_get("/stats", self._stats)
        app.router.add_get("/metrics", self._metrics)
        for path in ("/ready", "/server_info"):
            app.router.add_get(path, self._nothing)
        app.router.add_post("/abort_request", self._nothing)
        return app

    def _generated(self, policy: str, body: dict[str, Any]) -> web.Response:
        reply = next(self._replies[policy])
        pictures = [base64.b64decode(picture[:_PNG_HEAD]) for picture in body.get("image_data", ())]
        version = str(self.versions[policy])
        meta: dict[str, Any] = {
            "id": body["rid"],
            "prompt_tokens": self._encoder.prompt_tokens(body["input_ids"], pictures),
            "weight_version": version,
            "weight_versions": [{"version": version, "start": 0, "end": reply.num_tokens}],
            "cached_tokens": 0,
            "e2e_latency": 0.0,
        }
        if pictures:
            meta["image_tokens"] = len(pictures)
        self.counts["requests"] += 1
        self.counts["tokens"] += reply.num_tokens
        return web.Response(body=answer_body(reply, meta), content_type="application/json")

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response({**self.counts, "step": min(self.steps.values())})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text="sglang:num_running_reqs 1\n")

    async def _nothing(self, _: web.Request) -> web.Response:
        return web.json_response({})


def learn(address: str, servers: Servers, urls: dict[str, list[str]], prefetch: int) -> None:
    """The learner of all policies, until the engine says bye. Blocks."""
    socket = LearnerSocket(address, "learner")
    state = {"step": 0, "request": 0}
    try:
        socket.send({"kind": "hello", "policies": dict.fromkeys(urls, state)})
        welcome = _received(socket)
        requests: Counter[str] = Counter()

        def ask(policy: str) -> None:
            requests[policy] += 1
            told = {"policy": policy, "request": requests[policy], "attempt": welcome["attempt"]}
            socket.send({"kind": "next", **told})

        def publish(policy: str, version: int, step: int) -> None:
            servers.versions[policy] = version
            told = {"policy": policy, "version": version, "step": step, "servers": urls[policy]}
            socket.send({"kind": "published", **told, "failed": {}, "seconds": 0.0})

        for policy in urls:
            publish(policy, welcome["versions"][policy], 0)
            for _ in range(1 + prefetch):
                ask(policy)
        while (message := _received(socket))["kind"] != "bye":
            if message["kind"] != "batch":
                continue
            policy = message["policy"]
            if message["groups"]:
                servers.steps[policy] += 1
                servers.counts["trained"] += len(message["groups"])
                socket.send(_stepped(message, servers.steps[policy]))
                publish(policy, message["versions"][policy], servers.steps[policy])
            ask(policy)
    finally:
        socket.close()


def _received(socket: LearnerSocket) -> Message:
    while (received := socket.receive(_RECEIVE_S)) is None:
        pass
    return received[0]


def _stepped(batch: Message, step: int) -> Message:
    tokens = sum(len(row["token_ids"]) // 4 for g in batch["groups"] for row in g["rollouts"])
    return {
        "kind": "stepped",
        "policy": batch["policy"],
        "request": batch["request"],
        "step": step,
        "skipped": False,
        "reason": "",
        "metrics": {"tokens": tokens, **dict.fromkeys(_METRICS, 0.5)},
        "busy_s": 0.0,
        "alive_s": 1.0,
    }


async def serve(options: argparse.Namespace) -> None:
    encoder = TextEncoder.load(options.model)
    servers = Servers(encoder, tokens=options.answer_tokens, number=options.replies)
    urls = {policy: await _listen(servers, policy, options.servers) for policy in ROLES}
    print(json.dumps(urls), flush=True)
    arguments = (options.address, servers, urls, options.prefetch)
    threading.Thread(target=learn, args=arguments, daemon=True).start()
    await asyncio.Event().wait()


async def _listen(servers: Servers, policy: str, number: int) -> list[str]:
    runner = web.AppRunner(servers.app_of(policy), access_log=None)
    await runner.setup()
    for _ in range(number):
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    return [f"http://127.0.0.1:{address[1]}" for address in runner.addresses]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("address")
    parser.add_argument("--servers", type=int, default=2, help="of each policy")
    parser.add_argument("--answer-tokens", type=int, default=1000)
    parser.add_argument("--replies", type=int, default=300, help="different ones of each role")
    parser.add_argument("--prefetch", type=int, default=1)
    asyncio.run(serve(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
