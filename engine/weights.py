"""Publish and pull: weights leave a learner and arrive at a server, bucket by bucket.

A bucket is one uint8 tensor, broadcast from rank 0 of a process group that exists for one server
alone, so that a dead server costs nobody else. The HTTP calls around it are SGLang's (0.5.21 and
later): pause, begin, update (one per bucket), end, continue. Everything here is synchronous and
has a time-out; failures name the server and the stage.
"""

import contextlib
import hashlib
import http.client
import json
import math
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d as c10d

from engine.errors import WeightSyncError

NamedTensors = Iterable[tuple[str, Tensor]]
Source = NamedTensors | Callable[[], NamedTensors]
"""Named tensors, or what gives them anew each time it is called (once to check, once to send)."""


# -- process groups --------------------------------------------------------------------------------


def join_group(
    master_address: str,
    master_port: int,
    rank: int,
    world_size: int,
    group_name: str,
    backend: str,
    timeout_s: float,
) -> dist.ProcessGroup:
    """Join a group outside of torch's default one, laid out as SGLang's servers expect.

    `group_name` must never have been used before in this process. Blocks until all have joined;
    raises RuntimeError (torch's) after `timeout_s`.
    """
    timeout = timedelta(seconds=timeout_s)
    store = dist.TCPStore(
        master_address, master_port, is_master=False, timeout=timeout, wait_for_workers=False
    )
    return _group(store, rank, world_size, group_name, backend, timeout)


def _group(
    store: dist.Store, rank: int, size: int, name: str, backend: str, timeout: timedelta
) -> dist.ProcessGroup:
    # torch has no public way to make a group that is not a part of the default group.
    group, _ = c10d._new_process_group_helper(
        size,
        rank,
        [],
        dist.Backend(backend),
        dist.PrefixStore(name, store),
        group_name=c10d.GroupName(name),
        timeout=timeout,
    )
    c10d._world.pg_group_ranks[group] = {i: i for i in range(size)}
    return group


def leave_group(group: dist.ProcessGroup) -> None:
    """Forget a group; a broken one is abandoned without a word."""
    with contextlib.suppress(Exception):
        dist.destroy_process_group(group)


def _broadcast(group: dist.ProcessGroup, data: Tensor, timeout_s: float) -> dist.Work:
    options = dist.BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    options.timeout = timedelta(seconds=timeout_s)
    return group.broadcast([data], options)


# -- buckets ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors as one piece of memory, in the order of `names`."""

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    """"float32", "bfloat16", ..."""
    shapes: tuple[tuple[int, ...], ...]
    data: Tensor
    """[bytes] uint8."""


def pack(tensors: Sequence[tuple[str, Tensor]]) -> Bucket:
    """Concatenate tensors, wide dtypes first, so that every offset is aligned."""
    ordered = sorted(tensors, key=lambda item: -item[1].element_size())
    return Bucket(
        names=tuple(name for name, _ in ordered),
        dtypes=tuple(str(tensor.dtype).removeprefix("torch.") for _, tensor in ordered),
        shapes=tuple(tuple(tensor.shape) for _, tensor in ordered),
        data=torch.cat([_raw(tensor) for _, tensor in ordered]),
    )


def _raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, [bytes] uint8."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def buckets(tensors: NamedTensors, bucket_bytes: int) -> Iterator[Bucket]:
    """Pack tensors, in their order, into buckets of at most `bucket_bytes` (or one tensor)."""
    batch: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in tensors:
        if batch and size + tensor.nbytes > bucket_bytes:
            yield pack(batch)
            batch, size = [], 0
        batch.append((name, tensor))
        size += tensor.nbytes
    if batch:
        yield pack(batch)


def receive_bucket(
    group: dist.ProcessGroup,
    names: Sequence[str],
    dtypes: Sequence[str],
    shapes: Sequence[Sequence[int]],
    *,
    flattened: bool,
    device: torch.device | str,
    timeout_s: float,
) -> list[tuple[str, Tensor]]:
    """The server's end of one update: named tensors as broadcast by rank 0.

    Raises ValueError for dtypes or shapes that make no sense (before it joins the broadcast), and
    RuntimeError (torch's) when the broadcast fails.
    """
    if not len(names) == len(dtypes) == len(shapes):
        raise ValueError(f"{len(names)} names, {len(dtypes)} dtypes, {len(shapes)} shapes")
    types = [_dtype(name) for name in dtypes]
    sizes = [math.prod(shape) * kind.itemsize for shape, kind in zip(shapes, types, strict=True)]
    if not flattened:
        tensors = [
            torch.empty(tuple(shape), dtype=kind, device=device)
            for shape, kind in zip(shapes, types, strict=True)
        ]
        for work in [_broadcast(group, tensor, timeout_s) for tensor in tensors]:
            work.wait()
        return list(zip(names, tensors, strict=True))
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    for name, offset, kind in zip(names, offsets, types, strict=True):
        if offset % kind.itemsize:
            raise ValueError(f"{name}: offset {offset} is not aligned to {kind}")
    data = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    _broadcast(group, data, timeout_s).wait()
    return [
        (name, data[offset : offset + size].view(kind).view(tuple(shape)))
        for name, offset, size, kind, shape in zip(
            names, offsets, sizes, types, shapes, strict=True
        )
    ]


def _dtype(name: str) -> torch.dtype:
    kind = getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"unknown dtype {name!r}")
    return kind


def checksums(tensors: NamedTensors) -> dict[str, str]:
    """{name: SHA-256 of the tensor's bytes}; equal to what an embedded server of the same dtype
    answers to /weights_checker."""
    return {
        name: hashlib.sha256(_raw(tensor).cpu().numpy().tobytes()).hexdigest()
        for name, tensor in tensors
    }


# -- HTTP ------------------------------------------------------------------------------------------


def call_server(
    url: str, path: str, body: Mapping[str, Any], *, timeout_s: float, key: str | None = None
) -> Any:
    """POST JSON and return the JSON of a 200 answer; raises WeightSyncError for anything else."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port or 80, timeout=timeout_s
    )
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise WeightSyncError(f"{url}{path}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise WeightSyncError(f"{url}{path}: {response.status} {text[:500]}")
    try:
        return json.loads(text) if text else {}
    except ValueError as error:
        raise WeightSyncError(f"{url}{path}: the answer is not JSON: {text[:200]!r}") from error


def probe(
    url: str, input_ids: Sequence[int], *, timeout_s: float, key: str | None = None
) -> list[float]:
    """Log-probs (temperature 1) that a server gives to input_ids[1:]; text only."""
    body = {
        "input_ids": list(input_ids),
        "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    answer = call_server(url, "/generate", body, timeout_s=timeout_s, key=key)
    return [item[0] for item in answer["meta_info"]["input_token_logprobs"][1:]]


def server_checksums(url: str, *, timeout_s: float, key: str | None = None) -> dict[str, str]:
    """{name: checksum} of the weights that a server holds (its own names)."""
    answer = call_server(
        url, "/weights_checker", {"action": "checksum"}, timeout_s=timeout_s, key=key
    )
    return {name: text for rank in answer["ranks"] for name, text in rank["checksums"].items()}


# -- the learner's end -----------------------------------------------------------------------------


class ServerLink:
    """A learner's connection to one server: one process group with a name of its own.

    A link that fails is closed; `connect` makes a new incarnation.
    """

    def __init__(
        self,
        url: str,
        *,
        backend: str = "gloo",
        tensor_parallel: int = 1,
        address: str = "127.0.0.1",
        admin_key: str | None = None,
    ) -> None:
        self.url = url
        self.backend = backend
        self.world_size = 1 + tensor_parallel
        self.address = address
        """Where the server finds this process."""
        self.admin_key = admin_key
        self.group: dist.ProcessGroup | None = None
        self._group_name = ""
        self._stores: tuple[dist.TCPStore, ...] = ()

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> Any:
        """POST to this server; raises WeightSyncError, also where it answers without success."""
        answer = call_server(self.url, path, body, timeout_s=timeout_s, key=self.admin_key)
        if isinstance(answer, Mapping) and answer.get("success") is False:
            raise WeightSyncError(f"{self.url}{path}: {answer.get('message')}")
        return answer

    def connect(self, timeout_s: float = 60.0) -> None:
        """Form the process group. Raises WeightSyncError."""
        self.close()
        call_timeout = timedelta(seconds=timeout_s)
        name = f"streamzero-{uuid.uuid4().hex}"
        # By itself a store listens on all interfaces; port 0 lets the system choose a free one.
        listener = socket.create_server((self.address, 0))
        port = listener.getsockname()[1]
        make = partial(
            dist.TCPStore, self.address, port, timeout=call_timeout, wait_for_workers=False
        )
        served = [make(is_master=True, master_listen_fd=listener.detach())]
        store = make(is_master=False)
        body = {
            "master_address": self.address,
            "master_port": port,
            "rank_offset": 1,
            "world_size": self.world_size,
            "group_name": name,
            "backend": self.backend,
        }
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(self.post, "/init_weights_update_group", body, timeout_s)
            # A refusal ends the store, and with it our wait for a server that will not come.
            joined.add_done_callback(lambda post: served.clear() if post.exception() else None)
            try:
                self.group = _group(store, 0, self.world_size, name, self.backend, call_timeout)
            except Exception as error:
                reason = joined.exception()  # the server's own words say more than the time-out
                raise WeightSyncError(f"{self.url}: no process group: {reason or error}") from error
            self._stores, self._group_name = (*served, store), name
            try:
                joined.result()
            except WeightSyncError:
                self.close()
                raise

    def close(self) -> None:
        """Leave the group on this side, and tell the server if it listens."""
        if self.group is None:
            return
        leave_group(self.group)
        with contextlib.suppress(WeightSyncError):
            body = {"group_name": self._group_name}
            call_server(
                self.url, "/destroy_weights_update_group", body, timeout_s=5, key=self.admin_key
            )
        self.group, self._stores = None, ()


@dataclass(frozen=True, slots=True)
class ServerResult:
    """How a publication went for one server."""

    ok: bool
    error: str = ""
    seconds: float = 0.0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PublishReport:
    """How a publication went."""

    version: int
    servers: Mapping[str, ServerResult]
    """By URL."""
    seconds: float

    @property
    def failed(self) -> list[str]:
        """URLs of the servers whose weights are now undefined."""
        return [url for url, result in self.servers.items() if not result.ok]


@dataclass(slots=True)
class _Round:
    """The state of one publication."""

    timeout_s: float
    pool: ThreadPoolExecutor
    alive: list[ServerLink]
    began: float = field(default_factory=time.monotonic)
    sent: int = 0
    results: dict[str, ServerResult] = field(default_factory=dict)

    def settle(self, link: ServerLink, error: str = "") -> None:
        seconds = time.monotonic() - self.began
        self.results[link.url] = ServerResult(not error, error, seconds, self.sent)
        if error:
            self.alive.remove(link)

    def each(self, call: Callable[[ServerLink], object]) -> None:
        """Run `call` for all living links at once; those that fail live no longer."""
        futures = [(link, self.pool.submit(call, link)) for link in self.alive]
        for link, future in futures:
            try:
                future.result()
            except WeightSyncError as error:
                self.settle(link, str(error))

    def send(self, bucket: Bucket, extra: Mapping[str, Any]) -> None:
        """Announce a bucket to all living servers and broadcast it to all at once."""
        calls = [
            (link, self.pool.submit(self._announce, link, bucket, extra)) for link in self.alive
        ]
        works: list[tuple[ServerLink, Future[Any], dist.Work | str]] = []
        for link, call in calls:
            try:
                assert link.group is not None
                works.append((link, call, _broadcast(link.group, bucket.data, self.timeout_s)))
            except RuntimeError as error:
                works.append((link, call, str(error)))
        deadline = time.monotonic() + self.timeout_s
        for link, call, work in works:
            reason = work if isinstance(work, str) else _wait(work, deadline)
            try:
                call.result()
            except WeightSyncError as error:
                reason = str(error)
            if reason:
                self.settle(link, f"{link.url}: broadcast: {reason}")
        self.sent += bucket.data.numel()

    def _announce(self, link: ServerLink, bucket: Bucket, extra: Mapping[str, Any]) -> None:
        body = {
            "names": bucket.names,
            "dtypes": bucket.dtypes,
            "shapes": bucket.shapes,
            "group_name": link._group_name,
            "load_format": "flattened_bucket",
            "abort_all_requests": False,
            **extra,
        }
        link.post("/update_weights_from_distributed", body, self.timeout_s)


def _wait(work: dist.Work, deadline: float) -> str:
    """Wait for a broadcast; the reason why it failed, or an empty string."""
    try:
        work.wait(timedelta(seconds=max(0.01, deadline - time.monotonic())))
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def publish(
    source: Source,
    links: Sequence[ServerLink],
    *,
    version: int,
    bucket_bytes: int = 256 << 20,
    pause_mode: str | None = "retract",
    timeout_s: float = 120.0,
    check: bool = True,
) -> PublishReport:
    """Bring weights to all servers as `version`.

    A whole bucket is gathered before anything of it is sent. The cache flush and the version come
    with the last bucket. A server that fails is reported, its link is closed, and it stays paused
    with undefined weights until it is filled again or restarted; the others are not held up.

    Args:
        source: fp32 or already cast tensors; from a callable they are taken twice, first to check.
        pause_mode: "retract" | "in_place" | "abort", or None: wait for running requests to end.
        timeout_s: for every single call and broadcast.
        check: look for NaN and infinity; False where the caller has done so (shards, say).

    Raises:
        WeightSyncError: a weight is NaN or infinite; nothing was sent.
    """
    tensors: Source = source if callable(source) else list(source)

    def fresh() -> NamedTensors:
        return tensors() if callable(tensors) else tensors

    for name, tensor in fresh() if check else ():
        if not bool(torch.isfinite(tensor).all()):
            raise WeightSyncError(f"{name} is not finite; version {version} is not published")
    began = time.monotonic()
    with ThreadPoolExecutor(max(1, len(links))) as pool:
        round_ = _Round(timeout_s, pool, [link for link in links if link.group is not None])
        for link in links:
            if link.group is None:
                round_.results[link.url] = ServerResult(False, f"{link.url}: not connected")
        round_.each(lambda link: _open(link, pause_mode, timeout_s))
        previous: Bucket | None = None
        for bucket in buckets(fresh(), bucket_bytes):
            if previous is not None:
                round_.send(previous, {"flush_cache": False})
            previous = bucket
        if previous is not None:
            # Frozen requests hold the cache: flushing it would be refused.
            flush = pause_mode != "in_place"
            round_.send(previous, {"flush_cache": flush, "weight_version": str(version)})
        round_.each(lambda link: _close(link, pause_mode, timeout_s))
        for link in list(round_.alive):
            round_.settle(link)
    for link in links:
        if not round_.results[link.url].ok:
            link.close()
    return PublishReport(version, round_.results, time.monotonic() - began)


def _open(link: ServerLink, pause_mode: str | None, timeout_s: float) -> None:
    if pause_mode is not None:
        link.post("/pause_generation", {"mode": pause_mode}, timeout_s)
    try:
        link.post("/begin_weight_update", {}, timeout_s)
    except WeightSyncError:  # a publication that broke off may have left its session open
        link.post("/end_weight_update", {}, timeout_s)
        link.post("/begin_weight_update", {}, timeout_s)


def _close(link: ServerLink, pause_mode: str | None, timeout_s: float) -> None:
    link.post("/end_weight_update", {}, timeout_s)
    if pause_mode is not None:
        link.post("/continue_generation", {}, timeout_s)
