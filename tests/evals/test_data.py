"""Rows from folders and from the Hub: what is read, what is named and skipped, what ends it."""

import base64
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from evals.data import Loaded, check_source, load
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
        ({"image": "images/5"}, "column 'image': 'images/5' is text, and its picture is missing"),
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


IN_PAIRS = replace(
    SMALL, groups=lambda fields: (f"set {fields['set']}", f"pair {fields['set']} {fields['pair']}")
)


def in_pairs(sets: int) -> list[dict[str, Any]]:
    """Sets of three pairs."""
    return [
        record(10 * n + 2 * pair + i, set=n, pair=pair)
        for n in range(sets)
        for pair in range(3)
        for i in range(2)
    ]


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 60), fewer=st.integers(1, 60))
def test_a_limit_takes_groups_as_a_whole(
    tmp_path_factory: pytest.TempPathFactory, limit: int, fewer: int
) -> None:
    """Half of a group is right more easily than all of it."""
    folder = write_rows(tmp_path_factory.mktemp("sets"), in_pairs(8))
    rows = load(IN_PAIRS, folder, limit=limit).rows
    assert len(rows) == max(6, min(48, limit // 6 * 6))
    assert {Counter(row.fields["set"] for row in rows)[n] for n in range(8)} <= {0, 6}
    assert {tuple(row.groups.values()) for row in rows} == {(6, 2)}
    first = [row.id for row in load(IN_PAIRS, folder, limit=min(limit, fewer)).rows]
    assert first == [row.id for row in rows][: len(first)]


def test_rows_that_cannot_be_used_are_missing_from_their_groups(tmp_path: Path) -> None:
    records = in_pairs(1)
    records[1] |= {"image": "no.png"}
    records.append(records[0])  # twice the same is not one more
    rows = load(IN_PAIRS, write_rows(tmp_path, records)).rows
    assert len(rows) == 5
    assert {row.groups["set 0"] for row in rows} == {6}
    assert [row.groups["pair 0 0"] for row in rows if "pair 0 0" in row.groups] == [2]


def test_rows_of_one_picture_are_known_by_it(tmp_path: Path) -> None:
    folder = write_rows(tmp_path, [record(0), record(1), record(2, image="blue.png")])
    (folder / "blue.png").write_bytes(png("blue"))
    pictures = {row.id: row.pictures for row in load(SMALL, folder).rows}
    assert pictures["q0"] == pictures["q1"] != pictures["q2"]
    assert all(pictures.values())


def test_the_path_of_a_picture_is_kept_where_the_benchmark_wants_it(tmp_path: Path) -> None:
    inline = {"bytes": base64.b64encode(png()).decode(), "path": "real/1.png"}
    folder = write_rows(tmp_path, [record(0, image=inline)])
    (row,) = load(SMALL, folder).rows
    assert "image" not in row.fields
    wanted = replace(SMALL, columns={**SMALL.columns, "image": (bytes, str)})
    (row,) = load(wanted, folder).rows
    assert (row.fields["image"], row.images) == ("real/1.png", {"image": png()})


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


def test_all_that_a_folder_lacks_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    sets = [replace(SMALL, name=name) for name in ("small", "other", "third")]
    write_rows(tmp_path, [record(0)])
    check_source(sets[:1], tmp_path)
    with pytest.raises(ConfigError, match=r"no other\.jsonl(.|\n)*no third\.jsonl") as said:
        check_source(sets, tmp_path)
    assert "small" not in str(said.value).replace(str(tmp_path), "")
    with pytest.raises(ConfigError, match=r"^--data: \S+ is no folder$"):
        check_source(sets, tmp_path / "nowhere")


class HubError(Exception):
    """As the Hub's."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} Client Error")
        self.response = SimpleNamespace(status_code=status)


@dataclass
class FakeHub:
    """As huggingface_hub; `errors`: {data set: what comes of knocking, or of asking for it}."""

    knocking: dict[str, Exception] = field(default_factory=dict)
    asking: dict[str, Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def HfApi(self) -> "FakeHub":
        return self

    def dataset_info(self, name: str) -> SimpleNamespace:
        self._called(name, self.asking)
        return SimpleNamespace(sha="abc")

    def auth_check(self, name: str, *, repo_type: str) -> None:
        assert repo_type == "dataset"
        self._called(name, self.knocking)

    def _called(self, name: str, errors: Mapping[str, Exception]) -> None:
        self.calls.append(name)
        if name in errors:
            raise errors[name]


SETS = [replace(SMALL, name=name, dataset=f"nobody/{name}") for name in ("one", "two", "three")]


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_access_to_all_sets_is_known_before_the_first_is_loaded(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    path = tmp_path / "revisions.json"
    check_source(SETS, "hub", revisions=path)
    assert json.loads(path.read_text()) == {one.dataset: "abc" for one in SETS}
    fake_hub.calls.clear()
    check_source(SETS, "hub", revisions=path)  # pinned: only access is asked for
    assert fake_hub.calls == [one.dataset for one in SETS]


class GatedRepoError(Exception):
    pass


@pytest.mark.parametrize("error", [HubError(401), HubError(403), GatedRepoError("no entry")])
def test_who_is_not_let_in_is_told_to_log_in_or_to_leave_the_set_out(
    fake_hub: FakeHub, error: Exception
) -> None:
    fake_hub.knocking = {"nobody/one": error, "nobody/three": error}
    with pytest.raises(ConfigError) as said:
        check_source(SETS, "hub")
    first, second = str(said.value).splitlines()
    assert "leave one out with --benchmarks" in first
    assert "leave three out with --benchmarks" in second
    assert "`hf auth login`" in first
    assert "https://huggingface.co/datasets/nobody/one" in first


def test_a_load_that_is_refused_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ValueError("Dataset is a gated dataset on the Hub") from HubError(401)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setitem(sys.modules, "huggingface_hub", FakeHub())
    with pytest.raises(ConfigError, match=r"`hf auth login`.*--benchmarks"):
        load(SMALL, "hub")


def test_a_set_that_is_not_there_is_named(fake_hub: FakeHub, tmp_path: Path) -> None:
    path = tmp_path / "revisions.json"
    pin(path, "nobody/two", "abc")
    fake_hub.knocking = {"nobody/two": HubError(404)}
    with pytest.raises(ConfigError, match=r"nobody/two at abc.*--benchmarks"):
        check_source(SETS, "hub", revisions=path)


def test_without_network_what_is_pinned_may_be_in_the_cache(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    away = ConnectionError("no network")
    fake_hub.knocking = dict.fromkeys((one.dataset for one in SETS), away)
    fake_hub.asking = dict(fake_hub.knocking)
    path = tmp_path / "revisions.json"
    for one in SETS:
        pin(path, one.dataset, "abc")
    check_source(SETS, "hub", revisions=path)
    assert fake_hub.calls == ["nobody/one"], "who does not answer once is not asked for the others"
    with pytest.raises(ConfigError, match=r"no network.*--data DIR.*--benchmarks"):
        check_source(SETS, "hub")
