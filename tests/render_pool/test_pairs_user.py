"""Pairs that a user brings: what is taken, and what is refused with its file and its fix."""

import asyncio
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from engine.errors import ConfigError
from render_pool.pairs.source import Pair, Pairs
from render_pool.pairs.user import MOST_SIDE, UserPair, folder_pairs, jsonl_pairs, read_picture


def save(path: Path, colour: object = "red", size: tuple[int, int] = (40, 30), **more: Any) -> Path:
    mode = more.pop("mode", "RGB")
    Image.new(mode, size, colour).save(path, **more)  # type: ignore[arg-type]
    return path


def add_pair(folder: Path, base: str = "a") -> None:
    save(folder / f"{base}_original.png", "red")
    save(folder / f"{base}_modified.png", "blue")


def row(**changes: Any) -> str:
    return json.dumps({"id": "1", "civ": "a.png", "spy": "b.png"} | changes)


def jsonl(folder: Path, *rows: str) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(rows))
    return path


def play(pairs: list[UserPair], number: int = 0, **options: Any) -> Pair:
    async def ask() -> Pair:
        async with Pairs.of_user(pairs, prefetch=0, **options) as source:
            return await source.pair(number)

    return asyncio.run(ask())


def shown(png: bytes) -> tuple[str, tuple[int, int], Any]:
    """Mode, size, and the one colour of a picture, None where it has several."""
    picture = Image.open(io.BytesIO(png))
    colours = picture.getcolors() or []
    return picture.mode, picture.size, colours[0][1] if len(colours) == 1 else None


def test_a_folder_is_read_by_names(tmp_path: Path) -> None:
    add_pair(tmp_path, "b")
    add_pair(tmp_path, "a")
    (tmp_path / "README.txt").write_text("ours")
    pairs = folder_pairs(tmp_path, domain="rooms", hint="a lamp is gone")
    assert [pair.id for pair in pairs] == ["a", "b"]
    pair = play(pairs[:1])
    assert (pair.id, pair.domain, pair.view) == ("a", "rooms", "edited")
    assert pair.hint_civilian == pair.hint_spy == "a lamp is gone"
    assert shown(pair.civilian) == ("RGB", (40, 30), (255, 0, 0))
    assert shown(pair.spy) == ("RGB", (40, 30), (0, 0, 255))
    assert pair.is_true("a red picture") is None


def test_a_jsonl_file_is_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    save(tmp_path / "a.png", "red")
    save(tmp_path / "sub" / "b.png", "blue")
    told = row(spy="sub/b.png", domain="rooms", hint_civ="one lamp", hint_spy="a lamp is gone")
    known, blank = jsonl_pairs(jsonl(tmp_path, told, "", row(id="2", spy=None)))
    pair = play([known])
    assert (pair.id, pair.domain, pair.view) == ("1", "rooms", "edited")
    assert (pair.hint_civilian, pair.hint_spy) == ("one lamp", "a lamp is gone")
    pair = play([blank], spy_view="edited")
    assert pair.view == "blank"
    assert shown(pair.spy) == ("RGB", (40, 30), (255, 255, 255))
    assert pair.hint_civilian == pair.hint_spy == "one picture is blank"


@pytest.mark.parametrize("spy_view", ["edited", "blank", "mixed"])
def test_what_a_user_says_of_a_blank_picture_is_told(tmp_path: Path, spy_view: str) -> None:
    save(tmp_path / "a.png", "red")
    told = {"spy": None, "hint_civ": "the spy sees a wall"}
    half, whole = jsonl_pairs(
        jsonl(tmp_path, row(**told), row(id="2", **told, hint_spy="you see a wall"))
    )
    pair = play([half], spy_view=spy_view)
    assert (pair.hint_civilian, pair.hint_spy) == ("the spy sees a wall", "one picture is blank")
    pair = play([whole], spy_view=spy_view)
    assert (pair.hint_civilian, pair.hint_spy) == ("the spy sees a wall", "you see a wall")


def test_two_pictures_of_which_nothing_is_said_differ_in_details(tmp_path: Path) -> None:
    save(tmp_path / "a.png", "red")
    save(tmp_path / "b.png", "blue")
    pair = play(jsonl_pairs(jsonl(tmp_path, row())))
    assert pair.hint_civilian == pair.hint_spy == "some details differ"


def test_a_blank_view_hides_the_spys_picture_and_its_hint(tmp_path: Path) -> None:
    add_pair(tmp_path)
    pair = play(folder_pairs(tmp_path, hint="a lamp is gone"), spy_view="blank")
    assert pair.view == "blank"
    assert shown(pair.spy) == ("RGB", (40, 30), (255, 255, 255))
    assert pair.hint_spy == pair.hint_civilian == "one picture is blank"


def test_all_pairs_come_before_any_comes_again_and_in_another_order(tmp_path: Path) -> None:
    for base in "abcdef":
        add_pair(tmp_path, base)
    pairs = folder_pairs(tmp_path)

    async def ask(seed: int) -> list[str]:
        async with Pairs.of_user(pairs, seed=seed) as source:
            return [(await source.pair(number)).id for number in range(12)]

    played = asyncio.run(ask(0))
    assert sorted(played[:6]) == sorted(played[6:]) == list("abcdef")
    assert played[:6] != played[6:]
    assert asyncio.run(ask(1)) != played == asyncio.run(ask(0))


def test_nothing_of_a_file_but_its_pixels_is_shown(tmp_path: Path) -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", "the editor")
    save(tmp_path / "a_original.png", (255, 0, 0, 0), mode="RGBA")
    save(tmp_path / "a_modified.png", "blue", pnginfo=note)
    pair = play(folder_pairs(tmp_path))
    assert shown(pair.civilian) == ("RGB", (40, 30), (255, 255, 255))  # transparent: white
    assert b"editor" not in pair.spy


def test_a_photograph_stands_as_it_was_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(path).size == (30, 40)


# what is refused


def refused(read: Any, path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path)
    return str(caught.value)


def test_pictures_of_two_sizes_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a_original.png", "red", (40, 30))
    save(tmp_path / "a_modified.png", "blue", (30, 40))
    message = refused(folder_pairs, tmp_path)
    assert "a_original.png and " in message
    assert "40x30 and 30x40 pixels: both must be of one size" in message


@pytest.mark.parametrize("other", [(255, 0, 0), (250, 4, 4)])
def test_pictures_that_look_the_same_are_refused(tmp_path: Path, other: object) -> None:
    save(tmp_path / "a_original.png", (255, 0, 0))
    save(tmp_path / "a_modified.png", other)
    message = refused(folder_pairs, tmp_path)
    assert "a_modified.png look the same: something must differ" in message


@pytest.mark.parametrize("left", ["original", "modified"])
def test_half_a_pair_is_refused(tmp_path: Path, left: str) -> None:
    add_pair(tmp_path)
    os.remove(tmp_path / f"a_{left}.png")
    assert refused(folder_pairs, tmp_path) == (f"pairs: {tmp_path}/a_{left}.png is missing: add it")


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    assert "holds no <name>_original.png" in refused(folder_pairs, tmp_path)
    assert "is no folder" in refused(folder_pairs, tmp_path / "a.png")


@pytest.mark.parametrize("size", [(MOST_SIDE + 1, 30), (30, MOST_SIDE + 1), (2100, 2100), (27, 40)])
def test_pictures_too_large_or_small_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(tmp_path / "a.png", "red", size)
    message = refused(read_picture, path)
    assert f"a.png has {size[0]}x{size[1]} pixels" in message
    assert "resize both" in message


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A header that claims gigapixels; there is nothing behind it."""
    path = save(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    path.write_bytes(data)
    assert "a.png" in refused(read_picture, path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", "cut", "gif"])
def test_what_can_not_be_decoded_is_refused(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "a.png"
    if content == "gif":
        save(path, format="GIF")
    else:
        save(path, "red", (400, 300))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    message = refused(read_picture, path)
    assert "a.png can't be decoded" in message
    assert "it must be one of PNG, JPEG, WEBP" in message


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")  # to open it would wait for ever
    assert "a.png is no file" in refused(read_picture, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"civ": "../a.png"}, "../a.png lies outside of"),
        ({"spy": "/etc/passwd"}, "/etc/passwd lies outside of"),
        ({"spy": "link.png"}, "link.png lies outside of"),
        ({"civ": "a\0.png"}, "is no path"),
        ({"civ": "none.png"}, "none.png is no file: add it"),
        ({"hint": "typo"}, "hint: Extra inputs are not permitted"),
        ({"id": 7}, "id: Input should be a valid string"),
        ({"id": ""}, "id: String should have at least 1 character"),
    ],
)
def test_lines_that_can_not_be_used_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in (tmp_path / "a.png", folder / "a.png"):
        save(path)
    save(folder / "b.png", "blue")
    (folder / "link.png").symlink_to(tmp_path / "a.png")
    message = refused(jsonl_pairs, jsonl(folder, row(**changes)))
    assert words in message
    assert "none.png" in message or f"{folder}/pairs.jsonl:1" in message


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "pairs.jsonl is empty"),
        ([row(), "{"], "pairs.jsonl:2: no JSON"),
        (["[" * 100_000], "pairs.jsonl:1: no JSON"),
        (["[]"], "pairs.jsonl:1: the line: Input should be"),
        ([row(), row()], "pairs.jsonl:2: id '1' is taken (line 1)"),
        (['{"id": "1", "civ": "a.png"}'], "pairs.jsonl:1: spy: Field required"),
    ],
)
def test_files_that_can_not_be_used_are_refused(
    tmp_path: Path, rows: list[str], words: str
) -> None:
    add = {"a.png": "red", "b.png": "blue"}
    for name, colour in add.items():
        save(tmp_path / name, colour)
    assert words in refused(jsonl_pairs, jsonl(tmp_path, *rows))


def test_a_folder_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    add_pair(folder)
    os.replace(folder / "a_modified.png", tmp_path / "secret.png")
    (folder / "a_modified.png").symlink_to("../secret.png")
    assert "lies outside of" in refused(folder_pairs, folder)


def test_a_file_that_changes_later_is_not_played(tmp_path: Path) -> None:
    add_pair(tmp_path)
    pairs = folder_pairs(tmp_path)
    save(tmp_path / "a_modified.png", "blue", (50, 50))
    with pytest.raises(ConfigError, match="both must be of one size"):
        play(pairs)


def test_no_pairs_are_no_source() -> None:
    with pytest.raises(ConfigError, match="there is none"):
        Pairs.of_user([])
