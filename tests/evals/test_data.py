"""Rows from folders and from the Hub: what is read, what is named and skipped, what ends it."""

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import ConfigError
from evals.data import Loaded, load
from evals.revisions import pin
from tests.evals.small_benchmark import SMALL, png, record, write_rows
from tests.evals.test_images import bomb


def load_one(folder: Path, **changes: Any) -> Loaded:
    return load(SMALL, write_rows(folder, [record(0, **changes)]))


def test_a_folder_of_json_lines_and_pictures(tmp_path: Path) -> None:
    loaded = load(SMALL, write_rows(tmp_path, [record(i) for i in range(4)]))
    assert {row.id for row in loaded.rows} == {"q0", "q1", "q2", "q3"}
    assert loaded.rows[0].images == {"image": png()}
    assert loaded.rows[0].fields["answer"] == "red"
    assert (loaded.found, loaded.refused, loaded.revision) == (4, (), "local")


def test_pictures_may_be_bytes_paths_or_lists_of_them(tmp_path: Path) -> None:
    inline = {"bytes": base64.b64encode(png("blue")).decode(), "path": None}
    changes = {"images": [{"path": "red.png"}, inline], "image_2": "red.png", "image_3": None}
    (row,) = load_one(tmp_path, **changes).rows
    assert row.images == {
        "image": png(),
        "images/0": png(),
        "images/1": png("blue"),
        "image_2": png(),
    }
    assert row.fields["image_3"] is None
    assert "images" not in row.fields


def test_text_that_names_no_file_is_text_unless_the_column_is_a_picture(tmp_path: Path) -> None:
    loaded = load_one(tmp_path, decoded_image="elsewhere/1.png", image_path="../1.png")
    assert loaded.rows[0].fields["decoded_image"] == "elsewhere/1.png"
    assert set(loaded.rows[0].images) == {"image"}


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"image": "no.png"}, "column 'image': the picture 'no.png' is missing"),
        ({"image": "../../red.png"}, "column 'image': '../../red.png' leads out of the folder"),
        ({"image": "/etc/x.png"}, "column 'image': '/etc/x.png' leads out of the folder"),
        ({"image": {"bytes": None, "path": None}}, "column 'image': NoneType is no picture"),
        ({"image": {"bytes": "!", "path": None}}, "column 'image': bytes that are not base64"),
        ({"image": None}, "column 'image': NoneType instead of bytes"),
        ({"image": 5}, "column 'image': int instead of bytes"),
        ({"answer": 5}, "column 'answer': int instead of str"),
        ({"question": None}, "column 'question': NoneType instead of str"),
        ({"question": "x" * 600_000}, "characters of text, more than 500000"),
        ({"note": [{"deep": "x" * 600_000}]}, "characters of text, more than 500000"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, changes: Mapping[str, Any], why: str
) -> None:
    folder = write_rows(tmp_path / "data", [record(0, **changes), record(1)])
    (tmp_path / "red.png").write_bytes(png())
    loaded = load(SMALL, folder)
    assert [row.id for row in loaded.rows] == ["q1"]
    ((name, reason),) = loaded.refused
    assert name == "row 0"
    assert why in reason


@pytest.mark.parametrize("data", [bomb(10_000, 9_000), b"no picture", b""])
def test_a_picture_that_must_not_be_decoded_costs_its_row_only(tmp_path: Path, data: bytes) -> None:
    folder = write_rows(tmp_path, [record(0, image="bad.png"), record(1)])
    (folder / "bad.png").write_bytes(data)
    loaded = load(SMALL, folder)
    assert [row.id for row in loaded.rows] == ["q1"]
    assert loaded.refused[0][1].startswith("column 'image': ")


def test_a_symbolic_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = write_rows(tmp_path / "data", [record(0, image="link.png")])
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    assert "leads out" in load(SMALL, folder).refused[0][1]


@pytest.mark.parametrize("line", ["{", "[1]", "null", '"text"', "[" * 100_000, '{"id": "q9"}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    folder = write_rows(tmp_path, [record(0)])
    with (folder / "small.jsonl").open("a") as file:
        file.write(line + "\n" + json.dumps(record(1)) + "\n")
    loaded = load(SMALL, folder)
    assert {row.id for row in loaded.rows} == {"q0", "q1"}
    assert loaded.refused[0][0] == "row 1"
    assert loaded.found == 3


def test_the_second_row_of_an_id_is_refused(tmp_path: Path) -> None:
    loaded = load(SMALL, write_rows(tmp_path, [record(0), record(0)]))
    assert loaded.refused == (("q0", "another row has the same id"),)


def test_an_id_that_cannot_be_made_costs_its_row_only(tmp_path: Path) -> None:
    folder = write_rows(tmp_path, [record(0), record(1, serial=1)])
    benchmark = replace(SMALL, row_id=lambda fields, _: str(fields["serial"]))
    loaded = load(benchmark, folder)
    assert [row.id for row in loaded.rows] == ["1"]
    assert "no id can be made (KeyError" in loaded.refused[0][1]


def test_a_limit_takes_the_same_rows_whatever_their_order_and_smaller_ones_are_part_of_larger(
    tmp_path: Path,
) -> None:
    records = [record(i) for i in range(40)]
    forwards = load(SMALL, write_rows(tmp_path / "a", records), limit=10)
    backwards = load(SMALL, write_rows(tmp_path / "b", records[::-1]), limit=10)
    fewer = load(SMALL, tmp_path / "a", limit=4)
    names = [row.id for row in forwards.rows]
    assert names == [row.id for row in backwards.rows]
    assert names[:4] == [row.id for row in fewer.rows]
    assert names != [f"q{i}" for i in range(10)]
    assert forwards.found == 40


def test_the_fingerprint_is_of_texts_and_pictures(tmp_path: Path) -> None:
    first = load_one(tmp_path / "a").fingerprint
    assert load_one(tmp_path / "b").fingerprint == first
    assert load_one(tmp_path / "c", answer="blue").fingerprint != first
    folder = write_rows(tmp_path / "d", [record(0)])
    (folder / "red.png").write_bytes(png("blue"))
    assert load(SMALL, folder).fingerprint != first


def test_a_folder_of_files_is_read_by_config_and_split(tmp_path: Path) -> None:
    benchmark = replace(SMALL, configs=["B", "A"])
    for config, split, number in [("A", "test", 1), ("B", "test", 2), ("B", "dev", 3)]:
        path = tmp_path / "small" / config / f"{split}-00000-of-00001.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record(number)) + "\n")
    (tmp_path / "red.png").write_bytes(png())
    assert {row.id for row in load(benchmark, tmp_path).rows} == {"q1", "q2"}
    assert {row.id for row in load(replace(SMALL, configs=["A"]), tmp_path).rows} == {"q1"}


def test_where_there_is_nothing_to_read_it_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no small\.jsonl, small\.parquet"):
        load(SMALL, tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        load(SMALL, tmp_path / "nowhere")


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [record(i, image={"bytes": png(), "path": None}) for i in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "small.parquet")
    loaded = load(SMALL, tmp_path)
    assert len(loaded.rows) == 3
    assert loaded.rows[0].images == {"image": png()}


def test_without_pyarrow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[evals\]'"):
        load(SMALL, tmp_path)


class FakeImage:
    """As datasets.Image."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class FakeDataset:
    """As a datasets.Dataset whose pictures are decoded unless that is called off."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.features: dict[str, Any] = {"image": FakeImage(), "id": object()}

    def cast_column(self, column: str, feature: FakeImage) -> "FakeDataset":
        assert column == "image"
        assert not feature.decode
        cast = FakeDataset(self.rows)
        cast.features = self.features | {column: feature}
        return cast

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            is_file = not self.features["image"].decode
            yield row | {"image": {"bytes": png(), "path": None} if is_file else object()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls of load_dataset, which gives one row a config."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, config: str | None, *, split: str, revision: str) -> FakeDataset:
        calls.append((path, config, split, revision))
        return FakeDataset([record(len(calls))])

    fake = SimpleNamespace(load_dataset=load_dataset, Image=FakeImage)
    info = SimpleNamespace(sha="abc")
    api = SimpleNamespace(HfApi=lambda: SimpleNamespace(dataset_info=lambda name: info))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub", api)
    return calls


def test_the_hub_is_asked_for_each_config_at_the_pinned_revision(
    hub: list[tuple[Any, ...]],
) -> None:
    loaded = load(replace(SMALL, configs=["A", "B"], revision="f00"), "hub")
    assert hub == [("nobody/small", c, "test", "f00") for c in ("A", "B")]
    assert {row.id for row in loaded.rows} == {"q1", "q2"}
    assert loaded.rows[0].images == {"image": png()}
    assert loaded.revision == "f00"


def test_the_first_load_pins_the_revision(hub: list[tuple[Any, ...]], tmp_path: Path) -> None:
    path = tmp_path / "cache" / "revisions.json"
    assert load(SMALL, "hub", revisions=path).revision == "abc"
    assert json.loads(path.read_text()) == {"nobody/small": "abc"}
    path.write_text('{"nobody/small": "older", "other": "x"}')
    assert load(SMALL, "hub", revisions=path).revision == "older"
    assert load(replace(SMALL, revision="own"), "hub", revisions=path).revision == "own"
    assert pin(path, "nobody/small", "newer") == "older"


@pytest.mark.parametrize("text", ["torn {", "[]", '{"nobody/small": 3}'])
def test_a_damaged_file_of_revisions_is_named(
    hub: list[tuple[Any, ...]], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "revisions.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"revisions\.json"):
        load(SMALL, "hub", revisions=path)


def test_a_revision_that_is_not_pinned_is_recorded(hub: list[tuple[Any, ...]]) -> None:
    assert load(SMALL, "hub").revision == "abc"
    assert hub == [("nobody/small", None, "test", "abc")]


def test_without_datasets_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[evals\]', or give a folder"):
        load(SMALL, "hub")
