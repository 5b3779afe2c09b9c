"""Groups as bytes: one encoding for the durable buffer and for the sockets.

A group becomes a msgpack map and, beside it, its distinct pictures by content hash. Token ids
travel as little-endian int32, behaviour log-probs as float32 (the servers' own precision), and a
prompt that the rollouts share is stored once. Decoding is strict: whatever is not exactly what
the encoder writes raises `TransportError`, never another exception.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgpack
import numpy as np

from engine.errors import TransportError
from engine.types import Group, Rollout, SamplingParams, Segment

FORMAT = 1
_IDS, _FLOATS = np.dtype("<i4"), np.dtype("<f4")
_MALFORMED = (
    KeyError,
    TypeError,
    ValueError,  # msgpack's own errors and UnicodeDecodeError are ValueErrors too
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
    MemoryError,  # a length field may promise more than there is
    msgpack.exceptions.UnpackException,
)


def content_hash(png: bytes) -> str:
    """SHA-256 of the bytes, in hex: the name of a picture everywhere."""
    return hashlib.sha256(png).hexdigest()


def pack(value: Any) -> bytes:
    """msgpack bytes of plain data. Lone surrogates, which JSON may bring in, survive."""
    packed: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogatepass")
    return packed


def unpack(data: bytes) -> Any:
    """The inverse of `pack`, lists for tuples. Raises TransportError."""
    try:
        return msgpack.unpackb(data, raw=False, unicode_errors="surrogatepass")
    except _MALFORMED as error:
        raise TransportError(f"{len(data)} bytes that are not msgpack: {error!r}") from error


def encode_group(group: Group) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(header of plain data, {content hash: PNG}) of a group."""
    if group.encoded is not None:
        return group.encoded
    images: dict[str, bytes] = {}
    prompts: dict[tuple[int, ...], int] = {}
    names: dict[bytes, str] = {}
    rollouts = []
    for rollout in group.rollouts:
        for png in rollout.images:  # most groups have one picture, which all share
            if png not in names:
                names[png] = content_hash(png)
                images[names[png]] = png
        rollouts.append(
            {
                "policy": rollout.policy,
                "role": rollout.role,
                "prompt": prompts.setdefault(rollout.prompt_ids, len(prompts)),
                "images": [names[png] for png in rollout.images],
                "token_ids": np.asarray(rollout.token_ids, _IDS).tobytes(),
                "logprobs": np.asarray(rollout.logprobs, _FLOATS).tobytes(),
                "segments": [[segment.first, segment.version] for segment in rollout.segments],
                "finish": rollout.finish,
                "sampling": asdict(rollout.sampling),
                "text": rollout.text,
                "server": rollout.server,
                "started_s": rollout.started_s,
                "finished_s": rollout.finished_s,
            }
        )
    header = {
        "format": FORMAT,
        "stream": group.stream,
        "game": group.game,
        "prompts": [np.asarray(prompt, _IDS).tobytes() for prompt in prompts],
        "rollouts": rollouts,
        "rewards": list(group.rewards),
        "terms": [dict(row) for row in group.terms],
        "advantages": None if group.advantages is None else list(group.advantages),
        "versions": {policy: list(span) for policy, span in group.versions.items()},
        "extra": dict(group.extra),
    }
    return header, images


def decode_group(header: Any, images: Mapping[str, bytes], *, keeps_encoded: bool = False) -> Group:
    """The inverse of `encode_group`. Raises TransportError, also where a picture is missing.

    `keeps_encoded`: it will be encoded again, as it came.
    """
    try:
        if header["format"] != FORMAT:
            raise TransportError(f"group format {header['format']!r}: this side reads {FORMAT}")
        prompts = [_ids(data) for data in header["prompts"]]
        advantages = header["advantages"]
        return Group(
            stream=_text(header["stream"]),
            game=_whole(header["game"]),
            rollouts=tuple(_rollout(row, prompts, images) for row in header["rollouts"]),
            rewards=_numbers(header["rewards"]),
            terms=tuple(
                {_text(name): _number(value) for name, value in row.items()}
                for row in header["terms"]
            ),
            advantages=None if advantages is None else _numbers(advantages),
            versions={
                _text(policy): (_whole(oldest), _whole(newest))
                for policy, (oldest, newest) in header["versions"].items()
            },
            extra={_text(key): value for key, value in header["extra"].items()},
            encoded=(header, dict(images)) if keeps_encoded else None,
        )
    except _MALFORMED as error:
        raise TransportError(f"not a group: {error!r}") from error


def to_frames(message: Mapping[str, Any], images: Mapping[str, bytes]) -> list[bytes]:
    """Frames of one socket message: the msgpack header, then each picture as raw bytes."""
    return [pack([dict(message), list(images)]), *images.values()]


def from_frames(frames: Sequence[bytes]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The inverse of `to_frames`; pictures must match their hashes. Raises TransportError."""
    if not frames:
        raise TransportError("a message without frames")
    head = unpack(frames[0])
    if not (isinstance(head, list) and len(head) == 2 and isinstance(head[0], dict)):
        raise TransportError("a message without a header")
    message, hashes = head
    pictures = list(frames[1:])
    if not isinstance(hashes, list) or hashes != [content_hash(png) for png in pictures]:
        raise TransportError(f"{len(pictures)} pictures do not match the hashes of the header")
    return message, dict(zip(hashes, pictures, strict=True))


def _rollout(row: Any, prompts: Sequence[tuple[int, ...]], images: Mapping[str, bytes]) -> Rollout:
    if row["finish"] not in ("stop", "length"):
        raise ValueError(f"finish {row['finish']!r}")
    sampling = dict(row["sampling"])
    return Rollout(
        policy=_text(row["policy"]),
        role=_text(row["role"]),
        prompt_ids=prompts[_whole(row["prompt"])],
        images=tuple(images[name] for name in row["images"]),
        token_ids=_ids(row["token_ids"]),
        logprobs=tuple(np.frombuffer(row["logprobs"], _FLOATS).tolist()),
        segments=tuple(
            Segment(_whole(first), _whole(version)) for first, version in row["segments"]
        ),
        finish=row["finish"],
        sampling=SamplingParams(
            max_new_tokens=_whole(sampling.pop("max_new_tokens")),
            top_k=_whole(sampling.pop("top_k")),
            **{key: _number(value) for key, value in sampling.items()},
        ),
        text=_text(row["text"]),
        server=_text(row["server"]),
        started_s=_number(row["started_s"]),
        finished_s=_number(row["finished_s"]),
    )


def _ids(data: Any) -> tuple[int, ...]:
    return tuple(np.frombuffer(data, _IDS).tolist())


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < -1:
        raise TypeError(f"{value!r} is not a count")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)
