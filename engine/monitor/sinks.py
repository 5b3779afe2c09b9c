"""Where else a run's records may go beside `metrics.jsonl`: TensorBoard, Weights & Biases.

A sink is told every record (kinds: `engine.metrics`) and takes the numbers that are curves:

    step         POLICY/MEASURE                                over the policy's own step
    dev          dev/MEASURE                                   over its step
    benchmarks   benchmarks/POLICY/NAME                        over the policy's own step
    groups       groups/STREAM/MEAN, signs/NAME, play/NAME     over seconds since the run's start
    heldout      heldout/WHEN/MEASURE                          "
    engine       throughput/POLICY/RATE, busy/PART             "

Streams are called as policies are, so their means need a prefix of their own: both have a `reward`,
of what was submitted and of what was trained.

Nothing here may hurt the run: records wait in a bounded queue for one daemon thread, which opens,
feeds and closes all sinks. Neither library is imported unless its sink is asked for; torch never.
"""

import importlib
import importlib.util
import logging
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from engine.config import Section
from engine.errors import ConfigError

log = logging.getLogger(__name__)

MAX_WAITING = 1000
"""Records: some twenty minutes of a run of three policies. The oldest go first."""
UPLOAD_S = 20.0
"""What W&B may take for the last of its data; the rest stays in the run's folder."""

Record = Mapping[str, Any]


class SinksConfig(Section):
    tensorboard: bool = False
    """Write TensorBoard's files, into `tensorboard/` of the run's folder."""
    wandb: Literal["off", "offline", "online"] = "off"
    """offline writes `wandb/` of the run's folder, for `wandb sync`. Each attempt of a run is one
    W&B run, in a group of the run's name."""
    wandb_project: str = "streamzero"


class Sink(Protocol):
    """Used by one thread. May raise anything: then it is closed, and hears nothing any more."""

    def write(self, kind: str, record: Record) -> None: ...

    def close(self) -> None: ...


class Sinks:
    """Feeds sinks from one thread of its own."""

    def __init__(
        self,
        openers: Mapping[str, Callable[[], Sink]],
        on_failure: Callable[[str], object],
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """`openers` make the sinks, by name; they are called in the thread, for they may wait for a
        network. `on_failure` is told once per sink, in a sentence. It is called from the thread
        too: hand it on to where it belongs (`loop.call_soon_threadsafe`)."""
        self.dropped = 0
        """Records that the queue had no room for."""
        self.is_used = bool(openers)
        self._on_failure = on_failure
        self._records: deque[tuple[str, Record]] = deque(maxlen=max_waiting)
        self._changed = threading.Condition()
        self._is_closing = not openers
        self._ended = threading.Event()
        if openers:
            run = threading.Thread(target=self._run, args=(openers,), name="sinks", daemon=True)
            run.start()
        else:
            self._ended.set()

    def write(self, kind: str, record: Record) -> None:
        """Returns at once. The record must not be changed any more. After `close`: nothing."""
        with self._changed:
            if self._is_closing:
                return
            self.dropped += len(self._records) == self._records.maxlen
            self._records.append((kind, record))
            self._changed.notify()

    def close(self, timeout_s: float) -> bool:
        """Write what waits and close all sinks, for so long; whether that was enough. Never raises:
        what takes longer is left behind with the thread, which no exit of the process waits for."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._ended.wait(timeout_s):
            return True
        with self._changed:
            self._records.clear()
        return False

    def _run(self, openers: Mapping[str, Callable[[], Sink]]) -> None:
        try:
            sinks: dict[str, Sink] = {}
            for name, open_ in openers.items():
                self._guarded(name, partial(_open_into, sinks, name, open_))
            while (item := self._next()) is not None:
                for name, sink in [*sinks.items()]:
                    if not self._guarded(name, partial(sink.write, *item)):
                        del sinks[name]
                        _close_quietly(sink)
            for name, sink in sinks.items():
                self._guarded(name, sink.close)
        finally:
            self._ended.set()

    def _next(self) -> tuple[str, Record] | None:
        """None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._records or self._is_closing)
            return self._records.popleft() if self._records else None

    def _guarded(self, name: str, call: Callable[[], object]) -> bool:
        """Whether it went well."""
        try:
            call()
        except (Exception, SystemExit) as error:
            log.warning("%s failed", name, exc_info=True)
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            try:
                self._on_failure(f"{name}: {reason}; nothing more is written to it")
            except Exception:
                log.exception("nobody could be told")
            return False
        return True


def open_sinks(
    cfg: SinksConfig,
    folder: Path,
    name: str,
    config: Mapping[str, Any],
    on_failure: Callable[[str], object],
) -> Sinks:
    """The sinks of the run `name` in `folder`; `config` is shown with it. No sink: a `Sinks` that
    does nothing. `on_failure` is called from a thread (`Sinks`).

    Raises ConfigError for a library that is missing or broken, and for W&B without an account.
    """
    openers: dict[str, Callable[[], Sink]] = {}
    if cfg.tensorboard:
        _library("tensorboard", "monitor.sinks.tensorboard", "tensorboard.compat.proto.event_pb2")
        openers["TensorBoard"] = lambda: TensorBoard(folder / "tensorboard")
    if cfg.wandb != "off":
        mode = cfg.wandb
        # Else its process reports errors over the network, offline too.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = _library("wandb", "monitor.sinks.wandb")
        # In a terminal it would ask, over the live view.
        if mode == "online" and not wandb.login(prompt=False):
            raise ConfigError(
                "monitor.sinks.wandb: online needs an account: run `wandb login`, set "
                "WANDB_API_KEY, or choose offline"
            )
        openers["W&B"] = lambda: Wandb(folder, name, cfg.wandb_project, mode, config)
    return Sinks(openers, on_failure)


def check_sinks(cfg: SinksConfig) -> None:
    """Raise ConfigError for a library that is missing, without importing one."""
    for name, is_wanted in (("tensorboard", cfg.tensorboard), ("wandb", cfg.wandb != "off")):
        if is_wanted and not _is_installed(name):
            raise _missing(name, f"monitor.sinks.{name}", "it is not installed")


def _is_installed(library: str) -> bool:
    found = importlib.util.find_spec(library)
    return found is not None and found.origin is not None  # else any folder of that name


def _library(extra: str, field: str, module: str | None = None) -> Any:
    try:
        return importlib.import_module(module or extra)
    except ImportError as error:
        raise _missing(extra, field, str(error)) from None


def _missing(extra: str, field: str, why: str) -> ConfigError:
    return ConfigError(f"{field} needs {extra} ({why}): pip install -e '.[{extra}]'")


def _open_into(sinks: dict[str, Sink], name: str, open_: Callable[[], Sink]) -> None:
    sinks[name] = open_()


def _close_quietly(sink: Sink) -> None:
    """One that has failed already."""
    try:
        sink.close()
    except (Exception, SystemExit):
        log.debug("closing failed too", exc_info=True)


# what records are worth


@dataclass(frozen=True, slots=True)
class Scalars:
    axis: str
    """What they stand over, under the name that W&B shows."""
    x: float
    values: Mapping[str, float]
    """By full name."""


SECONDS = "elapsed_s"


class Reader:
    """Takes the numbers out of records. Records that carry no time stand at that of the newest
    snapshot, which is written together with them."""

    def __init__(self) -> None:
        self._elapsed_s = 0.0

    def read(self, kind: str, record: Record) -> Iterator[Scalars]:
        """Finite numbers only; kinds that have none give nothing. Steps that were skipped measured
        nothing."""
        if kind == "engine":
            self._elapsed_s = float(record["elapsed_s"])
            yield self._over_time(_engine(record))
        elif kind == "groups":
            yield self._over_time(_groups(record))
        elif kind == "heldout":
            yield self._over_time(_named(f"heldout/{record['when']}", record["means"]))
        elif kind == "dev":
            yield Scalars("dev/step", record["step"], _named("dev", record["means"]))
        elif kind == "step" and not record.get("skipped"):
            policy = record["policy"]
            measures = {**record, **record.get("metrics", {})}
            values = {name: v for name, v in measures.items() if name not in ("step", "t")}
            yield Scalars(f"{policy}/step", record["step"], _named(policy, values))
        elif kind == "benchmarks":
            policy = record["policy"]
            scores = {**record.get("scores", {}), "mean": (record.get("overall") or {}).get("mean")}
            found = {name: score["estimate"] for name, score in scores.items() if score}
            values = _named(f"benchmarks/{policy}", found)
            yield Scalars(f"{policy}/step", record["step"], values)

    def _over_time(self, values: Mapping[str, float]) -> Scalars:
        return Scalars(SECONDS, self._elapsed_s, values)


def _engine(record: Record) -> dict[str, float]:
    values = _named("busy", record.get("busy", {}))
    values |= _named("throughput", {"games_per_min": record.get("games_per_min")})
    rates = ("generated_per_s", "trained_per_s", "steps_per_min", "starved")
    for policy, view in record["policies"].items():
        values |= _named(f"throughput/{policy}", {name: view.get(name) for name in rates})
    return values


def _groups(record: Record) -> dict[str, float]:
    values: dict[str, float] = {}
    for stream, means in record["streams"].items():
        values |= _named(f"groups/{stream}", means)
    values |= _named("signs", record.get("signs") or {})
    for chart, series in (record.get("play") or {}).items():
        values |= _named(f"play/{chart}", series)
    return values


def _named(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


# the sinks


class TensorBoard:
    """Event files, written here: tensorboardX imports torch where it is installed, and the writer
    of TensorBoard hides its errors in a thread. A further attempt of a run adds a file."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._reader = Reader()
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._add(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, kind: str, record: Record) -> None:
        for scalars in self._reader.read(kind, record):
            summary = self._summary(
                value=[
                    self._summary.Value(tag=name, simple_value=value)
                    for name, value in scalars.values.items()
                ]
            )
            wall_s = record.get("t") or time.time()
            self._add(self._event(wall_time=wall_s, step=round(scalars.x), summary=summary))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._file.flush()


class Wandb:
    """One W&B run. Each number's axis is defined before its first value."""

    def __init__(
        self,
        folder: Path,
        name: str,
        project: str,
        mode: Literal["offline", "online"],
        config: Mapping[str, Any],
    ) -> None:
        import wandb

        self._reader = Reader()
        self._defined: set[str] = set()
        self._run = wandb.init(
            dir=folder,
            name=name,
            group=name,
            project=project,
            mode=mode,
            config=dict(config),
            settings=wandb.Settings(
                console="off",  # the terminal is the live view's
                silent=True,
                disable_code=True,
                reinit="create_new",
                finish_timeout=UPLOAD_S,  # at the exit of the process too
            ),
        )

    def write(self, kind: str, record: Record) -> None:
        for scalars in self._reader.read(kind, record):
            self._define(scalars)
            self._run.log({scalars.axis: scalars.x, **scalars.values})

    def close(self) -> None:
        self._run.finish()

    def _define(self, scalars: Scalars) -> None:
        if scalars.axis not in self._defined:
            self._defined.add(scalars.axis)
            self._run.define_metric(scalars.axis, hidden=True)
        for name in scalars.values.keys() - self._defined:
            self._defined.add(name)
            self._run.define_metric(name, step_metric=scalars.axis)
