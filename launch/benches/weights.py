"""Publication of weights: how fast, how much memory, and what it costs requests in flight.

Throughput: a learner's publication to another process, HTTP calls, packing and loading included,
against one plain gloo broadcast of the same bytes between the same two processes, in turns.
*Apart*, every tensor has memory of its own, and is packed; in *one piece* they lie one after the
other, as in a copy, and are sent from there. `CPU` is the processor time of both processes
together: where all cores are busy it is what counts. `look`: the weights looked through for NaN,
which a learner's step does before its end. Memory: by how much the sender's resident memory grows
meanwhile, in buckets; a small publication before takes what is taken once.

In flight: an embedded server with so many requests under way when new weights come, once for each
`weights.pause`. `stall` is the longest time without a token of a request in flight, mean over the
requests; `late` how long a request that comes with the update waits for its first token; `again`
the generated tokens of which keys and values are thrown away and computed again.
"""

import argparse
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from engine.children import end, last_lines, spawn

_MODEL = Path(__file__).resolve().parents[1] / "tiny_base_model"
_TENSOR_MB = 4
"""Of the synthetic model."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py weights`."""
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--bucket-mb", type=float, default=256.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=16, help="0: without this part")
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--model-dir", type=Path, default=_MODEL, help="of the part in flight")


def run(options: argparse.Namespace) -> None:
    """Measure and print two tables."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from launch.benches.pause_modes import print_modes

    torch.set_num_threads(1)
    print("| model | GB/s | raw | ratio [rounds] | CPU s/GB | raw | look | extra memory |")
    print("|---|---|---|---|---|---|---|---|")
    with _process("launch.benches.weight_receiver", "{port}") as receiver:
        for size, is_apart in product(options.sizes_mb, (True, False)):
            measured = measure(receiver, size, options.bucket_mb, options.rounds, is_apart=is_apart)
            print(measured.row(), flush=True)
    if options.in_flight:
        serve = ("engine.servers.embedded", "--serve", f"{{port}}={options.model_dir}")
        with _process(*serve) as server:
            print_modes(server.url, options.model_dir, options.in_flight, options.new_tokens)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other process."""

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class Took:
    """One publication or plain broadcast."""

    wall_s: float
    cpu_s: float
    """Of both processes."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One size."""

    size_mb: int
    bucket_mb: float
    is_apart: bool
    published: list[Took]
    raw: list[Took]
    """Of the same rounds."""
    looks_s: list[float]
    extra_mb: float

    @property
    def ratio(self) -> float:
        return _median_s(self.raw) / _median_s(self.published)

    @property
    def extra_buckets(self) -> float:
        return self.extra_mb / self.bucket_mb

    def row(self) -> str:
        gb = self.size_mb / 1024
        rounds = [raw.wall_s / x.wall_s for raw, x in zip(self.raw, self.published, strict=True)]
        cpu = [statistics.mean(took.cpu_s for took in x) / gb for x in (self.published, self.raw)]
        return (
            f"| {self.size_mb} MB, {'apart' if self.is_apart else 'one piece'} "
            f"| {gb / _median_s(self.published):.2f} | {gb / _median_s(self.raw):.2f} "
            f"| {self.ratio:.2f} [{min(rounds):.2f}, {max(rounds):.2f}] "
            f"| {cpu[0]:.2f} | {cpu[1]:.2f} | {gb / statistics.median(self.looks_s):.0f} GB/s "
            f"| {self.extra_buckets:.1f} buckets |"
        )


def _median_s(rounds: list[Took]) -> float:
    return statistics.median(took.wall_s for took in rounds)


def measure(
    receiver: Peer, size_mb: int, bucket_mb: float, rounds: int, *, is_apart: bool
) -> Measured:
    """Publications and plain broadcasts in turns, after one of each to warm up."""
    import torch

    from engine.buckets import Memory
    from engine.learner.sharding import broken
    from engine.server_calls import Call
    from engine.server_link import ServerLink
    from engine.weight_groups import broadcast
    from engine.weights import publish

    flat = torch.rand(size_mb << 18)  # float32
    parts = [t.clone() if is_apart else t for t in flat.split(_TENSOR_MB << 18)]
    tensors = [(f"{size_mb}.{is_apart}.{i}", t) for i, t in enumerate(parts)]
    memory = Memory(), Memory()
    link = ServerLink(receiver.url)
    link.connect()

    def published(some: list[tuple[str, torch.Tensor]]) -> None:
        size = int(bucket_mb * 2**20)
        report = publish(some, [link], version=1, bucket_bytes=size, timeout_s=60, memory=memory)
        if report.failed:
            raise SystemExit(report.servers[receiver.url].error)

    def raw() -> None:
        assert link.group is not None
        body = {"bytes": size_mb << 20, "group_name": link.group_name}
        call = Call(receiver.url, "/raw", body, timeout_s=60, key=None)
        broadcast(link.group, flat.view(torch.uint8), 60).wait()
        call.answer()

    published([("warm", torch.zeros(1000))])
    with _peak() as peak:
        published(tensors)
    raw()
    ours, theirs, looks_s = [], [], []
    for _ in range(rounds):
        began = time.perf_counter()
        assert not broken(dict(tensors), None)
        looks_s.append(time.perf_counter() - began)
        ours.append(_took(lambda: published(tensors), receiver.pid))
        theirs.append(_took(raw, receiver.pid))
    link.close()
    return Measured(size_mb, bucket_mb, is_apart, ours, theirs, looks_s, peak[0])


def _took(action: Callable[[], None], pid: int) -> Took:
    cpu_s, began = _cpu_s(pid), time.perf_counter()
    action()
    return Took(time.perf_counter() - began, _cpu_s(pid) - cpu_s)


def _cpu_s(pid: int) -> float:
    """Processor time of this process and the other one so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _peak() -> Iterator[list[float]]:
    """[MB by which resident memory has grown at most], when it ends."""
    grown, over = [0.0], threading.Event()

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20

    def watch() -> None:
        while not over.wait(0.002):
            grown[0] = max(grown[0], resident() - start)

    start = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        over.set()
        watcher.join()


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[Peer]:
    """A process `python -m module arguments` that answers at {port}."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(tempfile.mkdtemp()) / "process.log"
    argv = [sys.executable, "-m", module, *(text.format(port=port) for text in arguments)]
    process = spawn(argv, log=log, env={"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{module} does not start:\n{last_lines(log)}")
            time.sleep(0.05)
        yield Peer(f"http://127.0.0.1:{port}", process.pid)
    finally:
        end(process)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
