"""The publisher with real embedded servers, without an engine: whom it fills with what, and how."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from engine.buckets import NamedTensors, checksums
from engine.errors import FatalError
from engine.learner import proof
from engine.learner.config import LearnerConfig
from engine.learner.connections import Connections
from engine.learner.group import LearnerGroup
from engine.learner.publisher import Publisher, folder_of
from engine.learner.spec import LearnerSpec
from engine.server_calls import Held, server_checksums
from engine.server_link import ServerLink
from engine.transport import Message
from engine.weight_files import Spec, read_weights, write_folder, write_weights
from engine.weight_names import Sent
from tests.engine.server_process import free_port, request, tiny_dir, until
from tests.engine.test_learner_worker import LiveServer, groups_of, spec_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Two ports of one process, of other weights than the learner's."""
    log = tmp_path_factory.mktemp("server") / "log"
    made = LiveServer(free_port(), log, more_ports=(free_port(),))
    made.start()
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look asks once; a busy machine is none of what these tests are about."""
    if "silent" not in request.node.name:
        monkeypatch.setattr(proof, "ANSWER_S", 20.0)


def urls_of(server: LiveServer) -> tuple[str, str]:
    return server.url, f"http://127.0.0.1:{server.more_ports[0]}"


@contextmanager
def publishing(spec: LearnerSpec, **versions: int) -> Iterator[tuple[Publisher, list[Message]]]:
    """A publisher that has begun, and what it tells the engine."""
    group, told = LearnerGroup(spec, dist.HashStore()), []
    publisher = Publisher(group, told.append)
    publisher.begin(versions)
    try:
        yield publisher, told
    finally:
        publisher.close()


def spec_with(spec: LearnerSpec, **weights: Any) -> LearnerSpec:
    return replace(spec, weights=spec.weights.model_copy(update=weights))


def step(publisher: Publisher, policy: str, seed: int) -> None:
    assert not publisher._group.trainers[policy].step(groups_of(seed)).skipped


def ours(publisher: Publisher, policy: str) -> dict[str, str]:
    return checksums(publisher._group.trainers[policy].named_weights())


def has(url: str, sums: dict[str, str]) -> bool:
    return sums.items() <= server_checksums(url, timeout_s=300).items()


def last(told: list[Message], kind: str) -> Message:
    return [message for message in told if message["kind"] == kind][-1]


def test_a_server_of_another_model_is_refused_by_name(tmp_path: Path, server: LiveServer) -> None:
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0), server.url)
    with publishing(spec, solver=1) as (publisher, told):
        layout = publisher.states["solver"].weights.layout
        name = next(iter(layout))
        layout["model.unheard.of"] = Sent("float32", (1,))
        layout[name] = Sent("float32", (7, 7))
        with pytest.raises(FatalError, match=r"does not know: model\.unheard\.of") as refused:
            publisher.look_after_servers()
        assert f"{name} [7, 7] for" in str(refused.value)
        assert server.url in str(refused.value)
    assert not told
    assert server.version == "unfilled"


def test_a_server_that_began_anew_is_told_of_and_filled_again(
    tmp_path: Path, server: LiveServer
) -> None:
    """It may be there again before anybody has missed it: nobody else would say a word."""
    first, second = urls_of(server)
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0), first, second)
    with publishing(spec, solver=50) as (publisher, told):
        publisher.look_after_servers()
        assert not [m for m in told if m["kind"] == "lost"], "those are late, not lost"
        body = {"new_version": "unfilled", "abort_all_requests": False}
        assert request(second, "/update_weight_version", body)[0] == 200
        told.clear()
        publisher.look_after_servers()
        kinds = [message["kind"] for message in told]
        assert kinds == ["serving", "lost", "published"]
        assert told[1] == {"kind": "lost", "policy": "solver", "url": second}
        assert (told[2]["servers"], told[2]["failed"]) == ([second], {})
        assert request(second, "/model_info")[1]["weight_version"] == "50"


def test_with_adapters_only_what_they_change_is_sent_to_who_has_the_rest(
    tmp_path: Path, server: LiveServer
) -> None:
    pytest.importorskip("peft")
    first, second = urls_of(server)
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0), first, second)
    lora = {**spec.learner.model_dump(), "lora": {"rank": 4, "alpha": 8}}
    spec = replace(
        spec,
        learner=LearnerConfig.model_validate(lora),
        servers={"solver": (first,)},
    )
    with publishing(spec, solver=20) as (publisher, told):
        weights = dict(publisher._group.trainers["solver"].named_weights())
        everything = sum(tensor.nbytes for tensor in weights.values())
        state = publisher.states["solver"]
        adapted = sum(weights[name].nbytes for name in publisher._group.trainers["solver"].adapted)
        publisher.look_after_servers()
        assert state.sent_bytes == everything
        step(publisher, "solver", 0)
        publisher.publish_step("solver", 21)
        assert 0 < adapted < 0.9 * everything
        assert state.sent_bytes == adapted
        assert last(told, "published")["failed"] == {}
        assert has(first, ours(publisher, "solver"))
        publisher.assign("solver", second)  # has never heard of it
        publisher.look_after_servers()
        assert state.sent_bytes == everything
        assert last(told, "published")["servers"] == [second]
        assert has(second, ours(publisher, "solver"))


def test_a_server_that_moves_gets_the_other_policys_weights(
    tmp_path: Path, server: LiveServer
) -> None:
    """Both policies have the same version: the number alone must not be taken for the weights."""
    first, second = urls_of(server)
    spec = spec_of("", tmp_path / "solver", tiny_dir(0), first, second)
    spec = replace(
        spec,
        policies=("solver", "coder"),
        servers={"solver": (first, second), "coder": ()},
        checkpoints={**spec.checkpoints, "coder": tmp_path / "coder"},
    )
    with publishing(spec, solver=30, coder=30) as (publisher, told):
        step(publisher, "coder", 0)
        publisher.look_after_servers()
        assert sorted(last(told, "published")["servers"]) == sorted((first, second))
        publisher.assign("coder", second)
        assert publisher.servers == {"solver": [first], "coder": [second]}
        assert second not in publisher.states["solver"].linked
        assert second not in publisher._group.sender._links, "it has been left, not just forgotten"
        publisher.look_after_servers()
        moved = last(told, "published")
        assert (moved["policy"], moved["servers"], moved["failed"]) == ("coder", [second], {})
        assert has(second, ours(publisher, "coder"))
        assert has(first, ours(publisher, "solver"))
        assert ours(publisher, "coder") != ours(publisher, "solver")
        told.clear()
        publisher.look_after_servers()
        assert [(m["policy"], m["servers"]) for m in told] == [
            ("solver", [first]),
            ("coder", [second]),
        ]
        publisher.release("solver", second)  # it is the coder's by now
        publisher.release("coder", second)
        assert publisher.servers == {"solver": [first], "coder": []}


def test_a_copy_goes_to_who_is_linked_when_it_is_its_turn(
    tmp_path: Path, server: LiveServer
) -> None:
    """The sending thread is busy when a server is released and a step published: it has left by
    then."""
    first, second = urls_of(server)
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0), first, second)
    with publishing(spec_with(spec, overlap=True), solver=80) as (publisher, told):
        publisher.look_after_servers()
        until(lambda: publisher.report() or "published" in [m["kind"] for m in told])
        assert last(told, "published")["servers"] == [first, second]
        told.clear()
        may_go_on = threading.Event()
        assert publisher._thread is not None
        publisher._thread.submit(may_go_on.wait, 60)
        publisher.release("solver", second)
        step(publisher, "solver", 0)
        publisher.publish_step("solver", 81)
        may_go_on.set()
        until(lambda: publisher.report() or "published" in [m["kind"] for m in told])
        assert last(told, "released")["url"] == second
        sent = last(told, "published")
        assert (sent["version"], sent["servers"], sent["failed"]) == (81, [first], {})
        assert request(second, "/model_info")[1]["weight_version"] == "80"


def test_a_misfit_that_another_rank_finds_ends_the_run(tmp_path: Path, server: LiveServer) -> None:
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0), server.url)
    with publishing(spec, solver=1) as (publisher, _):
        group = publisher._group
        misfit: Message = {"fatal": "http://far does not hold the model"}
        group.control.gather = lambda reply: [reply, misfit]  # type: ignore[method-assign]
        with pytest.raises(FatalError, match="http://far does not hold the model"):
            group.run({"kind": "connect", "servers": {}, "senders": {}})


def test_weights_go_by_way_of_the_disk(tmp_path: Path, server: LiveServer) -> None:
    first, second = urls_of(server)
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0), first, second)
    with publishing(spec_with(spec, via="disk"), solver=40) as (publisher, told):
        publisher.look_after_servers()
        for version in (41, 42):
            step(publisher, "solver", version)
            publisher.publish_step("solver", version)
        assert last(told, "published")["failed"] == {}
        for url in (first, second):
            assert request(url, "/model_info")[1]["weight_version"] == "42"
            assert has(url, ours(publisher, "solver"))
        folders = sorted((tmp_path / "published" / "solver").iterdir())
        assert [folder.name for folder in folders] == ["v41", "v42"]
        assert (folders[1] / "config.json").exists()
        before = ours(publisher, "solver")
        broken = write_folder(
            tmp_path,
            1,
            tiny_dir(0),
            {"lm_head.weight": Spec(torch.float32, (2, 2))},
            [("lm_head.weight", torch.zeros(2, 2))],
        )
        for path, reason in ((broken, "lm_head.weight"), (tmp_path / "none", "no safetensors")):
            status, answer = request(first, "/update_weights_from_disk", {"model_path": str(path)})
            assert (status, answer["success"]) == (400, False)
            assert reason in answer["message"]
        assert has(first, before)
        (folders[1] / "model.safetensors").write_bytes(b"cut short")
        body = {"model_path": str(folders[1])}
        assert request(first, "/update_weights_from_disk", body)[0] == 400
        assert has(first, before)


def test_what_a_life_before_left_in_the_folder_is_nobody_s(
    tmp_path: Path, server: LiveServer
) -> None:
    """Its versions may be these ones, and its weights others."""
    spec = spec_of("", tmp_path / "run" / "checkpoints", tiny_dir(0), server.url)
    stale = folder_of(tmp_path / "run", tmp_path / "shm") / "solver" / "v40"
    stale.mkdir(parents=True)
    (stale / "model.safetensors").write_bytes(b"of another run")
    with publishing(spec_with(spec, via="disk", folder=tmp_path / "shm"), solver=40) as (p, told):
        p.look_after_servers()
        assert last(told, "published")["failed"] == {}
        assert has(server.url, ours(p, "solver"))
        assert (stale / "config.json").exists()
        p.forget_folders()
    assert not any((tmp_path / "shm").iterdir()), "on a tmpfs it would be memory for ever"


def test_a_full_disk_costs_a_publication_and_nothing_else(
    tmp_path: Path, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder can be made in it")
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0), server.url)
    with publishing(spec_with(spec, via="disk", folder=tmp_path / "file"), solver=50) as (p, told):
        trainer = p._group.trainers["solver"]
        gathered, named_weights = [], trainer.named_weights

        def counted(*args: Any) -> NamedTensors:
            for name, tensor in named_weights(*args):
                gathered.append(name)
                yield name, tensor

        monkeypatch.setattr(trainer, "named_weights", counted)
        p.look_after_servers()
        assert "file" in last(told, "published")["failed"][server.url]
        everything = [name for name, _ in named_weights()]
        assert gathered == everything, "other ranks would wait for those that are left"
        assert server.version != "50"


def test_a_file_is_written_tensor_by_tensor_as_announced(tmp_path: Path) -> None:
    tensors = [("a", torch.randn(3, 2).bfloat16()), ("b", torch.arange(5)), ("c", torch.ones(()))]
    specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors}
    write_weights(tmp_path / "model.safetensors", specs, tensors)
    for (name, tensor), (found, read) in zip(tensors, read_weights(tmp_path, {}), strict=True):
        assert name == found
        assert torch.equal(tensor, read)
    with pytest.raises(ValueError, match="c is missing"):
        write_weights(tmp_path / "x", specs, tensors[:2])
    with pytest.raises(ValueError, match=r"b .* was not announced"):
        write_weights(tmp_path / "x", specs, [tensors[0], ("b", torch.zeros(5))])


def test_in_place_updates_come_with_a_warning(tmp_path: Path) -> None:
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0))
    with publishing(spec_with(spec, pause="in_place"), solver=1) as (_, told):
        assert [message["level"] for message in told] == ["warning"]
        assert "no single model" in told[0]["text"]


def served(told: list[Message]) -> set[str]:
    return {url for message in told if message["kind"] == "published" for url in message["servers"]}


class NeverJoins:
    """Takes every call, and joins no group; `release` lets it answer."""

    def __init__(self) -> None:
        self.release, self.asked = threading.Event(), threading.Event()
        outer = self

        class Endpoint(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"weight_version": "none"})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/init_weights_update_group":
                    outer.asked.set()
                    outer.release.wait(300)
                self._answer({"success": False, "message": "too late"})

            def _answer(self, body: dict[str, Any]) -> None:
                answer = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


def test_a_server_that_never_joins_holds_up_nobody(
    tmp_path: Path, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the call, and its time-out is far away: the others are filled at once, and at the
    next looks nobody waits for it any more."""
    monkeypatch.setattr(proof, "names_misfit", lambda *_, **__: "")
    hung, (first, second) = NeverJoins(), urls_of(server)
    spec = spec_of("", tmp_path / "checkpoints", tiny_dir(0), hung.url, first, second)
    spec = spec_with(spec, timeout_s=300, stall_s=0.5)
    try:
        with publishing(spec, solver=70) as (publisher, told):
            began = time.monotonic()
            publisher.look_after_servers()
            assert hung.asked.is_set()
            assert time.monotonic() - began < 150
            # A busy machine may need more than that half second to join the others.
            until(lambda: publisher.look_after_servers() and served(told) == {first, second})
            assert not any(message["failed"] for message in told if "failed" in message)
            step(publisher, "solver", 0)
            publisher.publish_step("solver", 71)
            told.clear()
            publisher.look_after_servers()
            assert last(told, "serving")["servers"] == [first, second]
            assert hung.url not in publisher.states["solver"].linked
    finally:
        hung.close()


def test_who_joins_late_is_filled_at_a_later_look(tmp_path: Path, server: LiveServer) -> None:
    connections = Connections(spec_of("", tmp_path, tiny_dir(0), server.url))
    may_join = threading.Event()

    def connect(url: str, layout: object) -> ServerLink:
        assert may_join.wait(300)
        return ServerLink(url)

    connections._connect = connect  # type: ignore[method-assign]
    assert connections.make({server.url: {}}, 0.05) == {}
    began = time.monotonic()
    assert connections.make({server.url: {}}, 300) == {}, "it is waited for once"
    assert time.monotonic() - began < 150
    may_join.set()
    until(lambda: server.url in connections.make({server.url: {}}, 300))


def test_nobody_waits_a_second_time_for_a_server_that_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        silent = f"http://127.0.0.1:{hole.getsockname()[1]}"
        versions = proof.Versions()
        began = time.monotonic()
        assert versions.ask([silent]) == {silent: None}
        assert time.monotonic() - began >= proof.ANSWER_S
        began = time.monotonic()
        assert versions.ask([silent]) == {silent: None}
        assert time.monotonic() - began < proof.ANSWER_S
        versions.close()


def test_the_sums_of_fused_tensors_are_those_of_their_parts() -> None:
    parts = {
        f"model.language_model.layers.0.self_attn.{p}_proj.weight": torch.randn(4, 3) for p in "qkv"
    }
    norm = torch.randn(4).bfloat16()
    held = {
        "model.layers.0.self_attn.qkv_proj.weight": Held("0"),
        "model.norm.weight": Held("0", "float32", (4,)),
    }
    found = proof.expected_checksums([*parts.items(), ("model.norm.weight", norm)], held)
    whole = torch.cat(list(parts.values()))
    want = checksums([(next(iter(held)), whole), ("model.norm.weight", norm.float())])
    assert {name: sums[0] for name, sums in found.items()} == want


def test_a_table_may_be_filled_up_with_rows_of_zeros() -> None:
    """SGLang's embeddings have a multiple of 64 rows."""
    name, table = "visual.pos_embed.weight", torch.randn(36, 3)
    found = proof.expected_checksums([(f"model.{name}", table)], {name: Held("0")})
    filled = torch.cat([table, torch.zeros(28, 3)])
    assert found == {name: tuple(checksums([(name, t)])[name] for t in (table, filled))}


def test_tied_embeddings_are_read_from_the_config(tmp_path: Path) -> None:
    for config, tied in (
        ({"tie_word_embeddings": True}, True),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({}, False),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert proof.is_tied(tmp_path) is tied
