"""Whether what was played is in the tests: shared words of captions and questions, like pictures.

Self-play draws its own data, but a model may recite what it was pre-trained on. A hit is for people
to look at, both texts beside each other; no row is taken out for it.
"""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evals.benchmark import Row

NUM_WORDS = 13
"""Words in a row that are no accident (Brown et al. 2020, arXiv:2005.14165, appendix C)."""
MAX_DISTANCE = 6
"""Bits of 64 in which the hashes of two like pictures differ at most."""
_LEAST_WORDS = 6
"""Texts shorter than `NUM_WORDS` count as a whole; these are too short even for that."""
_MAX_TEXT = 20_000
_MAX_PIXELS = 80_000_000
_SHOWN = 400
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

_WORD = re.compile(r"\w+")
_UNPLAYED = frozenset(("svg", "replies", "counts", "terms"))
"""Keys of a game's notes that hold no caption or question."""


@dataclass(frozen=True, slots=True)
class Played:
    """Something of a game that a test might hold, too."""

    game: int
    where: str
    """"caption", "hard_question", "picture", ..."""
    text: str = ""
    png: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """Something played and something of a test that are alike."""

    kind: Literal["text", "picture"]
    benchmark: str
    row: str
    column: str
    game: int
    where: str
    shared: str
    """The words in common, or in how many bits the pictures differ."""
    played: str
    """The text, cut; of a picture its hash in hexadecimal. So with `test`."""
    test: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def played_of(
    games: Iterable[Mapping[str, Any]], find_image: Callable[[str], bytes | None]
) -> Iterable[Played]:
    """Texts and pictures of games {game, notes} as `engine.buffer` keeps them.

    `find_image`: PNG bytes by content hash; None where they are gone.
    """
    for game in games:
        seen: set[str] = set()
        for where, value in _walk(game["notes"], ""):
            if value in seen:
                continue
            seen.add(value)
            if where.endswith("/png"):
                png = find_image(value)
                if png is not None:
                    yield Played(game["game"], "picture", png=png)
            else:
                yield Played(game["game"], where.rpartition("/")[2], text=value)


def _walk(value: Any, where: str) -> Iterable[tuple[str, str]]:
    """(path of keys, text) of all texts in JSON that is nested no deeper than notes are."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        # What was read of a proposal says all that its raw text does.
        unplayed = _UNPLAYED | {"text"} if "proposal" in value else _UNPLAYED
        for key, item in value.items():
            if key not in unplayed:
                yield from _walk(item, f"{where}/{key}")
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, where)


def check(
    played: Iterable[Played], tests: Mapping[str, Iterable[Row]], *, limit: int = 1000
) -> list[Hit]:
    """What of `played` is in `tests` ({benchmark: rows}), at most `limit` hits, texts first.

    One hit per game's text or picture and column of a row. Blocking; every picture of
    the tests is decoded.
    """
    words: dict[str, Played] = {}
    pictures: list[tuple[int, Played]] = []
    for one in played:
        for gram in grams(one.text):
            words.setdefault(gram, one)
        if one.png and (mark := picture_hash(one.png)) is not None:
            pictures.append((mark, one))
    texts: list[Hit] = []
    likes: list[Hit] = []
    marks = np.array([mark for mark, _ in pictures], dtype=np.uint64)
    for benchmark, rows in tests.items():
        for row in rows:
            texts += _texts(benchmark, row, words)
            likes += _likes(benchmark, row, marks, [one for _, one in pictures])
    return [*texts, *likes][:limit]


def grams(text: str) -> set[str]:
    """Every `NUM_WORDS` words in a row, in small letters and without signs between; a shorter text
    as a whole, unless it is of a few words only."""
    words = _WORD.findall(text[:_MAX_TEXT].casefold())
    if len(words) < _LEAST_WORDS:
        return set()
    last = max(1, len(words) - NUM_WORDS + 1)
    return {" ".join(words[start : start + NUM_WORDS]) for start in range(last)}


def _columns(row: Row) -> Iterable[tuple[str, str]]:
    """(column, text) of a row."""
    for column, value in row.fields.items():
        for _, text in _walk(value, column):
            yield column, text


def _texts(benchmark: str, row: Row, words: Mapping[str, Played]) -> list[Hit]:
    found: defaultdict[tuple[int, str, str], list[tuple[str, str, Played]]] = defaultdict(list)
    for column, text in _columns(row):
        for gram in sorted(grams(text)):
            if (one := words.get(gram)) is not None:
                found[one.game, one.where, column].append((gram, text, one))
    return [
        Hit(
            kind="text",
            benchmark=benchmark,
            row=row.id,
            column=column,
            game=game,
            where=where,
            shared=same[0][0],
            played=same[0][2].text[:_SHOWN],
            test=same[0][1][:_SHOWN],
        )
        for (game, where, column), same in found.items()
    ]


def _likes(
    benchmark: str, row: Row, marks: NDArray[np.uint64], played: Sequence[Played]
) -> list[Hit]:
    if not len(marks):
        return []
    hits = []
    for column, data in row.images.items():
        mark = picture_hash(data)
        if mark is None:
            continue
        apart = distances(mark, marks)
        hits += [
            Hit(
                kind="picture",
                benchmark=benchmark,
                row=row.id,
                column=column,
                game=played[number].game,
                where=played[number].where,
                shared=f"{apart[number]} of 64 bits differ",
                played=f"{int(marks[number]):016x}",
                test=f"{mark:016x}",
            )
            for number in np.flatnonzero(apart <= MAX_DISTANCE).tolist()
        ]
    return hits


def picture_hash(data: bytes) -> int | None:
    """64 bits of how a picture looks, the same after resizing or compressing it a little: signs of
    its 8 x 8 slowest cosines against their median (pHash; Zauner 2010).

    None where there is nothing to see (one colour), or it can't be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                return None
            picture.draft("L", (128, 128))
            seen = _on_white(picture).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    grey = np.asarray(seen, dtype=np.float64)
    if grey.std() < 1.0:
        return None
    slow = (_COSINES @ grey @ _COSINES.T).ravel()
    # The first one is the brightness, whose sign says nothing; the others decide what is median.
    bits = slow > np.median(slow[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _on_white(picture: Image.Image) -> Image.Image:
    """Grey, and on white what is transparent, as a page shows it."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("L")
    return picture.convert("L")


_SIDE = 32
_COSINES: NDArray[np.float64] = np.cos(
    np.pi * np.outer(np.arange(8), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
)
"""[8, 32]: the first rows of the cosine transform (DCT-II); its scale matters to no sign."""

_ONES = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


def distances(mark: int, marks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[n] bits in which each of `marks` differs from `mark`."""
    apart = np.bitwise_xor(marks, np.uint64(mark)).view(np.uint8).reshape(len(marks), 8)
    return _ONES[apart].sum(axis=1).astype(np.int64)
