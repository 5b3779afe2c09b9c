"""The two servers that the contract holds for: the embedded one, and a real SGLang.

SGLang runs on the CPU where `make venv-sglang` made an environment for it, started by
the project's own host. It takes a minute, so it is only started when asked for: by
`pytest -m sglang` (`make test-sglang`), or with STREAMZERO_SGLANG_PYTHON naming an interpreter.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.server_link import ServerLink
from engine.servers.host import RestartPolicy, ServerEvent, serve
from engine.servers.spec import ServerSpec
from engine.weights import publish
from tests.engine.server_process import (
    CONTEXT,
    FIRST_VERSION,
    KEY,
    free_port,
    in_background,
    load_of,
    request,
    shared_server,
    tiny_dir,
    tiny_module,
    until,
)

INSTALLED = Path(__file__).resolve().parents[2] / ".venv-sglang"
BOTH = ("embedded", pytest.param("sglang", marks=pytest.mark.sglang))
START_S = 540.0
"""Half a minute where nothing else runs."""


def sglang_python(config: pytest.Config) -> str | None:
    """The interpreter that SGLang is to be started with, if it is asked for and there."""
    named = os.environ.get("STREAMZERO_SGLANG_PYTHON")
    if named:
        return named
    asked = "sglang" in (config.option.markexpr or "")
    return str(INSTALLED / "bin/python") if asked and (INSTALLED / ".installed").exists() else None


class Hosted:
    """A server under `engine.servers.host`, on a thread of its own, for as long as tests run."""

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        (self.url,) = spec.urls.values()
        self.logs = Path(tempfile.mkdtemp(prefix="streamzero-contract-"))
        self.events: list[ServerEvent] = []
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ended = in_background(self._run)
        until(self._is_ready, timeout_s=START_S)

    def _run(self) -> None:
        restarts = RestartPolicy(ready_timeout_s=START_S, first_pause_s=0.1)
        self._loop.run_until_complete(
            serve(self.spec, self.logs, self._stop, self.events.append, restarts=restarts)
        )

    def _is_ready(self) -> bool:
        if self._ended.done():
            self._ended.result()
        return bool(self.events) and self.events[-1].kind == "ready"

    def close(self) -> None:
        """Stop the server and wait for its end."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._ended.result(60)


@pytest.fixture(scope="session")
def sglang(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    """A real SGLang on the tiny model."""
    python = sglang_python(request.config)
    if python is None:
        pytest.skip("no SGLang asked for, or none installed: make test-sglang does both")
    spec = ServerSpec(
        kind="sglang",
        python=python,
        model_dirs={"tiny": tiny_dir()},
        ports={"tiny": free_port()},
        context_length=CONTEXT,
        max_running=16,
        weight_version=FIRST_VERSION,
        api_key=KEY,
        # Its own warm-up asks about a large picture: a minute that no test needs.
        extra_args=("--skip-server-warmup",),
    )
    hosted = Hosted(spec)
    yield hosted
    hosted.close()


@pytest.fixture(scope="session")
def guarded_embedded() -> Iterator[Hosted]:
    """An embedded server that asks for KEY."""
    hosted = Hosted(
        ServerSpec(
            kind="embedded",
            model_dirs={"tiny": tiny_dir()},
            ports={"tiny": free_port()},
            api_key=KEY,
        )
    )
    yield hosted
    hosted.close()


@pytest.fixture
def guarded(kind: str, request: pytest.FixtureRequest) -> str:
    """URL of a server that asks for KEY."""
    hosted: Hosted = request.getfixturevalue("sglang" if kind == "sglang" else "guarded_embedded")
    return hosted.url


@pytest.fixture(scope="session")
def url_of(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """{kind of server: its URL}, started when it is first asked for."""

    def find(kind: str) -> str:
        if kind == "embedded":
            return shared_server().urls[1]
        hosted: Hosted = request.getfixturevalue("sglang")
        return hosted.url

    return find


@pytest.fixture(params=BOTH)
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two."""
    found: str = request.param
    return found


@pytest.fixture
def url(kind: str, url_of: Callable[[str], str]) -> Iterator[str]:
    """Of a server with nothing to do, before and after."""
    found = url_of(kind)
    yield found
    request(found, "/continue_generation", {})
    request(found, "/abort_request", {"abort_all": True})
    until(lambda: load_of(found) == (0, 0))


@pytest.fixture
def link(url: str) -> Iterator[ServerLink]:
    """A learner's connection; afterwards the server has its first weights again."""
    link = ServerLink(url, key=KEY)
    link.connect(timeout_s=300)
    yield link
    if link.group is None:
        link.connect(timeout_s=300)
    weights = list(tiny_module(0).state_dict().items())
    report = publish(weights, [link], version=int(FIRST_VERSION), timeout_s=300)
    link.close()
    assert not report.failed, report
