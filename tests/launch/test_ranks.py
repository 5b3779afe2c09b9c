"""What a rank says and how it ends, when a part of its job fails or it is told to stop."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import DistNetworkError

from engine import children
from engine.errors import ConfigError, EngineError, FatalError
from engine.layout import Follower, Job
from engine.learner import worker
from engine.nodes import RUNTIME_DIR, Node
from engine.rundir import RunDir, key_digest, make_key, record_pid
from launch import async_selfplay, attempt, ranks, rollcall
from launch.config import RootConfig, load_root
from tests.engine.server_process import in_background

QUICKSTART = Path(__file__).resolve().parents[2] / "launch/configs/quickstart.yaml"
ENGINE_LIVES_S = 30.0
BAD_PORT = "server for solver: port 1 of 127.0.0.1: in use; choose another port"


BREAKS_OFF = """
import sys, threading
from launch import async_selfplay

def run_rank(_):
    threading.Thread(target=threading.Event().wait).start()
    raise {error}

async_selfplay.run_rank = run_rank
async_selfplay.end_as_rank(["launch/configs/quickstart.yaml"])
"""


class FakeStore:
    """A torchrun store of one process."""

    def __init__(self, **values: str) -> None:
        self.values = dict(values)

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


@pytest.fixture(autouse=True)
def _key(tmp_path: Path) -> None:
    """Rank 0 has made it before any other rank begins."""
    make_key(RunDir(tmp_path))


@pytest.fixture(scope="module")
def config() -> RootConfig:
    return load_root(QUICKSTART, [])


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Engine processes that were started: each would go on for a while."""
    started: list[subprocess.Popen[bytes]] = []
    spawn = children.spawn

    def patient(argv: list[str], **_: Any) -> subprocess.Popen[bytes]:
        assert argv[1:3] == ["-m", "launch.engine"]
        started.append(spawn(["sleep", str(ENGINE_LIVES_S)], log=None))
        return started[-1]

    monkeypatch.setattr(ranks.children, "spawn", patient)
    monkeypatch.setattr(ranks, "_log_to", lambda path: None)  # it would take over pytest's log
    return started


def test_a_server_on_rank_0_that_gives_up_ends_the_attempt_in_one_line(
    tmp_path: Path,
    config: RootConfig,
    engines: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def dead(*_: object) -> int:
        raise EngineError("server embedded: died 6 times in 600 s")

    monkeypatch.setattr(ranks, "_run_server", dead)
    store, run = FakeStore(), RunDir(tmp_path / "run")
    began = time.monotonic()
    job = Job(server=config.layout.servers[0])
    status = ranks._run_first(config, run, store, job, threading.Event())  # type: ignore[arg-type]
    assert time.monotonic() - began < ENGINE_LIVES_S / 2
    assert status != 0
    assert engines[0].poll() is not None
    assert store.values["done"] == "1", "the other ranks are told"
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "streamzero: rank 0: server embedded: died 6 times in 600 s"
    assert re.fullmatch(r"streamzero: the engine ended with status -\d+; see .*log", said[1])
    assert len(said) == 2


@pytest.mark.parametrize(
    "failure, status", [(ConfigError(BAD_PORT), 1), (EngineError("died 6 times"), 1)]
)
def test_a_server_host_on_another_rank_says_why_it_ends(
    tmp_path: Path,
    config: RootConfig,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    failure: Exception,
    status: int,
) -> None:
    """Rank 0 never hears of a port that only rank 1 tries: rank 1 itself must speak."""

    async def fail(*_: object) -> None:
        raise failure

    def job(_: object) -> int:
        host, run = config.layout.servers[0], RunDir(tmp_path)
        return ranks._run_server(config, run, FakeStore(), host, threading.Event())  # type: ignore[arg-type]

    monkeypatch.setattr(ranks, "serve", fail)
    monkeypatch.setattr(async_selfplay, "run_rank", job)
    monkeypatch.setenv("RANK", "1")
    assert async_selfplay.main([str(QUICKSTART)]) == status
    assert capfd.readouterr().err == f"streamzero: rank 1: {failure}\n"


def test_a_server_host_ends_when_the_run_is_done(
    tmp_path: Path, config: RootConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []

    async def serve(spec: Any, logs: Path, stop: Any, on_event: object) -> None:
        served.append(spec)
        await stop.wait()

    monkeypatch.setattr(ranks, "serve", serve)
    store, host = FakeStore(), config.layout.servers[0]
    run = RunDir(tmp_path)
    job = in_background(lambda: ranks._run_server(config, run, store, host, threading.Event()))  # type: ignore[arg-type]
    store.set("done", "1")
    assert job.result(20.0) == 0
    urls = json.loads(store.values[f"servers/{host.rank}"])
    assert urls == {p: f"http://127.0.0.1:{port}" for p, port in served[0].ports.items()}
    assert served[0].weight_version == ranks.UNFILLED


def test_ports_follow_the_first_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(*_: object) -> None:
        return None

    monkeypatch.setattr(ranks, "serve", serve)
    config, store = load_root(QUICKSTART, ["layout.servers.0.port=30100"]), FakeStore(done="1")
    host = config.layout.servers[0]
    ranks._run_server(config, RunDir(tmp_path), store, host, threading.Event())  # type: ignore[arg-type]
    urls = json.loads(store.values["servers/1"])
    assert urls == {p: f"http://127.0.0.1:{30100 + i}" for i, p in enumerate(host.policies)}


def test_a_rank_has_the_gpu_of_its_place_unless_the_layout_names_one(
    config: RootConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    (host,) = config.layout.servers
    assert ranks._gpus(config, host) == (1,)
    assert ranks._gpus(config, host.model_copy(update={"tp": 2})) == (1, 2)
    layout = config.layout.model_copy(update={"gpu_of": {1: 0}})
    assert ranks._gpus(config.model_copy(update={"layout": layout}), host) == (0,)


@pytest.mark.parametrize("count, nccl", [(1, "=lo"), (2, None)])
def test_on_one_node_gloo_and_nccl_stay_on_loopback(
    monkeypatch: pytest.MonkeyPatch, count: int, nccl: str | None
) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    node = Node(rank=0, count=count, local_ranks=1, address="127.0.0.1", machine="m")
    ranks._choose_interface(node)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert os.environ.get("NCCL_SOCKET_IFNAME") == nccl
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth9")
    ranks._choose_interface(node)
    assert os.environ["NCCL_SOCKET_IFNAME"] == "eth9"


def test_another_node_says_which_gpus_it_lacks(
    config: RootConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.preflight.metadata.version", lambda _: "2.13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    layout = config.layout.model_copy(update={"device": "cuda"})
    wanted = config.model_copy(update={"layout": layout})
    node = Node(rank=1, count=2, local_ranks=1, address="10.0.0.2", machine="m")
    with pytest.raises(EngineError, match=r"node 1: layout: .* 1 GPU on this node, and 0 are"):
        ranks._check_gpus_here(wanted, node)


def test_others_are_told_the_address_that_the_layout_advertises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []

    async def serve(spec: Any, *_: object) -> None:
        served.append(spec)

    monkeypatch.setattr(ranks, "serve", serve)
    overrides = ["layout.servers.0.port=30100", "layout.servers.0.advertise=gate:40100"]
    config, store = load_root(QUICKSTART, overrides), FakeStore(done="1")
    host = config.layout.servers[0]
    ranks._run_server(config, RunDir(tmp_path), store, host, threading.Event())  # type: ignore[arg-type]
    assert list(served[0].ports.values()) == [30100, 30101, 30102]
    urls = ranks._server_urls(config, store, threading.Event())  # type: ignore[arg-type]
    assert urls == {p: [f"http://gate:{40100 + i}"] for i, p in enumerate(host.policies)}


PINNED = (
    "recipe.judge=pinned",
    "recipe.pin_every=3",
    "layout.servers.0.policies=[proposer, coder, solver, judge]",
)


def test_a_follower_has_a_port_like_a_policy_and_starts_with_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []

    async def serve(spec: Any, *_: object) -> None:
        served.append(spec)

    monkeypatch.setattr(ranks, "serve", serve)
    config, store = load_root(QUICKSTART, PINNED), FakeStore(done="1")
    host = config.layout.servers[0]
    ranks._run_server(config, RunDir(tmp_path), store, host, threading.Event())  # type: ignore[arg-type]
    assert set(json.loads(store.values["servers/1"])) == {*host.policies} >= {"judge"}
    assert served[0].model_dirs["judge"] == config.model.base
    assert served[0].ports["judge"] not in {served[0].ports[p] for p in ("proposer", "solver")}


@pytest.mark.parametrize("group", [("proposer", "coder", "solver"), ("proposer",)])
def test_a_learner_group_publishes_to_the_followers_of_its_own_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...]
) -> None:
    specs: list[Any] = []
    monkeypatch.setattr(worker, "run_learner", lambda spec, **_: specs.append(spec))
    config = load_root(QUICKSTART, PINNED)
    urls = {name: f"http://1/{name}" for name in config.layout.servers[0].policies}
    store = FakeStore(engine="ipc:///nowhere", **{"servers/1": json.dumps(urls)})
    learners = config.layout.learners[0].model_copy(update={"policies": group})
    ranks._run_learner(
        config, RunDir(tmp_path), store, learners, threading.Event(), 0, lambda: False  # type: ignore[arg-type]
    )  # fmt: skip
    (spec,) = specs
    judges = {"judge": Follower("solver", 3)} if "solver" in group else {}
    assert spec.followers == judges
    assert spec.servers == {name: (urls[name],) for name in (*group, *judges)}


def test_a_rank_that_waits_for_another_hears_a_stop() -> None:
    stop = threading.Event()
    waiting = in_background(lambda: attempt.heard(FakeStore(), "run", stop))  # type: ignore[arg-type]
    stop.set()
    with pytest.raises(SystemExit) as ended:
        waiting.result(10.0)
    assert ended.value.code == 1


def test_a_rank_that_waits_hears_the_word_when_it_comes() -> None:
    store = FakeStore()
    waiting = in_background(lambda: attempt.heard(store, "run", threading.Event()))  # type: ignore[arg-type]
    store.set("run", "runs/a")
    assert waiting.result(10.0) == "runs/a"


def test_a_rank_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "STORE_TIMEOUT", attempt.timedelta(0))
    with pytest.raises(EngineError, match="no rank said 'run'"):
        attempt.heard(FakeStore(), "run", threading.Event())  # type: ignore[arg-type]


def test_the_servers_of_all_hosts_are_gathered_by_policy(config: RootConfig) -> None:
    host = config.layout.servers[0]
    layout = config.layout.model_copy(
        update={"servers": (host, host.model_copy(update={"rank": 2}))}
    )
    store = FakeStore()
    for rank in (1, 2):
        store.set(f"servers/{rank}", json.dumps({p: f"http://{rank}/{p}" for p in host.policies}))
    wide = config.model_copy(update={"layout": layout})
    urls = ranks._server_urls(wide, store, threading.Event())  # type: ignore[arg-type]
    assert urls["solver"] == ["http://1/solver", "http://2/solver"]
    assert urls.keys() == set(host.policies)


def test_bad_input_is_said_once_by_rank_0_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        status = async_selfplay.main([str(QUICKSTART), "run.stepz=3"])
        assert status == async_selfplay.EXIT_BAD_INPUT
        said = capfd.readouterr().err.splitlines()
        assert len(said) == lines
    assert os.environ["RANK"] == "1"


@pytest.mark.parametrize(
    "argv, config, overrides",
    [
        (["a.yaml", "run.steps=3"], "a.yaml", ["run.steps=3"]),
        (["a.yaml", "--resume", "run.steps=3"], "a.yaml", ["run.steps=3"]),
        (["run.steps=3"], None, ["run.steps=3"]),
        (["--new-name", "run.steps=3", "run.seed=1"], None, ["run.steps=3", "run.seed=1"]),
        ([], None, []),
    ],
)
def test_the_command_line(argv: list[str], config: str | None, overrides: list[str]) -> None:
    args = async_selfplay.parse(argv)
    assert args.overrides == overrides
    assert str(args.config) == config if config else args.config.parent == QUICKSTART.parent
    assert args.resume == ("--resume" in argv)


def test_help_is_instant_because_torch_is_not_imported() -> None:
    code = (
        "import sys; from launch import async_selfplay as a\n"
        "try: a.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = QUICKSTART.parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, timeout=300)
    assert done.returncode == 0
    assert b"--resume" in done.stdout


# -- several nodes ---------------------------------------------------------------------------------


def member(rank: int, agent: str) -> rollcall.Member:
    node = Node(rank=rank, count=1, local_ranks=2, address="127.0.0.1", machine="m")
    return rollcall.Member(nonce=f"n{rank}", node=node, agent=agent, config="c")


@pytest.fixture
def begun(tmp_path: Path) -> tuple[RootConfig, RunDir]:
    """A run that the agents x and y have begun."""
    config = load_root(QUICKSTART, [f"run.root={tmp_path}", "run.name=begun"])
    run = RunDir(tmp_path / "begun")
    attempt.check(config, run, [member(0, "x"), member(1, "y")], resume=False)
    run.config.write_text("")
    return config, run


def test_a_restart_never_takes_over_a_run_that_another_torchrun_began(
    begun: tuple[RootConfig, RunDir],
) -> None:
    """The second attempt of a torchrun that was refused is refused as well."""
    config, run = begun
    for _ in range(2):
        with pytest.raises(ConfigError, match="exists; continue it with --resume or choose"):
            attempt.check(config, run, [member(0, "v"), member(1, "w")], resume=False)
    attempt.check(config, run, [member(0, "v"), member(1, "w")], resume=True)
    attempt.check(config, run, [member(0, "v"), member(1, "w")], resume=False)


@pytest.mark.parametrize("agents", [("x", "y"), ("x", "new"), ("new", "y")])
def test_a_run_goes_on_while_one_of_its_agents_is_left(
    begun: tuple[RootConfig, RunDir], agents: tuple[str, str]
) -> None:
    config, run = begun
    members = [member(i, agent) for i, agent in enumerate(agents)]
    attempt.check(config, run, members, resume=False)
    assert set(run.agents.read_text().split()) == {*agents}


def test_what_no_restart_mends_ends_the_later_attempts_and_no_other_run(
    begun: tuple[RootConfig, RunDir],
) -> None:
    config, run = begun
    run.fatal.write_text("bad batches")
    with pytest.raises(FatalError, match="bad batches"):
        attempt.check(config, run, [member(0, "x"), member(1, "y")], resume=False)
    attempt.check(config, run, [member(0, "v"), member(1, "w")], resume=True)
    assert not run.fatal.exists()


def other_node(**values: str) -> FakeStore:
    return FakeStore(run="there", node="0", **values)


NODE_1 = Node(rank=1, count=2, local_ranks=2, address="127.0.0.2", machine="m")


def test_a_node_that_sees_another_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "_FOLDER_LAG_S", 0.0)
    make_key(RunDir(tmp_path))
    here, store = RunDir(tmp_path / "elsewhere"), other_node(key=key_digest(RunDir(tmp_path)) or "")
    with pytest.raises(EngineError, match=r"run.root: .*elsewhere of node 1 is not the folder"):
        attempt.enter(here, store, NODE_1, threading.Event())  # type: ignore[arg-type]


def test_a_node_waits_for_a_folder_that_lags_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may still show the key of the attempt before."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    run, before = RunDir(tmp_path), (tmp_path / "key").read_text()
    make_key(run)
    digest, key = key_digest(run) or "", run.key.read_text()
    run.key.write_text(before)
    store = other_node(key=digest)
    store.set("swept/1", "1")
    entering = in_background(lambda: attempt.enter(run, store, NODE_1, threading.Event()))  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        entering.result(0.3)
    run.key.write_text(key)
    entering.result(20.0)


def test_the_first_rank_of_a_node_sweeps_it_before_any_other_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RUNTIME_DIR, str(tmp_path / "runtime"))
    run, stop = RunDir(tmp_path), threading.Event()
    store = other_node(key=key_digest(run) or "")
    orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        record_pid(run, orphan.pid)
        monkeypatch.setenv("LOCAL_RANK", "1")
        second = in_background(lambda: attempt.enter(run, store, NODE_1, stop))  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            second.result(0.3)
        assert orphan.poll() is None
        monkeypatch.setenv("LOCAL_RANK", "0")
        attempt.enter(run, store, NODE_1, stop)  # type: ignore[arg-type]
        assert orphan.wait(300) == -9
        second.result(20.0)
    finally:
        orphan.kill()
        orphan.wait()


def test_an_nccl_time_out_of_an_attempt_is_not_seen_by_the_next(
    tmp_path: Path, config: RootConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch writes its alarm past all prefixes, and the file is the same for all attempts."""
    monkeypatch.setenv(attempt.STORE_FILE, str(tmp_path / "store"))
    monkeypatch.setattr(attempt, "check", lambda *_, **__: None)
    stop, own = threading.Event(), member(0, "agent")
    for _ in range(2):
        shared = attempt.open_store(0, 1)
        attempt.begin(config, RunDir(tmp_path), shared, own, 1, stop, resume=False)
        other = attempt.open_store(1, 1)
        assert not other.check(["exception_dump"])
        other.set("exception_dump", "0")
        assert shared.check(["exception_dump"])


@pytest.mark.parametrize("failed", [False, True])
def test_a_rank_ends_as_rank_0_does(failed: bool) -> None:
    """An agent whose ranks all end well would not be there for the next attempt."""
    store = FakeStore()
    attempt.end(store, failed=failed)  # type: ignore[arg-type]
    assert attempt.leave(store, 1) == int(failed)  # type: ignore[arg-type]
    attempt.say_goodbye(store, world=2)  # type: ignore[arg-type]


def test_nobody_waits_for_ranks_that_never_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "_GOODBYE_S", 0.1)
    attempt.say_goodbye(FakeStore(**{"left/1": "1"}), world=3)  # type: ignore[arg-type]


def test_a_store_that_is_gone_is_said_in_one_line() -> None:
    class Gone(FakeStore):
        def check(self, keys: list[str]) -> bool:
            raise DistNetworkError("Broken pipe\n and a stack")

    with pytest.raises(EngineError, match=r"^the store is gone: rank 0, or its agent, has ended$"):
        attempt.heard(Gone(), "run", threading.Event())  # type: ignore[arg-type]
    assert attempt.leave(Gone(), 1) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error, status, says",
    [
        ("RuntimeError('Connection closed by peer')", 1, "RuntimeError: Connection closed by peer"),
        ("async_selfplay.EngineError('a word')", 1, "streamzero: rank 1: a word"),
        ("async_selfplay.ConfigError('a key')", 2, ""),
        ("SystemExit(3)", 3, ""),
    ],
)
def test_a_rank_ends_at_once_whatever_breaks_off(error: str, status: int, says: str) -> None:
    """A thread that waits for a dead peer, say, would keep the process, and the next attempt."""
    done = subprocess.run(
        [sys.executable, "-c", BREAKS_OFF.format(error=error)],
        cwd=QUICKSTART.parents[2],
        env={**os.environ, "RANK": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status
    assert says in done.stderr
    assert ("Traceback" in done.stderr) == ("RuntimeError" in error)
