"""The tiny base for real: one embedded server process, and a sampler for each role."""

import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from engine.children import last_lines, spawn
from engine.sampler import RoleSampler, SamplerConfig, ServerPool, TextEncoder, client_session
from tests.engine.server_process import answers, free_port, until

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "launch/tiny_base_model"
VERSION = 11
"""Of the weights that the server starts with."""


@asynccontextmanager
async def samplers_of(
    roles: Sequence[str], *, seed: int = 0
) -> AsyncIterator[dict[str, RoleSampler]]:
    """{role: sampler}, each role with a policy (and a port) of its own name."""
    ports = {role: free_port() for role in roles}
    argv = [sys.executable, "-m", "engine.servers.embedded"]
    for port in ports.values():
        argv += ["--serve", f"{port}={MODEL}"]
    argv += ["--weight-version", str(VERSION), "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        process = spawn(argv, log=log, env={"OMP_NUM_THREADS": "1"})
        try:
            pools = {}
            for role, port in ports.items():
                url = f"http://127.0.0.1:{port}"
                until(lambda url=url: answers(url), timeout_s=300, what=lambda: last_lines(log))
                pools[role] = ServerPool(role, max_concurrency=256)
                pools[role].mark_ready(url, VERSION)
            encoder = TextEncoder.load(MODEL)
            async with client_session() as session:
                yield {
                    role: RoleSampler(role, role, encoder, pool, session, SamplerConfig(), print)
                    for role, pool in pools.items()
                }
        finally:
            process.terminate()
            process.wait(timeout=300)
