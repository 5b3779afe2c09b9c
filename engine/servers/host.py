"""Server host: starts one server process, keeps it running, and ends it in order.

Whoever listens for events learns when a server holds only its start-up weights again.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import aiohttp

from engine.children import Process, end, last_lines, spawn
from engine.errors import ConfigError, EngineError
from engine.servers.embedded.template import Forked, Template
from engine.servers.spec import EMBEDDED, ServerSpec, command_line, environment, write_keys

_POLL_S = 0.1
_LINGER_S = 5.0
"""A server that dies with its template is not ours to reap: its ports may outlast its socket."""
_BAD_INPUT = 2
"""Exit status of an embedded server that was given something unusable: no restart mends it."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """Something happened to the process."""

    kind: Literal["starting", "ready", "silent", "died", "stopped"]
    pid: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How often a server may die: `budget` times per `window_s`. One that was ready is started
    again at once; one that was not, after pauses that grow."""

    budget: int = 5
    window_s: float = 600.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    ready_timeout_s: float = 600.0
    silent_s: float = 300.0
    """A server that has been ready and then says nothing for so long is killed: its scheduler waits
    for something that will not come, such as a learner that never joins a group."""
    grace_s: float = 5.0

    def pause_s(self, failed_starts: int) -> float:
        """How long to wait before the next start, after so many in a row that came to nothing."""
        if not failed_starts:
            return 0.0
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** (failed_starts - 1))


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
    keys = write_keys(spec, log.with_suffix(".keys.yaml"))
    deaths = _Deaths(policy)
    failed_starts = 0
    with _starter(spec, keys, log) as start:
        while not stop.is_set():
            await _until_free(spec, _LINGER_S if deaths.times else 0.0)
            process = start()
            try:
                was_ready = await _live(process, spec, stop, on_event, log, policy)
                failed_starts = 0 if was_ready else failed_starts + 1
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
            await _wait(stop, policy.pause_s(failed_starts))


async def _live(
    process: Process,
    spec: ServerSpec,
    stop: asyncio.Event,
    on_event: Callable[[ServerEvent], None],
    log: Path,
    policy: RestartPolicy,
) -> bool:
    """From the start of a process to its end, or to `stop`; whether it was ever ready."""
    await _until_begun(process, stop, policy)
    on_event(ServerEvent("starting", process.pid))
    if not await _until_ready(spec, process, stop, log, policy):
        return False
    on_event(ServerEvent("ready", process.pid))
    if await _until_silent(spec, process, stop, policy.silent_s):
        on_event(ServerEvent("silent", process.pid, f"for {policy.silent_s:.0f} s"))
        process.kill()
        await asyncio.to_thread(process.wait)
    return True


@contextlib.contextmanager
def _starter(spec: ServerSpec, keys: Path | None, log: Path) -> Iterator[Callable[[], Process]]:
    """What starts the server: a template that forks it where that is safe, so that only the first
    start has to import torch."""
    command, env = command_line(spec, keys), environment(spec)
    ours = spec.kind == "embedded" and spec.python == sys.executable
    if not (ours and spec.device == "cpu" and sys.platform == "linux"):
        yield lambda: spawn(command, log=log, env=env)
        return
    template = Template(command[len(EMBEDDED) + 1 :], log=log, env=env)
    try:
        yield template.fork
    finally:
        template.close()


async def _until_begun(process: Process, stop: asyncio.Event, policy: RestartPolicy) -> None:
    """Wait until the process has the pid that it will keep, or for the time it has to be ready."""
    if isinstance(process, Forked):
        deadline = time.monotonic() + policy.ready_timeout_s
        while not (process.has_begun or stop.is_set() or time.monotonic() > deadline):
            await _wait(stop, _POLL_S / 10)


def _log_file(spec: ServerSpec, log_dir: Path) -> Path:
    """The server's log, for its owner's eyes: SGLang writes its arguments there, keys included."""
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / f"{spec.name}.log"
    log.touch(mode=0o600)
    return log


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


async def _until_free(spec: ServerSpec, patience_s: float) -> None:
    """Wait for the ports of a server that is just dying; raises ConfigError for any other's."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _check_ports(spec)
        except ConfigError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_POLL_S / 10)


def _end_all(process: Process, grace_s: float) -> None:
    """End the server, by SIGTERM or after `grace_s` by SIGKILL, and what is left in its session."""
    end(process, grace_s)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _until_ready(
    spec: ServerSpec,
    process: Process,
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
                if await _answers(session, spec, url):
                    pending.discard(url)
            if pending:
                await _wait(stop, _POLL_S)
    return True


async def _until_silent(
    spec: ServerSpec, process: Process, stop: asyncio.Event, silent_s: float
) -> bool:
    """Wait for the end of the process or for `stop`; True where instead a port falls silent."""
    looks = [asyncio.create_task(_listen(spec, url, silent_s)) for url in spec.urls.values()]
    try:
        while process.poll() is None and not stop.is_set():
            if any(look.done() for look in looks):
                return True
            await _wait(stop, _POLL_S)
        return False
    finally:
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)


async def _listen(spec: ServerSpec, url: str, silent_s: float) -> None:
    """Return when `url` has let a question wait, or refused all, for `silent_s`.

    /server_info is answered by the scheduler itself, in a pause too, and by SGLang's only between
    two of its tasks: others come from processes that are always awake. One question at a time, and
    none is withdrawn: SGLang matches their answers by order.
    """
    key = {"Authorization": f"Bearer {spec.api_key}"} if spec.api_key else {}
    timeout = aiohttp.ClientTimeout(total=silent_s)
    heard_s = time.monotonic()
    async with aiohttp.ClientSession(timeout=timeout, headers=key) as session:
        while True:
            try:
                async with session.get(f"{url}/server_info") as response:
                    await response.read()
                heard_s = time.monotonic()
            except TimeoutError:
                return
            except aiohttp.ClientError:  # it is dying, which its process will show, if it can
                if time.monotonic() - heard_s > silent_s:
                    return
            await asyncio.sleep(min(10.0, silent_s / 10))


async def _answers(session: aiohttp.ClientSession, spec: ServerSpec, url: str) -> bool:
    """Whether `url` is ready, and paused where it is to start so."""
    key = {"Authorization": f"Bearer {spec.api_key}"} if spec.api_key else {}
    try:
        async with session.get(f"{url}{spec.ready_path}") as response:
            # The embedded server pauses itself.
            if response.status != 200 or not spec.starts_paused or spec.kind == "embedded":
                return response.status == 200
        pause = {"mode": "retract"}
        async with session.post(f"{url}/pause_generation", json=pause, headers=key) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    """Return after `seconds`, or at once when `stop` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
