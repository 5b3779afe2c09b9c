"""One model on one port: its files, its scheduler, and what a question needs before it can wait."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration

from engine.errors import ConfigError
from engine.servers.embedded.images import ImageReader
from engine.servers.embedded.model import Module, Prompt
from engine.servers.embedded.protocol import BadRequest, Question
from engine.servers.embedded.request import Progress, Request
from engine.servers.embedded.scheduler import Limits, Scheduler
from engine.servers.embedded.vision import Pixels
from engine.servers.embedded.worker import Worker

ARCHITECTURE = "Qwen3VLForConditionalGeneration"


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """How placeholders become image tokens."""

    image_id: int
    merge: int
    """Patches per image token, in each direction."""

    def expand(self, ids: Sequence[int], pixels: Sequence[Pixels]) -> Prompt:
        """Positions as Qwen3-VL counts them: text by one, an image by its longer side.

        Without images, or without placeholders, ids are taken as they are.
        """
        images = iter(pixels if self.image_id in ids else ())
        expected = ids.count(self.image_id) if isinstance(ids, tuple) else 0
        if pixels and expected and expected != len(pixels):
            raise BadRequest(f"{len(pixels)} images for {expected} image placeholders")
        tokens: list[int] = []
        axes: tuple[list[int], list[int], list[int]] = ([], [], [])
        spans: list[tuple[int, str]] = []
        position = 0
        for token in ids:
            image = next(images, None) if token == self.image_id else None
            if image is None:
                tokens.append(token)
                for axis in axes:
                    axis.append(position)
                position += 1
                continue
            _, height, width = image.grid
            rows, columns = height // self.merge, width // self.merge
            spans.append((len(tokens), image.digest))
            tokens += [token] * (rows * columns)
            axes[0].extend([position] * (rows * columns))
            axes[1].extend(position + row for row in range(rows) for _ in range(columns))
            axes[2].extend(position + column for _ in range(rows) for column in range(columns))
            position += max(rows, columns)
        time_, height_, width_ = map(tuple, axes)
        return Prompt(tuple(tokens), (time_, height_, width_), position, tuple(spans))


class ServedModel:
    """Turns questions into requests, and keeps track of those alive. Lives on the event loop."""

    def __init__(
        self,
        model_dir: Path,
        limits: Limits,
        *,
        version: str,
        dtype: torch.dtype,
        device: str,
        seed: int,
    ) -> None:
        self.model_dir = model_dir
        self.limits = limits
        self.started_s = time.time()
        self.live: dict[str, Request] = {}
        module = _load(model_dir, dtype, device)
        self.vocab: int = module.config.text_config.vocab_size
        self.layout = PromptLayout(
            module.config.image_token_id, module.config.vision_config.spatial_merge_size
        )
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self._reader = ImageReader(model_dir)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="images")
        self.scheduler = Scheduler(
            module,
            limits,
            version=version,
            eos_ids=_eos_ids(module),
            decode=lambda ids: self.decode(ids, False),
            seed=seed,
        )
        self.worker: Worker | None = None
        """Set once there is a loop to work on."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Ids to text."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    @property
    def loop(self) -> Worker:
        assert self.worker is not None, "the server has not started"
        return self.worker

    async def prepare(
        self, question: Question, *, stream: bool, deliver: Callable[[Progress], None]
    ) -> Request:
        """Read images, expand and check the prompt. Raises BadRequest."""
        ids = question.input_ids
        if ids is None:
            ids = tuple(self.tokenizer.encode(question.text or "", add_special_tokens=True).ids)
            if not ids:
                raise BadRequest("text is empty")
        if min(ids) < 0 or max(ids) >= self.vocab:
            raise BadRequest(f"input_ids must be in [0, {self.vocab})")
        pixels: tuple[Pixels, ...] = ()
        if question.images and self.layout.image_id in ids:
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(self._threads, self._reader.read, question.images)
        prompt = self.layout.expand(ids, pixels)
        self._check_length(len(prompt.token_ids), question.sampling.max_new_tokens)
        if question.logprob_start >= len(prompt.token_ids):
            raise BadRequest(f"logprob_start_len exceeds the {len(prompt.token_ids)} prompt tokens")
        return Request(
            rid=question.rid,
            prompt=prompt,
            pixels=pixels,
            sampling=question.sampling,
            deliver=deliver,
            stream=stream,
            logprob_start=question.logprob_start,
            priority=question.priority,
        )

    def _check_length(self, prompt: int, new: int) -> None:
        limit = self.limits.context_length
        if prompt >= limit:
            raise BadRequest(
                f"The input ({prompt} tokens) is longer than the model's context length "
                f"({limit} tokens)."
            )
        if prompt + new > limit:
            raise BadRequest(
                f"Requested token count exceeds the model's maximum context length of {limit} "
                f"tokens. You requested a total of {prompt + new} tokens: {prompt} tokens from "
                f"the input messages and {new} tokens for the completion."
            )

    def submit(self, request: Request) -> None:
        """Hand a prepared request to the scheduler; `forget` it when it is over."""
        if request.rid in self.live:
            raise BadRequest(f"Duplicate request ID detected: {request.rid}")
        self.live[request.rid] = request
        self.loop.run(lambda: self.scheduler.submit(request))

    def forget(self, request: Request, *, finished: bool) -> None:
        """The request is answered, or its client has gone."""
        if self.live.get(request.rid) is request:
            del self.live[request.rid]
        if not finished:
            self.loop.run(lambda: self.scheduler.drop(request))


def context_length_of(model_dir: Path) -> int:
    """The positions that the model in a folder was made for; raises ConfigError."""
    config = _config(model_dir)
    return int((config.get("text_config") or {}).get("max_position_embeddings") or 32_768)


def _config(model_dir: Path) -> dict[str, Any]:
    """config.json of a Qwen3-VL folder; raises ConfigError for a folder of another kind."""
    try:
        config = json.loads((model_dir / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model_dir}: no readable config.json ({error})") from error
    architectures = config.get("architectures") or [config.get("model_type")]
    if ARCHITECTURE not in architectures:
        raise ConfigError(
            f"{model_dir}: the embedded server serves {ARCHITECTURE}, not {architectures}"
        )
    return config


def _load(model_dir: Path, dtype: torch.dtype, device: str) -> Module:
    """The module, in evaluation mode; raises ConfigError, one line, for a broken folder."""
    _config(model_dir)
    try:
        module: Module = Qwen3VLForConditionalGeneration.from_pretrained(model_dir, dtype=dtype)
    except Exception as error:  # loaders raise many types on broken folders
        detail = " ".join(str(error).split())[:300]
        raise ConfigError(f"{model_dir}: not a loadable Qwen3-VL folder ({detail})") from error
    return module.to(device).eval().requires_grad_(False)


def _eos_ids(module: Module) -> list[int]:
    for config in (module.generation_config, module.config.text_config, module.config):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            return [eos] if isinstance(eos, int) else list(eos)
    return []
