"""What a server's answer to /generate must look like, checked before any of it is believed."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from engine.types import Segment


class ProtocolError(Exception):
    """An answer that contradicts the request or itself; says which server and how."""


class ForeignWeights(ProtocolError):
    """An answer by weights that nobody published: its server started anew and was not filled."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is held against."""

    prompt_tokens: int | None
    """Of the expanded prompt; None where not known."""
    has_images: bool
    max_new_tokens: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class Reply:
    """Tokens of one answer: all of a rollout, or a part of an interrupted one."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    segments: tuple[Segment, ...]
    finish: Literal["stop", "length", "abort"]


def parse_reply(answer: Any, asked: Asked) -> Reply:
    """Check the JSON value of one answer. Raises ProtocolError, never anything else."""
    try:
        meta = answer["meta_info"]
        finish = meta["finish_reason"]["type"]
        if finish == "abort" and "prompt_tokens" not in meta:
            return _queued(answer, asked)
        rows = meta["output_token_logprobs"]
        ids = [row[1] for row in rows]
        logprobs = _logprobs(rows)
        _check_ids(answer, ids, asked)
        _check_prompt(meta, asked)
        segments = _segments(meta["weight_versions"], len(ids))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ProtocolError(f"{type(error).__name__}: {error}") from None
    if finish not in ("stop", "length", "abort"):
        raise ProtocolError(f"finish_reason {finish!r}")
    if not ids and finish != "abort":
        raise ProtocolError(f"no token at all, yet finish_reason {finish!r}")
    return Reply(tuple(ids), logprobs, segments, finish)


def _queued(answer: Any, asked: Asked) -> Reply:
    """Of a request that was aborted in SGLang's queue, of which it says less: what had been sampled
    before it was put back there, as far as it says by which weights."""
    meta = answer["meta_info"]
    rows = meta.get("output_token_logprobs") or []
    if "weight_versions" not in meta:
        rows = []
    ids = [row[1] for row in rows]
    if rows:
        _check_ids(answer, ids, asked)
    segments = _segments(meta.get("weight_versions", []) if rows else [], len(ids))
    return Reply(tuple(ids), _logprobs(rows), segments, "abort")


def _logprobs(rows: Any) -> tuple[float, ...]:
    """SGLang writes null where one is not finite; learners count such tokens, and drop them."""
    return tuple(math.nan if row[0] is None else float(row[0]) for row in rows)


def _check_ids(answer: Any, ids: list[Any], asked: Asked) -> None:
    if answer["output_ids"] != ids:
        raise ProtocolError("output_ids are not those of output_token_logprobs")
    if len(ids) > asked.max_new_tokens:
        raise ProtocolError(f"{len(ids)} tokens where {asked.max_new_tokens} were asked for")
    # Whole lists at once: there are a thousand tokens in an answer, and thousands of answers.
    if set(map(type, ids)) - {int}:
        raise ProtocolError("a token id is no integer")
    if ids and not 0 <= min(ids) <= max(ids) < asked.vocab_size:
        raise ProtocolError(
            f"token ids {min(ids)}..{max(ids)} of a vocabulary of {asked.vocab_size}"
        )


def _check_prompt(meta: Any, asked: Asked) -> None:
    if asked.prompt_tokens is not None and meta["prompt_tokens"] != asked.prompt_tokens:
        raise ProtocolError(
            f"{meta['prompt_tokens']} prompt tokens where {asked.prompt_tokens} were expected"
        )
    # A server that finds no placeholder drops an image without a word.
    if asked.has_images and not meta.get("image_tokens"):
        raise ProtocolError("the images were not used")


def _segments(spans: Any, num_tokens: int) -> tuple[Segment, ...]:
    """Spans [{version, start, end}] over all tokens, as segments; equal neighbours are one."""
    segments: list[Segment] = []
    reached = 0
    for span in spans:
        start, end, name = span["start"], span["end"], span["version"]
        if not (type(name) is str and name.isdecimal()):
            raise ForeignWeights(f"weight version {name!r} is not one of ours")
        if start == end:
            continue
        version = int(name)
        if type(end) is not int or start != reached or not start < end <= num_tokens:
            raise ProtocolError(f"weight_versions {spans} do not partition {num_tokens} tokens")
        if not segments or segments[-1].version != version:
            segments.append(Segment(reached, version))
        reached = end
    if reached != num_tokens:
        raise ProtocolError(f"weight_versions {spans} do not partition {num_tokens} tokens")
    return tuple(segments)
