"""Follows the README like someone who has never seen the project: every command in it, literally.

    python -m tests.newcomer                # all of them: two hours on two cores
    python -m tests.newcomer --only report.py trace.py
    python -m tests.newcomer --list

In a fresh clone of the last commit, with an empty HOME and no variables but those that find
programs and packages. What can't run here is skipped, with its reason. Exits 1 if a command fails.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "launch/README.md")
SKIPPED: Mapping[str, str] = {
    "HOST:": "needs servers of your own",
    "--nnodes": "needs machines of your own",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "for machines of your own",
    "test-gpu": "needs a GPU",
    "venv-gpu": "needs a GPU",
    "hf download": "needs the Hub",
    "mm_zero_qwen3_vl_8b_8x80gb.yaml": "needs GPUs",
    "sbatch": "needs a Slurm cluster",
    "tests.newcomer": "it runs",
}
"""{part of a command: why it is not run here}."""
STANDS_FOR: Mapping[str, str] = {
    r"\bDIR\b": "tests/evals/fixtures",
    r"\bCONFIG\b": "launch/configs/quickstart.yaml",
}
"""{pattern: what a newcomer would put there}."""
IN_SHORT: Mapping[str, str] = {
    "bench.py schedule": "--steps 4 --phase-steps 2 --seeds 0 --heldout-items 20",
    "bench.py soak": "--minutes 4 --warm-up 2",
    "bench.py staleness": "--steps 4 --seeds 0 --ages 0 8 --lrs 1e-5",
    "make selfplay RECIPE=mixed": "SET=run.steps=20",
    "make chaos": "MINUTES=4",
}
"""{a command that takes long: what makes it short}."""
TIMEOUT_S = 2400.0
_KEPT = re.compile(r"PATH|LANG|TERM|TZ|TMPDIR|PIP_.*|SSL_.*|REQUESTS_CA_BUNDLE|HTTPS?_PROXY", re.I)


def commands(page: str) -> Iterator[str]:
    """Of a page's bash blocks, each as one line, in their order; without comments."""
    for block in re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = re.sub(r"(^|\s)#.*$", "", line).strip()
            if words:
                yield re.sub(r"\s+", " ", words)


def reason_to_skip(command: str) -> str | None:
    return next((why for part, why in SKIPPED.items() if part in command), None)


def filled_in(command: str) -> str:
    for pattern, value in STANDS_FOR.items():
        command = re.sub(pattern, value, command)
    shorter = next((more for part, more in IN_SHORT.items() if command.endswith(part)), None)
    return f"{command} {shorter}" if shorter else command


def environment(home: Path, clone: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    # The README says to activate the environment that make made.
    path = f"{clone / '.venv/bin'}:{kept['PATH']}"
    return kept | {"HOME": str(home), "PATH": path}


def follow(asked: Sequence[str], clone: Path, home: Path) -> list[str]:
    """Run the commands one after the other; those that failed."""
    failed = []
    for number, command in enumerate(asked, start=1):
        log = home / f"{number:02}.log"
        started_s = time.monotonic()
        with log.open("wb") as output:
            try:
                status: int | str = subprocess.run(
                    ["bash", "-c", filled_in(command)],
                    cwd=clone,
                    env=environment(home, clone),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=TIMEOUT_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                status = "no end"
        seconds = time.monotonic() - started_s
        print(f"{status!s:>6} {seconds:6.0f} s  {command}", flush=True)
        if status != 0:
            failed.append(command)
            print(log.read_text(errors="replace")[-2000:], flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="commands that hold one of these")
    parser.add_argument("--list", action="store_true", help="print them, and run nothing")
    options = parser.parse_args()
    found = [command for page in PAGES for command in commands((ROOT / page).read_text())]
    asked = []
    for command in dict.fromkeys(found):
        if options.only and not any(part in command for part in options.only):
            continue
        why = reason_to_skip(command)
        if options.list or why is not None:
            print(f"  skip {why}: {command}" if why else f"   run {command}")
        if why is None:
            asked.append(command)
    if options.list:
        return 0
    folder = Path(tempfile.mkdtemp(prefix="newcomer-"))
    try:
        clone, home = folder / "clone", folder / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        failed = follow(asked, clone, home)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(asked) - len(failed)} of {len(asked)} commands ended well")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
