"""Samples what the tiny base really says: `python -m tests.roles.tiny_outputs.collect`.

Writes `replies.jsonl`, one {"role", "text"} a line, for tests that need a model's own words: 300
proposals, the drawings of those that can be read, and answers to both questions about every
picture, all at temperature 1, prompted as in play by the quickstart.
"""

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import TypeVar

import yaml

from engine.tasks import concurrently
from engine.types import Invalid, Message, Rollout
from render_pool.config import RenderConfig
from render_pool.pool import RenderPool
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.parsing import Proposal, parse_proposal
from roles.mm_zero.prompts import load_prompts
from tests.roles.tiny_outputs import REPLIES
from tests.roles.tiny_outputs.base import ROOT, samplers_of

T = TypeVar("T")

NUM = 300
"""Replies of each kind: proposals, drawings, easy answers, hard answers."""


async def collect(cfg: MMZeroConfig, side: int) -> list[Rollout]:
    """Play the first `NUM` of everything: propose, draw, render, answer."""
    prompts = load_prompts(cfg.prompts)
    topics = first(NUM, cfg.topics)
    async with (
        samplers_of(("proposer", "coder", "solver")) as samplers,
        RenderPool(RenderConfig(workers=1, side=side)) as renderer,
    ):

        async def reply(
            role: str, messages: list[Message], images: Sequence[bytes] = ()
        ) -> Rollout:
            params = cfg.params(role)
            return (await samplers[role].sample(messages, n=1, params=params, images=images))[0]

        async def draw(card: Proposal) -> Rollout:
            fields = card.as_dict()
            del fields["content_type"], fields["hard_answer"]
            return await reply("coder", prompts.coder(**fields))

        proposals = await concurrently(lambda t: reply("proposer", prompts.proposer(t)), topics)
        read = [parse_proposal(rollout.text) for rollout in proposals]
        cards = first(NUM, [card for card in read if isinstance(card, Proposal)])
        drawings = await concurrently(draw, cards)
        pictures = await concurrently(renderer.render, [drawing.text for drawing in drawings])
        shown = [
            (card, picture.png)
            for card, picture in zip(cards, pictures, strict=True)
            if not isinstance(picture, Invalid)
        ]
        asked = first(NUM, [(card.easy_question, png) for card, png in shown])
        asked += first(NUM, [(card.hard_question, png) for card, png in shown])
        answers = await concurrently(lambda a: reply("solver", prompts.solver(a[0]), a[1:]), asked)
    return [*proposals, *drawings, *answers]


def first(num: int, items: Sequence[T]) -> list[T]:
    """`num` of `items`, from the start again where they are too few."""
    return list(itertools.islice(itertools.cycle(items), num))


def main() -> None:
    config = yaml.safe_load((ROOT / "launch/configs/quickstart.yaml").read_text())
    cfg = MMZeroConfig.model_validate(config["recipe"])
    rollouts = asyncio.run(collect(cfg, config["render"]["side"]))
    lines = [json.dumps({"role": rollout.role, "text": rollout.text}) for rollout in rollouts]
    REPLIES.write_text("\n".join(lines) + "\n")
    print(f"{REPLIES}: {len(lines)} replies, {REPLIES.stat().st_size} bytes")


if __name__ == "__main__":
    main()
