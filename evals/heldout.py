"""How good the three roles are on scenes that they never saw, by exact truth.

Answers are computed from the scene and drawings are read back from their SVG; no model judges.
Values are kept per item, so that two measurements of the same items can be compared in pairs.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from engine.errors import GameDropped
from engine.tasks import concurrently
from engine.types import Invalid, Message, Picture, SamplingParams
from evals.scenes import language
from evals.scenes.drawing import scene_of_svg, to_svg
from evals.scenes.language import Question
from evals.scenes.scene import Scene, scene_hash
from evals.scenes.splits import Split, scenes
from evals.statistics import difference, mean
from rewards.diversity import DiversityWeights, distances
from rewards.grading import equal, tally
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.parsing import Proposal, extract_svg, parse_answer, parse_proposal
from roles.mm_zero.prompts import Prompts, load_prompts
from roles.table import Renderer, Sampler

MEASURES = (
    "solver_easy_t1",
    "solver_hard_t1",
    "solver_easy_greedy",
    "solver_hard_greedy",
    "coder_render",
    "coder_faithful",
    "proposer_valid",
    "proposer_diversity",
)
"""The headline. Accuracy at temperature 1 is the mean over the samples of a question."""

HONESTY = (
    "solver_easy_maj16",
    "solver_hard_maj16",
    "solver_easy_careful",
    "solver_hard_careful",
    "solver_easy_boxed",
    "solver_hard_boxed",
    "proposer_easy_true",
    "proposer_real_hard",
)
"""Where a gain comes from: what a vote of the base already knew, how many replies look before
they answer, how many found the box; how many proposals have a true easy answer, and a
hard question that is one."""

VOTERS = 16
_SEEDS_APART = 2**24
Values = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class HeldoutResult:
    """One measurement. Item i of each measure is always the same question, card or topic."""

    split: Split
    seed: int
    values: Mapping[str, Values]
    """By measure; None where there is no value (a lost request, an invalid proposal)."""

    def means(self) -> dict[str, float]:
        """By measure; those without any value are left out."""
        averages = {name: mean(values) for name, values in self.values.items()}
        return {name: value for name, value in averages.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        values = {name: list(items) for name, items in self.values.items()}
        return {"split": self.split, "seed": self.seed, "values": values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "HeldoutResult":
        values = {name: tuple(items) for name, items in data["values"].items()}
        return cls(data["split"], data["seed"], values)


def compare(before: HeldoutResult, after: HeldoutResult, *, seed: int = 0) -> dict[str, Any]:
    """{"before", "after", "delta", "ci95"}, each by measure, as `summary.json` has them.

    A measure taken only once (the vote of the base) is in its own column only. Raises ValueError
    where the two are not of the same items.
    """
    if (before.split, before.seed) != (after.split, after.seed):
        raise ValueError(f"{before.split} {before.seed} is not {after.split} {after.seed}")
    table: dict[str, Any] = {"before": before.means(), "after": after.means()}
    table |= {"delta": {}, "ci95": {}}
    for name in before.values.keys() & after.values.keys():
        change = difference(before.values[name], after.values[name], seed=seed)
        if change is not None:
            table["delta"][name] = change.delta
            table["ci95"][name] = [change.low, change.high]
    return table


@dataclass(frozen=True, slots=True)
class Item:
    """A scene and the two questions that are asked about it."""

    scene: Scene
    easy: Question
    hard: Question


def heldout_items(split: Split, count: int, seed: int = 0) -> list[Item]:
    """`count` different scenes of `split`; the same ones for the same arguments."""
    chosen: dict[Scene, Item] = {}
    for scene in scenes(split, first=seed * _SEEDS_APART):
        if len(chosen) == count:
            break
        if scene not in chosen:
            rng = random.Random(scene_hash(scene))
            easy, hard = language.easy_question(scene, rng), language.hard_question(scene, rng)
            chosen[scene] = Item(scene, easy, hard)
    return list(chosen.values())


async def measure(
    samplers: Mapping[str, Sampler],
    renderer: Renderer,
    recipe: MMZeroConfig,
    *,
    split: Split = "heldout",
    items: int = 200,
    samples: int = 4,
    majority_items: int = 0,
    seed: int = 0,
) -> HeldoutResult:
    """Measure all roles at once, on `items` scenes (a drawing, two questions) and proposals.

    `samples`: at temperature 1 per question. `majority_items`: scenes of which the vote of
    `VOTERS` samples is taken too. At the defaults some 50 000 tokens are generated, and 360 more
    for each scene voted on. A request lost for a named reason is a missing value.
    """
    chosen = heldout_items(split, items, seed)
    bench = _Bench(samplers, renderer, recipe, load_prompts(recipe.prompts))

    async def item_values(numbered: tuple[int, Item]) -> dict[str, float | None]:
        number, item = numbered
        voters = max(samples, VOTERS) if number < majority_items else samples
        drawing, solving = await concurrently(
            lambda part: part(), [lambda: _draw(bench, item), lambda: _solve(bench, item, voters)]
        )
        return drawing | solving

    async def all_items() -> dict[str, Values]:
        return _columns(await concurrently(item_values, enumerate(chosen)))

    async def all_proposals() -> dict[str, Values]:
        topics = islice(cycle(recipe.topics), items)
        return _proposals(await concurrently(bench.proposal, topics))

    parts = await concurrently(lambda part: part(), [all_items, all_proposals])
    return HeldoutResult(split, seed, parts[0] | parts[1])


@dataclass(frozen=True, slots=True)
class _Bench:
    """The roles as they play, but with the temperature of the measurement."""

    samplers: Mapping[str, Sampler]
    renderer: Renderer
    recipe: MMZeroConfig
    prompts: Prompts

    async def replies(
        self,
        role: str,
        messages: Sequence[Message],
        n: int,
        *,
        temperature: float = 1.0,
        images: Sequence[bytes] = (),
    ) -> list[str]:
        """Texts of `n` samples; none at all where the request was lost."""
        longest = self.recipe.params(role).max_new_tokens
        params = SamplingParams(max_new_tokens=longest, temperature=temperature)
        try:
            rollouts = await self.samplers[role].sample(messages, n=n, params=params, images=images)
        except GameDropped:
            return []
        return [rollout.text for rollout in rollouts]

    async def proposal(self, topic: str) -> Proposal | Invalid | None:
        replies = await self.replies("proposer", self.prompts.proposer(topic), 1)
        return parse_proposal(replies[0]) if replies else None


async def _draw(bench: _Bench, item: Item) -> dict[str, float | None]:
    """Does a drawing of the scene's caption render, and does it show the scene?"""
    card = bench.prompts.coder(
        caption=language.caption(item.scene),
        easy_question=item.easy.text,
        easy_answer=item.easy.answer,
        hard_question=item.hard.text,
    )
    replies = await bench.replies("coder", card, 1)
    if not replies:
        return {"coder_render": None, "coder_faithful": None}
    svg = extract_svg(replies[0])
    is_rendered = svg is not None and isinstance(await bench.renderer.render(svg), Picture)
    is_faithful = is_rendered and svg is not None and scene_of_svg(svg) == item.scene
    return {"coder_render": float(is_rendered), "coder_faithful": float(is_faithful)}


async def _solve(bench: _Bench, item: Item, voters: int) -> dict[str, float | None]:
    """Both questions about the true picture of the scene."""
    picture = await bench.renderer.render(to_svg(item.scene))
    if isinstance(picture, Invalid):
        return {}
    png = picture.png

    async def level(asked: tuple[str, Question]) -> dict[str, float | None]:
        name, question = asked
        messages = bench.prompts.solver(question.text)
        replies, greedy = await concurrently(
            lambda way: bench.replies(
                "solver", messages, way[0], temperature=way[1], images=(png,)
            ),
            [(voters, 1.0), (1, 0.0)],
        )
        values = {
            f"solver_{name}_t1": mean([_is_right(reply, question) for reply in replies]),
            f"solver_{name}_greedy": mean([_is_right(reply, question) for reply in greedy]),
            f"solver_{name}_careful": mean([float(language.is_careful(r)) for r in replies]),
            f"solver_{name}_boxed": mean([float(parse_answer(r) is not None) for r in replies]),
        }
        if len(replies) >= VOTERS:
            votes = tally([parse_answer(reply) for reply in replies[:VOTERS]], salt=question.text)
            values[f"solver_{name}_maj16"] = float(votes.supports(question.answer))
        return values

    easy, hard = await concurrently(level, [("easy", item.easy), ("hard", item.hard)])
    return easy | hard


def _is_right(reply: str, question: Question) -> float:
    return float(equal(parse_answer(reply), question.answer))


def _proposals(replies: Sequence[Proposal | Invalid | None]) -> dict[str, Values]:
    """Validity, truth and variety. Diversity is the mean distance (1 - BLEU-4, fields weighted
    as in the reward) to the other valid proposals."""
    valid = [reply for reply in replies if isinstance(reply, Proposal)]
    variety = iter(_mean_distances(valid))
    rows: list[dict[str, float | None]] = []
    for reply in replies:
        row: dict[str, float | None] = {}
        if reply is not None:
            row["proposer_valid"] = float(isinstance(reply, Proposal))
        if isinstance(reply, Proposal):
            row |= {"proposer_diversity": next(variety)} | _truth(reply)
        rows.append(row)
    return _columns(rows)


def _truth(proposal: Proposal) -> dict[str, float | None]:
    scene = language.parse_caption(proposal.caption)
    if isinstance(scene, Invalid):
        return {"proposer_easy_true": 0.0, "proposer_real_hard": 0.0}
    hard = language.answer(proposal.hard_question, scene)
    return {
        "proposer_easy_true": float(
            equal(language.answer(proposal.easy_question, scene), proposal.easy_answer)
        ),
        "proposer_real_hard": float(
            hard is not None and not language.is_easy(proposal.hard_question)
        ),
    }


def _mean_distances(proposals: Sequence[Proposal]) -> list[float | None]:
    count = len(proposals)
    if count < 2:
        return [None] * count
    weights = DiversityWeights()
    total = sum(
        getattr(weights, field) * distances([getattr(p, field) for p in proposals])
        for field in ("caption", "easy_question", "hard_question")
    )
    return [float(row.sum()) / (count - 1) for row in total]


def _columns(rows: Sequence[Mapping[str, float | None]]) -> dict[str, Values]:
    """Values by measure, None where a row has none."""
    names = sorted({name for row in rows for name in row})
    return {name: tuple(row.get(name) for row in rows) for name in names}
