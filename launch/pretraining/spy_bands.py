"""Is the base a weak but sane player of the spy game? Measured at temperature 1 on unseen scenes.

As in `bands.py`: the dev split, bands in percent. *Careful* is who does not guess; what a policy
would reach that always is, is measured by playing with the careful ones of several samples only.
"""

import dataclasses
import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from engine.types import Invalid, Message
from evals.scenes.pairs import GridFamily, clue_of
from evals.scenes.scene import Scene
from evals.scenes.splits import scene_of
from launch.pretraining.bands import Measured
from launch.pretraining.corpus import Writer
from launch.pretraining.decode import sample
from launch.pretraining.pictures import Tiles
from launch.pretraining.spy_corpus import GUESS, PLAYERS, Round, SpyWriter, is_true, look
from rewards.spy import count_votes, is_found
from roles.mm_zero.prompts import load_prompts
from roles.vision_zero.parsing import parse_clue, parse_vote
from roles.vision_zero.prompts import load_prompts as load_spy_prompts
from roles.vision_zero.transcript import Clue

SPY_BANDS: dict[str, tuple[float, float]] = {
    "clues careful": (40, 65),
    "clues true if careful": (90, 100),
    "clues read": (85, 99),
    "votes careful": (35, 60),
    "votes read": (85, 99),
    "one false clue: votes right if careful": (80, 100),
    "in play: votes right": (24, 45),
    "all careful: votes right": (60, 100),
}
"""`clues`: the civilians'."""
_VOTES = 8
_TRIES = 12
"""Samples among which one is careful in all but 1 of 1000 cases."""


class _Tables:
    """Plays many tables at once: one batch for each seat, and one for the votes."""

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
    ) -> None:
        self._model, self._tokenizer, self._seed = model, tokenizer, seed
        self._writer = Writer(tokenizer, load_prompts("tiny"))
        self._spy = SpyWriter(self._writer, load_spy_prompts("tiny"))
        self._tiles = Tiles()

    def clues(
        self, tables: Sequence[Round], *, only_careful: bool = False
    ) -> tuple[list[Round], list[list[str]]]:
        """The tables with what was said, and the replies of each."""
        tables = [dataclasses.replace(table, clues=()) for table in tables]
        replies: list[list[str]] = [[] for _ in tables]
        for seat in range(1, PLAYERS + 1):
            prompts = [self._spy.clue_prompt(seat, seat == t.spy, t.clues) for t in tables]
            pictures = [t.seen if seat == t.spy else t.scene for t in tables]
            samples = self._sample(prompts, pictures, _TRIES if only_careful else 1)
            for i, (table, texts) in enumerate(zip(tables, samples, strict=True)):
                text = next((text for text in texts if is_careful(text)), texts[0])
                replies[i].append(text)
                clue = parse_clue(text, [clue.text for clue in table.clues if clue.text])
                shown = Clue(seat, 1, None if isinstance(clue, Invalid) else clue)
                tables[i] = dataclasses.replace(table, clues=(*table.clues, shown))
        return tables, replies

    def votes(self, tables: Sequence[Round]) -> list[list[str]]:
        prompts = [self._spy.vote_prompt(table.clues) for table in tables]
        return self._sample(prompts, [table.scene for table in tables], _VOTES)

    def _sample(
        self, prompts: Sequence[list[Message]], pictures: Sequence[Scene], n: int
    ) -> list[list[str]]:
        self._seed += 1
        return sample(
            self._model, self._tokenizer, [self._writer.prompt_ids(p) for p in prompts],
            pictures=list(range(len(pictures))), patches=self._tiles.patches(list(pictures)),
            n=n, seed=self._seed,
        )  # fmt: skip


def measure_spy(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    *,
    items: int = 200,
    seed: int = 0,
    edits: int = 2,
    blank_share: float = 0.5,
) -> Measured:
    """All bands on `items` tables of each kind (`seed` fixes all)."""
    tables = _dealt(items, random.Random(f"spy-bands:{seed}"), edits, blank_share)
    room = _Tables(model, tokenizer, 1000 * seed)
    played, replies = room.clues(tables)
    values = _clue_values(played, replies)
    values |= _vote_values("in play", played, room.votes(played))
    scripted = _one_false(tables, random.Random(f"spy-script:{seed}"))
    values |= _vote_values("one false clue", scripted, room.votes(scripted))
    careful, _ = room.clues(tables, only_careful=True)
    values |= _all_careful(careful, room.votes(careful))
    return Measured(values, SPY_BANDS)


def is_careful(text: str) -> bool:
    return GUESS not in text


def _dealt(items: int, rng: random.Random, edits: int, blank_share: float) -> list[Round]:
    """Tables of the dev split at which nobody has spoken."""
    family = GridFamily(edits)
    tables: list[Round] = []
    while len(tables) < items:
        scene = scene_of("dev", rng)
        seen = () if rng.random() < blank_share else family.edit(scene, rng)
        if len(scene) >= PLAYERS and seen is not None:
            tables.append(Round(scene, seen, 1 + len(tables) % PLAYERS, ()))
    return tables


def _one_false(tables: Sequence[Round], rng: random.Random) -> list[Round]:
    """Everyone names a shape of its own picture, and the spy's is not in the civilians'.

    Where the spy's picture is blank, it has one edited for the purpose.
    """
    family = GridFamily(PLAYERS)
    scripted = []
    for table in tables:
        edited = table.seen or family.edit(table.scene, rng) or ()
        changed = tuple(shape for shape in edited if shape not in table.scene)
        if not changed:
            continue
        false = rng.choice(changed)
        clues: list[Clue] = [Clue(table.spy, 1, clue_of(false))]
        for seat in range(1, PLAYERS + 1):
            if seat != table.spy:
                clues.append(Clue(seat, 1, clue_of(look(table.scene, clues))))
        clues.sort(key=lambda clue: clue.seat)
        scripted.append(dataclasses.replace(table, clues=tuple(clues)))
    return scripted


def _percent(flags: Sequence[bool]) -> float:
    return 100 * sum(flags) / max(1, len(flags))


def _clue_values(tables: Sequence[Round], replies: Sequence[Sequence[str]]) -> dict[str, float]:
    said = [
        (table, clue, text)
        for table, texts in zip(tables, replies, strict=True)
        for clue, text in zip(table.clues, texts, strict=True)
    ]
    civil = [(t, c, is_careful(text)) for t, c, text in said if c.seat != t.spy]
    spies = [(t, c, is_careful(text)) for t, c, text in said if c.seat == t.spy]
    read = [(t, c, careful) for t, c, careful in civil if c.text is not None]
    return {
        "clues careful": _percent([careful for _, _, careful in civil]),
        "clues true if careful": _percent([is_true(t.scene, c) for t, c, k in read if k]),
        "  clues true if hasty": _percent([is_true(t.scene, c) for t, c, k in read if not k]),
        "  clues true": _percent([is_true(t.scene, c) for t, c, _ in civil]),
        "clues read": _percent([c.text is not None for _, c, _ in civil]),
        "  the spy's careful": _percent([careful for _, _, careful in spies]),
        "  the spy's true": _percent([is_true(t.scene, c) for t, c, _ in spies]),
        "  the spy's true of its own picture if careful": _percent(
            [is_true(t.seen, c) for t, c, k in spies if k and t.seen and c.text]
        ),
    }


def _vote_values(
    where: str, tables: Sequence[Round], votes: Sequence[Sequence[str]]
) -> dict[str, float]:
    cast = [
        (parse_vote(text, PLAYERS), table.spy, is_careful(text))
        for table, texts in zip(tables, votes, strict=True)
        for text in texts
    ]
    values = {
        f"{where}: votes right": _percent([vote == spy for vote, spy, _ in cast]),
        f"{where}: votes right if careful": _percent([v == spy for v, spy, k in cast if k]),
        f"  {where}: votes right if hasty": _percent([v == spy for v, spy, k in cast if not k]),
        f"  {where}: N/A": _percent([vote is None for vote, _, _ in cast]),
        f"  {where}: spy found": _percent(
            [_found(table, texts) for table, texts in zip(tables, votes, strict=True)]
        ),
    }
    if where == "in play":
        values["votes careful"] = _percent([careful for _, _, careful in cast])
        values["votes read"] = _percent([not isinstance(vote, Invalid) for vote, _, _ in cast])
    return values


def _all_careful(tables: Sequence[Round], votes: Sequence[Sequence[str]]) -> dict[str, float]:
    """Of the careful votes among those of each table."""
    careful = [[text for text in texts if is_careful(text)] for texts in votes]
    cast = [
        parse_vote(text, PLAYERS) == table.spy
        for table, texts in zip(tables, careful, strict=True)
        for text in texts
    ]
    return {
        "all careful: votes right": _percent(cast),
        "  all careful: spy found": _percent(
            [_found(table, texts) for table, texts in zip(tables, careful, strict=True)]
        ),
        "  all careful: clues true": _percent(
            [is_true(t.scene, c) for t in tables for c in t.clues if c.seat != t.spy]
        ),
        "  all careful: the spy's true": _percent(
            [is_true(t.scene, c) for t in tables for c in t.clues if c.seat == t.spy]
        ),
    }


def _found(table: Round, texts: Sequence[str]) -> bool:
    ballots = count_votes([parse_vote(text, PLAYERS) for text in texts], PLAYERS)
    return is_found(ballots, table.spy)
