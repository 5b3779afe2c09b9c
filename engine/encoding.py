"""Messages to token ids and back, with the model folder's own tokenizer and chat template.

Neither torch nor transformers is imported: the engine process needs them for nothing else. The ids
equal those of transformers' `apply_chat_template`, except that the text of a message can't smuggle
in special tokens: a model's output that spells one is broken up.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from engine.errors import ConfigError
from engine.types import Message

_KEPT_TEXTS = 1024
"""Prompts whose ids are remembered: some ten megabytes."""
_QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")

_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
_HIDDEN = (byte for byte in range(256) if byte not in _PRINTED)
_BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + n): b for n, b in enumerate(_HIDDEN)}
"""The byte that a character of a byte-level token stands for (GPT-2's alphabet)."""


@dataclass(frozen=True, slots=True)
class PixelGrid:
    """How a Qwen-VL image processor cuts a picture into tokens of `factor` x `factor` pixels."""

    factor: int
    min_pixels: int
    max_pixels: int

    def num_tokens(self, png: bytes) -> int:
        """Tokens of one picture, from its PNG header. Raises ValueError where it has none."""
        if len(png) < 24 or png[:8] != b"\x89PNG\r\n\x1a\n":
            raise ValueError("an image is not a PNG")
        width, height = struct.unpack(">II", png[16:24])
        return self._fitted(height, width)

    def _fitted(self, height: int, width: int) -> int:
        """(Height x width) in tokens: to the nearest multiple, within the bounds of the area."""
        # In the very order of the processor's own operations: at a bound the last bit decides.
        rows, columns = round(height / self.factor), round(width / self.factor)
        area = rows * columns * self.factor**2
        if area > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows = max(1, math.floor(height / shrink / self.factor))
            columns = max(1, math.floor(width / shrink / self.factor))
        elif area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows = math.ceil(height * grow / self.factor)
            columns = math.ceil(width * grow / self.factor)
        return rows * columns


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """The tokenizer and chat template of one model folder; made by `TextEncoder.load`."""

    vocab_size: int
    """Of the model: ids at or above it would crash a server."""
    eos_ids: tuple[int, ...]
    image_id: int | None
    """The placeholder of an image; None for a model without images."""
    grid: PixelGrid | None
    """None where the family's way of counting image tokens is not known here."""
    tokenizer: Tokenizer
    template: jinja2.Template
    special: re.Pattern[str]
    """Matches the text of any special token."""

    @classmethod
    def load(cls, folder: Path | str) -> "TextEncoder":
        """Read a Hugging Face model folder. Raises ConfigError where it lacks something."""
        folder = Path(folder)
        config = _json(folder / "config.json")
        text_config = config.get("text_config", config)
        tokenizer = _tokenizer(folder / "tokenizer.json")
        tokens = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
        eos = _json(folder / "generation_config.json", optional=True).get("eos_token_id")
        eos = eos if eos is not None else text_config.get("eos_token_id")
        if eos is None:
            raise ConfigError(f"{folder}: no eos_token_id in generation_config.json or config.json")
        return cls(
            vocab_size=text_config["vocab_size"],
            eos_ids=tuple(eos) if isinstance(eos, list) else (eos,),
            image_id=config.get("image_token_id"),
            grid=_grid(folder, config),
            tokenizer=tokenizer,
            template=_template(folder),
            special=re.compile("|".join(map(re.escape, tokens)) or r"(?!)"),
        )

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the rendered messages and the generation prompt; one placeholder per image."""
        safe = [message | {"content": self._safe(message["content"])} for message in messages]
        return list(self._ids_of(self.template.render(messages=safe, add_generation_prompt=True)))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, without special tokens."""
        if self._spelled is None:
            return self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return b"".join(map(self._spelled.__getitem__, ids)).decode(errors="replace")

    def num_images(self, ids: Sequence[int]) -> int:
        """Image placeholders in `ids`."""
        return 0 if self.image_id is None else list(ids).count(self.image_id)

    def prompt_tokens(self, ids: Sequence[int], images: Sequence[bytes]) -> int | None:
        """Length of `ids` once every placeholder is expanded; None where that is not known."""
        if not images:
            return len(ids)
        if self.grid is None:
            return None
        return len(ids) + sum(self.grid.num_tokens(image) - 1 for image in images)

    @cached_property
    def _ids_of(self) -> Callable[[str], tuple[int, ...]]:
        # Drawings of one card, and the questions about each of them, are asked for in equal words.
        return lru_cache(_KEPT_TEXTS)(self._encoded)

    def _encoded(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def _spelled(self) -> "_Spelled | None":
        """None where only the library knows how tokens become text."""
        return _Spelled(self.tokenizer) if isinstance(self.tokenizer.decoder, ByteLevel) else None

    def _safe(self, content: Any) -> Any:
        """`content` with every special token in its text broken by a space."""
        if isinstance(content, str):
            return self.special.sub(lambda token: f"{token[0][:1]} {token[0][1:]}", content)
        return [
            part | {"text": self._safe(part["text"])} if "text" in part else part
            for part in content
        ]


class _Spelled(dict[int, bytes]):
    """The bytes of the tokens of a byte-level vocabulary, each looked up when it is first met; none
    of special tokens, and of ids that there are not. A tenth of the library's time (ours)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._token_of = tokenizer.id_to_token
        added = tokenizer.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)

    def __missing__(self, id_: int) -> bytes:
        token = self._token_of(id_)
        if token is None or token in self._special:
            spelled = b""
        elif all(character in _BYTE_OF for character in token):
            spelled = bytes(_BYTE_OF[character] for character in token)
        else:
            spelled = token.encode()
        self[id_] = spelled
        return spelled


def _json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value


def _tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  tokenizers raises bare Exception
        raise ConfigError(f"{path}: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _template(folder: Path) -> jinja2.Template:
    """The folder's chat template, in the environment that transformers documents for it."""
    path = folder / "chat_template.jinja"
    source: Any
    if path.exists():
        source = path.read_text()
    else:
        source = _json(folder / "tokenizer_config.json", optional=True).get("chat_template")
    if not isinstance(source, str):
        raise ConfigError(f"{folder}: no chat_template.jinja")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ConfigError(f"{path}: {error}") from None


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _grid(folder: Path, config: Mapping[str, Any]) -> PixelGrid | None:
    if config.get("model_type") not in _QWEN_VL:
        return None
    settings = _json(folder / "preprocessor_config.json", optional=True)
    if not settings:
        processor = _json(folder / "processor_config.json", optional=True)
        settings = processor.get("image_processor", {})
    size: Mapping[str, int] = settings.get("size", {})
    smallest = settings.get("min_pixels") or size.get("shortest_edge")
    largest = settings.get("max_pixels") or size.get("longest_edge")
    if not (smallest and largest):
        return None
    factor = settings["patch_size"] * settings["merge_size"]
    return PixelGrid(factor, smallest, largest)
