"""Imports point one way: launch -> {roles, evals} -> {rewards, render_pool} -> engine.types."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "roles", "rewards", "render_pool", "evals", "launch")
WORDS = {"engine.types", "engine.errors", "engine.tasks", "engine.limits", "engine.sandbox"}
"""The part of `engine` that every package may know."""

ALLOWED = {
    "engine": {"engine"},
    "rewards": {"rewards", *WORDS},
    "render_pool": {"render_pool", *WORDS},
    "roles": {"roles", "rewards", "render_pool", *WORDS},
    "evals": {"evals", "roles", "rewards", "render_pool", *WORDS},
    "launch": {*PACKAGES},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "engine":
            names |= {f"engine.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(package)
        for name in imported(path)
        if name.split(".")[0] in PACKAGES
        and not any(name == ok or name.startswith(ok + ".") for ok in ALLOWED[package])
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["roles", "rewards"])
def test_roles_and_rewards_never_import_torch(package: str) -> None:
    heavy = {"torch", "transformers"}
    assert files(package)
    assert not [p for p in files(package) if {n.split(".")[0] for n in imported(p)} & heavy]


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_is_unpickled_between_processes(package: str) -> None:
    assert not [p for p in files(package) if {"pickle", "dill", "cloudpickle"} & imported(p)]


def test_there_is_no_other_top_level_package() -> None:
    found = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests"}
    assert found == set(PACKAGES)


def test_help_is_instant(tmp_path: Path) -> None:
    """`--help` imports neither torch nor transformers."""
    import subprocess

    code = (
        "import sys, runpy\n"
        "sys.argv = ['async_selfplay.py', '--help']\n"
        "try:\n    runpy.run_path('launch/async_selfplay.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--resume" in done.stdout
