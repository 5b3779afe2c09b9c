"""Publication of weights: how fast, how much memory, and what it costs requests in flight.

Throughput: a learner's publication to another process, HTTP calls, packing, check for NaN and
loading included, against one plain gloo broadcast of the same bytes between the same two
processes, in turns. Memory: by how much the sender's resident memory grows meanwhile, in buckets.

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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.children import end, last_lines, spawn

_MODEL = Path(__file__).resolve().parents[1] / "tiny_base_model"
_TENSOR_MB = 4
"""Of the synthetic model."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `bench.py weights`."""
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--bucket-mb", type=float, default=64.0)
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
    print("| model | publication | raw broadcast | ratio [rounds] | extra memory |")
    print("|---|---|---|---|---|")
    with _process("launch.benches.weight_receiver", "{port}") as url:
        for size in options.sizes_mb:
            print(measure(url, size, options.bucket_mb, options.rounds).row())
    if options.in_flight:
        serve = ("engine.servers.embedded", "--serve", f"{{port}}={options.model_dir}")
        with _process(*serve) as url:
            print_modes(url, options.model_dir, options.in_flight, options.new_tokens)


@dataclass(frozen=True, slots=True)
class Measured:
    """One size."""

    size_mb: int
    bucket_mb: float
    published_s: list[float]
    raw_s: list[float]
    """Of the same rounds."""
    extra_mb: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.raw_s) / statistics.median(self.published_s)

    @property
    def extra_buckets(self) -> float:
        return self.extra_mb / self.bucket_mb

    def row(self) -> str:
        gb = self.size_mb / 1024
        rounds = [raw / ours for raw, ours in zip(self.raw_s, self.published_s, strict=True)]
        return (
            f"| {self.size_mb} MB | {gb / statistics.median(self.published_s):.2f} GB/s "
            f"| {gb / statistics.median(self.raw_s):.2f} GB/s "
            f"| {self.ratio:.2f} [{min(rounds):.2f}, {max(rounds):.2f}] "
            f"| {self.extra_buckets:.1f} buckets |"
        )


def measure(url: str, size_mb: int, bucket_mb: float, rounds: int) -> Measured:
    """Publications and plain broadcasts in turns, after one of each to warm up."""
    import torch

    from engine.buckets import Memory
    from engine.server_calls import Call
    from engine.server_link import ServerLink
    from engine.weight_groups import broadcast
    from engine.weights import publish

    flat = torch.rand(size_mb << 18)  # float32
    tensors = [(f"t{size_mb}.{i}", t) for i, t in enumerate(flat.split(_TENSOR_MB << 18))]
    memory = Memory(), Memory()
    link = ServerLink(url)
    link.connect()
    published, raw, extra = [], [], 0.0
    for round_ in range(rounds + 1):
        with _peak() as peak:
            began = time.perf_counter()
            report = publish(
                tensors,
                [link],
                version=round_,
                bucket_bytes=int(bucket_mb * 2**20),
                timeout_s=60,
                memory=memory,
            )
            published_s = time.perf_counter() - began
        if report.failed:
            raise SystemExit(report.servers[url].error)
        assert link.group is not None
        body = {"bytes": size_mb << 20, "group_name": link.group_name}
        began = time.perf_counter()
        call = Call(url, "/raw", body, timeout_s=60, key=None)
        broadcast(link.group, flat.view(torch.uint8), 60).wait()
        call.answer()
        extra = max(extra, peak[0])
        if round_:
            published.append(published_s)
            raw.append(time.perf_counter() - began)
    link.close()
    return Measured(size_mb, bucket_mb, published, raw, extra)


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
def _process(module: str, *arguments: str) -> Iterator[str]:
    """The URL of a process `python -m module arguments` that answers at {port}."""
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
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
