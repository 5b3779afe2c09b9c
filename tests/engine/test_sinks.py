import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.config import ConfigError
from engine.monitor.sinks import Reader, Sinks, SinksConfig, TensorBoard, open_sinks

WAIT_S = 300.0
STEP = {
    "policy": "solver",
    "step": 3,
    "skipped": False,
    "reason": "",
    "num_groups": 8,
    "reward": 0.5,
    "metrics": {"loss": 0.25, "entropy": float("nan"), "ok": True},
}
ENGINE = {
    "phase": "self-play",
    "elapsed_s": 61.5,
    "games_per_min": 6.0,
    "busy": {"learner": 0.5},
    "policies": {"solver": {"step": 3, "generated_per_s": 100.0, "starved": None}},
}
GROUPS = {"streams": {"solver": {"reward": 0.75, "term/form": 0.5}}, "signs": {},
          "play": {"Solvability and difficulty": {"hard": 0.25}}}  # fmt: skip
BENCHMARKS = {
    "policy": "solver",
    "step": 2,
    "scores": {"digits": {"title": "Digits", "estimate": 0.5, "low": 0.25, "high": 0.75}},
    "overall": {"mean": {"estimate": 0.5}},
}
RECORDS: list[tuple[str, Mapping[str, Any]]] = [
    ("step", STEP),
    ("engine", ENGINE),
    ("groups", GROUPS),
    ("dev", {"step": 3, "means": {"accuracy": 0.5}}),
    ("heldout", {"when": "before", "means": {"accuracy": 0.25}, "seconds": 1.0}),
    ("benchmarks", BENCHMARKS),
    ("event", {"level": "info", "text": "nothing to draw"}),
]
POINTS = {
    "solver/reward": ("solver/step", 3, 0.5),
    "solver/num_groups": ("solver/step", 3, 8),
    "solver/loss": ("solver/step", 3, 0.25),
    "throughput/games_per_min": ("elapsed_s", 61.5, 6),
    "throughput/solver/generated_per_s": ("elapsed_s", 61.5, 100),
    "busy/learner": ("elapsed_s", 61.5, 0.5),
    "groups/solver/reward": ("elapsed_s", 61.5, 0.75),
    "groups/solver/term/form": ("elapsed_s", 61.5, 0.5),
    "play/Solvability and difficulty/hard": ("elapsed_s", 61.5, 0.25),
    "dev/accuracy": ("dev/step", 3, 0.5),
    "heldout/before/accuracy": ("elapsed_s", 61.5, 0.25),
    "benchmarks/solver/digits": ("solver/step", 2, 0.5),
    "benchmarks/solver/mean": ("solver/step", 2, 0.5),
}


class Kept:
    """A sink that keeps what it hears, and may fail or hang at a record."""

    def __init__(self, at_write: Callable[[], object] = lambda: None) -> None:
        self.heard: list[Mapping[str, Any]] = []
        self.is_closed = False
        self._at_write = at_write

    def write(self, kind: str, record: Mapping[str, Any]) -> None:
        self._at_write()
        self.heard.append(record)

    def close(self) -> None:
        self.is_closed = True


def fail() -> None:
    raise OSError("no space\nleft")


def never(text: str) -> None:
    raise AssertionError(text)


def test_records_become_numbers_over_their_own_axes() -> None:
    reader = Reader()
    found = {
        name: (scalars.axis, scalars.x, value)
        for kind, record in RECORDS
        for scalars in reader.read(kind, record)
        for name, value in scalars.values.items()
    }
    assert found == POINTS
    assert [*reader.read("step", {**STEP, "skipped": True})] == []


def test_all_sinks_hear_all_records_in_order() -> None:
    first, second = Kept(), Kept()
    sinks = Sinks({"a": lambda: first, "b": lambda: second}, never)
    for number in range(50):
        sinks.write("step", {"step": number})
    assert sinks.close(WAIT_S)
    assert first.heard == second.heard == [{"step": number} for number in range(50)]
    assert first.is_closed
    assert sinks.dropped == 0
    sinks.write("step", {})
    assert sinks.close(WAIT_S)


@pytest.mark.parametrize("error", [OSError("no space\nleft"), SystemExit(1)])
def test_a_sink_that_fails_is_told_once_and_closed_and_the_others_go_on(
    error: BaseException,
) -> None:
    def raise_it() -> None:
        raise error

    bad, good, told = Kept(raise_it), Kept(), list[str]()
    sinks = Sinks({"bad": lambda: bad, "good": lambda: good}, told.append)
    for _ in range(3):
        sinks.write("event", {})
    assert sinks.close(WAIT_S)
    assert bad.is_closed
    assert len(good.heard) == 3
    (sentence,) = told
    assert sentence.startswith("bad: ")
    assert "\n" not in sentence


def test_a_sink_that_cannot_be_opened_or_closed_and_a_listener_that_fails_hurt_nothing() -> None:
    class Unclosable(Kept):
        def close(self) -> None:
            fail()

    def cannot_open() -> Kept:
        raise ValueError("no network")

    good, told = Kept(), list[str]()

    def listen(text: str) -> None:
        told.append(text)
        raise RuntimeError("nobody listens")

    openers = {"shut": cannot_open, "unclosable": Unclosable, "good": lambda: good}
    sinks = Sinks(openers, listen)
    sinks.write("event", {})
    assert sinks.close(WAIT_S)
    assert [text.split(":")[0] for text in told] == ["shut", "unclosable"]
    assert good.heard == [{}]
    assert good.is_closed


def test_a_sink_that_hangs_neither_delays_nor_grows_anything() -> None:
    is_hanging, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        is_hanging.set()
        let_go.wait(WAIT_S)

    stuck = Kept(hang)
    sinks = Sinks({"stuck": lambda: stuck}, never, max_waiting=10)
    sinks.write("step", {"step": 0})
    assert is_hanging.wait(WAIT_S)
    for number in range(1, 101):
        sinks.write("step", {"step": number})
    assert sinks.dropped == 90
    assert not sinks.close(0.05)
    let_go.set()
    assert sinks.close(WAIT_S)
    assert stuck.heard == [{"step": 0}]  # what waited is given up with the deadline


def test_the_oldest_records_go_first() -> None:
    has_begun, let_go = threading.Event(), threading.Event()

    def pause() -> None:
        has_begun.set()
        let_go.wait(WAIT_S)

    slow = Kept(pause)
    sinks = Sinks({"slow": lambda: slow}, never, max_waiting=2)
    sinks.write("step", {"step": 0})
    assert has_begun.wait(WAIT_S)
    for number in (1, 2, 3):
        sinks.write("step", {"step": number})
    let_go.set()
    assert sinks.close(WAIT_S)
    assert slow.heard == [{"step": 0}, {"step": 2}, {"step": 3}]


def test_no_sink_is_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    sinks = open_sinks(SinksConfig(), tmp_path, "run", {}, never)
    sinks.write(*RECORDS[0])
    assert threading.active_count() == before
    assert sinks.close(WAIT_S)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "config, module",
    [
        (SinksConfig(tensorboard=True), "tensorboard"),
        (SinksConfig(wandb="offline"), "wandb"),
    ],
)
def test_a_missing_library_is_named_with_its_field_and_extra(
    config: SinksConfig, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with pytest.raises(ConfigError, match=rf"monitor\.sinks\.{module}.*\[{module}\]"):
        open_sinks(config, tmp_path, "run", {}, never)


def test_wandb_online_never_asks_for_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoAccount:
        def login(self, *, prompt: bool) -> bool:
            assert not prompt
            return False

    monkeypatch.setitem(sys.modules, "wandb", NoAccount())  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with pytest.raises(ConfigError, match="wandb login"):
        open_sinks(SinksConfig(wandb="online"), tmp_path, "run", {}, never)


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sinks = open_sinks(SinksConfig(tensorboard=True), tmp_path, "run", {}, never)
    for kind, record in RECORDS:
        sinks.write(kind, {"t": 1000.0, **record})
    assert sinks.close(WAIT_S)
    read = module.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    found = {tag: read.Scalars(tag) for tag in read.Tags()["scalars"]}
    assert {name: (row.step, row.value) for name, (row,) in found.items()} == {
        name: (round(x), value) for name, (_, x, value) in POINTS.items()
    }
    assert found["solver/loss"][0].wall_time == 1000.0


def test_a_second_attempt_adds_to_the_first(tmp_path: Path) -> None:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for number in (1, 2):
        sink = TensorBoard(tmp_path)
        sink.write("step", {**STEP, "step": number})
        sink.close()
    read = module.EventAccumulator(str(tmp_path))
    read.Reload()
    assert [row.step for row in read.Scalars("solver/loss")] == [1, 2]


def test_neither_the_module_nor_its_sinks_import_torch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    code = """
import sys
from pathlib import Path
import engine.monitor.sinks as sinks
assert not {"torch", "wandb", "tensorboard"} & sys.modules.keys()
cfg = sinks.SinksConfig(tensorboard=True, wandb="offline")
opened = sinks.open_sinks(cfg, Path(sys.argv[1]), "run", {"a": {"b": 1}}, sys.exit)
opened.write("dev", {"step": 1, "means": {"accuracy": 0.5}})
assert opened.close(60)
assert {"wandb", "tensorboard"} <= sys.modules.keys()
assert not {"torch", "tensorflow"} & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""  # the terminal is the live view's


def test_wandb_writes_offline_with_an_axis_for_each_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    sinks = open_sinks(
        SinksConfig(wandb="offline"), tmp_path, "quickstart", {"run": {"seed": 7}}, never
    )
    for kind, record in RECORDS:
        sinks.write(kind, record)
    assert sinks.close(60)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    axes: dict[str, str] = {}
    history: list[dict[str, float]] = []
    for found in wandb_records(file.read_bytes()):
        if found.HasField("metric"):
            axes[found.metric.name] = found.metric.step_metric
        if found.HasField("history"):
            items = found.history.item
            history.append({".".join(i.nested_key) or i.key: float(i.value_json) for i in items})
    for name, (axis, x, value) in POINTS.items():
        assert axes[name] == axis
        assert any(row.get(axis) == x and row.get(name) == value for row in history), name


def wandb_records(data: bytes) -> Iterator[Any]:
    """Of a small `.wandb` file: LevelDB's log format, of records that fit into one block."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    block, header, whole = 32768, 7, 1
    at = header
    while at + header <= len(data):
        if block - at % block < header:
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == whole:
            yield Record.FromString(data[at + header : at + header + length])
        at += header + length
