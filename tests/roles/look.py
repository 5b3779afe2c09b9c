"""The game that roles/README.md shows how to write, as a reader gets it by following the guide."""

import re
import shutil
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "roles/README.md"
PACKAGES = ("engine", "evals", "launch", "render_pool", "rewards", "roles")


@cache
def section() -> str:
    """What stands under the heading."""
    return GUIDE.read_text().partition("\n## Write your own game\n")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    """Python: the game, and what binds it. YAML: on two CPU cores, on GPUs."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", section(), re.DOTALL | re.MULTILINE)
    assert len(found) == 2
    return found


def tiny_words() -> dict[str, Any]:
    """The section `recipe` of the config for the tiny base."""
    found = yaml.safe_load(blocks("yaml")[0])["recipe"]
    assert isinstance(found, dict)
    return found


def example() -> ModuleType:
    """The game as a module."""
    module = ModuleType("example")
    exec(compile(blocks("python")[0], str(GUIDE), "exec"), vars(module))
    return module


def follow_the_guide(folder: Path) -> Path:
    """A copy of the project in `folder` with the game in it, and the two configs, `cpu.yaml` and
    `gpu.yaml`. What they name of the project is named where it really is."""
    left_out = shutil.ignore_patterns("__pycache__", "tiny_*_model")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=left_out)
    game, binding = blocks("python")
    (folder / "roles/look").mkdir()
    (folder / "roles/look/recipe.py").write_text(game)
    edit(
        folder / "launch/recipe.py",
        (known := "RECIPES: Mapping[str, Recipe] = {", f'{binding}\n\n{known}\n    "look": LOOK,'),
        (
            known := 'Annotated[VisionZeroConfig, Tag("vision_zero")]',
            f'{known} | Annotated[LookConfig, Tag("look")]',
        ),
    )
    for name, text in zip(("cpu", "gpu"), blocks("yaml"), strict=True):
        (folder / f"{name}.yaml").write_text(
            re.sub(r"\b(?:launch|tests)/", lambda match: f"{ROOT}/{match[0]}", text)
        )
    return folder


def edit(path: Path, *changes: tuple[str, str]) -> None:
    """Each is (what stands there once, what shall)."""
    source = path.read_text()
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    path.write_text(source)
