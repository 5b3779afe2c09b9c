"""The template of embedded servers: what it forks, and who dies with whom."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.servers.embedded import template as module
from engine.servers.embedded.template import Forked, Template
from engine.servers.host import RestartPolicy, serve
from engine.servers.spec import ServerSpec
from tests.engine.server_process import KEY, answers, free_port, generate, tiny_dir, until
from tests.engine.test_embedded_host import Listener

START_S = 90.0
"""Two busy cores import torch in half of a minute."""


def stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: state, parent, ...; a process that is gone is as dead as
    one that nobody has reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z"]


def words_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def are_gone(*pids: int) -> bool:
    return all(stat(pid)[0] in "ZX" for pid in pids)


@contextmanager
def template(log: Path, *arguments: str) -> Iterator[Template]:
    one = Template(arguments, log=log, env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    try:
        yield one
    finally:
        one.close()


def begun(forked: Forked) -> Forked:
    until(lambda: forked.has_begun, timeout_s=START_S)
    return forked


def parent_of(pid: int) -> int:
    return int(stat(pid)[1])


def test_every_server_of_a_template_ends_with_a_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    with template(log, "--serve", f"{free_port()}={tmp_path}") as one:
        waiting = one.fork()
        by = waiting.pid
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.01)
        pids = {begun(waiting).pid}
        assert waiting.wait(START_S) == 2
        for _ in range(3):
            pids.add((again := begun(one.fork())).pid)
            assert again.wait(START_S) == again.poll() == 2
        assert len(pids) == 4
        assert by not in pids
        assert log.read_text().count("error: ") == 4
        os.kill(by, signal.SIGSTOP)
        monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
        silent = one.fork()
        assert silent.wait() == -signal.SIGKILL, "it is not waited for for ever"
        assert silent.pid == by


CANT_SAY = """
import atexit, os
from engine.servers.embedded import template

def status_of(argv):
    raise OSError("No space left on device")  # where it wrote its last words

template._status_of = status_of
atexit.register(print, "went on as the template")
pid = template._fork([])
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_server_that_cant_say_why_it_fails_ends_all_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CANT_SAY], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")


def test_a_template_that_dies_before_it_forks_is_a_server_that_died(tmp_path: Path) -> None:
    with template(tmp_path / "log", "--serve", "1=here") as one:
        first = one.fork()
        first.kill()
        assert first.wait(START_S) == -signal.SIGKILL
        second = one.fork()
        assert second.pid != first.pid
        assert second.poll() is None


def test_words_that_are_no_command_line_have_the_status_that_the_command_gives_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert module._status_of(["--serve", "here"]) == 2
    assert "'here' is not PORT=MODEL_DIR" in capsys.readouterr().err


def test_a_server_and_its_template_die_with_the_host(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from engine.servers.embedded.template import Template\n"
        f"one = Template(['--serve', '{port}={tiny_dir()}'], log=Path('{log}'), env={{}})\n"
        "forked = one.fork()\n"
        "by = forked.pid\n"
        "while not forked.has_begun: pass\n"
        "print(by, forked.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        pids = [int(word) for word in host.stdout.readline().split()]
        until(lambda: answers(f"http://127.0.0.1:{port}"), timeout_s=START_S)
        host.kill()
        until(lambda: are_gone(*pids))


def hosted(
    body: Callable[[ServerSpec, Listener], object], folder: Path, **changes: object
) -> list[str]:
    """Run a server under its host as long as `body`; the kinds of its events."""
    values: dict[str, object] = {
        "kind": "embedded",
        "model_dirs": {"p": tiny_dir()},
        "ports": {"p": free_port()},
        "weight_version": "5",
        "api_key": KEY,
        **changes,
    }
    spec = ServerSpec(**values)  # type: ignore[arg-type]

    async def main() -> list[str]:
        stop, heard = asyncio.Event(), Listener()
        policy = RestartPolicy(first_pause_s=0.01, ready_timeout_s=START_S)
        host = asyncio.create_task(serve(spec, folder, stop, heard, restarts=policy))
        await body(spec, heard)  # type: ignore[misc]
        stop.set()
        await asyncio.wait_for(host, 30)
        return [event.kind for event in heard.events]

    return asyncio.run(main())


def test_a_killed_server_comes_back_from_its_template_and_with_it(tmp_path: Path) -> None:
    seen: list[int] = []

    async def body(spec: ServerSpec, heard: Listener) -> None:
        first = await heard.count("ready", 1)
        by = parent_of(first.pid)
        assert os.listdir(f"/proc/{by}/task") == [str(by)], "a thread does not outlive a fork"
        assert os.getsid(first.pid) == first.pid
        os.kill(first.pid, signal.SIGKILL)
        second = await heard.count("ready", 2)
        assert second.pid != first.pid
        assert parent_of(second.pid) == by
        os.kill(by, signal.SIGKILL)
        third = await heard.count("ready", 3)
        assert are_gone(by, second.pid)
        seen.extend((by, parent_of(third.pid), third.pid))
        answer = await asyncio.to_thread(generate, spec.urls["p"], (1, 2, 3))
        assert answer["meta_info"]["weight_version"] == "5"
        assert KEY not in words_of(third.pid)

    kinds = hosted(body, tmp_path)
    assert kinds == [*["starting", "ready", "died"] * 2, "starting", "ready", "stopped"]
    assert are_gone(*seen)
    log = (tmp_path / "embedded-p.log").read_text()
    assert log.count("The embedded server is ready") == 3
    assert "Traceback" not in log


def test_a_stop_does_not_wait_for_the_imports(tmp_path: Path) -> None:
    async def body(spec: ServerSpec, heard: Listener) -> None:
        await asyncio.sleep(0)  # the host has begun

    assert hosted(body, tmp_path) == ["starting", "stopped"]
