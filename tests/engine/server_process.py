"""Embedded servers in processes of their own, and what their answers are compared with."""

import base64
import functools
import io
import json
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, Qwen3VLForConditionalGeneration

from engine.children import last_lines, spawn
from engine.nodes import free_ports
from tests.engine.tiny_models import IMAGE_PAD, build_tiny_model

CONTEXT = 2048
FIRST_VERSION = "11"
KEY = "contract"
"""Sent with every request; servers without a key don't look at it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running process and its ports."""

    urls: tuple[str, ...]
    model_dir: Path
    process: Popen[bytes] | None


def free_port() -> int:
    """A port that nobody uses now."""
    return free_ports(1)[0]


@functools.cache
def tiny_dir(seed: int = 0) -> Path:
    """A random tiny model, made once per test process."""
    folder = Path(tempfile.mkdtemp(prefix="streamzero-tiny-"))
    return build_tiny_model(folder, seed)


@functools.cache
def tiny_module(seed: int = 0) -> Any:
    """The same model in transformers."""
    module = Qwen3VLForConditionalGeneration.from_pretrained(tiny_dir(seed), dtype=torch.float32)
    return module.eval().requires_grad_(False)


@functools.cache
def shared_server() -> Server:
    """One process with two policies for all tests; it dies with this process."""
    ports = (free_port(), free_port())
    log = tiny_dir() / "server.log"
    argv = [sys.executable, "-m", "engine.servers.embedded"]
    for port in ports:
        argv += ["--serve", f"{port}={tiny_dir()}"]
    argv += ["--weight-version", FIRST_VERSION, "--context-length", str(CONTEXT)]
    process = spawn(argv, log=log, env={"OMP_NUM_THREADS": "1"})
    urls = tuple(f"http://127.0.0.1:{port}" for port in ports)
    for url in urls:
        until(lambda url=url: answers(url), timeout_s=300, what=lambda: last_lines(log))
    return Server(urls, tiny_dir(), process)


def answers(url: str, path: str = "/ready") -> bool:
    """Is the server ready?"""
    try:
        return request(url, path)[0] == 200
    except OSError:
        return False


def until(
    holds: Callable[[], bool], *, timeout_s: float = 20.0, what: Callable[[], str] = lambda: ""
) -> None:
    """Poll until `holds()`; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain. {what()}"
        time.sleep(0.01)


def request(
    url: str, path: str, body: Any = None, *, key: str | None = KEY, raw: bytes | None = None
) -> tuple[int, Any]:
    """(status, JSON or text) of one call; GET without a body."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    call = urllib.request.Request(url + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(call, timeout=300) as response:
            status, text = response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def body_of(
    ids: Sequence[int], images: Sequence[bytes] = (), *, rid: str | None = None, **sampling: Any
) -> dict[str, Any]:
    """A /generate body, every sampling parameter explicit, log-probs on."""
    body: dict[str, Any] = {
        "input_ids": list(ids),
        "return_logprob": True,
        "logprob_start_len": -1,
        "sampling_params": {
            "max_new_tokens": 16,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            **sampling,
        },
    }
    if images:
        body["image_data"] = [base64.b64encode(image).decode() for image in images]
    if rid:
        body["rid"] = rid
    return body


def generate(url: str, ids: Sequence[int], images: Sequence[bytes] = (), **rest: Any) -> Any:
    """The answer to one question; fails unless it is 200."""
    status, answer = request(url, "/generate", body_of(ids, images, **rest))
    assert status == 200, answer
    return answer


def in_background(call: Callable[[], Any]) -> Future[Any]:
    """Run `call` on a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001  raised by result()
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def load_of(url: str) -> tuple[int, int]:
    """(running, waiting) requests."""
    (load,) = request(url, "/v1/loads")[1]["loads"]
    return load["num_running_reqs"], load["num_waiting_reqs"]


def output_logprobs(answer: Any) -> torch.Tensor:
    """[tokens] as reported."""
    return torch.tensor([item[0] for item in answer["meta_info"]["output_token_logprobs"]])


def reference_logprobs(
    module: Any,
    ids: Sequence[int],
    images: Sequence[bytes],
    output: Sequence[int],
    temperature: float = 1.0,
) -> torch.Tensor:
    """[len(output)] by a fresh transformers forward over the whole sequence.

    With images the placeholders are marked by position, not by id: a model may sample that id.
    """
    with torch.no_grad():
        if images:
            logits, length = _logits_with_images(module, ids, images, output)
        else:
            logits, length = module(input_ids=torch.tensor([[*ids, *output]])).logits[0], len(ids)
    logprobs = torch.log_softmax(logits[length - 1 : -1] / temperature, dim=-1)
    return logprobs.gather(1, torch.tensor(output)[:, None]).squeeze(1)


def _logits_with_images(
    module: Any, ids: Sequence[int], images: Sequence[bytes], output: Sequence[int]
) -> tuple[torch.Tensor, int]:
    """[tokens, V] logits, and the length of the expanded prompt."""
    processor = AutoImageProcessor.from_pretrained(tiny_dir())
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
    pixels = processor(images=pictures, return_tensors="pt")
    counts = iter(grid.prod().item() // 4 for grid in pixels["image_grid_thw"])
    prompt = [
        token for source in ids for token in [source] * (next(counts) if source == IMAGE_PAD else 1)
    ]
    whole = torch.tensor([[*prompt, *output]])
    is_image = whole == IMAGE_PAD
    is_image[:, len(prompt) :] = False
    model = module.model
    features = model.get_image_features(pixels["pixel_values"], pixels["image_grid_thw"])
    embeddings = model.get_input_embeddings()(whole)
    embeddings[is_image] = torch.cat(features.pooler_output)
    positions, _ = model.get_rope_index(whole, is_image.int(), pixels["image_grid_thw"])
    states = model.language_model(
        inputs_embeds=embeddings,
        position_ids=positions,
        visual_pos_masks=is_image,
        deepstack_visual_embeds=[torch.cat(level) for level in features.deepstack_features],
    ).last_hidden_state
    return module.lm_head(states)[0], len(prompt)
