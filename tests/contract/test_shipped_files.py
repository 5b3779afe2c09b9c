"""What is shipped loads; what the README says to type is what the Makefile knows."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from engine.errors import ConfigError
from launch.config import RootConfig, load_root

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "launch/configs").glob("*.yaml"))
GUIDES = [
    path
    for folder in (".", "launch", "engine", "roles", "render_pool", "evals")
    for path in sorted((ROOT / folder).glob("*.md" if folder == "." else "**/*.md"))
]
YOURS = "roles/look/recipe.py"
"""What a reader of roles/README.md writes."""
guides = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    assert isinstance(load_root(path), RootConfig)


def test_there_is_a_quickstart() -> None:
    assert "quickstart" in {path.stem for path in CONFIGS}


def test_an_unknown_key_is_refused_with_the_nearest_one_named() -> None:
    with pytest.raises(ConfigError, match=r"learner\.lrr.*did you mean 'learner.lr'"):
        load_root(CONFIGS[0], ["learner.lrr=1"])


@guides
def test_commands_of_a_guide_are_those_of_the_makefile(guide: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|&& )make ([a-z][a-z-]*)", guide.read_text(), re.MULTILINE))
    assert {"selfplay", "test"} <= named or guide.parent != ROOT
    assert named <= targets


def is_there(name: str) -> bool:
    """A file, or what a module has: `rewards/grading.tally`."""
    module, _, attribute = name.rpartition(".")
    source = ROOT / f"{module}.py"
    if (ROOT / name).exists() or not source.exists():
        return (ROOT / name).exists()
    defined = re.search(
        rf"^(?:async )?(?:def|class) {attribute}\b", source.read_text(), re.MULTILINE
    )
    return defined is not None


@guides
def test_a_guide_names_only_files_that_exist(guide: Path) -> None:
    named = re.findall(
        r"(?<![\w/-])((?:launch|engine|roles|evals|rewards|render_pool|tests)/[\w/.-]+\w)",
        guide.read_text(),
    )
    missing = [name for name in named if name != YOURS and not is_there(name)]
    assert not missing


@guides
def test_links_of_a_guide_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", guide.read_text()):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            continue
        page = guide.parent / path if path else guide
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert anchor in slugs, target


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_sglang_is_tested_in_the_versions_that_gpus_get() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = "".join(
        (ROOT / "launch/sglang_cpu" / name).read_text()
        for name in ("requirements.txt", "requirements-no-deps.txt")
    ).splitlines()
    for package in ("sglang", "sglang-router", "transformers", "tokenizers"):
        (pin,) = [line for line in extra["gpu"] if line.startswith(f"{package}==")]
        assert pin in listed


def test_the_gpu_environment_is_not_filled_from_the_cpu_index(tmp_path: Path) -> None:
    """`make venv-gpu` where that of the README for machines without a GPU is still exported."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (
        ("python", ""),
        ("pip", f'env > "{tmp_path}/seen"; echo "$*" >> "{tmp_path}/seen"'),
    ):
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    env = {**os.environ, "PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"}
    subprocess.run(
        ["make", "venv-gpu", f"GPU={tmp_path}"], cwd=ROOT, env=env, check=True, timeout=60
    )
    seen = (tmp_path / "seen").read_text()
    assert "install --quiet -e .[gpu,dev]" in seen
    assert "PIP_EXTRA_INDEX_URL" not in seen
