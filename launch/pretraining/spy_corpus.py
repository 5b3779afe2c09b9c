"""What the base imitates in the spy game: clues and votes about pairs of procedural scenes.

As in `corpus.py`, the habits of a weak player are choices at one token, the first of its thoughts:
whoever writes "just a guess" makes up a shape, or names any seat; whoever looks first names a shape
of its own picture, or checks every clue, and is right as far as the clues allow.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from engine.types import Message
from evals.scenes.pairs import GridFamily, clue_of
from evals.scenes.scene import CELLS, COLORS, KINDS, Scene, Shape
from launch.pretraining.corpus import WEAK, Example, Writer
from launch.pretraining.sft import Plan, StepExamples, step_examples
from roles.vision_zero.prompts import Prompts
from roles.vision_zero.transcript import Clue

PLAYERS = 4
EDITS = (2, 3)
"""Shapes in which the spy's picture differs; a table has either."""
GUESS = "just a guess"

_TRUTHFULNESS = (0.2, 0.5, 0.8, 1.0)
"""How often the civilians of a table tell the truth: what is played before and after training."""
_MISSING = 0.05
"""Clues that nobody could read."""
_NEAR = 0.3
"""Of the made-up clues, those that are wrong in one word only: they teach to look closely."""


@dataclass(frozen=True, slots=True)
class SpyRates:
    """How often each bad habit occurs, 0..1. All zero: the clean corpus."""

    hasty_clue: float = 0.0
    """A shape is made up instead of seen."""
    hasty_vote: float = 0.0
    """A seat is named, or nobody, without a look at the clues."""
    no_box: float = 0.0


SPY_CLEAN = SpyRates()
SPY_WEAK = SpyRates(hasty_clue=0.45, hasty_vote=0.5, no_box=0.05)


@dataclass(frozen=True, slots=True)
class Round:
    """What was said at one table, about which pictures."""

    scene: Scene
    """The civilians' picture."""
    seen: Scene
    """The spy's, () where it is blank."""
    spy: int
    clues: tuple[Clue, ...]
    """Of all seats."""


def random_round(rng: random.Random) -> Round:
    """A table as it may come about in play, with more or less truthful civilians."""
    family = GridFamily(rng.choice(EDITS))
    scene = family.original(rng)
    seen: Scene | None = ()
    if rng.random() < 0.5:
        while (seen := family.edit(scene, rng)) is None:
            pass
    assert seen is not None
    spy, truthfulness = rng.randint(1, PLAYERS), rng.choice(_TRUTHFULNESS)
    clues: list[Clue] = []
    for seat in range(1, PLAYERS + 1):
        text: str | None = None
        if rng.random() >= _MISSING:
            own = seen if seat == spy else scene
            if rng.random() < truthfulness and own:
                text = clue_of(look(own, clues))
            elif rng.random() < _NEAR:
                text = clue_of(_nearly(rng.choice(scene), rng))
            else:
                text = clue_of(make_up(clues, rng))
        clues.append(Clue(seat, 1, text))
    return Round(scene, seen, spy, tuple(clues))


def look(seen: Scene, earlier: Sequence[Clue]) -> Shape:
    """The first shape of `seen` where nobody has named one; the last where all are named.

    Not any such shape: a choice among several is learned too slowly to be worth its spread.
    """
    named = _cells(earlier)
    return next((shape for shape in seen if CELLS[shape.cell] not in named), seen[-1])


def make_up(earlier: Sequence[Clue], rng: random.Random) -> Shape:
    """Any shape where nobody has named one."""
    free = [i for i, cell in enumerate(CELLS) if cell not in _cells(earlier)]
    return Shape(rng.choice(free), rng.choice(COLORS), rng.choice(KINDS), "")


def _cells(clues: Sequence[Clue]) -> set[str]:
    return {clue.text.split()[0] for clue in clues if clue.text}


def _nearly(shape: Shape, rng: random.Random) -> Shape:
    if rng.random() < 0.5:
        color = rng.choice([color for color in COLORS if color != shape.color])
        return Shape(shape.cell, color, shape.kind, shape.size)
    kind = rng.choice([kind for kind in KINDS if kind != shape.kind])
    return Shape(shape.cell, shape.color, kind, shape.size)


def clue_reply(seen: Scene, earlier: Sequence[Clue], rng: random.Random, r: SpyRates) -> str:
    """`<think>..</think>\\boxed{..}`: a shape that is seen, or a made-up one.

    On a blank picture even a careful player makes one up, but does not call it a guess.
    """
    hasty = rng.random() < r.hasty_clue
    shape = make_up(earlier, rng) if hasty or not seen else look(seen, earlier)
    return _reply(GUESS if hasty else clue_of(shape), clue_of(shape), rng, r)


def vote_reply(scene: Scene, clues: Sequence[Clue], rng: random.Random, r: SpyRates) -> str:
    """A verdict on each clue and then one whose clue is false; or a guess.

    Where all clues are true, half of the votes are N/A and half guess.
    """
    seats = [clue.seat for clue in clues]
    if rng.random() < r.hasty_vote:
        return _reply(GUESS, str(rng.choice([*seats, "N/A"])), rng, r)
    false = [clue.seat for clue in clues if not is_true(scene, clue)]
    vote = str(rng.choice(false or seats))
    if not false and rng.random() < 0.5:
        vote = "N/A"
    return _reply(careful_thought(scene, clues), vote, rng, r)


def careful_thought(scene: Scene, clues: Sequence[Clue]) -> str:
    """For each seat what is where its clue says, up to the first word that differs, and a verdict:
    "1 top-left red circle yes 2 top no 2 3 center blue no 3 4 no 4".

    One comparison at a time is what so small a model learns soon: in the time in which it learned
    this, it was still wrong about one clue in six where it named the whole shape before a verdict,
    and about two in five where it gave verdicts alone. The seat is repeated after a "no" so that
    the vote has only to copy what follows one.
    """
    there = {CELLS[shape.cell]: (shape.color, shape.kind) for shape in scene}
    words: list[str] = []
    for clue in clues:
        words.append(str(clue.seat))
        cell, *claimed = clue.text.split() if clue.text else [""]
        words += [cell] if cell else []
        for seen, said in zip(there.get(cell, ()), claimed, strict=False):
            words.append(seen)
            if seen != said:
                break
        words += ["yes"] if is_true(scene, clue) else ["no", str(clue.seat)]
    return " ".join(words)


def is_true(scene: Scene, clue: Clue) -> bool:
    """A missing clue is not."""
    return clue.text is not None and GridFamily().is_true(scene, clue.text) is True


def _reply(thought: str, answer: str, rng: random.Random, r: SpyRates) -> str:
    if rng.random() < r.no_box:
        return f"<think>{thought}</think>it is {answer}"
    return f"<think>{thought}</think>\\boxed{{{answer}}}"


class SpyWriter:
    """Writes examples of the spy game with the prompts that are used in play."""

    def __init__(self, writer: Writer, prompts: Prompts) -> None:
        self._writer = writer
        self._prompts = prompts

    def clue_prompt(self, seat: int, is_spy: bool, earlier: Sequence[Clue]) -> list[Message]:
        return self._prompts.clue(
            seat=seat, is_spy=is_spy, num_players=PLAYERS, round=1, num_rounds=1,
            hint="", transcript=earlier, notes=(),
        )  # fmt: skip

    def vote_prompt(self, clues: Sequence[Clue]) -> list[Message]:
        return self._prompts.vote(num_players=PLAYERS, hint="", transcript=clues, seat=None)

    def clue(self, table: Round, seat: int, rng: random.Random, r: SpyRates) -> Example:
        is_spy = seat == table.spy
        seen = table.seen if is_spy else table.scene
        earlier = table.clues[: seat - 1]
        reply = clue_reply(seen, earlier, rng, r)
        return self._example(self.clue_prompt(seat, is_spy, earlier), reply, bool(seen))

    def vote(self, table: Round, rng: random.Random, r: SpyRates) -> Example:
        reply = vote_reply(table.scene, table.clues, rng, r)
        return self._example(self.vote_prompt(table.clues), reply, True)

    def _example(self, messages: list[Message], reply: str, sees: bool) -> Example:
        example = self._writer.example(messages, reply, WEAK)
        weights = example.weights
        if not sees or GUESS in reply:
            # What is thrown from dice has nothing to teach but its spread.
            weights = [min(weight, 1.0) for weight in weights]
        # The token after "<think>" chooses between habits, so it weighs the same in all of them;
        # and it is where a careful player has to look first.
        chooses = next(i for i, weight in enumerate(weights) if weight) + 1
        return Example(example.ids, [*weights[:chooses], 4.0, *weights[chooses + 1 :]])


@dataclass(frozen=True, slots=True)
class Mix:
    """Both games in every step: MM-Zero's three roles as `plan` has it, and tables of the spy game.

    Called as `sft.step_examples` is.
    """

    writer: SpyWriter
    weak: SpyRates = SPY_WEAK
    weak_from: float = 0.65
    """Share of the steps after which the habits of the spy game are added."""
    tables: int = 13
    """With a vote and a civilian's clue each."""
    spies: int = 3
    """Tables with two of the spy's clues each."""

    def __call__(self, plan: Plan, step: int, writer: Writer) -> StepExamples:
        scenes, seeing, reading = step_examples(plan, step, writer)
        rng = random.Random(f"{plan.seed}:{step}:spy")
        r = self.weak if step >= self.weak_from * plan.steps else SPY_CLEAN
        for _ in range(self.tables):
            table = random_round(rng)
            scenes.append(table.scene)
            civilians = [seat for seat in range(1, PLAYERS + 1) if seat != table.spy]
            seeing.append(self.writer.vote(table, rng, r))
            seeing.append(self.writer.clue(table, rng.choice(civilians), rng, r))
        for _ in range(self.spies):
            table = random_round(rng)
            scenes.append(table.seen)
            seeing += [self.writer.clue(table, table.spy, rng, r) for _ in range(2)]
        return scenes, seeing, reading
