"""Server host: starts one server process, keeps it running, and ends it in order.

The embedded server serves all policies of a host from one process; SGLang takes one process, and
so one host, per policy. Whoever listens for events learns when a server holds only its start-up
weights again.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Literal

import aiohttp

from engine.children import end, last_lines, spawn
from engine.errors import ConfigError, EngineError

_POLL_S = 0.1
_BAD_INPUT = 2
"""Exit status of an embedded server that was given something unusable: no restart mends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One server process. Raises ConfigError where it makes no sense."""

    kind: Literal["embedded", "sglang"]
    model_dirs: Mapping[str, Path]
    """{policy: folder whose weights it starts with}."""
    ports: Mapping[str, int]
    """{policy: port}."""
    host: str = "127.0.0.1"
    device: str = "cpu"
    tensor_parallel: int = 1
    context_length: int = 512
    max_running: int = 256
    weight_version: str = "0"
    admin_key: str | None = None
    seed: int = 0
    gpus: tuple[int, ...] = ()
    """Local indices of the GPUs that it may see; empty: all."""
    extra_args: tuple[str, ...] = ()
    python: str = sys.executable
    """SGLang may live in an environment of its own."""

    def __post_init__(self) -> None:
        if set(self.model_dirs) != set(self.ports) or not self.ports:
            raise ConfigError(
                f"server: policies with a model {sorted(self.model_dirs)} are not those with a "
                f"port {sorted(self.ports)}"
            )
        if self.kind == "sglang" and len(self.ports) != 1:
            raise ConfigError(
                f"server: an SGLang server serves one policy, not {', '.join(self.ports)}; "
                "give each policy a server of its own"
            )
        if self.kind == "embedded" and self.tensor_parallel != 1:
            raise ConfigError("server: the embedded server has no tensor parallelism; set tp to 1")

    @property
    def urls(self) -> dict[str, str]:
        """{policy: URL}."""
        return {policy: f"http://{self.host}:{port}" for policy, port in self.ports.items()}

    @property
    def name(self) -> str:
        """For log files."""
        return f"{self.kind}-{'-'.join(self.ports)}"


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """Something happened to the process."""

    kind: Literal["starting", "ready", "died", "stopped"]
    pid: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How often a server may die: `budget` times per `window_s`, with growing pauses."""

    budget: int = 5
    window_s: float = 600.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    ready_timeout_s: float = 600.0
    grace_s: float = 5.0

    def pause_s(self, recent_deaths: int) -> float:
        """How long to wait before the next start."""
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** (recent_deaths - 1))


def command_line(spec: ServerSpec) -> list[str]:
    """The command that starts the server of `spec`."""
    build = _embedded_command if spec.kind == "embedded" else _sglang_command
    command = build(spec)
    if spec.admin_key:
        command += ["--admin-api-key", spec.admin_key]
    return [*command, *spec.extra_args]


def _embedded_command(spec: ServerSpec) -> list[str]:
    command = [spec.python, "-m", "engine.servers.embedded"]
    for policy, port in spec.ports.items():
        command += ["--serve", f"{port}={spec.model_dirs[policy]}"]
    return [
        *command,
        *("--host", spec.host),
        *("--device", spec.device),
        *("--dtype", "float32" if spec.device == "cpu" else "bfloat16"),
        *("--max-running-requests", str(spec.max_running)),
        *("--context-length", str(spec.context_length)),
        *("--weight-version", spec.weight_version),
        *("--seed", str(spec.seed)),
    ]


def _sglang_command(spec: ServerSpec) -> list[str]:
    ((policy, port),) = spec.ports.items()
    command = [
        *(spec.python, "-m", "sglang.launch_server"),
        *("--model-path", str(spec.model_dirs[policy])),
        *("--host", spec.host),
        *("--port", str(port)),
        *("--tp", str(spec.tensor_parallel)),
        *("--max-running-requests", str(spec.max_running)),
        *("--context-length", str(spec.context_length)),
        *("--weight-version", spec.weight_version),
        *("--random-seed", str(spec.seed)),
    ]
    if spec.device == "cpu":
        command += [
            *("--device", "cpu"),
            *("--dtype", "float32"),
            *("--attention-backend", "torch_native"),
            *("--mm-attention-backend", "sdpa"),
            *("--sampling-backend", "pytorch"),
            "--disable-overlap-schedule",
        ]
    return command


def environment(spec: ServerSpec) -> dict[str, str]:
    """What is added to the environment of the server of `spec`."""
    # A server started below torchrun must not take the agent's key-value store for its own:
    # its process groups with the learner would look under other keys.
    added = {"TORCHELASTIC_USE_AGENT_STORE": "False", "HF_HUB_OFFLINE": "1"}
    if spec.device == "cpu":
        added["OMP_NUM_THREADS"] = "1"
    if spec.gpus:
        added["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, spec.gpus))
    if spec.kind == "sglang":
        # Image embeddings would outlive weight updates; a health check would generate a token,
        # and fail during a pause.
        added["SGLANG_VLM_CACHE_SIZE_MB"] = "0"
        added["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] = "0"
        if spec.device == "cpu":
            added["SGLANG_USE_CPU_ENGINE"] = "1"
    return added


@dataclass(slots=True)
class _Deaths:
    """When the process died, within the window of the policy."""

    policy: RestartPolicy
    times: deque[float] = field(default_factory=deque)

    def add(self) -> int:
        """Count one now; how many are recent."""
        now = time.monotonic()
        self.times.append(now)
        while self.times[0] < now - self.policy.window_s:
            self.times.popleft()
        return len(self.times)


async def serve(
    spec: ServerSpec,
    log_dir: Path,
    stop: asyncio.Event,
    on_event: Callable[[ServerEvent], None],
    *,
    restarts: RestartPolicy | None = None,
) -> None:
    """Run the server until `stop`, restarting it when it dies.

    To be called on the main thread: the kernel ends the child with the thread that started it.

    Raises:
        ConfigError: a port is in use, or the server refuses its input.
        EngineError: it died too often, or does not become ready; with its last log lines.
    """
    policy = restarts or RestartPolicy()
    log = _log_file(spec, log_dir)
    deaths = _Deaths(policy)
    while not stop.is_set():
        _check_ports(spec)
        process = spawn(command_line(spec), log=log, env=environment(spec))
        try:
            on_event(ServerEvent("starting", process.pid))
            if await _until_ready(spec, process, stop, log, policy):
                on_event(ServerEvent("ready", process.pid))
            while process.poll() is None and not stop.is_set():
                await _wait(stop, _POLL_S)
        finally:
            died = process.poll()
            await asyncio.shield(asyncio.to_thread(_end_all, process, policy.grace_s))
        if died is None:
            on_event(ServerEvent("stopped", process.pid))
            return
        last = last_lines(log)
        on_event(ServerEvent("died", process.pid, f"status {died}\n{last}"))
        if died == _BAD_INPUT and spec.kind == "embedded":
            raise ConfigError(last.rpartition("error: ")[2] or last)
        recent = deaths.add()
        if recent > policy.budget:
            raise EngineError(
                f"server {spec.name}: died {recent} times in {policy.window_s:.0f} s; "
                f"the last lines of {log}:\n{last}"
            )
        await _wait(stop, policy.pause_s(recent))


def _log_file(spec: ServerSpec, log_dir: Path) -> Path:
    log_dir.mkdir(parents=True, exist_ok=True)
    return log_dir / f"{spec.name}.log"


def _check_ports(spec: ServerSpec) -> None:
    """Raise ConfigError where another process listens: it would pass for our server."""
    for policy, port in spec.ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((spec.host, port))
            except OSError as error:
                raise ConfigError(
                    f"server for {policy}: port {port} of {spec.host}: {error.strerror}; "
                    "end what uses it, or choose another port"
                ) from error


def _end_all(process: Popen[bytes], grace_s: float) -> None:
    """End the server, then whatever is left in its session."""
    end(process, grace_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _until_ready(
    spec: ServerSpec,
    process: Popen[bytes],
    stop: asyncio.Event,
    log: Path,
    policy: RestartPolicy,
) -> bool:
    """Wait for all ports to answer; False where the process ended or `stop` came first."""
    deadline = time.monotonic() + policy.ready_timeout_s
    pending = set(spec.urls.values())
    timeout = aiohttp.ClientTimeout(total=2.0)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while pending:
            if process.poll() is not None or stop.is_set():
                return False
            if time.monotonic() > deadline:
                raise EngineError(
                    f"server {spec.name}: not ready after {policy.ready_timeout_s:.0f} s; "
                    f"the last lines of {log}:\n{last_lines(log)}"
                )
            for url in tuple(pending):
                if await _answers(session, url):
                    pending.discard(url)
            if pending:
                await _wait(stop, _POLL_S)
    return True


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/ready") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    """Return after `seconds`, or at once when `stop` is set."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
