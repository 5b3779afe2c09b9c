"""The held-out measurement, on roles whose skill is known."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from engine.errors import GameDropped
from engine.types import Invalid, Message, Picture, Rollout, SamplingParams, Segment
from evals.games import SIGNS, game_signs
from evals.heldout import (
    HONESTY,
    MEASURES,
    VOTERS,
    HeldoutResult,
    compare,
    heldout_items,
    measure,
)
from evals.scenes import language
from evals.scenes.drawing import scene_of_svg, to_svg
from evals.scenes.splits import split_of
from roles.mm_zero.config import MMZeroConfig

RECIPE = MMZeroConfig(prompts="tiny", topics=language.TINY_TOPICS)
Skill = Callable[[str, str, int, SamplingParams], str]
"""(prompt, picture, number of the sample, params) -> reply."""


@dataclass
class Actor:
    """A role with a skill that is known exactly."""

    role: str
    skill: Skill
    sampled: int = 0
    greedy: int = field(default=0)

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        prompt = "\n".join(p["text"] for m in messages for p in m["content"] if "text" in p)
        picture = images[0].decode() if images else ""
        self.sampled += n
        self.greedy += n if params.temperature == 0 else 0
        await asyncio.sleep(0)
        return tuple(
            Rollout(
                policy=self.role,
                role=self.role,
                prompt_ids=(1,),
                token_ids=(2,),
                logprobs=(0.0,),
                segments=(Segment(0, 0),),
                finish="stop",
                sampling=params,
                text=self.skill(prompt, picture, number, params),
            )
            for number in range(n)
        )


class PngIsSvg:
    async def render(self, svg: str) -> Picture | Invalid:
        return Invalid("malformed") if "bad" in svg else Picture(svg.encode(), 96, 96)


def truth(prompt: str, picture: str) -> str:
    scene = scene_of_svg(picture)
    assert not isinstance(scene, Invalid)
    answer = language.answer(prompt.strip(), scene)
    assert answer is not None
    return answer


def right(prompt: str, picture: str, number: int, params: SamplingParams) -> str:
    return f"<think>red circle</think>\\boxed{{{truth(prompt, picture)}}}"


def mostly(prompt: str, picture: str, number: int, params: SamplingParams) -> str:
    """Right in two samples of four, each other answer different, and careful in those alone."""
    if number % 4 < 2 and params.temperature > 0:
        return right(prompt, picture, number, params)
    return f"<think>just a guess</think>\\boxed{{wrong {number}}}"


def copied(prompt: str, picture: str, number: int, params: SamplingParams) -> str:
    caption = prompt.removeprefix("Draw: ").splitlines()[0].strip()
    scene = language.parse_caption(caption)
    assert not isinstance(scene, Invalid), prompt
    return to_svg(scene)


def proposing(texts: list[str]) -> Skill:
    turns = iter(range(10**6))
    return lambda *_: texts[next(turns) % len(texts)]


def proposal(number: int, easy_answer: str | None = None) -> str:
    item = heldout_items("dev", number + 1)[number]
    fields = {
        "content_type": "geometry",
        "caption": language.caption(item.scene),
        "easy_question": item.easy.text,
        "easy_answer": easy_answer or item.easy.answer,
        "hard_question": item.hard.text,
        "hard_answer": item.hard.answer,
    }
    return "".join(f"<{tag}>{text}</{tag}>" for tag, text in fields.items())


def run(
    solver: Skill = right,
    coder: Skill = copied,
    proposer: Skill | None = None,
    items: int = 12,
    **options: int,
) -> HeldoutResult:
    proposer = proposer or proposing([proposal(i) for i in range(4)])
    skills = {"solver": solver, "coder": coder, "proposer": proposer}
    actors = {role: Actor(role, skill) for role, skill in skills.items()}
    return asyncio.run(measure(actors, PngIsSvg(), RECIPE, items=items, **options))


def test_perfect_roles_have_full_marks() -> None:
    means = run(majority_items=3).means()
    assert set(means) == {*MEASURES, *HONESTY}
    assert 0 < means.pop("proposer_diversity") < 1
    assert means == dict.fromkeys(means, 1.0)


def test_skill_is_measured_as_it_is() -> None:
    result = run(solver=mostly, samples=4, majority_items=3)
    means = result.means()
    for level in ("easy", "hard"):
        assert means[f"solver_{level}_t1"] == 0.5
        assert means[f"solver_{level}_careful"] == 0.5
        assert means[f"solver_{level}_greedy"] == 0.0
        assert means[f"solver_{level}_maj16"] == 1.0
        voted = result.values[f"solver_{level}_maj16"]
        assert [value is not None for value in voted] == [True] * 3 + [False] * 9


def test_faithless_and_broken_drawings() -> None:
    other = to_svg(heldout_items("dev", 1)[0].scene)
    means = run(coder=lambda *_: other).means()
    assert (means["coder_render"], means["coder_faithful"]) == (1.0, 0.0)
    for reply in ("<svg>bad</svg>", "no drawing", ""):
        means = run(coder=lambda *_, reply=reply: reply or "\0").means()
        assert (means["coder_render"], means["coder_faithful"]) == (0.0, 0.0)


def test_proposals_are_checked_against_their_own_caption() -> None:
    texts = [proposal(0), proposal(1, "wrong"), "no tags", proposal(1).replace("red", "pink")]
    result = run(proposer=proposing(texts), items=4)
    means = result.means()
    assert means["proposer_valid"] == 0.75
    assert means["proposer_easy_true"] == pytest.approx(1 / 3)
    assert result.values["proposer_valid"][2] == 0.0
    assert result.values["proposer_diversity"][2] is None


def test_diversity_is_zero_for_one_proposal_again_and_again() -> None:
    assert run(proposer=proposing([proposal(0)])).means()["proposer_diversity"] == 0.0


def test_items_are_fixed_different_and_of_their_split() -> None:
    items = heldout_items("heldout", 50)
    assert items == heldout_items("heldout", 50)
    assert items[:10] == heldout_items("heldout", 10)
    assert len({item.scene for item in items}) == 50
    assert all(split_of(item.scene) == "heldout" for item in items)
    assert {item.scene for item in items}.isdisjoint(
        item.scene for item in heldout_items("dev", 50)
    )
    assert items != heldout_items("heldout", 50, seed=1)
    for item in items:
        assert language.answer(item.easy.text, item.scene) == item.easy.answer
        assert language.answer(item.hard.text, item.scene) == item.hard.answer


def test_compare_has_the_columns_of_the_summary() -> None:
    before, after = run(solver=mostly, majority_items=3), run()
    table = json.loads(json.dumps(compare(before, after)))
    assert set(table) == {"before", "after", "delta", "ci95"}
    assert set(MEASURES) <= set(table["delta"]) == set(table["ci95"])
    assert table["delta"]["solver_hard_t1"] == 0.5
    assert table["ci95"]["solver_hard_t1"] == [0.5, 0.5]
    assert table["delta"]["coder_faithful"] == 0.0
    assert "solver_hard_maj16" in table["before"]
    assert "solver_hard_maj16" not in table["after"]
    with pytest.raises(ValueError, match="is not"):
        compare(before, run(seed=1))


def test_a_result_survives_json() -> None:
    result = run(majority_items=2)
    assert HeldoutResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_lost_request_is_a_missing_value() -> None:
    turns = iter(range(1000))

    def losing(prompt: str, picture: str, number: int, params: SamplingParams) -> str:
        if next(turns) == 0:
            raise GameDropped("retries")
        return copied(prompt, picture, number, params)

    result = run(coder=losing)
    assert result.values["coder_render"].count(None) == 1
    assert result.means()["coder_render"] == 1.0


def test_token_budget_is_that_of_the_arguments() -> None:
    actors = {
        "solver": Actor("solver", right),
        "coder": Actor("coder", copied),
        "proposer": Actor("proposer", proposing([proposal(0)])),
    }
    asyncio.run(
        measure(actors, PngIsSvg(), RECIPE, split="dev", items=10, samples=3, majority_items=2)
    )
    assert actors["coder"].sampled == actors["proposer"].sampled == 10
    assert actors["solver"].sampled == 2 * (8 * 3 + 2 * VOTERS + 10)
    assert actors["solver"].greedy == 2 * 10


def test_signs_of_a_played_game() -> None:
    item, other = heldout_items("dev", 2)
    fields = {
        "caption": language.caption(item.scene),
        "easy_question": item.easy.text,
        "easy_answer": item.easy.answer,
        "hard_question": item.hard.text,
    }
    hard = {"majority": item.hard.answer, "share": 0.75, "replies": ["<think>red</think>", "hm"]}
    good = {"svg": to_svg(item.scene), "picture": "picture/0/0", "hard": hard, "drop": None}
    wrong = good | {"svg": to_svg(other.scene), "drop": "too_easy"}
    failed = {"svg": None, "invalid": "not_svg"}
    proposals = [{"proposal": fields, "drawings": [failed, good, wrong]}, {"invalid": "no_tag"}]
    signs = game_signs(proposals)
    assert set(signs) == set(SIGNS)
    assert signs["kept"] == [1.0, 0.0]
    assert signs["faithful"] == [1.0, 0.0]
    assert signs["consistency"] == [0.75, 0.75]
    assert signs["careful"] == [1.0, 0.0, 1.0, 0.0]
    assert signs["label_true"][0] == 1.0
    assert signs["easy_true"] == signs["real_hard"] == [1.0]
    of_one = game_signs(proposals, num_pictures=1)
    assert of_one["faithful"] == [1.0]
    assert of_one["careful"] == [1.0, 0.0]
    assert of_one["real_hard"] == [1.0]


def test_signs_of_another_world_need_no_truth() -> None:
    fields = {"caption": "a map", "easy_question": "where?", "easy_answer": "x"}
    fields |= {"hard_question": "why?"}
    hard = {"majority": None, "share": 0.0, "replies": ["x"]}
    drawing = {"svg": "<svg><g/></svg>", "picture": "p", "hard": hard, "drop": "no_votes"}
    signs = game_signs([{"proposal": fields, "drawings": [drawing]}])
    assert signs["consistency"] == [0.0]
    assert signs["label_true"] == signs["faithful"] == signs["easy_true"] == []
