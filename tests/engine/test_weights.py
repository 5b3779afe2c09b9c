"""Publishing: buckets, groups, failures that stay where they happen."""

import json
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import server_link
from engine.buckets import Intake, Memory, Received, buckets, checksums, receive_bucket
from engine.children import last_lines, spawn
from engine.errors import WeightSyncError
from engine.learner.control import StoredProgress
from engine.server_calls import server_checksums
from engine.server_link import ServerLink
from engine.servers.embedded.model import adopt_parameters, load_parameters
from engine.weight_groups import leave_group, make_group
from engine.weights import PublishReport, publish
from tests.engine.server_process import (
    free_port,
    generate,
    in_background,
    shared_server,
    tiny_module,
    until,
)

KINDS = (torch.float32, torch.bfloat16, torch.uint8, torch.int64)


def gloo_peer(port: int, name: str) -> dist.ProcessGroupGloo:
    """Rank 1 under the store keys that SGLang uses. Not `join_group`: torch keeps one list of group
    names per process, and here both ends live in one."""
    wait = timedelta(seconds=20)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=wait, wait_for_workers=False)
    for prefix in (name, f"{name}/", "cpu/"):
        store = dist.PrefixStore(prefix, store)
    return dist.ProcessGroupGloo(store, 1, 2, wait)


class FakeServer:
    """Speaks the publication's HTTP and joins its group; `silent` never joins a broadcast, a
    `hole` takes calls of that path and never answers them, and an `unloadable` tensor is received
    and then refused."""

    def __init__(
        self, *, silent: bool = False, refuse: str = "", hole: str = "", unloadable: str = ""
    ) -> None:
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.received: dict[str, torch.Tensor] = {}
        self.release = threading.Event()
        outer = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.calls.append((self.path, body))
                if self.path == hole:
                    outer.release.wait(300)
                    return
                ok = self.path != refuse
                if ok and self.path == "/init_weights_update_group":
                    outer.group = gloo_peer(body["master_port"], body["group_name"])
                if ok and self.path == "/update_weights_from_distributed":
                    if silent:
                        outer.release.wait(300)
                    else:
                        outer.received |= receive_bucket(
                            outer.group,
                            body["names"],
                            body["dtypes"],
                            body["shapes"],
                            flattened=True,
                            device="cpu",
                            timeout_s=300,
                        )
                message = "" if ok else "no: a session is already open"
                if unloadable and unloadable in body.get("names", []):
                    ok, message = False, f"{unloadable} does not fit"
                answer = json.dumps({"success": ok, "message": message}).encode()
                self.send_response(200 if ok else 400)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def fakes() -> Iterator[list[FakeServer]]:
    made: list[FakeServer] = []
    yield made
    for fake in made:
        fake.close()


def connected(fake: FakeServer) -> ServerLink:
    link = ServerLink(fake.url)
    link.connect(timeout_s=300)
    return link


def some_tensors() -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (f"t{i}", torch.randn(3 + i, 5, generator=generator).to(kind))
        for i, kind in enumerate((torch.bfloat16, torch.float32, torch.bfloat16, torch.float32))
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=3)), max_size=9
    ),
    st.integers(1, 200),
)
def test_buckets_hold_every_byte_once_and_aligned(
    shapes: list[tuple[torch.dtype, list[int]]], size: int
) -> None:
    tensors = [
        (f"t{i}", torch.randint(0, 100, shape).to(kind)) for i, (kind, shape) in enumerate(shapes)
    ]
    found: dict[str, torch.Tensor] = {}
    memory = Memory(), Memory()
    ends = []
    for bucket in buckets(tensors, size, memory):
        ends.append(bucket.is_last)
        offset = 0
        for name, kind, shape in zip(bucket.names, bucket.dtypes, bucket.shapes, strict=True):
            dtype = getattr(torch, kind)
            length = dtype.itemsize * int(torch.tensor(shape).prod()) if shape else dtype.itemsize
            assert offset % dtype.itemsize == 0
            # A copy: the memory is filled anew for the next bucket but one.
            found[name] = bucket.data[offset : offset + length].clone().view(dtype).view(shape)
            offset += length
        assert offset == bucket.data.numel()
        assert offset <= size or sum(math.prod(shape) > 0 for shape in bucket.shapes) == 1
    assert ends == [False] * (len(ends) - 1) + [True] * bool(ends)
    assert all(m.take(0, "cpu").untyped_storage().nbytes() <= size for m in memory)
    assert found.keys() == dict(tensors).keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors)


def test_what_lies_in_one_piece_is_sent_from_there() -> None:
    flat = torch.arange(40.0)
    whole = [(f"t{i}", t) for i, t in enumerate(flat.split(10))]
    memory = Memory(), Memory()
    (first, second) = buckets(whole, 80, memory)
    assert [bucket.data.data_ptr() for bucket in (first, second)] == [
        flat.data_ptr(),
        flat[20:].data_ptr(),
    ]
    assert all(m.take(0, "cpu").untyped_storage().nbytes() == 0 for m in memory)
    # Not in their order, with a gap, or with a piece of something else between them: a copy.
    for mixed in ([1, 0], [0, 2]):
        (copied,) = buckets([whole[i] for i in mixed], 80, memory)
        assert torch.equal(copied.data.view(torch.float32), torch.cat([whole[i][1] for i in mixed]))
        assert torch.equal(flat, torch.arange(40.0)), "what is sent is only read"
    (copied,) = buckets([*whole[:2], ("x", torch.ones(3)), whole[2]], 1000, memory)
    expected = torch.cat([flat[:20], torch.ones(3), flat[20:30]])
    assert torch.equal(copied.data.view(torch.float32), expected)


def test_a_bucket_is_loaded_while_the_next_one_arrives() -> None:
    intake, loading, may_end = Intake(), threading.Event(), threading.Event()
    loaded: list[float] = []

    def receive(value: float, memory: Memory) -> Received:
        data = memory.take(4, "cpu").view(torch.float32)
        return [("t", data.fill_(value))]

    def load(received: Received, *, may_adopt: bool) -> tuple[list[str], bool]:
        loading.set()
        assert may_end.wait(300)
        loaded.append(received[0][1].item())
        return [], False

    first = in_background(lambda: intake.take(lambda m: receive(1.0, m), load))
    assert loading.wait(300)
    arrived, third_arrived = threading.Event(), threading.Event()

    def then(event: threading.Event, value: float, memory: Memory) -> Received:
        event.set()
        return receive(value, memory)

    second = in_background(lambda: intake.take(lambda m: then(arrived, 2.0, m), load))
    assert arrived.wait(300), "it is received although the first is not loaded"
    third = in_background(lambda: intake.take(lambda m: then(third_arrived, 3.0, m), load))
    assert not third_arrived.wait(0.3), "its memory is that of the first"
    assert not loaded
    may_end.set()
    for taken in (first, second, third):
        taken.result(20)
    assert loaded == [1.0, 2.0, 3.0]


class Taker:
    """A module that takes buckets as an embedded server does; [4] float32 each."""

    def __init__(self, *names: str, dtype: torch.dtype = torch.float32) -> None:
        self.module = torch.nn.Module()
        for name in names:
            weight = torch.nn.Parameter(torch.zeros(4, dtype=dtype), requires_grad=False)
            self.module.register_parameter(name, weight)
        self.intake = Intake()

    def take(self, value: float, *names: str) -> list[str]:
        def receive(memory: Memory) -> Received:
            data = memory.take(16 * len(names), "cpu").view(torch.float32).fill_(value)
            return [(name, data[4 * i : 4 * i + 4]) for i, name in enumerate(names)]

        def load(received: Received, *, may_adopt: bool) -> tuple[list[str], bool]:
            if may_adopt and adopt_parameters(self.module, received):
                return [], True
            return load_parameters(self.module, received), False

        return self.intake.take(receive, load)

    @property
    def values(self) -> dict[str, float]:
        return {name: weight[0].item() for name, weight in self.module.named_parameters()}

    @property
    def places(self) -> dict[str, int]:
        """Where the memory begins in which a parameter lies."""
        return {
            name: weight.untyped_storage().data_ptr()
            for name, weight in self.module.named_parameters()
        }


def test_a_bucket_s_memory_becomes_the_model_s_and_the_model_s_the_next_bucket_s() -> None:
    taker, buckets_ = Taker("a", "b", "c"), [("a", "b"), ("c",)]
    seen: set[int] = set()
    for step in range(1, 7):
        for number, names in enumerate(buckets_):
            assert taker.take(step + number / 10, *names) == []
        assert taker.values == pytest.approx({"a": step, "b": step, "c": step + 0.1})
        places = taker.places
        assert places["a"] == places["b"] != places["c"], "nothing was copied"
        seen |= set(places.values())
    assert len(seen) <= 6, "two buckets of the model, two beside, and two that were too small"


def test_a_bucket_of_other_tensors_is_copied_so_that_the_model_keeps_no_memory_for_the_rest() -> (
    None
):
    taker = Taker("a", "b", "c")
    taker.take(1, "a", "b", "c")
    before = taker.places
    taker.take(2, "b")
    assert taker.values == {"a": 1, "b": 2, "c": 1}
    taker.take(3, "a", "c")
    assert taker.values == {"a": 3, "b": 2, "c": 3}
    assert taker.places == before
    taker.take(4, "a", "b", "c")
    assert taker.values == {"a": 4, "b": 4, "c": 4}
    assert taker.places != before


def test_what_a_model_can_not_adopt_is_copied_or_refused_as_ever() -> None:
    other = Taker("a", "b", dtype=torch.bfloat16)
    before = other.places
    assert other.take(1.5, "a", "b") == []
    assert other.values == {"a": 1.5, "b": 1.5}
    assert other.places == before, "another dtype: cast into its own memory"
    assert Taker("a").take(1, "a", "x") == ["x"]
    taker = Taker("a")
    taker.module.a = torch.nn.Parameter(torch.zeros(5), requires_grad=False)
    with pytest.raises(ValueError, match="does not fit"):
        taker.take(1, "a")
    taker.module.a = torch.nn.Parameter(torch.zeros(4), requires_grad=False)
    assert taker.take(2, "a") == [], "a refusal holds nothing up"
    assert taker.values == {"a": 2}


def test_a_bucket_that_the_server_could_not_load_fails_the_publication(
    fakes: list[FakeServer],
) -> None:
    """Its answer comes while the next one is on its way."""
    fakes.append(FakeServer(unloadable="t1"))
    link = connected(fakes[0])
    report = publish(some_tensors(), [link], version=3, bucket_bytes=60, timeout_s=300)
    assert report.failed == [fakes[0].url]
    assert "t1 does not fit" in report.servers[fakes[0].url].error
    assert "/continue_generation" not in fakes[0].paths()


def test_checksums_differ_where_one_bit_does() -> None:
    tensor = torch.arange(12.0).view(3, 4)
    other = tensor.clone()
    other[2, 3] = torch.nextafter(other[2, 3], torch.tensor(100.0))
    assert checksums([("a", tensor.t())]) == checksums([("a", tensor.t().contiguous())])
    assert checksums([("a", tensor)]) != checksums([("a", other)])


def test_a_publication_is_one_session_with_the_version_at_its_end(fakes: list[FakeServer]) -> None:
    fakes += [FakeServer(), FakeServer()]
    links = [connected(fake) for fake in fakes]
    report = publish(some_tensors(), links, version=7, bucket_bytes=100, timeout_s=300)
    assert not report.failed
    for fake, link in zip(fakes, links, strict=True):
        assert fake.paths()[1:3] == ["/pause_generation", "/begin_weight_update"]
        assert fake.paths()[-2:] == ["/end_weight_update", "/continue_generation"]
        updates = [body for path, body in fake.calls if path.startswith("/update")]
        assert len(updates) > 2
        assert [body.get("weight_version") for body in updates[:-1]] == [None] * (len(updates) - 1)
        assert [body["flush_cache"] for body in updates] == [False] * (len(updates) - 1) + [True]
        assert updates[-1]["weight_version"] == "7"
        for name, tensor in some_tensors():
            assert torch.equal(fake.received[name], tensor)
        assert report.servers[link.url].sent_bytes == sum(t.nbytes for _, t in some_tensors())
        link.close()


def test_tensors_that_cannot_be_gathered_make_no_version(fakes: list[FakeServer]) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield from ((f"t{i}", torch.zeros(20)) for i in range(6))
        raise RuntimeError("a rank is gone")

    fakes += [FakeServer(), FakeServer()]
    for fake, size in zip(fakes, (1 << 20, 100), strict=True):  # one bucket, and several
        link = connected(fake)
        with pytest.raises(RuntimeError, match="a rank is gone"):
            publish(broken(), [link], version=1, bucket_bytes=size)
        assert link.group is None
    assert fakes[0].received == {}
    assert fakes[1].received
    for fake in fakes:  # paused, with weights that are half new: nothing uses them
        assert not {"/end_weight_update", "/continue_generation"} & set(fake.paths())
        assert not [body for _, body in fake.calls if "weight_version" in body]


def test_a_server_that_hangs_costs_only_itself_and_no_more_than_the_time_out(
    fakes: list[FakeServer],
) -> None:
    fakes += [FakeServer(silent=True), FakeServer()]
    links = [connected(fake) for fake in fakes]
    began = time.monotonic()
    report = publish(some_tensors(), links, version=3, bucket_bytes=100, timeout_s=6)
    assert report.failed == [fakes[0].url]
    assert fakes[0].url in report.servers[fakes[0].url].error
    assert time.monotonic() - began < 150
    assert links[0].group is None
    assert fakes[1].received.keys() == dict(some_tensors()).keys()
    assert fakes[1].paths()[-1] == "/continue_generation"
    links[1].close()


@pytest.mark.parametrize(
    "hole", ["/pause_generation", "/update_weights_from_distributed", "/continue_generation"]
)
def test_a_black_hole_holds_the_others_up_for_the_stall_bound_only(
    fakes: list[FakeServer], hole: str
) -> None:
    """Long before its time-out the other one has everything and generates again."""
    fakes += [FakeServer(hole=hole), FakeServer()]
    links = [connected(fake) for fake in fakes]
    began = time.monotonic()
    report = publish(some_tensors(), links, version=3, bucket_bytes=100, timeout_s=300, stall_s=0.5)
    assert time.monotonic() - began < 150
    assert report.failed == [fakes[0].url]
    assert report.servers[fakes[0].url].error == f"{fakes[0].url}: 0.5 s late"
    assert fakes[1].received.keys() == dict(some_tensors()).keys()
    assert fakes[1].paths()[-1] == "/continue_generation"
    assert links[0].group is None, "nobody will use it again"
    # What was given up does not go on by itself with weights that are half new.
    fakes[0].release.set()
    if hole != "/continue_generation":
        assert "/continue_generation" not in fakes[0].paths()
    links[1].close()


@pytest.mark.parametrize("hole", ["/pause_generation", "/continue_generation"])
def test_a_rank_s_only_server_is_measured_by_those_of_other_ranks(
    fakes: list[FakeServer], hole: str
) -> None:
    """Two ranks, as two threads: who sends to a black hole alone does not wait for its time-out."""
    fakes += [FakeServer(hole=hole), FakeServer()]
    links = [connected(fake) for fake in fakes]
    store = dist.HashStore()
    for rank in range(2):
        StoredProgress(store, rank, 2, 6).reach(
            100
        )  # of the publication before: counts for nothing

    def send(rank: int) -> PublishReport:
        return publish(
            some_tensors(),
            [links[rank]],
            version=3,
            bucket_bytes=100,
            timeout_s=300,
            stall_s=0.5,
            progress=StoredProgress(store, rank, 2, 7),
        )

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        lost, sent = pool.map(send, range(2))
    assert time.monotonic() - began < 150
    assert lost.servers[fakes[0].url].error == f"{fakes[0].url}: 0.5 s late"
    assert not sent.failed
    links[1].close()


def test_a_server_killed_in_the_middle_of_a_broadcast_costs_nobody_else(
    fakes: list[FakeServer], tmp_path: Path
) -> None:
    """Killed between its first bucket and its last, while the other is given the same buckets."""
    fakes.append(FakeServer())
    port = free_port()
    victim = spawn(
        [sys.executable, "-m", "launch.benches.weight_receiver", str(port)],
        log=tmp_path / "log",
        env={"OMP_NUM_THREADS": "1"},
    )
    until(lambda: accepts(port), timeout_s=300, what=lambda: last_lines(tmp_path / "log"))
    links = [ServerLink(f"http://127.0.0.1:{port}"), connected(fakes[0])]
    links[0].connect(timeout_s=300)

    def dying() -> Iterator[tuple[str, torch.Tensor]]:
        for i in range(6):
            if i == 3:
                victim.kill()
                victim.wait()
            yield f"t{i}", torch.full((1000,), float(i))

    report = publish(dying(), links, version=4, bucket_bytes=4000, timeout_s=300, stall_s=1)
    assert report.failed == [links[0].url]
    assert report.seconds < 150
    assert [fakes[0].received[f"t{i}"][0].item() for i in range(6)] == list(range(6))
    assert fakes[0].paths()[-1] == "/continue_generation"
    links[1].close()


class NcclGroup(dist.ProcessGroup):
    """Stands in for a group of NCCL, which no CPU can make, in torch's own list of groups. Like
    NCCL's, a broadcast of it ends when the server has joined or the group is aborted."""

    group_name = "a stand-in"

    def __init__(self) -> None:
        super().__init__(0, 2)
        self.is_aborted = threading.Event()
        world = dist.distributed_c10d._world
        world.pg_map[self] = ("nccl", None)
        world.pg_names[self] = self.group_name
        world.pg_group_ranks[self] = {0: 0, 1: 1}
        world.pg_backend_config[self] = "cuda:nccl"
        world.pg_to_tag[self] = "user:"
        dist.distributed_c10d._register_process_group(self.group_name, self)

    def abort(self) -> None:
        self.is_aborted.set()

    def shutdown(self) -> None:
        raise AssertionError("it would wait for the GPU")


class NcclWork:
    """On the GPU, for ever."""

    def is_completed(self) -> bool:
        raise AssertionError("asking CUDA may hang")


def test_a_group_of_nccl_is_aborted_never_waited_for() -> None:
    group = NcclGroup()
    leave_group(group)
    assert group.is_aborted.is_set()
    assert group not in dist.distributed_c10d._world.pg_map
    leave_group(group)  # forgotten by now: not a word


@pytest.mark.parametrize("given", [None, "0"])
def test_torch_does_not_watch_a_group_of_nccl_and_others_as_ever(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """Its watchdog ends the process when a broadcast to one server fails."""
    name = "TORCH_NCCL_BLOCKING_WAIT"
    monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(name, given)
    seen = []

    def make(*_: object, **__: object) -> tuple[object, None]:
        seen.append(os.environ.get(name))
        if len(seen) == 3:
            raise RuntimeError("no GPU")
        return object(), None

    monkeypatch.setattr("torch.distributed.distributed_c10d._new_process_group_helper", make)
    for backend in ("nccl", "gloo"):
        make_group(dist.HashStore(), 0, 2, backend, backend, timeout_s=1)
    with pytest.raises(RuntimeError, match="no GPU"):
        make_group(dist.HashStore(), 0, 2, "third", "nccl", timeout_s=1)
    assert seen == ["1", given, "1"]
    assert os.environ.get(name) == given


def nccl_link(fake: FakeServer) -> tuple[ServerLink, NcclGroup]:
    link, group = ServerLink(fake.url, backend="nccl"), NcclGroup()
    link.group, link.group_name = group, group.group_name
    return link, group


def test_the_only_server_killed_in_mid_broadcast_has_its_nccl_group_aborted(
    fakes: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the time-out: until then nobody could wait for the GPU."""
    fakes.append(FakeServer(hole="/update_weights_from_distributed"))
    link, group = nccl_link(fakes[0])

    def begin(*_: object) -> NcclWork:
        fakes[0].release.set()  # now that it is under way the connection ends without an answer
        return NcclWork()

    monkeypatch.setattr("engine.server_link.broadcast", begin)
    report = publish(some_tensors(), [link], version=5, timeout_s=300)
    assert report.failed == [fakes[0].url]
    assert group.is_aborted.wait(300)


def test_the_only_server_that_never_joins_nccl_s_first_broadcast_is_given_up(
    fakes: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call itself does not return. When it does at last, what it began is aborted."""
    fakes.append(FakeServer(hole="/update_weights_from_distributed"))
    link, group = nccl_link(fakes[0])
    joins = threading.Event()

    def begin(*_: object) -> NcclWork:
        assert joins.wait(300)
        assert not group.is_aborted.is_set(), "there was nothing to abort yet"
        return NcclWork()

    monkeypatch.setattr("engine.server_link.broadcast", begin)
    report = publish(some_tensors(), [link], version=5, timeout_s=0.5)
    assert report.servers[fakes[0].url].error == f"{fakes[0].url}: broadcast: 0.5 s late"
    assert link.group is None
    joins.set()
    assert group.is_aborted.wait(300)


def test_no_broadcast_begins_on_a_link_that_was_given_up_meanwhile(
    fakes: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would abort it."""
    fakes.append(FakeServer())
    link, group = nccl_link(fakes[0])
    call = server_link.Call

    def announce(*args: object, **rest: object) -> object:
        link.abandon()
        return call(*args, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr("engine.server_link.Call", announce)
    monkeypatch.setattr("engine.server_link.broadcast", pytest.fail)
    (bucket,) = buckets(some_tensors()[:1], 1000)
    with pytest.raises(WeightSyncError, match="given up"):
        link.send(bucket, {}, timeout_s=300)
    assert group.is_aborted.wait(300)


def test_a_learner_that_breaks_off_gives_all_servers_up(fakes: list[FakeServer]) -> None:
    fakes.append(FakeServer())
    link = connected(fakes[0])

    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.zeros(100)
        yield "b", torch.zeros(100)
        raise RuntimeError("a rank is gone")

    with pytest.raises(RuntimeError, match="a rank is gone"):
        publish(broken(), [link], version=1, bucket_bytes=400)
    assert link.group is None
    assert "/continue_generation" not in fakes[0].paths()


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("path", ["/pause_generation", "/begin_weight_update"])
def test_a_server_that_refuses_gets_nothing(fakes: list[FakeServer], path: str) -> None:
    fakes += [FakeServer(refuse=path), FakeServer()]
    links = [connected(fake) for fake in fakes]
    report = publish(some_tensors(), links, version=3, timeout_s=300)
    assert report.failed == [fakes[0].url]
    assert path in report.servers[fakes[0].url].error
    assert not fakes[0].received
    assert fakes[1].received
    links[1].close()


@pytest.mark.parametrize("pause_mode, version", [("retract", 60), (None, 600)])
def test_a_session_left_open_is_closed_first(pause_mode: str | None, version: int) -> None:
    url = shared_server().urls[0]
    link = ServerLink(url)
    link.connect(timeout_s=300)
    link.post("/begin_weight_update", {}, 10)
    weights = tiny_module().state_dict().items()
    report = publish(weights, [link], version=version, pause_mode=pause_mode)
    assert not report.failed
    assert generate(url, (1, 2))["meta_info"]["weight_version"] == str(version)
    link.close()


def test_nothing_is_sampled_between_a_broken_publication_and_the_next(
    fakes: list[FakeServer],
) -> None:
    """Also where publications do not pause: the end of the session left open would let go."""
    fakes.append(FakeServer(refuse="/begin_weight_update"))
    link = connected(fakes[0])
    assert publish(some_tensors(), [link], version=1, pause_mode=None).failed
    tried = [path for path in fakes[0].paths() if path != "/init_weights_update_group"]
    assert tried[:3] == ["/begin_weight_update", "/pause_generation", "/end_weight_update"]
    assert "/continue_generation" not in tried
    link.close()


def test_a_server_that_was_left_paused_goes_on_after_a_publication_that_pauses_nobody(
    fakes: list[FakeServer],
) -> None:
    fakes.append(FakeServer())
    link = connected(fakes[0])
    assert not publish(some_tensors(), [link], version=1, pause_mode=None).failed
    assert "/pause_generation" not in fakes[0].paths()
    assert fakes[0].paths()[-1] == "/continue_generation"
    link.close()


def test_an_unreachable_server_is_named() -> None:
    link = ServerLink("http://127.0.0.1:1")
    with pytest.raises(WeightSyncError, match=r"127\.0\.0\.1:1"):
        link.connect(timeout_s=1)
    report = publish(some_tensors(), [link], version=1)
    assert report.failed == ["http://127.0.0.1:1"]


def test_bf16_weights_are_cast_on_arrival_and_unknown_names_are_skipped() -> None:
    url = shared_server().urls[0]
    link = ServerLink(url)
    link.connect(timeout_s=300)
    cast = [(name, tensor.bfloat16()) for name, tensor in tiny_module(1).state_dict().items()]
    cast.append(("no.such.weight", torch.zeros(3)))
    assert not publish(cast, [link], version=61).failed
    wide = checksums((name, tensor.float()) for name, tensor in cast[:-1])
    assert server_checksums(url, timeout_s=300) == wide
    link.close()


def test_the_server_refuses_shapes_that_do_not_fit_and_lives_on() -> None:
    url = shared_server().urls[0]
    link = ServerLink(url)
    link.connect(timeout_s=300)
    report = publish([("lm_head.weight", torch.zeros(2, 2))], [link], version=62)
    assert "lm_head.weight" in report.servers[url].error
    link.connect(timeout_s=300)
    assert not publish(tiny_module().state_dict().items(), [link], version=63).failed
    link.close()


def test_plain_tensors_arrive_too(fakes: list[FakeServer]) -> None:
    fakes.append(FakeServer())
    link = connected(fakes[0])
    tensors = some_tensors()
    received = in_background(
        lambda: receive_bucket(
            fakes[0].group,
            [name for name, _ in tensors],
            [str(tensor.dtype) for _, tensor in tensors],
            [list(tensor.shape) for _, tensor in tensors],
            flattened=False,
            device="cpu",
            timeout_s=300,
        )
    )
    for _, tensor in tensors:
        dist.broadcast(tensor, src=0, group=link.group)
    for (name, sent), (found, tensor) in zip(tensors, received.result(20), strict=True):
        assert (name, tensor.dtype) == (found, sent.dtype)
        assert torch.equal(tensor, sent)
    link.close()


@pytest.mark.parametrize(
    "names, dtypes, shapes, why",
    [
        (["a"], ["float32"], [], "1 names"),
        (["a"], ["float33"], [[1]], "float33"),
        (["a"], ["Tensor"], [[1]], "Tensor"),
        (["a", "b"], ["uint8", "float32"], [[1], [1]], "aligned"),
    ],
)
def test_senseless_announcements_are_refused_before_the_broadcast(
    names: list[str], dtypes: list[str], shapes: list[list[int]], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        receive_bucket(None, names, dtypes, shapes, flattened=True, device="cpu", timeout_s=1)
