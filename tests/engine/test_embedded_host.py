"""The server host: command lines, restarts, and a publication around a death."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.children import end, spawn
from engine.config import ServerHostConfig
from engine.errors import ConfigError, EngineError
from engine.server_link import ServerLink
from engine.servers.embedded.__main__ import parse_arguments
from engine.servers.host import RestartPolicy, ServerEvent, _listen, serve
from engine.servers.spec import (
    ServerSpec,
    check_interpreter,
    check_server_host,
    command_line,
    environment,
    write_keys,
)
from engine.weights import publish
from tests.engine.server_process import (
    answers,
    free_port,
    generate,
    in_background,
    load_of,
    request,
    shared_server,
    tiny_dir,
    tiny_module,
    until,
)

QUICK = RestartPolicy(budget=2, first_pause_s=0.01, longest_pause_s=0.02, ready_timeout_s=90)


def spec_of(**changes: object) -> ServerSpec:
    values: dict[str, object] = {
        "kind": "embedded",
        "model_dirs": {"solver": Path("/models/a"), "coder": Path("/models/b")},
        "ports": {"solver": 3001, "coder": 3002},
        **changes,
    }
    return ServerSpec(**values)  # type: ignore[arg-type]


def test_the_embedded_server_serves_all_policies_from_one_process() -> None:
    command = command_line(spec_of(extra_args=("--max-queued-requests", "9")))
    assert command[1:3] == ["-m", "engine.servers.embedded"]
    serves = [command[i + 1] for i, word in enumerate(command) if word == "--serve"]
    assert serves == ["3001=/models/a", "3002=/models/b"]
    assert command[-2:] == ["--max-queued-requests", "9"]
    assert command[command.index("--dtype") + 1] == "float32"
    assert environment(spec_of())["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    "visible, gpus",
    [(None, "2,3"), ("4,5,6,7", "6,7"), ("GPU-a,GPU-b,MIG-c,GPU-d", "MIG-c,GPU-d")],
)
def test_a_server_sees_a_part_of_the_gpus_that_its_host_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment(spec_of(device="cuda", gpus=(2, 3)))["CUDA_VISIBLE_DEVICES"] == gpus


def test_a_server_never_takes_a_gpu_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(ConfigError, match=r"CUDA_VISIBLE_DEVICES: it names 2 GPUs, .* number 2"):
        environment(spec_of(device="cuda", gpus=(2,)))


def test_a_server_that_starts_paused_answers_nobody_before_it_is_told_to() -> None:
    """By itself: who pauses it only once it answers comes too late."""
    port = free_port()
    spec = spec_of(model_dirs={"a": tiny_dir()}, ports={"a": port}, starts_paused=True)
    process = spawn(command_line(spec), log=None)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url, spec.ready_path), timeout_s=300)
        answer = in_background(lambda: generate(url, [1, 2, 3], max_new_tokens=2))
        until(lambda: load_of(url) == (0, 1))
        assert not answer.done()
        assert request(url, "/continue_generation", {})[0] == 200
        assert len(answer.result(20)["output_ids"]) == 2
    finally:
        end(process)


def test_an_sglang_command_has_what_reinforcement_learning_needs() -> None:
    one = {"model_dirs": {"solver": Path("/m")}, "ports": {"solver": 3001}}
    spec = spec_of(kind="sglang", device="cuda", tensor_parallel=2, **one)
    command = command_line(spec)
    assert command[1:5] == ["-m", "sglang.launch_server", "--model-path", "/m"]
    assert command[command.index("--tp") + 1] == "2"
    assert "--attention-backend" not in command
    assert "torch_native" in command_line(spec_of(kind="sglang", **one))
    assert "--enable-metrics" in command
    assert "--mem-fraction-static" not in command
    chosen = command_line(
        spec_of(kind="sglang", device="cuda", mem_fraction=0.7, deterministic=True, **one)
    )
    assert chosen[chosen.index("--mem-fraction-static") + 1] == "0.7"
    assert "--enable-deterministic-inference" in chosen
    assert "--enable-priority-scheduling" not in chosen
    assert "--max-total-tokens" not in chosen
    sharing = command_line(spec_of(kind="sglang", device="cuda", cache_tokens=9000, **one))
    assert sharing[sharing.index("--max-total-tokens") + 1] == "9000"
    heeding = command_line(spec_of(kind="sglang", has_priorities=True, **one))
    assert heeding[heeding.index("--default-priority-value") + 1] == "0"
    added = environment(spec)
    assert added["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"
    assert added["SGLANG_VLM_CACHE_SIZE_MB"] == "0"
    assert added["TORCHELASTIC_USE_AGENT_STORE"] == "False"


def test_keys_are_in_a_file_of_their_own_and_never_on_the_command_line(tmp_path: Path) -> None:
    spec = spec_of(api_key="it's: #secret", admin_key="A")
    keys = write_keys(spec, tmp_path / "keys.yaml")
    assert keys is not None
    assert keys.stat().st_mode & 0o777 == 0o600
    command = command_line(spec, keys)
    assert not any("secret" in word for word in command)
    options = parse_arguments(command[3:])
    assert (options.api_key, options.admin_api_key) == ("it's: #secret", "A")
    assert write_keys(spec_of(), tmp_path / "none.yaml") is None


@pytest.mark.parametrize(
    "versions, why",
    [
        ({"torch": "2.13.1+cpu", "sglang": "0.5.21"}, None),
        (
            {"torch": "2.14.1", "sglang": "0.5.23"},
            r"layout.servers.0.python: .*torch 2\.14\.1.*2.13",
        ),
        ({"torch": None, "sglang": "0.5.23"}, r"torch \(none\)"),
        ({"torch": "2.13.0", "sglang": "0.5.20"}, r"sglang 0\.5\.20; install 0\.5\.21 or later"),
        ({"torch": "2.13.0", "sglang": None}, "no sglang.*make venv-sglang"),
    ],
)
def test_a_servers_interpreter_must_fit_the_learners(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    versions: dict[str, str | None],
    why: str | None,
) -> None:
    monkeypatch.setattr("engine.servers.spec.metadata.version", lambda _: "2.13.0")
    python = Path(failing_python(tmp_path, f"echo '{json.dumps(versions)}'"))
    if why is None:
        check_interpreter("sglang", python, "layout.servers.0.python")
        return
    with pytest.raises(ConfigError, match=why):
        check_interpreter("sglang", python, "layout.servers.0.python")


def test_an_interpreter_is_asked_itself() -> None:
    check_interpreter("embedded", Path(sys.executable), "here")
    check_interpreter("embedded", None, "here")
    with pytest.raises(ConfigError, match=r"here: there is no interpreter /no/such; SGLang is"):
        check_interpreter("sglang", Path("/no/such"), "here")


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"mem_fraction": 0.5}, r"layout.servers.1.mem_fraction: only SGLang"),
        ({"deterministic": True}, r"layout.servers.1.deterministic: only SGLang"),
        ({"kind": "sglang", "deterministic": True}, r"no such mode on a CPU"),
    ],
)
def test_settings_that_a_server_could_not_honour_are_refused(
    settings: dict[str, object], why: str
) -> None:
    host = ServerHostConfig(rank=1, policies=("solver",), **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=why):
        check_server_host(host, "cpu", "layout.servers.1")


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"ports": {"solver": 1}}, "policies"),
        ({"kind": "sglang"}, "one policy"),
        ({"tensor_parallel": 2}, "tensor parallelism"),
    ],
)
def test_senseless_specs_are_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        spec_of(**changes)


def test_pauses_grow_up_to_a_limit() -> None:
    policy = RestartPolicy(first_pause_s=1, longest_pause_s=5)
    assert [policy.pause_s(n) for n in (0, 1, 2, 3, 4, 50)] == [0, 1, 2, 4, 5, 5]


class Listener:
    """Collects events, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[ServerEvent] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, event: ServerEvent) -> None:
        self.events.append(event)
        task = asyncio.get_running_loop().create_task(self._notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def count(self, kind: str, number: int) -> ServerEvent:
        """The `number`-th event of a kind."""

        def found() -> list[ServerEvent]:
            return [event for event in self.events if event.kind == kind]

        async with self._changed:
            await asyncio.wait_for(
                self._changed.wait_for(lambda: len(found()) >= number), timeout=90
            )
        return found()[number - 1]


def test_a_killed_server_is_restarted_and_costs_a_publication_only_itself(tmp_path: Path) -> None:
    asyncio.run(_kill_and_refill(tmp_path))


async def _kill_and_refill(tmp_path: Path) -> None:
    spec = ServerSpec(
        kind="embedded", model_dirs={"p": tiny_dir()}, ports={"p": free_port()}, weight_version="5"
    )
    stop, heard = asyncio.Event(), Listener()
    supervisor = asyncio.create_task(serve(spec, tmp_path, stop, heard, restarts=QUICK))
    first = await heard.count("ready", 1)
    survivor, mortal = ServerLink(shared_server().urls[0]), ServerLink(spec.urls["p"])
    weights = list(tiny_module(1).state_dict().items())

    def publish_to_both(version: int) -> list[str]:
        return publish(weights, [survivor, mortal], version=version, timeout_s=300).failed

    for link in (survivor, mortal):
        await asyncio.to_thread(link.connect, 30)
    assert await asyncio.to_thread(publish_to_both, 70) == []
    os.kill(first.pid, signal.SIGKILL)
    assert await asyncio.to_thread(publish_to_both, 71) == [mortal.url]
    second = await heard.count("ready", 2)
    assert second.pid != first.pid
    answer = await asyncio.to_thread(generate, mortal.url, (1, 2, 3))
    assert answer["meta_info"]["weight_version"] == "5"
    await asyncio.to_thread(mortal.connect, 30)
    assert await asyncio.to_thread(publish_to_both, 72) == []
    for url in (survivor.url, mortal.url):
        answer = await asyncio.to_thread(generate, url, (1, 2, 3))
        assert answer["meta_info"]["weight_version"] == "72"
    for link in (survivor, mortal):
        await asyncio.to_thread(link.close)
    stop.set()
    await asyncio.wait_for(supervisor, 30)
    kinds = [event.kind for event in heard.events]
    assert kinds == ["starting", "ready", "died", "starting", "ready", "stopped"]
    with pytest.raises(ProcessLookupError):
        os.kill(second.pid, 0)


def test_a_server_that_falls_silent_is_restarted(tmp_path: Path) -> None:
    asyncio.run(_stop_without_dying(tmp_path))


async def _stop_without_dying(tmp_path: Path) -> None:
    spec = ServerSpec(
        kind="embedded", model_dirs={"p": tiny_dir()}, ports={"p": free_port()}, api_key="K"
    )
    quick = RestartPolicy(first_pause_s=0.01, ready_timeout_s=90, silent_s=4.0)
    stop, heard = asyncio.Event(), Listener()
    supervisor = asyncio.create_task(serve(spec, tmp_path, stop, heard, restarts=quick))
    first = await heard.count("ready", 1)
    os.kill(first.pid, signal.SIGSTOP)
    second = await heard.count("ready", 2)
    assert second.pid != first.pid
    stop.set()
    await asyncio.wait_for(supervisor, 30)
    kinds = [event.kind for event in heard.events]
    assert kinds == ["starting", "ready", "silent", "died", "starting", "ready", "stopped"]


def test_a_port_where_nobody_answers_is_silent_too() -> None:
    """Its process might not show that it died: a template that was stopped does not say so."""
    spec = spec_of(ports={"solver": free_port(), "coder": free_port()})
    asyncio.run(asyncio.wait_for(_listen(spec, spec.urls["coder"], 0.2), 60))


def run_serve(spec: ServerSpec, tmp_path: Path, on_event: Callable[[ServerEvent], None]) -> None:
    async def main() -> None:
        await asyncio.wait_for(serve(spec, tmp_path, asyncio.Event(), on_event, restarts=QUICK), 60)

    asyncio.run(main())


def failing_python(tmp_path: Path, script: str) -> str:
    """An interpreter's stand-in that runs `script`."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_server_that_keeps_dying_ends_with_its_last_words(tmp_path: Path) -> None:
    events: list[ServerEvent] = []
    spec = ServerSpec(
        kind="embedded",
        model_dirs={"p": tmp_path},
        ports={"p": free_port()},
        python=failing_python(tmp_path, "echo the reason; exit 7"),
    )
    with pytest.raises(EngineError, match=r"(?s)died 3 times.*the reason"):
        run_serve(spec, tmp_path, events.append)
    assert [event.kind for event in events] == ["starting", "died"] * 3


def test_bad_input_is_not_tried_again(tmp_path: Path) -> None:
    events: list[ServerEvent] = []
    spec = ServerSpec(
        kind="embedded",
        model_dirs={"p": tmp_path},
        ports={"p": free_port()},
        python=failing_python(tmp_path, "echo 'error: no such model' >&2; exit 2"),
    )
    with pytest.raises(ConfigError, match=r"^no such model$"):
        run_serve(spec, tmp_path, events.append)
    assert [event.kind for event in events] == ["starting", "died"]


def test_a_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    events: list[ServerEvent] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        spec = ServerSpec(kind="embedded", model_dirs={"p": tmp_path}, ports={"p": port})
        with pytest.raises(ConfigError, match=f"port {port}"):
            run_serve(spec, tmp_path, events.append)
    assert not events
