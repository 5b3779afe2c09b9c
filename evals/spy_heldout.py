"""How well a model plays "who is the spy?" on pairs that it never saw, by exact truth.

Two things are measured. *Votes*: on transcripts that do not depend on the model measured, so that
two measurements of the same items can be compared in pairs: scripted ones, in which every civilian
tells the truth and the spy something that is false of the civilians' picture; and those of the
base, which wrote its clues in the first measurement. *Clues*: the model's own, in a fresh game of
one replica for each pair, checked against the scene.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import ConfigError, GameDropped
from engine.tasks import concurrently
from engine.types import Invalid, SamplingParams
from evals.heldout import HeldoutResult, Values
from evals.scenes.pairs import FEWEST_SHAPES, GridFamily, clue_of
from evals.scenes.scene import MOST, Scene, scene_hash
from evals.scenes.splits import Split, scenes
from evals.statistics import mean
from rewards.spy import Vote
from roles.table import Renderer, Sampler
from roles.vision_zero.config import VOTER, VisionZeroConfig
from roles.vision_zero.parsing import parse_clue, parse_vote
from roles.vision_zero.prompts import Prompts, load_prompts
from roles.vision_zero.transcript import Clue

MEASURES = (
    "vote_scripted_t1",
    "vote_scripted_greedy",
    "vote_base_t1",
    "clue_civilian_true",
    "clue_read",
)
"""The headline: share of the votes that name the spy, share of the civilians' clues that are true
of their picture, share of clues that can be read."""
HONESTY = ("vote_careful", "vote_abstains", "vote_read", "clue_spy_true")
"""Where a gain comes from: votes that look at each clue first, that abstain, that can be read (all
on the scripted transcripts); the spy's clues that happen to be true of the civilians' picture."""

_SEEDS_APART = 2**24
_SIDE = 96
Transcripts = Sequence[Sequence[Clue]]
"""By item; empty where a game was lost."""


@dataclass(frozen=True, slots=True)
class Item:
    """A pair, the spy's seat, and what is said in the script."""

    scene: Scene
    edited: Scene
    spy: int
    script: tuple[Clue, ...]


def pair_items(cfg: VisionZeroConfig, split: Split, count: int, seed: int = 0) -> list[Item]:
    """`count` pairs of different scenes of `split`; the same ones for the same arguments.

    Raises ConfigError as `check_measurable` does.
    """
    if count:
        check_measurable(cfg)
    family = _family(cfg)
    found: dict[Scene, Item] = {}
    for scene in scenes(split, first=seed * _SEEDS_APART):
        if len(found) == count:
            break
        rng = random.Random(scene_hash(scene))
        if scene in found or len(scene) < cfg.num_players:
            continue
        if (edited := family.edit(scene, rng)) is not None:
            spy = 1 + len(found) % cfg.num_players
            found[scene] = Item(scene, edited, spy, _script(scene, edited, spy, cfg, rng))
    return list(found.values())


def check_measurable(cfg: VisionZeroConfig) -> None:
    """Raise ConfigError where there are more players than a scene has shapes to name."""
    if cfg.num_players > MOST:
        raise ConfigError(
            f"recipe.num_players: {cfg.num_players} can't be measured on held-out scenes, which "
            f"have {MOST} shapes at most; set eval.heldout_items=0 and eval.dev_items=0"
        )


def _family(cfg: VisionZeroConfig) -> GridFamily:
    """With as many edits as in training, if a scene can have them."""
    return GridFamily(min(cfg.pairs.edits, FEWEST_SHAPES))


def _script(
    scene: Scene, edited: Scene, spy: int, cfg: VisionZeroConfig, rng: random.Random
) -> tuple[Clue, ...]:
    """One round of true clues, but for the spy's, which names an edited shape; on different cells.

    Two clues about one cell would tell whom to suspect without a look at the picture.
    """
    lie = rng.choice([shape for shape in edited if shape not in scene])
    others = [shape for shape in scene if shape.cell != lie.cell]
    said = rng.sample(others, k=cfg.num_players - 1)
    said.insert(spy - 1, lie)
    return tuple(Clue(seat, 1, clue_of(shape)) for seat, shape in enumerate(said, start=1))


async def measure(
    samplers: Mapping[str, Sampler],
    renderer: Renderer,
    cfg: VisionZeroConfig,
    *,
    split: Split = "heldout",
    items: int = 200,
    samples: int = 4,
    seed: int = 0,
    base: Transcripts | None = None,
) -> tuple[HeldoutResult, Transcripts]:
    """Measure votes and clues on `items` pairs; with the clues that the model gave.

    `base`: the base's clues, by item; None: the model measured is the base. `samples`: votes at
    temperature 1 per transcript. A request lost for a named reason is a missing value.
    """
    chosen = pair_items(cfg, split, items, seed)
    bench = _Bench(samplers, renderer, cfg, load_prompts(cfg.prompts))

    async def one(numbered: tuple[int, Item]) -> tuple[dict[str, float | None], list[Clue]]:
        number, item = numbered
        try:
            return await bench.measured(item, samples, None if base is None else base[number])
        except GameDropped:
            return {}, []

    rows = await concurrently(one, enumerate(chosen))
    names = dict.fromkeys(name for row, _ in rows for name in row)
    values: dict[str, Values] = {name: tuple(row.get(name) for row, _ in rows) for name in names}
    return HeldoutResult(split, seed, values), [clues for _, clues in rows]


@dataclass(frozen=True, slots=True)
class _Bench:
    """The seats as they play, but with the temperature of the measurement."""

    samplers: Mapping[str, Sampler]
    renderer: Renderer
    cfg: VisionZeroConfig
    prompts: Prompts

    async def measured(
        self, item: Item, samples: int, base: Sequence[Clue] | None
    ) -> tuple[dict[str, float | None], list[Clue]]:
        family = _family(self.cfg)
        civilian, spy = [
            await self._drawn(family.svg(scene, _SIDE)) for scene in (item.scene, item.edited)
        ]
        clues = await self._clues(item, civilian, spy)
        row = _clue_values(family, item, clues)
        scripted, of_base, greedy = await concurrently(
            lambda asked: self._votes(item, civilian, *asked),
            [
                (item.script, samples, 1.0),
                (clues if base is None else base, samples, 1.0),
                (item.script, 1, 0.0),
            ],
        )
        row |= {
            "vote_scripted_t1": mean([float(vote == item.spy) for _, vote in scripted]),
            "vote_scripted_greedy": mean([float(vote == item.spy) for _, vote in greedy]),
            "vote_base_t1": mean([float(vote == item.spy) for _, vote in of_base]),
            "vote_careful": mean([float(is_careful(text)) for text, _ in scripted]),
            "vote_abstains": mean([float(vote is None) for _, vote in scripted]),
            "vote_read": mean([float(not isinstance(vote, Invalid)) for _, vote in scripted]),
        }
        return row, clues

    async def _drawn(self, svg: str) -> bytes:
        picture = await self.renderer.render(svg)
        if isinstance(picture, Invalid):  # our own SVG: the pool had no time for it
            raise GameDropped("render", picture.reason)
        return picture.png

    async def _clues(self, item: Item, civilian: bytes, spy: bytes) -> list[Clue]:
        """One round of the model's own clues."""
        clues: list[Clue] = []
        for seat in range(1, self.cfg.num_players + 1):
            is_spy = seat == item.spy
            messages = self.prompts.clue(
                seat=seat, is_spy=is_spy, num_players=self.cfg.num_players, round=1, num_rounds=1,
                hint=_family(self.cfg).hint, transcript=clues, notes=(),
            )  # fmt: skip
            (reply,) = await self._sample(
                "spy" if is_spy else "civilian", messages, 1, 1.0, spy if is_spy else civilian
            )
            earlier = [clue.text for clue in clues if clue.text is not None]
            read = parse_clue(reply, earlier, refuse_game_talk=self.cfg.refuse_game_talk)
            clues.append(Clue(seat, 1, read if isinstance(read, str) else None))
        return clues

    async def _votes(
        self, item: Item, png: bytes, transcript: Sequence[Clue], n: int, temperature: float
    ) -> list[tuple[str, Vote]]:
        if not transcript:  # the base's game was lost
            return []
        messages = self.prompts.vote(
            num_players=self.cfg.num_players, hint=_family(self.cfg).hint,
            transcript=transcript, seat=None,
        )  # fmt: skip
        replies = await self._sample(VOTER, messages, n, temperature, png)
        return [(reply, parse_vote(reply, self.cfg.num_players)) for reply in replies]

    async def _sample(
        self, role: str, messages: list[Any], n: int, temperature: float, png: bytes
    ) -> list[str]:
        longest = self.cfg.params(role).max_new_tokens
        params = SamplingParams(max_new_tokens=longest, temperature=temperature)
        sampler = self.samplers[role]
        rollouts = await sampler.sample(messages, n=n, params=params, images=(png,))
        return [rollout.text for rollout in rollouts]


def _clue_values(family: GridFamily, item: Item, clues: Sequence[Clue]) -> dict[str, float | None]:
    def true(clue: Clue) -> float:
        """What is no claim about the picture is not true of it."""
        return float(clue.text is not None and family.is_true(item.scene, clue.text) is True)

    return {
        "clue_read": mean([float(clue.text is not None) for clue in clues]),
        "clue_civilian_true": mean([true(clue) for clue in clues if clue.seat != item.spy]),
        "clue_spy_true": mean([true(clue) for clue in clues if clue.seat == item.spy]),
    }


def is_careful(text: str) -> bool:
    """True where a voter's reply looks at the clues one by one before it votes."""
    think, closed, _ = text.partition("</think>")
    return bool(closed) and "guess" not in think and any(char.isdigit() for char in think)


def transcripts_to_json(transcripts: Transcripts) -> list[Any]:
    return [[[clue.seat, clue.round, clue.text] for clue in clues] for clues in transcripts]


def transcripts_from_json(data: Sequence[Any]) -> Transcripts:
    return [[Clue(*clue) for clue in clues] for clues in data]
