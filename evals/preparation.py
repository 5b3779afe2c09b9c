"""Rows as they are sent: the benchmark's question under the settings of one evaluation. Pure, but
for the cache of pictures.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.types import Message, SamplingParams
from evals.benchmark import Benchmark, Row
from evals.images import AS_IT_IS, Shown, Sizing, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the benchmarks are asked, beside their own rules. None: as the benchmark says."""

    prompt: str | None = None
    """One of `Benchmark.prompts`; None: the benchmark's `ask`."""
    samples: int = 1
    seed: int = 0
    blind: bool = False
    """Without pictures: what the text alone gives away."""
    system: str | None = None
    """Instead of the benchmark's system prompt; "": none."""
    instruction: str | None = None
    """A text after the question: another model's way of being asked."""
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    sizing: Sizing = AS_IT_IS
    concurrency: int = 64
    """Requests under way at a time, over all servers."""

    def sampling(self, benchmark: Benchmark) -> SamplingParams:
        """What is sent with every request of `benchmark`."""
        tokens, temperature, top_p = self.max_new_tokens, self.temperature, self.top_p
        return SamplingParams(
            max_new_tokens=benchmark.max_new_tokens if tokens is None else tokens,
            temperature=benchmark.temperature if temperature is None else temperature,
            top_p=benchmark.top_p if top_p is None else top_p,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A row as it is sent."""

    number: int
    """Of the row in its order."""
    row: Row
    messages: Sequence[Message]
    images: Sequence[Shown]

    def described(self) -> dict[str, Any]:
        """For keys and records: pictures by their hash."""
        images = [{"sha256": i.sha256, "width": i.width, "height": i.height} for i in self.images]
        return {"prompt": list(self.messages), "images": images}


def prepare(
    benchmark: Benchmark, settings: Settings, number: int, row: Row, cache: Path | None
) -> Prepared | str:
    """The row as it is sent, or why it can't be. Blocking: for a thread."""
    try:
        ask = benchmark.ask if settings.prompt is None else benchmark.prompts[settings.prompt]
        question = ask(row)
        messages = [dict(message) for message in question.messages]
        images: list[Shown] = []
        if settings.blind:
            messages = [_without_images(message) for message in messages]
        else:
            images = [shown(image, settings.sizing, cache) for image in question.images]
        if settings.system is not None or not _has_system(messages):
            system = benchmark.system if settings.system is None else settings.system
            messages = _with_system(messages, system)
        if settings.instruction:
            messages[-1] = _with_text(messages[-1], settings.instruction)
    except Exception as error:  # noqa: BLE001  a row of a shape that nobody foresaw
        return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    wanted = sum(_is_image(part) for message in messages for part in _parts(message))
    if wanted != len(images):
        return f"{len(images)} pictures for {wanted} places"
    return Prepared(number=number, row=row, messages=messages, images=images)


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _is_image(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "image"


def _without_images(message: Message) -> Message:
    return message | {"content": [part for part in _parts(message) if not _is_image(part)]}


def _has_system(messages: Sequence[Message]) -> bool:
    return any(message["role"] == "system" for message in messages)


def _with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """`messages` with this system prompt in place of any other; None or "": with none."""
    rest = [message for message in messages if message["role"] != "system"]
    text = {"type": "text", "text": system}
    return [{"role": "system", "content": [text]}, *rest] if system else rest


def _with_text(message: Message, text: str) -> Message:
    return message | {"content": [*_parts(message), {"type": "text", "text": f"\n{text}"}]}


def seed_of(seed: int, row: str, sample: int) -> int:
    """A seed for one request, the same for every model: pairs are sampled alike."""
    text = f"{seed}/{row}/{sample}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1
