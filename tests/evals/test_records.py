"""The journal: nothing lost, nothing twice, whatever ended the last writer."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError
from evals.records import Journal, key_of, read_lines, write_lines


def test_the_key_is_of_everything_and_of_nothing_else() -> None:
    key = key_of(model={"a": "1"}, seed=3, prompt=["x"])
    assert key == key_of(prompt=["x"], seed=3, model={"a": "1"})
    assert key != key_of(prompt=["x"], seed=4, model={"a": "1"})
    assert len(key_of(text="\ud800 lone surrogate")) == 64


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "a" / "responses.jsonl"
    with Journal(path) as journal:
        journal.append("k1", {"response": "one\ntwo \ud800"})
    with Journal(path) as journal:
        assert journal.get("k1") == {"key": "k1", "response": "one\ntwo \ud800"}
        assert journal.get("k2") is None


def test_the_first_line_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    with Journal(path) as journal:
        journal.append("k", {"response": "first"})
        assert journal.append("k", {"response": "second"})["response"] == "first"
    assert path.read_bytes().count(b"\n") == 1
    path.write_text(path.read_text() + '{"key": "k", "response": "third"}\n')
    with Journal(path) as journal:
        line = journal.get("k")
        assert line is not None
        assert line["response"] == "first"


@pytest.mark.parametrize("torn", [b'{"key": "b", "resp', b'{"key": "b"}', b"\xff\xfe", b"{"])
def test_a_torn_last_line_is_cut_off_and_its_row_asked_again(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_bytes(b'{"key": "a"}\n' + torn)
    with Journal(path) as journal:
        assert journal.get("a") is not None
        assert journal.get("b") is None
        journal.append("b", {"response": "whole"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"key": "a"}, {"key": "b", "response": "whole"}]


@pytest.mark.parametrize("damage", [b"\0\0\0", b"[]", b"{}", b'"k"', b"[" * 100_000])
def test_a_damaged_line_in_the_middle_spoils_no_other(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_bytes(b'{"key": "a"}\n' + damage + b'\n{"key": "c"}\n')
    with Journal(path) as journal:
        assert (len(journal), journal.damaged) == (2, 1)


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    with Journal(path), pytest.raises(ConfigError, match="another evaluation"):
        Journal(path)
    Journal(path).close()


@pytest.mark.parametrize("option", ["--out", "--cache"])
def test_who_comes_second_is_told_what_to_change(tmp_path: Path, option: str) -> None:
    path = tmp_path / "judge.jsonl"
    with Journal(path), pytest.raises(ConfigError, match=f"or choose another {option}"):
        Journal(path, option=option)


_WRITER = """
import sys
from pathlib import Path
from evals.records import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(10**9):
    journal.append(f"k{number}", {"response": "x" * 5000})
    print(number, flush=True)
"""


def test_a_kill_loses_no_line_that_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    command = [sys.executable, "-c", _WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as writer:
        assert writer.stdout is not None
        said = 0
        while said < 200:
            said = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
    last = int(rest[-1]) if rest else said
    with Journal(path) as journal:
        assert all(journal.get(f"k{number}") for number in range(last + 1))
        assert journal.damaged == 0


def test_lines_are_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_lines(path, [{"row": "a"}])
    write_lines(path, [{"row": "b"}, {"row": "c"}])
    assert read_lines(path) == [{"row": "b"}, {"row": "c"}]
    assert [file.name for file in tmp_path.iterdir()] == ["records.jsonl"]
    with pytest.raises(ConfigError, match=r"records\.jsonl"):
        read_lines(tmp_path / "no" / "records.jsonl")
