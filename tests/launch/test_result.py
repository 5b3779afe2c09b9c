"""Tables over several runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.result import main


def summary(seed: int, delta: float, **more: float) -> dict[str, Any]:
    changes = {"solver_hard_t1": delta, **more}
    return {
        "seed": seed,
        "heldout": {
            "before": dict.fromkeys(changes, 0.5),
            "after": {name: 0.5 + value for name, value in changes.items()},
            "delta": changes,
            "ci95": {name: [value - 0.1, value + 0.1] for name, value in changes.items()},
        },
    }


def write(folder: Path, value: dict[str, Any]) -> str:
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(value))
    return str(folder)


def test_runs_are_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write(tmp_path / str(s), summary(s, d)) for s, d in ((0, 0.1), (1, 0.3))]
    assert main(folders) == 0
    head, _, row = capsys.readouterr().out.splitlines()
    assert head == "| measure | base | seed 0 | seed 1 | mean change |"
    assert row.endswith("| +0.100 [+0.000, +0.200] | +0.300 [+0.200, +0.400] | **+0.200** |")


def test_variants_are_columns_over_their_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = [write(tmp_path / f"f{s}", summary(s, d)) for s, d in ((0, 0.1), (1, 0.3))]
    random = write(tmp_path / "r0", summary(0, -0.02, coder_render=0.1))
    assert main([f"full={','.join(full)}", f"random={random}"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == "| measure | base | full | random |"
    (row,) = rows  # coder_render is not in every run
    assert row == ("| `solver_hard_t1` | 0.500 | +0.200 [+0.100, +0.300] | -0.020 |")


def test_a_folder_without_a_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "nothing/summary.json" in capsys.readouterr().err
    (tmp_path / "summary.json").write_text("{")
    assert main([str(tmp_path)]) == 2
    assert "summary.json" in capsys.readouterr().err
