"""What workers ask of the kernel as a tracer sees it: an audit that does not rest on our filter."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ATTACKS = """
import asyncio
from render_pool.config import RenderConfig
from render_pool.corpus import attacks, ordinary
from render_pool.pool import RenderPool

async def main():
    texts = [case.text for case in attacks.cases()][::3] + list(ordinary.FIXED.values())[::4]
    async with RenderPool(RenderConfig(side=96, deadline_s=60, cpu_s=30)) as pool:
        results = await asyncio.gather(*(pool.render(text) for text in texts))
        print(sum(hasattr(result, "png") for result in results), len(results))

asyncio.run(main())
"""
OUTSIDE = (
    "open openat openat2 creat socket connect bind execve execveat fork vfork clone clone3 kill"
)
CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)[( ](.*)")


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_confined_worker_asks_for_nothing_outside(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = ",".join(f"?{name}" for name in (*OUTSIDE.split(), "seccomp"))
    tracer = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={calls}", "-e", "signal=none"]
    command = [*tracer, sys.executable, "-c", ATTACKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    num_pictures, num_answers = map(int, done.stdout.split())
    assert 50 < num_pictures < num_answers
    confined: set[str] = set()
    before: list[str] = []
    after: list[str] = []
    for line in trace.read_text(errors="replace").splitlines():
        found = CALL.match(line)
        if found is None:
            continue
        pid, name, rest = found.groups()
        if name == "seccomp" and "SET_MODE_FILTER" in rest and rest.rstrip().endswith("= 0"):
            confined.add(pid)
        elif name != "seccomp":
            (after if pid in confined else before).append(line)
    assert len(confined) >= 2
    assert any("fonts.conf" in line for line in before), "the tracer saw nothing at all"
    assert after == []
