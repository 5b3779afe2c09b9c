"""Publish: weights leave a learner and arrive at its servers, all at once, each at its own pace.

Every server has a thread, and a process group of its own, and goes by itself from pause to
continue; the calls are SGLang's (0.5.21 and later): pause, begin, update (one per bucket,
broadcast beside it), end, continue. They share only the two buckets that are in memory. So a
server that is dead costs itself alone, and one that has gone silent holds the others up for
`stall_s`: who is so far behind the first of them is given up. Where several ranks send, each to its
share of the servers, the first may be another rank's (`Progress`).
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from engine.buckets import Bucket, Memory, NamedTensors, buckets
from engine.errors import WeightSyncError
from engine.server_link import ServerLink


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


class Progress(Protocol):
    """How far the servers of all ranks are in the same publication, in stages (`_Lane.stage`)."""

    def reach(self, stage: int) -> None:
        """A server of this rank is the rank's first at a stage."""
        ...

    def furthest(self) -> int:
        """The stage that any rank's first is at."""
        ...


_LOOK_S = 0.2
"""Between two looks at other ranks' progress."""
_LAST_LOOK = 0.25
"""Of the patience with a server that is behind, after a look that found it late: where the whole
machine had stood still, all that it asks for is a turn."""


@dataclass(frozen=True, slots=True)
class _Pace:
    """See `publish`."""

    pause_mode: str | None
    timeout_s: float
    stall_s: float
    progress: Progress | None = None

    @property
    def patience_s(self) -> float:
        """How long a server may be behind the first one."""
        return self.timeout_s if self.pause_mode is None else self.stall_s


Deliver = Callable[[ServerLink, Any], int]
"""Brings one parcel to a server; the bytes that it took. Raises WeightSyncError."""


@dataclass(slots=True, eq=False)
class _Lane:
    """One server's way through a publication."""

    link: ServerLink
    inbox: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    """Parcels; None: there are no more."""
    stage: int = 0
    """Parcels delivered; one more when the server generates again."""
    sent: int = 0
    result: ServerResult | None = None


class _Round:
    """The lanes of one publication."""

    def __init__(
        self, links: Sequence[ServerLink], deliver: Deliver, pace: _Pace, *, has_session: bool
    ) -> None:
        self._deliver = deliver
        self._has_session = has_session
        self._pace = pace
        self._changed = threading.Condition()
        self._reached_s: dict[int, float] = {}
        """When the first server was at a stage."""
        self._began = time.monotonic()
        self._handed_over = 0
        self._lanes = [_Lane(link) for link in links]
        for lane in self._lanes:
            # Daemons: a silent server keeps its thread for up to `timeout_s` after it was given up.
            threading.Thread(target=self._run, args=(lane,), daemon=True).start()

    def hand_over(self, parcel: object) -> None:
        """Give a parcel to every server that lives; all have the parcel before it by then."""
        self.wait(self._handed_over)
        self._handed_over += 1
        for lane in self._lanes:
            lane.inbox.put(parcel)

    def finish(self) -> dict[str, ServerResult]:
        """{url: result} when every server generates again, or was given up."""
        for lane in self._lanes:
            lane.inbox.put(None)
        self.wait(self._handed_over + 1)
        return {lane.link.url: lane.result for lane in self._lanes if lane.result is not None}

    def wait(self, stage: int) -> None:
        """Until every lane is at this stage, has failed, or is too far behind the first."""
        last_due_s: float | None = None
        with self._changed:
            while behind := [x for x in self._lanes if x.stage < stage and x.result is None]:
                left_s = None
                if self._is_reached(stage):
                    now_s, patience_s = time.monotonic(), self._pace.patience_s
                    due_s = self._reached_s[stage] + (1 - _LAST_LOOK) * patience_s
                    left_s = (last_due_s or due_s) - now_s
                    if left_s <= 0 and last_due_s is None:
                        left_s = _LAST_LOOK * patience_s
                        last_due_s = now_s + left_s
                    elif left_s <= 0:
                        for lane in behind:
                            self._give_up(lane, f"{lane.link.url}: {patience_s:g} s late")
                        return
                elif self._pace.progress is not None:
                    left_s = _LOOK_S
                self._changed.wait(left_s)

    def _is_reached(self, stage: int) -> bool:
        """By any server."""
        progress = self._pace.progress
        if stage not in self._reached_s and progress is not None and progress.furthest() >= stage:
            self._reached_s[stage] = time.monotonic()
        return stage in self._reached_s

    def _run(self, lane: _Lane) -> None:
        link, pace = lane.link, self._pace
        try:
            if pace.pause_mode is not None:
                link.post("/pause_generation", {"mode": pace.pause_mode}, pace.timeout_s)
            if self._has_session:
                _begin(link, pace.timeout_s)
            while (parcel := lane.inbox.get()) is not None and lane.result is None:
                lane.sent += self._deliver(link, parcel)
                self._advance(lane)
            if lane.result is None:
                link.settle()
            for path, is_wanted in (
                ("/end_weight_update", self._has_session),
                # Also where nobody pauses: what broke off before may have left it paused.
                ("/continue_generation", True),
            ):
                if lane.result is not None:
                    return  # given up: with weights that are half new it must not go on
                if is_wanted:
                    link.post(path, {}, pace.timeout_s)
            self._advance(lane, is_end=True)
        except Exception as error:  # noqa: BLE001  the server is given up, whatever it was
            with self._changed:
                self._give_up(lane, str(error))

    def _advance(self, lane: _Lane, *, is_end: bool = False) -> None:
        with self._changed:
            lane.stage += 1
            if lane.stage not in self._reached_s:
                self._reached_s[lane.stage] = time.monotonic()
                if self._pace.progress is not None:
                    self._pace.progress.reach(lane.stage)
            if is_end and lane.result is None:
                lane.result = ServerResult(True, "", time.monotonic() - self._began, lane.sent)
            self._changed.notify_all()

    def give_up(self, error: str) -> None:
        """Of all servers that are not done: there will be no more parcels."""
        with self._changed:
            for lane in self._lanes:
                self._give_up(lane, error)

    def _give_up(self, lane: _Lane, error: str) -> None:
        """Its thread may still be waiting for it."""
        if lane.result is None:
            seconds = time.monotonic() - self._began
            lane.result = ServerResult(False, error, seconds, lane.sent)
            lane.link.abandon()
            lane.inbox.put(None)
            self._changed.notify_all()


def publish(
    tensors: NamedTensors,
    links: Sequence[ServerLink],
    *,
    version: int,
    bucket_bytes: int = 256 << 20,
    pause_mode: str | None = "retract",
    timeout_s: float = 120.0,
    stall_s: float = 10.0,
    memory: tuple[Memory, Memory] | None = None,
    progress: Progress | None = None,
) -> PublishReport:
    """Bring weights to all servers as `version`, by broadcast.

    A whole bucket is gathered before anything of it is sent; the next is gathered meanwhile. The
    cache flush and the version come with the last one. A server that fails is reported, its link is
    abandoned, and it stays paused with undefined weights until it is filled again or restarted.

    Args:
        tensors: fp32 or already cast; taken once.
        pause_mode: "retract" | "in_place" | "abort", or None: wait for running requests to end.
        timeout_s: for every single call and broadcast.
        stall_s: a server that is so far behind the first one is given up; without a pause it is
            `timeout_s` that counts, since their requests end at different times.
        memory: of the two buckets, from one publication to the next.
        progress: of the ranks that send to other servers meanwhile.

    Where taking the tensors raises, that is raised; no server gets the version: each stays paused,
    with the buckets before it, and its link is abandoned.
    """
    pace = _Pace(pause_mode, timeout_s, stall_s, progress)

    def deliver(link: ServerLink, bucket: Bucket) -> int:
        # Frozen requests hold the cache: flushing it would be refused.
        flush = bucket.is_last and pace.pause_mode != "in_place"
        extra = {"weight_version": str(version)} if bucket.is_last else {}
        return link.send(bucket, {"flush_cache": flush, **extra}, pace.timeout_s)

    linked = [link for link in links if link.group is not None]
    parcels = buckets(tensors, bucket_bytes, memory)
    report = _publish(linked, parcels, deliver, version, pace)
    unlinked = {
        link.url: ServerResult(False, f"{link.url}: not connected")
        for link in links
        if link.url not in report.servers
    }
    return replace(report, servers={**report.servers, **unlinked})


def publish_folder(
    folder: Path,
    links: Sequence[ServerLink],
    *,
    version: int,
    pause_mode: str | None = "retract",
    timeout_s: float = 120.0,
    stall_s: float = 10.0,
) -> PublishReport:
    """Have all servers read the weights of a folder (`engine.weight_files`) as `version`; see
    `publish`. They need no process group, only the folder under the same path."""
    pace = _Pace(pause_mode, timeout_s, stall_s)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    def deliver(link: ServerLink, body: Mapping[str, Any]) -> int:
        link.post("/update_weights_from_disk", body, pace.timeout_s)
        return size

    body = {
        "model_path": str(folder),
        "weight_version": str(version),
        "flush_cache": pace.pause_mode != "in_place",
        "abort_all_requests": False,
    }
    return _publish(links, [body], deliver, version, pace, has_session=False)


def _publish(
    links: Sequence[ServerLink],
    parcels: Iterable[object],
    deliver: Deliver,
    version: int,
    pace: _Pace,
    *,
    has_session: bool = True,
) -> PublishReport:
    began = time.monotonic()
    round_ = _Round(links, deliver, pace, has_session=has_session)
    try:
        for parcel in parcels:
            round_.hand_over(parcel)
        results = round_.finish()
    except BaseException as error:
        round_.give_up(f"the learner: {error}")
        raise
    return PublishReport(version, results, time.monotonic() - began)


def _begin(link: ServerLink, timeout_s: float) -> None:
    try:
        link.post("/begin_weight_update", {}, timeout_s)
    except WeightSyncError as error:
        if "already open" not in str(error):
            raise
        # A publication that broke off has left weights that are half new: nothing may be sampled
        # with them between its end and the next beginning.
        link.post("/pause_generation", {"mode": "retract"}, timeout_s)
        link.post("/end_weight_update", {}, timeout_s)
        link.post("/begin_weight_update", {}, timeout_s)
