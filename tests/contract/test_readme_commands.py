"""The commands of the README, as `tests/newcomer.py` runs them one by one."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from tests.newcomer import (
    IN_SHORT,
    PAGES,
    ROOT,
    SKIPPED,
    commands,
    environment,
    filled_in,
    follow,
    reason_to_skip,
)

FOUND = [command for page in PAGES for command in commands((ROOT / page).read_text())]


def test_commands_are_read_from_bash_blocks_alone() -> None:
    page = (
        "`make no`\n```bash\nmake a   # first\n# a remark\npython b \\\n    --c d\n```\n"
        "```yaml\nx: y\n```\n```bash\ne --f '#g'\n```\n"
    )
    assert list(commands(page)) == ["make a", "python b --c d", "e --f '#g'"]


def test_the_readme_has_the_two_commands_and_more() -> None:
    assert FOUND[:2] == ["make selfplay", "make test"]
    assert len(FOUND) > 20


@pytest.mark.parametrize("command", FOUND)
def test_what_a_command_names_is_there(command: str) -> None:
    words = shlex.split(filled_in(command))
    made = ("runs/", "models/")
    for word in words:
        for path in re.findall(r"(?:launch|tests|engine|roles|evals)/[\w./-]+\w", word):
            if not path.startswith(made):
                assert (ROOT / path).exists(), path
    if "launch/bench.py" in words:
        part = words[words.index("launch/bench.py") + 1]
        assert (ROOT / "launch/benches" / f"{part}.py").exists()


def test_every_reason_to_skip_is_needed_and_most_commands_run() -> None:
    skipped = [command for command in FOUND if reason_to_skip(command)]
    assert len(skipped) < len(FOUND) / 3
    for part in SKIPPED:
        assert any(part in command for command in FOUND), part
    assert not any("launch/plan.py" in command for command in skipped), "it needs no GPU"


@pytest.mark.parametrize("part", IN_SHORT)
def test_what_takes_long_is_run_in_short(part: str) -> None:
    (command,) = [command for command in FOUND if command.endswith(part)]
    assert filled_in(command) == f"{command} {IN_SHORT[part]}"
    if part.startswith("make "):
        variable = IN_SHORT[part].partition("=")[0]
        assert re.search(rf"^{variable} \?=", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"launch.benches.{part.split()[-1]}").add_arguments(parser)
    parser.parse_args(IN_SHORT[part].split())


def test_a_newcomer_has_an_empty_home_and_no_settings_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMZERO_ENGINE_LOG", "x")
    monkeypatch.setenv("PYTHONPATH", "x")
    found = environment(tmp_path, tmp_path / "clone")
    assert found["HOME"] == str(tmp_path)
    assert not {"STREAMZERO_ENGINE_LOG", "PYTHONPATH"} & set(found)
    assert found["PATH"].startswith(str(tmp_path / "clone/.venv/bin:"))


def test_a_command_that_fails_is_named(tmp_path: Path) -> None:
    asked = ["test -n DIR", 'test "$PWD" = "$HOME"', "exit 3"]
    assert follow(asked, tmp_path, tmp_path) == ["exit 3"]
    assert follow(["echo $PYTHONPATH | grep ."], tmp_path, tmp_path) != []
