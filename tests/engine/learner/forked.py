"""Runs a module that forks ranks (`ranks.py`), and serves the store at which they meet."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

ROOT = Path(__file__).parents[3]
PATIENCE_S = 300


def run_forked(module: str, base: Path, folder: Path) -> list[str]:
    """What `python -m MODULE BASE FOLDER STORE_PORT` prints, by line; it has to end well."""
    wait = timedelta(seconds=PATIENCE_S)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=wait)
    ranks = subprocess.Popen(
        [sys.executable, "-m", module, str(base), str(folder), str(store.port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        lines, errors = ranks.communicate(timeout=PATIENCE_S)
        assert ranks.returncode == 0, errors[-3000:]
        print(errors)
        return lines.splitlines()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(ranks.pid, signal.SIGKILL)
