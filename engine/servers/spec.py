"""What one server process is: its policies and limits, its command line, its interpreter.

The embedded server serves all policies of a host from one process; SGLang takes one process, and
so one host, per policy. SGLang's router is started and watched like a server, and generates nothing
itself.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from engine.config import ServerHostConfig
from engine.errors import ConfigError
from engine.nodes import LOOPBACK, VISIBLE_GPUS, visible_gpus
from engine.servers.router import router_command

OLDEST_SGLANG = (0, 5, 21)
"""The first with weight update sessions and version spans."""
EMBEDDED = ("-m", "engine.servers.embedded")
"""What an interpreter is given to run the embedded server."""
_INSTALL = "SGLang is installed on GPUs by pip install -e '.[gpu]', on a CPU by make venv-sglang"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One server process. Raises ConfigError where it makes no sense."""

    kind: Literal["embedded", "sglang", "router"]
    model_dirs: Mapping[str, Path]
    """{policy: folder whose weights it starts with}; empty for a router."""
    ports: Mapping[str, int]
    """{policy: port}."""
    host: str = LOOPBACK
    """Address at which it listens. Beyond loopback it asks for a key."""
    label: str = ""
    """Tells servers of the same policies apart, in the names of their logs."""
    device: str = "cpu"
    tensor_parallel: int = 1
    context_length: int = 512
    max_running: int = 256
    weight_version: str = "0"
    api_key: str | None = None
    """Asked for by every endpoint but health and metrics. The only key that keeps weights safe:
    beside an `admin_key` alone, SGLang's /server_info would tell that key to everybody."""
    admin_key: str | None = None
    """With it the endpoints that change something take this key only."""
    seed: int = 0
    mem_fraction: float | None = None
    """SGLang: share of a GPU's memory for weights and cache; None: its own choice."""
    cache_tokens: int | None = None
    """SGLang: tokens that its cache holds at most; None: all that `mem_fraction` leaves."""
    deterministic: bool = False
    """SGLang: the same tokens whatever else is in the batch; slower."""
    has_priorities: bool = False
    """SGLang: a request with a lower `priority` than 0 waits for the others. The embedded server
    always heeds it."""
    gpus: tuple[int, ...] = ()
    """Indices of the GPUs that it may see, among those that this process sees; empty: all."""
    extra_args: tuple[str, ...] = ()
    python: str = sys.executable
    """SGLang may live in an environment of its own."""
    workers: tuple[str, ...] = ()
    """Of a router: URLs of the servers behind it."""
    starts_paused: bool = False
    """It generates nothing before a learner has filled it: behind a router, which would send
    requests to whoever is there."""

    def __post_init__(self) -> None:
        if self.kind == "router":
            if len(self.ports) != 1 or not self.workers:
                raise ConfigError("server: a router has one port, and servers behind it")
            return
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
    def ready_path(self) -> str:
        """What answers 200 once it may be sent requests, or filled where it starts paused."""
        if self.kind == "router":
            return "/liveness"
        # By itself paused from the start, it is not ready before it is filled.
        return "/health" if self.kind == "embedded" and self.starts_paused else "/ready"

    @property
    def name(self) -> str:
        """For log files."""
        return "-".join((self.kind, *self.ports, *([self.label] if self.label else [])))


def command_line(spec: ServerSpec, keys: Path | None = None) -> list[str]:
    """The command that starts the server of `spec`.

    `keys`: the file of `write_keys`. Every user of a machine can read command lines, so the keys
    themselves never stand there.
    """
    build = _COMMANDS[spec.kind]
    config = ["--config", str(keys)] if keys else []
    return [*build(spec), *config, *spec.extra_args]


def write_keys(spec: ServerSpec, path: Path) -> Path | None:
    """A file that only its owner can read, for `--config`; None where there is no key."""
    keys = {"api-key": spec.api_key, "admin-api-key": spec.admin_key}
    given = {name: key for name, key in keys.items() if key}
    if not given:
        return None
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}: {json.dumps(key)}\n" for name, key in given.items())
    return path


def _embedded_command(spec: ServerSpec) -> list[str]:
    command = [spec.python, *EMBEDDED]
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
        *(["--start-paused"] if spec.starts_paused else []),
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
        "--enable-metrics",
    ]
    if spec.mem_fraction is not None:
        command += ["--mem-fraction-static", str(spec.mem_fraction)]
    if spec.cache_tokens is not None and spec.device != "cpu":
        command += ["--max-total-tokens", str(spec.cache_tokens)]
    if spec.has_priorities:
        command += ["--enable-priority-scheduling", "--default-priority-value", "0"]
    if spec.deterministic:
        command += ["--enable-deterministic-inference"]
    if spec.device == "cpu":
        command += [
            *("--device", "cpu"),
            *("--dtype", "float32"),
            *("--attention-backend", "torch_native"),
            *("--mm-attention-backend", "sdpa"),
            *("--sampling-backend", "pytorch"),
            # All that requests could fill; by itself it would take nearly all of the memory.
            *(
                "--max-total-tokens",
                str(spec.cache_tokens or spec.max_running * spec.context_length),
            ),
            "--disable-overlap-schedule",
            "--sleep-on-idle",  # else waiting takes a core
        ]
    return command


def _router_command(spec: ServerSpec) -> list[str]:
    (port,) = spec.ports.values()
    return router_command(
        python=spec.python,
        host=spec.host,
        port=port,
        workers=spec.workers,
        max_running=spec.max_running,
    )


_COMMANDS = {
    "embedded": _embedded_command,
    "sglang": _sglang_command,
    "router": _router_command,
}


def environment(spec: ServerSpec) -> dict[str, str]:
    """What is added to the environment of the server of `spec`. Raises ConfigError for GPUs that
    this process itself does not see."""
    # A server started below torchrun must not take the agent's key-value store for its own:
    # its process groups with the learner would look under other keys.
    added = {"TORCHELASTIC_USE_AGENT_STORE": "False", "HF_HUB_OFFLINE": "1"}
    if spec.device == "cpu":
        added["OMP_NUM_THREADS"] = "1"
    if spec.gpus:
        added[VISIBLE_GPUS] = ",".join(_gpu_names(spec.gpus))
    if spec.kind == "sglang":
        # Image embeddings would outlive weight updates; a health check would generate a token,
        # and fail during a pause.
        added["SGLANG_VLM_CACHE_SIZE_MB"] = "0"
        added["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] = "0"
        if spec.device == "cpu":
            added |= {"SGLANG_USE_CPU_ENGINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return added


def _gpu_names(gpus: Sequence[int]) -> list[str]:
    """What CUDA calls them: a server sees a part of what this process sees."""
    if VISIBLE_GPUS not in os.environ:
        return [str(gpu) for gpu in gpus]
    visible = visible_gpus()
    if max(gpus) >= len(visible):
        raise ConfigError(
            f"{VISIBLE_GPUS}: it names {len(visible)} GPUs, and a server is to have number "
            f"{max(gpus)} of them, counted from 0; name more, or change the layout"
        )
    return [visible[gpu] for gpu in gpus]


def check_server_host(host: ServerHostConfig, device: str, where: str) -> None:
    """Raise ConfigError for a server host that could not start. `where`: its key."""
    if host.kind == "embedded":
        for name, value in (
            ("mem_fraction", host.mem_fraction),
            ("cache_tokens", host.cache_tokens),
            ("deterministic", host.deterministic),
        ):
            if value:
                raise ConfigError(f"{where}.{name}: only SGLang servers have it; kind is embedded")
    elif host.deterministic and device == "cpu":
        raise ConfigError(
            f"{where}.deterministic: SGLang has no such mode on a CPU; set it to false"
        )
    check_interpreter(host.kind, host.python, f"{where}.python")


# Asked of the interpreter itself; without imports, since torch alone takes seconds.
_VERSIONS = """
import importlib.metadata as metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


def check_interpreter(kind: Literal["embedded", "sglang"], python: Path | None, where: str) -> None:
    """Raise ConfigError unless `python` has what a server needs, and this process's torch.

    Learner and server meet under the keys of torch's own process groups, which are private and
    change between versions. `python`: None means this process's own. `where`: the key of the
    configuration, for the message.
    """
    if python is None and kind == "embedded":
        return
    interpreter = str(python or sys.executable)
    try:
        done = subprocess.run(
            [interpreter, "-c", _VERSIONS, "torch", "sglang"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found: dict[str, str | None] = json.loads(done.stdout)
    except FileNotFoundError:
        hint = f"; {_INSTALL}" if kind == "sglang" else ""
        raise ConfigError(f"{where}: there is no interpreter {interpreter}{hint}") from None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(
            f"{where}: {interpreter} is not a working Python interpreter: {error}"
        ) from None
    ours, theirs = metadata.version("torch"), found["torch"]
    if kind == "sglang":
        _check_sglang(found["sglang"], interpreter, where)
    if theirs is None or _release(theirs)[:2] != _release(ours)[:2]:
        raise ConfigError(
            f"{where}: {interpreter} has torch {theirs or '(none)'}, the learner {ours}; weights "
            f"travel only within one major.minor: install torch {_minor(ours)} there"
        )


def _check_sglang(version: str | None, python: str, where: str) -> None:
    oldest = ".".join(map(str, OLDEST_SGLANG))
    if version is None:
        raise ConfigError(
            f"{where}: {python} has no sglang; name an interpreter that has it; {_INSTALL}"
        )
    if _release(version) < OLDEST_SGLANG:
        raise ConfigError(
            f"{where}: {python} has sglang {version}; install {oldest} or later there"
        )


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 13, 0) of "2.13.0+cpu"."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers.group().split("."))) if numbers else ()


def _minor(version: str) -> str:
    return ".".join(map(str, _release(version)[:2]))
