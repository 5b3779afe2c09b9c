"""A learner's connection to one server."""

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch.distributed as dist

from engine.buckets import Bucket
from engine.errors import WeightSyncError
from engine.nodes import LOOPBACK
from engine.server_calls import Call, call_server
from engine.weight_groups import broadcast, leave_group, make_group

R = TypeVar("R")
_HEAD_START_S = 0.003
"""Of a server before a gloo broadcast to it begins. A receiver that is there first takes 2.2 GB/s
over loopback, one that comes 3 ms late 1.2 (and 1.6 times the processor time)."""
_LOOK_S = 0.001
"""Between two looks whether a broadcast has ended."""


class ServerLink:
    """A learner's connection to one server: one process group with a name of its own.

    A link that fails is abandoned; `connect` makes a new incarnation. Without a group it still
    serves for weights that the server reads from disk.
    """

    def __init__(
        self,
        url: str,
        *,
        backend: str = "gloo",
        tensor_parallel: int = 1,
        address: str = LOOPBACK,
        key: str | None = None,
    ) -> None:
        self.url = url
        self.backend = backend
        self.world_size = 1 + tensor_parallel
        self.address = address
        """Where the server finds this process."""
        self.key = key
        self.group: dist.ProcessGroup | None = None
        self.group_name = ""
        self._stores: tuple[dist.TCPStore, ...] = ()
        self._unanswered: Call | None = None
        self._begun: Future[dist.Work] | None = None
        """The broadcast that has not ended; done when it is on its way."""
        self._lock = threading.Lock()
        """No broadcast begins in a group that is being left."""

    def post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> Any:
        """POST to this server; raises WeightSyncError, also where it answers without success."""
        return call_server(self.url, path, body, timeout_s=timeout_s, key=self.key)

    def connect(self, timeout_s: float = 60.0) -> None:
        """Form the process group. Raises WeightSyncError."""
        self.close()
        name = f"streamzero-{uuid.uuid4().hex}"
        # By itself a store listens on all interfaces; port 0 lets the system choose a free one.
        try:
            listener = socket.create_server((self.address, 0))
        except OSError as error:
            why = f"{self.address} is no address of this machine: {error}"
            raise WeightSyncError(f"{self.url}: no process group: {why}") from error
        port = listener.getsockname()[1]
        make = partial(
            dist.TCPStore,
            self.address,
            port,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
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
        joined = in_thread(partial(self.post, "/init_weights_update_group", body, timeout_s))
        # A refusal ends the store, and with it our wait for a server that will not come.
        joined.add_done_callback(lambda post: served.clear() if post.exception() else None)
        try:
            self.group = make_group(store, 0, self.world_size, name, self.backend, timeout_s)
        except Exception as error:
            reason = joined.exception()  # the server's own words say more than the time-out
            raise WeightSyncError(f"{self.url}: no process group: {reason or error}") from error
        self._stores, self.group_name = (*served, store), name
        try:
            joined.result()
        except WeightSyncError:
            self.close()
            raise

    def send(self, bucket: Bucket, extra: Mapping[str, Any], timeout_s: float) -> int:
        """Announce a bucket and broadcast it; its bytes, as soon as its memory is free.

        The server may still be loading it meanwhile: what it answers is read by the next `send`,
        or by `settle`.
        """
        group = self.group
        if group is None:
            raise WeightSyncError(f"{self.url}: not connected")
        body = {
            "names": bucket.names,
            "dtypes": bucket.dtypes,
            "shapes": bucket.shapes,
            "group_name": self.group_name,
            "load_format": "flattened_bucket",
            "abort_all_requests": False,
            **extra,
        }
        path = "/update_weights_from_distributed"
        call = Call(self.url, path, body, timeout_s=timeout_s, key=self.key)
        deadline = time.monotonic() + timeout_s
        try:
            if self.backend == "gloo":
                time.sleep(_HEAD_START_S)
            with self._lock:
                if self.group is not group:
                    raise WeightSyncError(f"{self.url}: given up")
                # A thread of its own: NCCL's first broadcast returns only when the server has come.
                begun = self._begun = in_thread(partial(broadcast, group, bucket.data, timeout_s))
            self.settle()  # of the bucket before
            self._unanswered = call
            # Who refuses does not join, and our broadcast would never end.
            while not self._is_sent(begun) and not call.is_answered(_LOOK_S):
                if time.monotonic() > deadline:
                    raise TimeoutError
            # A gloo broadcast ends here only after the server has joined it, so that the next can
            # be announced. NCCL may be done with a small one before: its server has to answer.
            if not self._is_sent(begun):
                self.settle()
            begun.result(max(0.0, deadline - time.monotonic())).wait()
            self._begun = None  # it holds the bucket's memory
        except TimeoutError:
            raise WeightSyncError(f"{self.url}: broadcast: {timeout_s:g} s late") from None
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise WeightSyncError(f"{self.url}: broadcast: {reason}") from error
        return bucket.data.numel()

    def _is_sent(self, begun: Future[dist.Work]) -> bool:
        """Raises RuntimeError where it failed. With NCCL only the server's answer tells: asking
        CUDA may hang while another thread waits for the GPU, which waits for this broadcast."""
        if not begun.done():
            return False
        work = begun.result()
        return self.backend == "gloo" and work.is_completed()

    def settle(self) -> None:
        """Wait until the server has loaded all that was sent. Raises WeightSyncError."""
        call, self._unanswered = self._unanswered, None
        if call is not None:
            call.answer()

    def close(self) -> None:
        """Leave the group on this side, and tell the server if it listens."""
        leave = self._drop()
        if leave is not None:
            leave()

    def abandon(self) -> None:
        """Like `close`, without waiting for anything: a broken group may hang until its time-out,
        and its server too."""
        leave = self._drop()
        if leave is not None:
            in_thread(leave)

    def _drop(self) -> Callable[[], None] | None:
        """From now on there is no group; how it is left, if there was one."""
        with self._lock:
            group, begun, name = self.group, self._begun, self.group_name
            self.group, self._begun, self._stores, self._unanswered = None, None, (), None
        return None if group is None else partial(self._leave, group, begun, name)

    def _leave(self, group: dist.ProcessGroup, begun: Future[dist.Work] | None, name: str) -> None:
        if begun is not None:
            wait([begun])  # what has not begun can't be ended, and is nowhere on the GPU yet
        leave_group(group)
        with contextlib.suppress(WeightSyncError):
            body = {"group_name": name}
            self.post("/destroy_weights_update_group", body, timeout_s=5)


def in_thread(action: Callable[[], R]) -> Future[R]:
    """Its result, by a daemon: unlike a pool's thread no exit of the process waits for it."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except Exception as error:  # noqa: BLE001  raised by `result`
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
