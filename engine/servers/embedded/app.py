"""The HTTP side of one served model: routes, keys, errors, and what it says about itself."""

import asyncio
import hmac
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from engine.servers.embedded.control import Control, Refused
from engine.servers.embedded.generate import handle_generate, read_json
from engine.servers.embedded.metrics import metrics_text
from engine.servers.embedded.protocol import BadRequest, parse_generate
from engine.servers.embedded.served import ServedModel

_OPEN = ("/health", "/health_generate", "/ready", "/metrics")
_CONTROL = (
    "abort_request",
    "pause_generation",
    "continue_generation",
    "init_weights_update_group",
    "destroy_weights_update_group",
    "begin_weight_update",
    "end_weight_update",
    "update_weights_from_distributed",
    "update_weights_from_disk",
    "update_weight_version",
    "weights_checker",
)
_MAX_BODY_BYTES = 256 << 20
_HEALTH_TIMEOUT_S = 20.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Keys:
    """Bearer tokens. With an admin key, control takes only it; else the API key does all."""

    api: str | None = None
    admin: str | None = None

    def admits(self, path: str, header: str) -> bool:
        """May a request with this Authorization header use this path?"""
        if path in _OPEN:
            return True
        is_control = path.removeprefix("/") in (*_CONTROL, "flush_cache")
        wanted = (self.admin or self.api) if is_control else self.api
        return wanted is None or hmac.compare_digest(header.encode(), f"Bearer {wanted}".encode())


def build_app(served: ServedModel, *, keys: Keys, weights_timeout_s: float) -> web.Application:
    """All routes of one model."""
    control = Control(served, weights_timeout_s)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not keys.admits(request.path, request.headers.get("Authorization", "")):
            return web.json_response({"error": "Unauthorized"}, status=401)
        try:
            return await handler(request)
        except BadRequest as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        except Refused as error:
            return web.json_response({"success": False, "message": str(error)}, status=400)

    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[guard])
    app.router.add_route("POST", "/generate", lambda http: handle_generate(served, http))
    app.router.add_route("PUT", "/generate", lambda http: handle_generate(served, http))
    for name in _CONTROL:
        app.router.add_post(f"/{name}", _json_handler(getattr(control, name)))
    app.router.add_route("*", "/flush_cache", lambda _: _flush(control))
    app.router.add_get("/health", lambda _: _health(served))
    app.router.add_get("/ready", lambda _: _ready(served))
    app.router.add_get("/health_generate", lambda _: _health_generate(served))
    for path in ("/model_info", "/get_model_info"):
        app.router.add_get(path, lambda _: _json(model_info(served)))
    for path in ("/server_info", "/get_server_info"):
        app.router.add_get(path, lambda _: _json(server_info(served)))
    app.router.add_get("/v1/loads", lambda _: _json(loads(served)))
    app.router.add_get("/metrics", lambda _: _metrics(served))
    return app


def _json_handler(call: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]) -> Handler:
    async def handle(http: web.Request) -> web.StreamResponse:
        body = await read_json(http)
        if not isinstance(body, Mapping):
            raise BadRequest("the body must be a JSON object")
        answer = await call(body)
        return web.json_response(answer) if answer else web.Response()

    return handle


async def _json(tree: dict[str, Any]) -> web.Response:
    return web.json_response(tree)


async def _flush(control: Control) -> web.Response:
    try:
        answer = await control.flush_cache({})
    except Refused as error:
        return web.Response(text=f"{error}\n", status=400)
    return web.Response(text=f"{answer['message']}\n")


async def _health(served: ServedModel) -> web.Response:
    """As SGLang's with SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION=0: nothing is generated."""
    return web.Response(status=200 if served.loop.alive else 503)


async def _ready(served: ServedModel) -> web.Response:
    """Whether new requests should come; in a pause they should not, though they only wait."""
    is_ready = served.loop.alive and not served.scheduler.paused
    return web.Response(status=200 if is_ready else 503)


async def _health_generate(served: ServedModel) -> web.Response:
    """One token, end to end."""
    done = asyncio.Event()
    question = {"input_ids": [0], "sampling_params": {"max_new_tokens": 1, "temperature": 0}}
    (parsed,) = parse_generate({**question, "rid": f"HEALTH_CHECK_{uuid.uuid4().hex}"}).questions
    request = await served.prepare(parsed, stream=False, deliver=lambda _: done.set())
    served.submit(request)
    finished = False
    try:
        async with asyncio.timeout(_HEALTH_TIMEOUT_S):
            await done.wait()
        finished = True
    except TimeoutError:
        return web.Response(status=503)
    finally:
        served.forget(request, finished=finished)
    return web.Response()


async def _metrics(served: ServedModel) -> web.Response:
    return web.Response(text=metrics_text(served), content_type="text/plain")


def model_info(served: ServedModel) -> dict[str, Any]:
    """/model_info."""
    return {
        "model_path": str(served.model_dir),
        "tokenizer_path": str(served.model_dir),
        "is_generation": True,
        "weight_version": served.scheduler.version,
        "load_format": "auto",
        "has_image_understanding": True,
        "has_audio_understanding": False,
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
    }


def server_info(served: ServedModel) -> dict[str, Any]:
    """/server_info."""
    limits, scheduler = served.limits, served.scheduler
    return {
        "model_path": str(served.model_dir),
        "version": "embedded",
        "status": "ready",
        "device": str(scheduler.module.device),
        "dtype": str(scheduler.module.dtype).removeprefix("torch."),
        "tp_size": 1,
        "dp_size": 1,
        "context_length": limits.context_length,
        "max_running_requests": limits.max_running_requests,
        "max_total_num_tokens": limits.max_total_tokens,
        "max_req_input_len": limits.context_length - 1,
        "weight_version": scheduler.version,
        "uptime_s": time.time() - served.started_s,
        "internal_states": [
            {
                "busy_s": scheduler.counters.busy_s,
                "paused": scheduler.paused,
                "generated_tokens": scheduler.counters.generated_tokens,
                "prompt_tokens": scheduler.counters.prompt_tokens,
                "cached_tokens": scheduler.counters.cached_tokens,
                "requests": scheduler.counters.requests,
                "weight_updates": scheduler.counters.weight_updates,
            }
        ],
    }


def loads(served: ServedModel) -> dict[str, Any]:
    """/v1/loads."""
    running, waiting = len(served.scheduler.running), len(served.scheduler.waiting)
    load = {
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_waiting_reqs": waiting,
        "num_total_reqs": running + waiting,
        "num_used_tokens": served.scheduler.used_tokens,
        "max_total_num_tokens": served.limits.max_total_tokens,
        "gen_tokens_total": served.scheduler.counters.generated_tokens,
    }
    return {"timestamp": time.time(), "dp_rank_count": 1, "loads": [load]}
