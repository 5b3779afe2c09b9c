"""A learner group between a fake engine and a real embedded server.

    python -m tests.engine.test_learner_worker RANK STORE_PORT ADDRESS URL JUDGE BASE CHECKPOINTS

is one of two ranks.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import Popen
from types import MappingProxyType
from typing import Any

import pytest
import torch.distributed as dist
import zmq
from safetensors.torch import load_file

from engine.buckets import NamedTensors, checksums
from engine.children import end, last_lines, spawn
from engine.config import WeightsConfig
from engine.errors import FatalError, TransportError, WeightSyncError
from engine.layout import Follower
from engine.learner import checkpoint, checkpoint_writer, proof, sender, worker
from engine.learner.bad_batches import load_batch
from engine.learner.checkpoint_writer import Saved
from engine.learner.config import LearnerConfig
from engine.learner.group import LearnerGroup
from engine.learner.presets import ObjectiveConfig
from engine.learner.published import ATTEMPTS
from engine.learner.sender import Sender
from engine.learner.spec import LearnerSpec
from engine.learner.worker import Leader, run_learner
from engine.probe import Probe
from engine.server_calls import server_checksums
from engine.server_link import ServerLink
from engine.transport import Images, Message
from engine.types import Group, Segment
from engine.weights import ServerResult
from engine.wire import encode_group, from_frames, to_frames
from tests.engine.learner.learner_data import make_group
from tests.engine.server_process import answers, free_port, in_background, request, tiny_dir, until
from tests.engine.tiny_models import IMAGE_PAD

PATIENCE_S = 60.0


class FakeEngine:
    """The engine's end of the socket, one message at a time."""

    def __init__(self, address: str, has_failed: Callable[[], str | None]) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(address)
        self._has_failed = has_failed
        self._peer = b""
        self.serving: list[Message] = []
        self.heard: list[str] = []
        """Kinds, in the order of their arrival."""
        self._saves: deque[Message] = deque()
        self._others: deque[Message] = deque()

    def _read(self) -> Message:
        waited = 0.0
        while not self._socket.poll(100):
            waited += 0.1
            assert waited < PATIENCE_S, "the learner says nothing"
            assert not (failure := self._has_failed()), failure
        self._peer, *frames = self._socket.recv_multipart()
        message, _ = from_frames(frames)
        self.heard.append(message["kind"])
        return message

    def receive(self) -> Message:
        """The next message that is neither `serving` nor `saved`."""
        while True:
            message = self._others.popleft() if self._others else self._read()
            if message["kind"] == "serving":
                self.serving.append(message)
            elif message["kind"] == "saved":
                self._saves.append(message)
            else:
                return message

    def saved(self) -> Message:
        """The next `saved`: it comes when the writing is done, whatever else goes on."""
        while not self._saves:
            message = self._read()
            (self._saves if message["kind"] == "saved" else self._others).append(message)
        return self._saves.popleft()

    def expect(self, kind: str) -> Message:
        message = self.receive()
        assert message["kind"] == kind, message
        return message

    def send(self, kind: str, **fields: Any) -> None:
        self._socket.send_multipart([self._peer, *to_frames({"kind": kind, **fields}, {})])

    def batch(
        self,
        request_number: int,
        version: int,
        groups: list[Group],
        step: int | None = None,
        ages: Mapping[int, int] = MappingProxyType({}),
        **followers: int,
    ) -> None:
        """`step`: what comes of it, that of the request's number unless given; `ages`: of the
        versions that sampled the groups."""
        rows = [encode_group(group)[0] for group in groups]
        step = step or request_number
        versions = {"solver": version, **followers}
        self.send(
            "batch",
            policy="solver",
            request=request_number,
            groups=rows,
            **({"step": step, "versions": versions, "ages": list(ages.items())} if rows else {}),
        )

    def welcome(self, version: int, **followers: int) -> Message:
        """The learner's hello, welcomed; its first request."""
        hello = self.expect("hello")
        self.send("welcome", attempt=1, versions={"solver": version, **followers})
        self.expect("next")
        return hello

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()


@dataclass(slots=True)
class LiveServer:
    """An embedded server of other weights than the learner's, that can be killed."""

    port: int
    log: Path
    process: Popen[bytes] | None = None
    more_ports: tuple[int, ...] = ()
    """Of other policies in the same process."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def version(self) -> str:
        return str(request(self.url, "/model_info")[1]["weight_version"])

    def start(self) -> None:
        argv = [sys.executable, "-m", "engine.servers.embedded"]
        for port in (self.port, *self.more_ports):
            argv += ["--serve", f"{port}={tiny_dir(1)}"]
        argv += ["--weight-version", "unfilled"]
        self.process = spawn(argv, log=self.log, env={"OMP_NUM_THREADS": "1"})
        until(lambda: answers(self.url), timeout_s=300, what=lambda: last_lines(self.log))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    made = LiveServer(free_port(), tmp_path_factory.mktemp("server") / "log")
    made.start()
    yield made
    made.kill()


def spec_of(address: str, checkpoints: Path, base: Path, *urls: str) -> LearnerSpec:
    return LearnerSpec(
        policies=("solver",),
        rank=0,
        world=1,
        base=base,
        device="cpu",
        backend="gloo",
        seed=0,
        steps=100,
        checkpoint_every=1,
        keep_checkpoints=2,
        checkpoints={"solver": checkpoints},
        stop_s=30.0,
        bad_batches=checkpoints.parent / "bad_batches",
        learner=LearnerConfig(
            lr=1e-2, max_gap=100, prefetch=0, objective=ObjectiveConfig(mask_band=None)
        ),
        weights=WeightsConfig(bucket_mb=0.5, timeout_s=300, checksum_every=1),
        address=address,
        servers={"solver": urls},
        tensor_parallel=dict.fromkeys(urls, 1),
    )


def with_judge(spec: LearnerSpec, url: str) -> LearnerSpec:
    """`url` follows the solver."""
    return replace(
        spec,
        followers={"judge": Follower("solver", 2)},
        servers={**spec.servers, "judge": (url,)},
        tensor_parallel={**spec.tensor_parallel, url: 1},
    )


@dataclass(slots=True)
class Life:
    """One life of a learner group of one rank, on a thread."""

    engine: FakeEngine
    leader: Leader
    group: LearnerGroup
    stop: threading.Event
    gone: threading.Event
    ended: Future[None]

    @contextmanager
    def paused(self, num_batches: int) -> Iterator[None]:
        """The learner goes on when so many batches have arrived meanwhile."""
        receive = self.leader._receive
        held, go_on = threading.Event(), threading.Event()

        def wait(seconds: float) -> bool:
            self.leader._receive = receive  # type: ignore[method-assign]
            held.set()
            assert go_on.wait(PATIENCE_S)
            until(
                lambda: receive(0.01) and len(self.leader._ready) == num_batches,
                timeout_s=PATIENCE_S,
                what=lambda: "batches",
            )
            return True

        self.leader._receive = wait  # type: ignore[method-assign]
        assert held.wait(PATIENCE_S)
        yield
        go_on.set()

    def checksums(self) -> dict[str, str]:
        return checksums(self.group.trainers["solver"].named_weights())

    def bye(self) -> None:
        self.engine.send("bye")
        self.ended.result(PATIENCE_S)


@contextmanager
def life_of(
    folder: Path,
    *urls: str,
    judge: str = "",
    overlap: bool = False,
    coder: bool = False,
    prefetch: int = 0,
) -> Iterator[Life]:
    address = f"ipc://{folder}/engine.sock"
    spec = spec_of(address, folder / "checkpoints", tiny_dir(0), *urls)
    if judge:
        spec = with_judge(spec, judge)
    spec = replace(
        spec,
        weights=spec.weights.model_copy(update={"overlap": overlap}),
        learner=spec.learner.model_copy(update={"prefetch": prefetch}),
    )
    if coder:  # one more policy, without a server
        spec = replace(
            spec,
            policies=(*spec.policies, "coder"),
            servers={**spec.servers, "coder": ()},
            checkpoints={**spec.checkpoints, "coder": folder / "coder"},
        )
    group = LearnerGroup(spec, dist.HashStore())
    stop, gone = threading.Event(), threading.Event()

    def failure() -> str | None:
        return repr(ended.exception()) if ended.done() else None

    engine = FakeEngine(address, failure)
    leader = Leader(spec, group, stop.is_set, gone.is_set)
    ended = in_background(leader.run)
    try:
        yield Life(engine, leader, group, stop, gone, ended)
    finally:
        gone.set()
        ended.exception(PATIENCE_S)
        leader.close()
        engine.close()


def groups_of(seed: int) -> list[Group]:
    return [make_group(seed), make_group(seed + 1, num_rollouts=3)]


def with_nan_logprob(group: Group) -> Group:
    """A server that answers nonsense: one behaviour log-prob is no number."""
    first, *rest = group.rollouts
    broken = replace(first, logprobs=(float("nan"), *first.logprobs[1:]))
    return replace(group, rollouts=(broken, *rest))


def with_overflow(group: Group) -> Group:
    """Advantages that are finite here, but not as the learner's float32."""
    return replace(group, advantages=(1e300,) + (0.5,) * (len(group.rollouts) - 1))


def same_weights(server: LiveServer | str, ours: dict[str, str]) -> bool:
    """Bit for bit, all of ours."""
    url = server if isinstance(server, str) else server.url
    theirs = server_checksums(url, timeout_s=300)
    return bool(ours) and ours.items() <= theirs.items()


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SERVER_CHECK_S", 0.1)
    monkeypatch.setattr(worker, "GAP_S", 0.02)


def test_a_server_that_answers_the_probe_wrongly_gets_no_requests(
    tmp_path: Path, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = proof.probe_logprobs
    lies = [0.5]

    def lying(url: str, probe: Probe, **options: float) -> list[float]:
        return [value + sum(lies) for value in honest(url, probe, **options)]

    monkeypatch.setattr(proof, "probe_logprobs", lying)
    with life_of(tmp_path, server.url) as life:
        life.engine.welcome(5)
        first = life.engine.expect("published")
        assert first["servers"] == []
        assert "probe" in first["failed"][server.url]
        lies.clear()
        again = life.engine.expect("published")
        while again["failed"]:  # looked after before the lie was over
            again = life.engine.expect("published")
        assert (again["version"], again["servers"]) == (5, [server.url])


def test_weights_that_never_arrive_right_end_the_run(
    tmp_path: Path, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled again and again, it would hold the learner up for ever."""
    honest = proof.probe_logprobs

    def lying(url: str, probe: Probe, **options: float) -> list[float]:
        return [value + 0.5 for value in honest(url, probe, **options)]

    monkeypatch.setattr(proof, "probe_logprobs", lying)
    with life_of(tmp_path, server.url) as life:
        life.engine.welcome(5)
        for _ in range(ATTEMPTS - 1):
            assert life.engine.expect("published")["failed"]
        error = life.ended.exception(PATIENCE_S)
        assert isinstance(error, FatalError)
        assert f"after {ATTEMPTS} attempts none of its servers holds" in str(error)


def test_servers_get_the_base_then_every_step_and_nothing_of_a_bad_batch(
    tmp_path: Path, server: LiveServer
) -> None:
    with life_of(tmp_path, server.url) as life:
        engine = life.engine
        assert engine.welcome(5)["policies"] == {"solver": {"step": 0, "request": 0}}
        base = life.checksums()
        first = engine.expect("published")
        assert (first["version"], first["step"]) == (5, 0)
        assert (first["servers"], first["failed"]) == ([server.url], {})
        assert server.version == "5"
        assert same_weights(server, base)

        engine.batch(1, 6, groups_of(0))
        stepped = engine.expect("stepped")
        assert (stepped["request"], stepped["step"], stepped["skipped"]) == (1, 1, False)
        assert 0 <= stepped["metrics"]["probe_gap"] < 1e-5  # log-probs of server and learner
        published = engine.expect("published")
        assert (published["version"], published["step"]) == (6, 1)
        assert (published["servers"], published["failed"]) == ([server.url], {})
        trained = life.checksums()
        assert trained != base
        assert same_weights(server, trained)
        assert engine.saved()["step"] == 1
        assert engine.expect("next")["request"] == 2

        bad, good = groups_of(20)
        engine.batch(2, 7, [with_overflow(bad), good])
        stepped = engine.expect("stepped")
        assert (stepped["request"], stepped["step"], stepped["skipped"]) == (2, 1, True)
        assert stepped["reason"] == "non_finite_loss"
        assert engine.expect("next")["request"] == 3  # no `published`, no `saved` before it
        assert life.checksums() == trained
        assert server.version == "6"

        engine.batch(3, 0, [])
        assert engine.expect("next")["request"] == 4
        bad, good = groups_of(40)
        engine.batch(4, 9, [with_nan_logprob(bad), good], step=2)
        stepped = engine.expect("stepped")
        assert (stepped["step"], stepped["metrics"]["dropped_tokens"]) == (2, 1)
        assert engine.expect("published")["version"] == 9
        assert same_weights(server, life.checksums())
        # Two checkpoints are kept: no restore needs what came before the older one.
        assert engine.saved()["oldest_request"] == 1
        assert engine.expect("next")["request"] == 5
        assert {row["version"] for row in engine.serving} <= {5, 6, 9}
        life.bye()
        assert engine.heard.count("saved") == 2, "nothing of the bad batch"


def test_a_server_that_comes_back_is_filled_again_under_the_same_version(
    tmp_path: Path, server: LiveServer
) -> None:
    with life_of(tmp_path, server.url) as life:
        life.engine.welcome(31)
        assert life.engine.expect("published")["version"] == 31
        server.kill()
        server.start()
        assert life.engine.expect("lost")["url"] == server.url
        again = life.engine.expect("published")
        assert (again["version"], again["step"]) == (31, 0)
        assert (again["servers"], again["failed"]) == ([server.url], {})
        assert server.version == "31"
        assert same_weights(server, life.checksums())
        # And the next step reaches it.
        life.engine.batch(1, 32, groups_of(0))
        life.engine.expect("stepped")
        published = life.engine.expect("published")
        assert (published["version"], published["servers"]) == (32, [server.url])
        assert same_weights(server, life.checksums())
        life.engine.saved()
        life.engine.expect("next")
        life.bye()


def test_a_follower_keeps_its_pin_until_the_engine_renews_it(
    tmp_path: Path, server: LiveServer
) -> None:
    """The judge holds step 0 over step 1, is renewed at step 2, and after step 3 a judge that
    starts anew gets step 2 again, not the newest weights."""
    server.kill()  # so that it is late: only then a copy differs from the weights themselves
    with life_of(tmp_path, judge=server.url) as life:
        engine = life.engine
        engine.welcome(5, judge=7)
        weights = [life.checksums()]

        def step(version: int, **followers: int) -> Message:
            number = len(weights)
            engine.batch(number, version, groups_of(10 * number), **followers)
            assert engine.expect("stepped")["step"] == number
            published = engine.expect("published")
            assert [published[key] for key in ("policy", "version", "step")] == [
                "solver", version, number,
            ]  # fmt: skip
            weights.append(life.checksums())
            if followers:
                published = engine.expect("published")
            engine.saved()
            engine.expect("next")
            return published

        step(6)
        server.start()
        first = engine.expect("published")
        assert [first[key] for key in ("policy", "version", "step")] == ["judge", 7, 0]
        assert (first["servers"], first["failed"]) == ([server.url], {})
        assert same_weights(server, weights[0])

        renewed = step(8, judge=9)
        assert [renewed[key] for key in ("policy", "version", "step")] == ["judge", 9, 2]
        assert (renewed["servers"], renewed["failed"]) == ([server.url], {})
        assert server.version == "9"
        assert same_weights(server, weights[2])

        step(10)
        assert server.version == "9"
        server.kill()
        server.start()
        assert engine.expect("lost") == {"kind": "lost", "policy": "judge", "url": server.url}
        again = engine.expect("published")
        assert [again[key] for key in ("policy", "version", "step")] == ["judge", 9, 2]
        assert (again["servers"], again["failed"]) == ([server.url], {})
        assert same_weights(server, weights[2])
        assert len({tuple(sorted(known.items())) for known in weights}) == 4
        life.bye()
        assert {(row["policy"], row["version"]) for row in engine.serving} <= {
            ("judge", 7), ("judge", 9),
        }  # fmt: skip


def test_the_next_life_pins_what_it_restored(tmp_path: Path, server: LiveServer) -> None:
    with life_of(tmp_path) as life:
        life.engine.welcome(1)
        life.engine.batch(1, 2, groups_of(0))
        for kind in ("stepped", "published", "next"):
            life.engine.expect(kind)
        life.engine.saved()
        restored = life.checksums()
        life.bye()
    with life_of(tmp_path, judge=server.url) as life:
        life.engine.welcome(3, judge=4)
        first = life.engine.expect("published")
        assert [first[key] for key in ("policy", "version", "step")] == ["judge", 4, 1]
        assert first["servers"] == [server.url]
        assert same_weights(server, restored)
        life.bye()


def test_a_stop_saves_and_the_next_life_continues_there(tmp_path: Path) -> None:
    with life_of(tmp_path) as life:
        life.engine.welcome(1)
        life.engine.batch(1, 2, groups_of(0))
        for kind in ("stepped", "published", "next"):
            life.engine.expect(kind)
        life.engine.saved()
        shutil.rmtree(tmp_path / "checkpoints")
        life.stop.set()
        assert life.engine.saved()["step"] == 1
        life.engine.expect("stopping")
        assert life.engine.heard[-2:] == ["saved", "stopping"]
        assert not life.ended.done(), "it waits until the engine has written its summary"
        weights = life.checksums()
        life.bye()
    with life_of(tmp_path) as life:
        # Request 2 was open: its batch is no part of these weights.
        assert life.engine.welcome(3)["policies"] == {"solver": {"step": 1, "request": 1}}
        assert life.checksums() == weights
        life.bye()


@pytest.mark.parametrize("more", [{"offload_optimizer": True}, {"lora": {"rank": 4, "alpha": 8}}])
def test_a_group_continues_from_its_checkpoints(tmp_path: Path, more: dict[str, Any]) -> None:
    """Also where the moments are on the host, and where published weights have adapters merged
    into them."""
    if "lora" in more:
        pytest.importorskip("peft")
    spec = spec_of("", tmp_path, tiny_dir(0))
    learner = LearnerConfig.model_validate({**spec.learner.model_dump(), **more})
    spec = replace(spec, learner=learner)

    def weights(group: LearnerGroup) -> dict[str, str]:
        return checksums(group.trainers["solver"].named_weights())

    group = LearnerGroup(spec, dist.HashStore())
    base = weights(group)
    assert not group.trainers["solver"].step(groups_of(0)).skipped
    group.trainers["solver"].rest()
    group.save("solver", 7)
    (saved,) = group.checkpoints.wait()
    assert isinstance(saved, Saved), saved
    again = LearnerGroup(spec, dist.HashStore())
    assert again.requests == {"solver": 7}
    assert weights(again) == weights(group) != base
    for one in (group, again):
        assert not one.trainers["solver"].step(groups_of(10)).skipped
    assert weights(again) == weights(group)


@pytest.mark.parametrize("is_welcome", [False, True])
def test_a_learner_whose_engine_is_gone_says_so(tmp_path: Path, is_welcome: bool) -> None:
    with life_of(tmp_path) as life:
        if is_welcome:
            life.engine.welcome(1)
        else:
            life.engine.expect("hello")
        life.gone.set()
        with pytest.raises(TransportError, match="engine"):
            life.ended.result(PATIENCE_S)


def test_prune_keeps_the_lineage_not_a_corrupt_later_checkpoint(tmp_path: Path) -> None:
    """Step 40 is corrupt, the run fell back to 30, and a Ctrl-C saves at 33; one is kept."""
    for step in (30, 33, 40):
        folder = tmp_path / f"step-{step:08d}"
        folder.mkdir()
        files = {"missing": "0"} if step == 40 else {}
        record = {"format": checkpoint.FORMAT, "policy": "p", "step": step, "meta": {}}
        (folder / "trainer.json").write_text(json.dumps({**record, "files": files}))
    assert checkpoint.latest_valid(tmp_path)[0] == tmp_path / "step-00000033"
    checkpoint.prune(tmp_path, 1, newest=33)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000033"]


def test_what_breaks_off_ends_with_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine dies while a checkpoint is written; the process ends right after `run_learner`."""
    address = f"ipc://{tmp_path}/engine.sock"
    spec = spec_of(address, tmp_path / "checkpoints", tiny_dir(0))
    gone, closed = threading.Event(), threading.Event()
    finish, close = checkpoint_writer._finish, Leader.close
    was_left: list[bool] = []

    def late(*arguments: Any) -> None:
        assert closed.wait(PATIENCE_S)
        with suppress(TimeoutError, TransportError):
            ended.result(1.0)
        was_left.append(ended.done())
        finish(*arguments)

    def closing(leader: Leader) -> None:
        close(leader)
        closed.set()

    monkeypatch.setattr(checkpoint_writer, "_finish", late)
    monkeypatch.setattr(Leader, "close", closing)
    engine = FakeEngine(address, lambda: None)
    ended = in_background(
        lambda: run_learner(
            spec, store=dist.HashStore(), should_stop=lambda: False, is_engine_gone=gone.is_set
        )
    )
    try:
        engine.welcome(5)
        engine.batch(1, 6, groups_of(0))
        assert engine.expect("stepped")["step"] == 1
        gone.set()
        with pytest.raises(TransportError, match="engine"):
            ended.result(PATIENCE_S)
        assert was_left == [False]
        assert checkpoint.latest_valid(spec.checkpoints["solver"])[0] is not None
    finally:
        gone.set()
        engine.close()


def listening_addresses(port: int) -> set[str]:
    """Local addresses of this machine's listening TCP sockets on `port`, as the kernel's hex."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            address, number = local.split(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


def test_a_store_listens_on_loopback_only_and_a_refusal_does_not_block() -> None:
    seen: list[set[str]] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(listening_addresses(body["master_port"]))
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b"no group today")

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(WeightSyncError, match="no group today"):
        ServerLink(f"http://127.0.0.1:{http.server_port}").connect(timeout_s=300)
    assert time.monotonic() - began < 150.0
    assert seen == [{"0100007F"}]
    http.shutdown()
    http.server_close()


@pytest.mark.slow
def test_two_ranks_step_publish_pin_and_save_together(tmp_path: Path) -> None:
    """Each sends to a server of the solver, rank 0 also to the follower's."""
    server = LiveServer(free_port(), tmp_path / "server.log", more_ports=(free_port(),))
    other = LiveServer(free_port(), tmp_path / "other.log")
    server.start()
    other.start()
    judge = f"http://127.0.0.1:{server.more_ports[0]}"
    address, checkpoints = f"ipc://{tmp_path}/engine.sock", tmp_path / "checkpoints"
    port = free_port()
    logs = [tmp_path / f"rank{rank}.log" for rank in range(2)]
    ranks = [
        spawn(
            [
                *(sys.executable, "-m", "tests.engine.test_learner_worker"),
                *(str(rank), str(port), address, f"{server.url} {other.url}", judge),
                *(str(tiny_dir(0)), str(checkpoints)),
            ],
            log=log,
            env={"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank, log in enumerate(logs)
    ]

    def failure() -> str | None:
        dead = [log for rank, log in zip(ranks, logs, strict=True) if rank.poll() is not None]
        return "\n".join(map(last_lines, dead)) or None

    engine = FakeEngine(address, failure)
    try:
        engine.welcome(50, judge=60)
        both = [server.url, other.url]
        filled: dict[int, set[str]] = {50: set(), 60: set()}
        while filled != {50: set(both), 60: {judge}}:  # who is slow, at a later look
            first = engine.expect("published")
            filled[first["version"]] |= set(first["servers"])
        base = server_checksums(judge, timeout_s=300)
        for number, version in ((1, 51), (2, 52)):
            pin = {"judge": 61} if number == 2 else {}
            engine.batch(number, version, groups_of(10 * number), **pin)
            assert engine.expect("stepped")["step"] == number
            for name, urls in (("solver", both), ("judge", [judge]))[: 1 + len(pin)]:
                published = engine.expect("published")
                assert (published["policy"], published["servers"]) == (name, urls)
                assert published["failed"] == {}
            assert engine.saved()["step"] == number
            assert engine.expect("next")["request"] == number + 1
            saved = load_file(checkpoints / f"step-{number:08d}" / "model.safetensors")
            for url in both:
                assert same_weights(url, checksums(saved.items()))
            assert same_weights(judge, checksums(saved.items()) if pin else base)

        # What rank 1 sends to falls silent, comes back, and moves away.
        assert other.process is not None
        other.process.send_signal(signal.SIGSTOP)
        engine.batch(3, 53, groups_of(30))
        assert engine.expect("stepped")["step"] == 3
        published = engine.expect("published")
        assert published["servers"] == [server.url]
        assert "5 s late" in published["failed"][other.url], "by rank 0's server, it has no other"
        engine.expect("next")
        other.kill()
        other.start()
        back = engine.expect("published")
        assert (back["version"], back["servers"], back["failed"]) == (53, [other.url], {})
        assert same_weights(other, server_checksums(server.url, timeout_s=300))
        engine.send("release", policy="solver", url=other.url)
        assert engine.expect("released")["url"] == other.url
        engine.batch(4, 54, groups_of(40))
        assert engine.expect("stepped")["step"] == 4
        assert engine.expect("published")["servers"] == [server.url]
        engine.expect("next")
        engine.send("bye")
        for rank, log in zip(ranks, logs, strict=True):
            assert rank.wait(PATIENCE_S) == 0, last_lines(log)
        sent = [(tmp_path / f"sent{rank}").read_text().split() for rank in range(2)]
        assert set(sent[0]) == {server.url, judge}
        assert sent[1] == [other.url] * 5, "filled, two steps, one in vain, filled again"
    finally:
        engine.close()
        for rank in ranks:
            end(rank)
        server.kill()
        other.kill()


def main() -> None:
    rank, port = map(int, sys.argv[1:3])
    address, urls, judge, base, checkpoints = sys.argv[3:]
    spec = with_judge(spec_of(address, Path(checkpoints), Path(base), *urls.split()), judge)
    send = Sender.send

    def noted(
        sender: Sender, tensors: NamedTensors, urls: Sequence[str], *more: Any
    ) -> dict[str, ServerResult]:
        with (Path(checkpoints).parent / f"sent{rank}").open("a") as file:
            file.write("".join(f"{url}\n" for url in urls))
        return send(sender, tensors, urls, *more)

    Sender.send = noted  # type: ignore[method-assign]
    wait = timedelta(seconds=PATIENCE_S)
    store = dist.TCPStore("127.0.0.1", port, 2, rank == 0, timeout=wait)
    run_learner(
        replace(spec, rank=rank, world=2, weights=spec.weights.model_copy(update={"stall_s": 5.0})),
        store=store,
        should_stop=lambda: False,
        is_engine_gone=lambda: False,
    )
    os._exit(0)  # as a rank of a run: gloo's threads may still be there


if __name__ == "__main__":
    main()


def test_the_next_batch_is_prepared_while_one_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches wait: both are being prepared before the first step begins."""
    monkeypatch.setattr(worker, "SERVER_CHECK_S", 1e9)  # there are none
    with life_of(tmp_path, coder=True) as life:
        group = life.group
        order: list[str] = []
        execute = group.execute

        def record(command: Message, images: Images) -> Any:
            order.append(f"{command['kind']} {command['policy']}")
            return execute(command, images)

        group.execute = record  # type: ignore[method-assign]
        life.engine.welcome(5, coder=3)
        life.engine.expect("next")
        rows = [encode_group(g)[0] for g in groups_of(0)]
        with life.paused(2):
            for policy in ("coder", "solver"):
                versions = {policy: 6}
                life.engine.send(
                    "batch",
                    policy=policy,
                    request=1,
                    step=1,
                    versions=versions,
                    ages=[],
                    groups=rows,
                )
        for policy in ("coder", "solver"):
            stepped = life.engine.expect("stepped")
            assert stepped["policy"] == policy
            assert stepped["metrics"]["prepare_wait_s"] >= 0
            life.engine.expect("published")
            life.engine.expect("next")
        life.bye()
    steps = [entry for entry in order if entry.split()[0] in ("prepare", "step")]
    assert steps == ["prepare coder", "prepare solver", "step coder", "step solver"]


def test_batches_of_the_same_policy_are_prepared_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first trains, the second is being prepared and the third is asked for. The second
    is bad: the third makes its step, and is published as that."""
    monkeypatch.setattr(worker, "SERVER_CHECK_S", 1e9)
    with life_of(tmp_path, prefetch=2) as life:
        engine, group = life.engine, life.group
        order: list[str] = []
        execute = group.execute

        def record(command: Message, images: Images) -> Any:
            order.append(command["kind"])
            return execute(command, images)

        group.execute = record  # type: ignore[method-assign]
        engine.welcome(5)
        assert [engine.expect("next")["request"] for _ in range(2)] == [2, 3]
        bad, good = groups_of(20)
        with life.paused(3):
            engine.batch(1, 6, groups_of(0))
            engine.batch(2, 7, [with_overflow(bad), good])
            engine.batch(3, 8, groups_of(40))
        assert engine.expect("stepped")["step"] == 1
        assert engine.expect("published")["version"] == 6
        assert engine.expect("next")["request"] == 4
        stepped = engine.expect("stepped")
        assert (stepped["request"], stepped["step"], stepped["skipped"]) == (2, 1, True)
        assert engine.expect("next")["request"] == 5
        stepped = engine.expect("stepped")
        assert (stepped["request"], stepped["step"], stepped["skipped"]) == (3, 2, False)
        published = engine.expect("published")
        assert (published["version"], published["step"]) == (7, 2)
        assert engine.expect("next")["request"] == 6
        assert order[:4] == ["prepare", "prepare", "prepare", "step"]

        engine.batch(4, 8, groups_of(60), step=3)
        assert engine.expect("stepped")["step"] == 3
        assert engine.expect("published")["version"] == 8
        engine.expect("next")
        for _ in range(3):
            engine.saved()
        shutil.rmtree(tmp_path / "checkpoints")
        life.stop.set()
        assert engine.saved()["step"] == 3
        engine.expect("stopping")
        life.bye()
    with life_of(tmp_path) as life:
        # Requests 5 to 7 were open.
        assert life.engine.welcome(9)["policies"] == {"solver": {"step": 3, "request": 4}}
        life.bye()


def test_a_batch_that_contradicts_the_model_is_skipped_and_kept(tmp_path: Path) -> None:
    """A placeholder without a picture: server and learner disagree about the prompt."""
    first, *rest = make_group(7).rollouts
    odd = replace(first, prompt_ids=(*first.prompt_ids, IMAGE_PAD))
    group = replace(make_group(7), rollouts=(odd, *rest))
    with life_of(tmp_path) as life:
        engine = life.engine
        engine.welcome(5)
        engine.batch(1, 6, [group])
        stepped = engine.expect("stepped")
        assert (stepped["step"], stepped["skipped"]) == (0, True)
        assert stepped["reason"] == "unpreparable"
        engine.expect("next")
        (kept,) = (tmp_path / "bad_batches").iterdir()
        (again,) = load_batch(kept)
        assert again.rollouts[0].prompt_ids == odd.prompt_ids
        engine.batch(2, 6, groups_of(0), step=1)
        assert engine.expect("stepped")["step"] == 1
        assert engine.expect("published")["version"] == 6
        engine.expect("next")
        life.bye()


def test_a_gap_between_sampler_and_learner_is_told_once(tmp_path: Path) -> None:
    """Tokens that claim to be of these very weights, with log-probs that they never gave."""

    def fresh(group: Group, version: int) -> Group:
        segments = (Segment(0, version),)
        return replace(group, rollouts=tuple(replace(r, segments=segments) for r in group.rollouts))

    with life_of(tmp_path) as life:
        engine = life.engine
        engine.welcome(5)
        for request_number, version in ((1, 6), (2, 7)):
            groups = [fresh(g, version - 1) for g in groups_of(20 * request_number)]
            engine.batch(request_number, version, groups, ages={version - 1: 0})
            stepped = engine.expect("stepped")
            assert stepped["metrics"]["sampler_gap"] > 0.1
            if request_number == 1:
                event = engine.expect("event")
                assert event["level"] == "warning"
                assert "for the same weights (learner.gap_alarm is 0.1)" in event["text"]
            engine.expect("published")
            engine.expect("next")
        engine.batch(3, 8, groups_of(60), ages={0: 7})  # older: says nothing about it
        assert "sampler_gap" not in engine.expect("stepped")["metrics"]
        engine.expect("published")
        engine.expect("next")
        life.bye()


def test_weights_are_sent_while_training_goes_on(
    tmp_path: Path, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sending thread is held up; the next step is made meanwhile, and is not what is sent."""
    may_send = threading.Event()
    send = sender.publish

    def held_up(*args: Any, **options: Any) -> Any:
        if options["version"] == 6:
            assert may_send.wait(PATIENCE_S)
        return send(*args, **options)

    monkeypatch.setattr(sender, "publish", held_up)
    with life_of(tmp_path, server.url, overlap=True) as life:
        engine = life.engine
        engine.welcome(5)
        assert engine.expect("published")["version"] == 5
        engine.batch(1, 6, groups_of(0))
        assert engine.expect("stepped")["step"] == 1
        assert engine.expect("next")["request"] == 2  # nobody has waited for the servers
        engine.batch(2, 7, groups_of(20))
        assert engine.expect("stepped")["step"] == 2
        assert server.version == "5"
        may_send.set()
        messages = [engine.receive() for _ in range(3)]  # the next request among them
        published = [message for message in messages if message["kind"] == "published"]
        assert [(p["version"], p["step"], p["failed"]) for p in published] == [
            (6, 1, {}),
            (7, 2, {}),
        ]
        assert same_weights(server, life.checksums())
        life.bye()
