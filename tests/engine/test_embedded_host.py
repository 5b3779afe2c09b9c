"""The server host: command lines, restarts, and a publication around a death."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ConfigError, EngineError
from engine.servers.host import (
    RestartPolicy,
    ServerEvent,
    ServerSpec,
    command_line,
    environment,
    serve,
)
from engine.weights import ServerLink, publish
from tests.engine.server_process import (
    free_port,
    generate,
    shared_server,
    tiny_dir,
    tiny_module,
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
    command = command_line(spec_of(admin_key="A", extra_args=("--max-queued-requests", "9")))
    assert command[1:3] == ["-m", "engine.servers.embedded"]
    serves = [command[i + 1] for i, word in enumerate(command) if word == "--serve"]
    assert serves == ["3001=/models/a", "3002=/models/b"]
    assert command[-4:] == ["--admin-api-key", "A", "--max-queued-requests", "9"]
    assert command[command.index("--dtype") + 1] == "float32"
    assert environment(spec_of())["OMP_NUM_THREADS"] == "1"


def test_an_sglang_command_has_what_reinforcement_learning_needs() -> None:
    one = {"model_dirs": {"solver": Path("/m")}, "ports": {"solver": 3001}}
    spec = spec_of(kind="sglang", device="cuda", tensor_parallel=2, **one)
    command = command_line(spec)
    assert command[1:5] == ["-m", "sglang.launch_server", "--model-path", "/m"]
    assert command[command.index("--tp") + 1] == "2"
    assert "--attention-backend" not in command
    assert "torch_native" in command_line(spec_of(kind="sglang", **one))
    added = environment(spec)
    assert added["SGLANG_VLM_CACHE_SIZE_MB"] == "0"
    assert added["TORCHELASTIC_USE_AGENT_STORE"] == "False"


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
    assert [policy.pause_s(n) for n in (1, 2, 3, 4, 50)] == [1, 2, 4, 5, 5]


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
        return publish(weights, [survivor, mortal], version=version, timeout_s=20).failed

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
