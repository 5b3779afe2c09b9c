"""The embedded server: tokens per second, over HTTP, against plain `model.generate`.

Both sample the same number of tokens from equally long random prompts, eight samples each, at the
same concurrency, on one thread. `generate` gets one fixed batch, which is its best case.
"""

import argparse
import asyncio
import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from engine.children import end, last_lines, spawn

_SAMPLES = 8
_MODEL = Path(__file__).resolve().parents[1] / "tiny_base_model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py server`."""
    parser.add_argument("model_dir", type=Path, nargs="?", default=_MODEL)
    parser.add_argument("--concurrency", type=int, default=16, help=f"a multiple of {_SAMPLES}")
    parser.add_argument("--prompt-tokens", type=int, default=35)
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)


def run(options: argparse.Namespace) -> None:
    """Measure both and print one line."""
    if options.concurrency < _SAMPLES or options.concurrency % _SAMPLES:
        raise SystemExit(f"--concurrency {options.concurrency}: want a multiple of {_SAMPLES}")
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    torch.set_num_threads(1)
    module: Any = Qwen3VLForConditionalGeneration.from_pretrained(
        options.model_dir, dtype=torch.float32
    )
    # Special ids come last; as prompts they would only be images without pixels.
    options.vocab = module.config.text_config.vocab_size - 32
    served = measure_server(options)
    plain = measure_generate(module.eval(), options)
    print(
        f"concurrency {options.concurrency}: server {served:.0f} tokens/s, "
        f"generate {plain:.0f} tokens/s, ratio {served / plain:.2f}"
    )


def measure_server(options: argparse.Namespace) -> float:
    """Tokens per second of a server of its own, over HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(tempfile.mkdtemp()) / "server.log"
    serve = [sys.executable, "-m", "engine.servers.embedded", "--serve"]
    process = spawn([*serve, f"{port}={options.model_dir}"], log=log)
    try:
        return asyncio.run(_drive(options, f"http://127.0.0.1:{port}"))
    except aiohttp.ClientError as error:
        raise SystemExit(f"the server failed ({error}):\n{last_lines(log)}") from error
    finally:
        end(process)


async def _drive(options: argparse.Namespace, url: str) -> float:
    rng = random.Random(0)
    generated = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await _until_ready(session, url)

        async def sample(prompt: list[int]) -> None:
            nonlocal generated
            body = {
                "input_ids": prompt,
                "return_logprob": True,
                "sampling_params": {"max_new_tokens": options.new_tokens, "ignore_eos": True},
            }
            async with session.post(f"{url}/generate", json=body) as response:
                response.raise_for_status()
                answer = await response.json()
            generated += len(answer["output_ids"])

        async def groups(until: float) -> None:
            while time.perf_counter() < until:
                prompt = [rng.randrange(options.vocab) for _ in range(options.prompt_tokens)]
                await asyncio.gather(*(sample(prompt) for _ in range(_SAMPLES)))

        async def run(seconds: float) -> None:
            until = time.perf_counter() + seconds
            await asyncio.gather(*(groups(until) for _ in range(options.concurrency // _SAMPLES)))

        await run(1.0)
        generated, began = 0, time.perf_counter()
        await run(options.seconds)
        return generated / (time.perf_counter() - began)


async def _until_ready(session: aiohttp.ClientSession, url: str) -> None:
    for _ in range(600):
        try:
            async with session.get(f"{url}/ready") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.1)
    raise aiohttp.ClientConnectionError("not ready after a minute")


def measure_generate(module: Any, options: argparse.Namespace) -> float:
    """Tokens per second of `generate` on one batch, repeated."""
    import torch

    prompts = torch.randint(0, options.vocab, (options.concurrency, options.prompt_tokens))
    arguments = {
        "input_ids": prompts,
        "attention_mask": torch.ones_like(prompts),
        "do_sample": True,
        "top_k": 0,
        "max_new_tokens": options.new_tokens,
        "min_new_tokens": options.new_tokens,
    }
    with torch.inference_mode():
        module.generate(**{**arguments, "max_new_tokens": 2, "min_new_tokens": 2})
        generated, began = 0, time.perf_counter()
        while time.perf_counter() < began + options.seconds:
            module.generate(**arguments)
            generated += options.concurrency * options.new_tokens
        return generated / (time.perf_counter() - began)
