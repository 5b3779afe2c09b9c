"""`compare-NAMES.html`: several runs, or groups of runs, side by side in one file."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import yaml

from engine.errors import ConfigError
from engine.rundir import RunDir
from launch.sections import compared
from launch.sections.page import page, write_page
from launch.sections.run import opened
from launch.sections.sides import Side

MAX_NAME = 100
"""Of the file, in characters; file systems end at 255 bytes."""


def is_group(argument: str) -> bool:
    """LABEL=RUN,RUN, and no folder of that very name."""
    return "=" in argument and not Path(argument).exists()


def write_comparison(arguments: Sequence[str], out: Path | None = None) -> Path:
    """Write and return the page that compares runs, each a folder or LABEL=FOLDER,FOLDER.

    Raises ConfigError for a folder without a run, a run that is given twice, or fewer than two
    sides.
    """
    groups = _groups(arguments)
    if len(groups) < 2:
        raise ConfigError("a comparison wants two runs or more, or two labels")
    folders = [folder for _, own in groups for folder in own]
    _refuse_twice([str(folder.resolve()) for folder in folders], "run")
    names = distinct_names(folders)
    labels = [label or names[own[0]] for label, own in groups]
    _refuse_twice(labels, "label")
    with ExitStack() as stack:
        sides = []
        for label, (_, own) in zip(labels, groups, strict=True):
            runs = [
                replace(stack.enter_context(opened(folder)), name=names[folder]) for folder in own
            ]
            sides.append(Side(label, runs, [_config(folder) for folder in own]))
        text = render(sides)
    path = out or folders[0].resolve().parent / f"{_file_name(labels)}.html"
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: no such folder")
    return write_page(path, text)


def render(sides: Sequence[Side]) -> str:
    """The page."""
    title = " / ".join(side.name for side in sides)
    sections = [
        ("", f"<h1>{escape(title)}</h1>{compared.head(sides)}"),
        ("What differs in the configuration", compared.config(sides)),
        ("Held-out set, before and after", compared.heldout(sides)),
        ("Learning", compared.learning(sides)),
        ("Throughput", compared.throughput(sides)),
        ("Funnel", compared.funnels(sides)),
        ("Warnings", compared.warned(sides)),
    ]
    return page(title, sections)


def distinct_names(folders: Sequence[Path]) -> dict[Path, str]:
    """{folder: its own name, with as many of the folders above it as tell it from the others}."""
    names = {}
    for folder in folders:
        parts = folder.resolve().parts
        others = [other.resolve().parts for other in folders if other != folder]
        length = 1
        while length < len(parts) and any(o[-length:] == parts[-length:] for o in others):
            length += 1
        names[folder] = "/".join(parts[-length:])
    return names


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("a.b", value) of a configuration, as overrides write it; lists of plain values are one."""
    if isinstance(tree, Mapping) and tree:
        items: list[tuple[Any, Any]] = list(tree.items())
    elif isinstance(tree, list) and any(isinstance(item, dict | list) for item in tree):
        items = list(enumerate(tree))
    else:
        yield prefix, tree
        return
    for key, value in items:
        yield from flat(value, f"{prefix}.{key}" if prefix else str(key))


def _groups(arguments: Sequence[str]) -> list[tuple[str, list[Path]]]:
    """(label, folders) of each argument; "": it is a run's folder."""
    groups = []
    for argument in arguments:
        if not is_group(argument):
            groups.append(("", [Path(argument)]))
            continue
        label, _, folders = argument.partition("=")
        if not label or not all(folders.split(",")):
            raise ConfigError(f"{argument}: want a folder, or LABEL=FOLDER,FOLDER")
        groups.append((label, [Path(folder) for folder in folders.split(",")]))
    return groups


def _refuse_twice(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name}: this {what} is given twice")


def _config(folder: Path) -> dict[str, Any]:
    path = RunDir(folder).config
    if not path.exists():
        return {}
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    return dict(flat(tree)) if isinstance(tree, dict) else {}


def _file_name(labels: Sequence[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"compare-{'-'.join(labels)}")
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
