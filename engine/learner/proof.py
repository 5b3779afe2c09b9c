"""Proof that weights are where they were sent: names before, log-probs and checksums after.

All servers are asked at once; what each has to say against it is its own error.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import torch

from engine.buckets import NamedTensors, raw_bytes
from engine.errors import WeightSyncError
from engine.probe import Probe
from engine.server_calls import Held, held_weights, probe_logprobs, served_version
from engine.weight_names import Sent, fused_name, misfits

R = TypeVar("R")

ANSWER_S = 0.5
"""How long servers may take to say which version they serve, while a learner waits for them."""


TOLERANCES = {torch.float32: 0.01, torch.bfloat16: 0.5}
"""Nats by which log-probs of the probe may differ. Logits between 8 and 16 are 1/16 apart in
bfloat16, and each layer rounds."""
TABLE_ROWS = 64
"""SGLang's embedding tables have a multiple of so many rows."""


class Versions:
    """Asks servers for the version that they serve; waits for nobody who was silent before."""

    def __init__(self, key: str | None = None) -> None:
        self._key = key
        self._pool = ThreadPoolExecutor(16, "versions")
        self._asked: dict[str, Future[str | None]] = {}
        self._silent: set[str] = set()

    def ask(self, urls: Iterable[str]) -> dict[str, str | None]:
        """{url: version, or None for a server that does not answer (yet)}."""
        versions: dict[str, str | None] = {}
        for url in urls:
            if url in self._silent and self._asked[url].done():
                self._silent.discard(url)  # its answer is of long ago
                del self._asked[url]
            if url not in self._asked:
                self._asked[url] = self._pool.submit(served_version, url, key=self._key)
            versions[url] = None
        wait([self._asked[url] for url in versions if url not in self._silent], ANSWER_S)
        for url in versions:
            if url not in self._silent and self._asked[url].done():
                versions[url] = self._asked.pop(url).result()
            else:
                self._silent.add(url)
        return versions

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def is_tied(base: Path) -> bool:
    """Does the model in this folder use its input embedding as its output embedding?"""
    config = json.loads((base / "config.json").read_text())
    text = config.get("text_config") or {}
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))


def names_misfit(
    url: str, layout: Mapping[str, Sent], *, tied: bool, timeout_s: float, key: str | None
) -> str:
    """What is wrong between what is sent and what the server holds, or an empty string.
    Raises WeightSyncError where it cannot be asked."""
    held = held_weights(url, timeout_s=timeout_s, key=key)
    return "; ".join(misfits(layout, held, tied=tied))


def probe_gaps(
    urls: Sequence[str],
    probe: Probe,
    ours: Sequence[float],
    *,
    timeout_s: float,
    key: str | None = None,
) -> dict[str, float | WeightSyncError]:
    """{url: the largest difference of the log-probs of its tokens, in nats}."""

    def gap(url: str) -> float:
        theirs = probe_logprobs(url, probe, timeout_s=timeout_s, key=key)
        return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))

    return _of_all(urls, gap)


def checksum_errors(
    urls: Sequence[str],
    tensors: Callable[[], NamedTensors],
    *,
    on_gpu: bool,
    timeout_s: float,
    key: str | None,
) -> dict[str, str | WeightSyncError]:
    """{url: what differs} of the servers whose weights are not those of `tensors()`, bit for bit,
    or which could not be asked.

    `tensors` is asked once for every kind of server: one that fuses tensors, or holds them in a
    wider dtype, is compared with ours in its form. SGLang's sums are SHA-256 on CPUs only: on a GPU
    a server that gives no dtypes is not compared.
    """
    answers = _of_all(urls, lambda url: held_weights(url, timeout_s=timeout_s, key=key))
    ours: dict[tuple[tuple[str, str], ...], dict[str, tuple[str, ...]]] = {}
    errors: dict[str, str | WeightSyncError] = {}
    for url, held in answers.items():
        if isinstance(held, WeightSyncError):
            errors[url] = held
            continue
        if on_gpu and not all(tensor.dtype for tensor in held.values()):
            continue
        kind = tuple(sorted((name, tensor.dtype) for name, tensor in held.items()))
        if kind not in ours:
            ours[kind] = expected_checksums(tensors(), held)
        # SGLang gives the first 16 of the 64 digits.
        different = [
            name
            for name, sums in ours[kind].items()
            if not any(digits.startswith(held[name].checksum) for digits in sums)
        ]
        if different:
            errors[url] = f"{len(different)} tensors differ after publication: {different[0]}"
    return errors


def expected_checksums(
    tensors: NamedTensors, held: Mapping[str, Held]
) -> dict[str, tuple[str, ...]]:
    """{a server's name: SHA-256 of what it may hold}, of the names that both have.

    Parts of a fused tensor are its rows one after the other, in the order of `tensors`. SGLang
    fills its embedding tables up with rows of zeros.
    """
    hashes: dict[str, hashlib._Hash] = {}
    missing: dict[str, int] = {}
    for name, tensor in tensors:
        theirs = name if name in held else fused_name(name)
        if theirs not in held:
            continue
        if dtype := held[theirs].dtype:
            tensor = tensor.to(getattr(torch, dtype))
        hashes.setdefault(theirs, hashlib.sha256()).update(raw_bytes(tensor).cpu().numpy().data)
        if tensor.ndim == 2 and (rows := -len(tensor) % TABLE_ROWS):
            missing[theirs] = rows * tensor[0].nbytes
    expected: dict[str, tuple[str, ...]] = {}
    for name, found in hashes.items():
        filled = found.copy()
        filled.update(bytes(missing.get(name, 0)))
        expected[name] = (found.hexdigest(), filled.hexdigest())
    return expected


def _of_all(urls: Sequence[str], ask: Callable[[str], R]) -> dict[str, R | WeightSyncError]:
    """What `ask` gives for each, or its error; all at once."""

    def answer(url: str) -> R | WeightSyncError:
        try:
            return ask(url)
        except WeightSyncError as error:
            return error

    if not urls:
        return {}
    with ThreadPoolExecutor(len(urls)) as pool:
        return dict(zip(urls, pool.map(answer, urls), strict=True))
