"""The held-out measurement of the spy game, on players whose skill is known."""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.errors import ConfigError, GameDropped
from engine.types import Invalid, Message, Picture, Rollout, SamplingParams, Segment
from evals.heldout import HeldoutResult, compare
from evals.scenes.drawing import scene_of_svg
from evals.scenes.scene import CELLS, Scene
from evals.scenes.splits import split_of
from evals.spy_heldout import (
    HONESTY,
    MEASURES,
    Item,
    Transcripts,
    is_careful,
    measure,
    pair_items,
    transcripts_from_json,
    transcripts_to_json,
)
from launch.recipe import RECIPES
from roles.vision_zero.config import VisionZeroConfig
from roles.vision_zero.transcript import Clue

CFG = VisionZeroConfig(
    prompts="tiny",
    num_rounds=1,
    clue={"max_new_tokens": 40, "temperature": 0.7},
    vote={"max_new_tokens": 48, "temperature": 0.7},
)


@dataclass(frozen=True)
class Asked:
    role: str
    prompt: str
    picture: Scene
    number: int
    """Of the sample."""
    params: SamplingParams

    @property
    def clues(self) -> dict[int, str]:
        """{seat: what it said}, as the tiny prompts show it."""
        rows = re.findall(r"^(\d): (.+)$", self.prompt, re.MULTILINE)
        return {int(seat): clue for seat, clue in rows}


Skill = Callable[[Asked], str]


def there(scene: Scene) -> list[str]:
    """What is true of a scene, not by the code that is tested."""
    return [f"{CELLS[shape.cell]} {shape.color} {shape.kind}" for shape in scene]


def box(content: object, thought: str = "1 yes 2 no") -> str:
    return f"<think>{thought}</think>\\boxed{{{content}}}"


def honest(asked: Asked) -> str:
    """A shape of its own picture that nobody has named."""
    free = [clue for clue in there(asked.picture) if clue not in asked.clues.values()]
    return box(free[0])


def oracle(asked: Asked) -> str:
    """Whoever says what is not in the picture."""
    truths = there(asked.picture)
    liars = [seat for seat, clue in asked.clues.items() if clue not in truths]
    return box(liars[0] if liars else "N/A")


def always_one(asked: Asked) -> str:
    return box(1, "just a guess")


def guesser(asked: Asked) -> str:
    rng = random.Random(f"{asked.prompt}/{asked.number}/{asked.params.temperature}")
    return box(rng.randint(1, 4), "just a guess")


def by_cells(asked: Asked) -> str:
    """Does not look at the picture, but at which clues are about one cell, and at words that
    come more than once."""
    rng = random.Random(f"{asked.prompt}/{asked.number}")
    cells = Counter(clue.split()[0] for clue in asked.clues.values())
    odd = [seat for seat, clue in asked.clues.items() if cells[clue.split()[0]] > 1]
    return box(rng.choice(odd or [1, 2, 3, 4]))


class Drawer:
    """PNG bytes are the SVG text."""

    async def render(self, svg: str) -> Picture | Invalid:
        return Picture(svg.encode(), 96, 96)


@dataclass
class Actor:
    role: str
    skill: Skill
    lost: Callable[[Asked], bool] = lambda asked: False
    asked: list[Asked] = field(default_factory=list)

    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        await asyncio.sleep(0)
        prompt = "\n".join(p["text"] for m in messages for p in m["content"] if "text" in p)
        (png,) = images
        scene = scene_of_svg(png.decode())
        assert not isinstance(scene, Invalid)
        made = []
        for number in range(n):
            asked = Asked(self.role, prompt, scene, number, params)
            self.asked.append(asked)
            if self.lost(asked):
                raise GameDropped("retries")
            made.append(rollout(self.role, self.skill(asked), params))
        return tuple(made)


def rollout(role: str, text: str, params: SamplingParams) -> Rollout:
    return Rollout(
        policy=role, role=role, prompt_ids=(1,), token_ids=(2,), logprobs=(0.0,),
        segments=(Segment(0, 0),), finish="stop", sampling=params, text=text,
    )  # fmt: skip


def cast(voter: Skill = oracle, civilian: Skill = honest, spy: Skill = honest) -> dict[str, Actor]:
    skills = {"civilian": civilian, "spy": spy, "voter": voter}
    return {role: Actor(role, skill) for role, skill in skills.items()}


def run(
    actors: Mapping[str, Actor] | None = None,
    cfg: VisionZeroConfig = CFG,
    renderer: Any = None,
    **options: Any,
) -> tuple[HeldoutResult, Transcripts]:
    options = {"items": 12} | options
    return asyncio.run(measure(actors or cast(), renderer or Drawer(), cfg, **options))


# the items


@pytest.mark.parametrize("split", ["dev", "heldout"])
@pytest.mark.parametrize("edits", [1, 2, 4])
@pytest.mark.parametrize("num_players", [3, 4, 5])
def test_items_are_pairs_of_their_split(split: Any, edits: int, num_players: int) -> None:
    cfg = VisionZeroConfig(num_players=num_players, pairs={"source": "grid", "edits": edits})
    items = pair_items(cfg, split, 40)
    assert len({item.scene for item in items}) == 40
    for number, item in enumerate(items):
        assert split_of(item.scene) == split
        assert split_of(item.edited) in ("pretrain", split)
        assert item.spy == 1 + number % num_players
        changed = [a != b for a, b in zip(item.scene, item.edited, strict=True)]
        assert sum(changed) == edits
        assert [(clue.seat, clue.round) for clue in item.script] == [
            (seat, 1) for seat in range(1, num_players + 1)
        ]
        for clue in item.script:
            assert (clue.text in there(item.scene)) == (clue.seat != item.spy)
        assert item.script[item.spy - 1].text in there(item.edited)
        cells = [(clue.text or "").split()[0] for clue in item.script]
        assert len(set(cells)) == num_players, "no clue is odd by its cell"


def test_the_same_arguments_give_the_same_items() -> None:
    items = pair_items(CFG, "heldout", 30)
    assert pair_items(CFG, "heldout", 30) == items
    assert pair_items(CFG, "heldout", 10) == items[:10]
    others: list[list[Item]] = [pair_items(CFG, "heldout", 30, 1), pair_items(CFG, "dev", 30)]
    assert not any({i.scene for i in items} & {i.scene for i in other} for other in others)
    assert pair_items(CFG, "dev", 0) == []


def test_more_edits_than_a_scene_has_shapes_are_as_many_as_it_has() -> None:
    """`edits: 5` is a setting of larger pictures."""
    cfg = VisionZeroConfig(prompts="tiny", pairs={"edits": 6})
    assert pair_items(cfg, "dev", 5) == pair_items(VisionZeroConfig(pairs={"edits": 4}), "dev", 5)
    result, _ = run(cfg=cfg, items=4)
    assert result.means()["vote_scripted_t1"] == 1.0


def test_more_players_than_shapes_are_refused_and_not_looked_for_for_ever() -> None:
    cfg = VisionZeroConfig(num_players=6)
    with pytest.raises(ConfigError, match=r"recipe.num_players: 6 .*eval.heldout_items=0"):
        pair_items(cfg, "heldout", 1)
    assert pair_items(cfg, "heldout", 0) == []


# what is measured


def test_who_looks_has_full_marks() -> None:
    result, clues = run()
    assert set(result.values) == {*MEASURES, *HONESTY}
    assert all(len(column) == 12 for column in result.values.values())
    means = result.means()
    for name in ("vote_scripted_t1", "vote_scripted_greedy", "vote_careful", "vote_read"):
        assert means[name] == 1.0, name
    for name in ("clue_civilian_true", "clue_read"):
        assert means[name] == 1.0, name
    assert means["vote_abstains"] == 0.0
    # Its spy, who does not know what was edited, is caught where it names that.
    honest_spies = result.values["clue_spy_true"]
    assert 0 < means["clue_spy_true"] < 1
    for spy_true, found in zip(honest_spies, result.values["vote_base_t1"], strict=True):
        assert found == 1.0 - (spy_true or 0.0)
    assert [len(row) for row in clues] == [4] * 12
    assert (result.split, result.seed) == ("heldout", 0)


def test_who_names_one_seat_is_right_in_a_quarter() -> None:
    result, _ = run(cast(voter=always_one), items=40)
    means = result.means()
    for name in ("vote_scripted_t1", "vote_scripted_greedy", "vote_base_t1"):
        assert means[name] == 0.25, name
    assert means["vote_careful"] == 0.0
    assert means["vote_read"] == 1.0


@pytest.mark.parametrize("blind", [guesser, by_cells])
def test_who_does_not_look_is_right_in_a_quarter(blind: Skill) -> None:
    result, _ = run(cast(voter=blind), items=200)
    # 800 votes of chance 1/4: .25 +- 4 x .0153
    assert result.means()["vote_scripted_t1"] == pytest.approx(0.25, abs=0.062)
    assert result.means()["vote_scripted_greedy"] == pytest.approx(0.25, abs=0.13)


def test_skill_is_measured_as_it_is() -> None:
    """Three samples of four: right, N/A, unreadable, and one that guesses seat 1."""

    def voter(asked: Asked) -> str:
        if asked.params.temperature == 0:
            return box("N/A")
        return [oracle(asked), box("N/A"), "no box", box(1, "just a guess")][asked.number]

    result, _ = run(cast(voter=voter), items=8, samples=4)
    means = result.means()
    assert means["vote_scripted_t1"] == pytest.approx((1 + 0.25) / 4)
    assert means["vote_scripted_greedy"] == 0.0
    assert means["vote_abstains"] == 0.25
    assert means["vote_read"] == 0.75
    assert means["vote_careful"] == 0.5, "no box has no thought, a guess none that counts"


def test_false_odd_and_missing_clues_are_counted_as_such() -> None:
    def civilian(asked: Asked) -> str:
        spoken = len(asked.clues)
        if spoken == 0:
            return box("center red hexagon")  # no claim of this world
        if spoken == 1:
            return "no box"
        return honest(asked)

    def spy(asked: Asked) -> str:
        return box(next(iter(asked.clues.values()), "x"))  # a repetition, or no claim

    result, clues = run(cast(civilian=civilian, spy=spy), items=8)
    assert [item.spy for item in pair_items(CFG, "heldout", 4)] == [1, 2, 3, 4]
    # spy 1: x, no box, true, true. spy 2: odd, repeated, true, true (two rows are said before
    # the third). spy 3: odd, no box, repeated, true. spy 4: odd, no box, true, repeated.
    read = [3 / 4, 3 / 4, 2 / 4, 2 / 4]
    true = [2 / 3, 2 / 3, 1 / 3, 1 / 3]
    assert result.values["clue_read"] == pytest.approx(read * 2)
    assert result.values["clue_civilian_true"] == pytest.approx(true * 2)
    assert result.values["clue_spy_true"] == (0.0,) * 8
    assert [clue.text for clue in clues[0]][:2] == ["x", None]


def test_who_is_asked_what() -> None:
    actors = cast()
    items = pair_items(CFG, "heldout", 4)
    run(actors, items=4, samples=3)
    counts = {role: len(actor.asked) for role, actor in actors.items()}
    assert counts == {"civilian": 4 * 3, "spy": 4, "voter": 4 * (3 + 3 + 1)}
    scenes = {item.scene for item in items}
    assert {asked.picture for asked in actors["civilian"].asked} == scenes
    assert {asked.picture for asked in actors["voter"].asked} == scenes
    assert {asked.picture for asked in actors["spy"].asked} == {item.edited for item in items}
    temperatures = Counter(asked.params.temperature for asked in actors["voter"].asked)
    assert temperatures == {1.0: 4 * 6, 0.0: 4}
    assert {asked.params.temperature for asked in actors["spy"].asked} == {1.0}
    assert {asked.params.max_new_tokens for asked in actors["voter"].asked} == {48}
    assert {asked.params.max_new_tokens for asked in actors["civilian"].asked} == {40}
    for actor in actors.values():
        assert all(asked.params.top_p == 1.0 for asked in actor.asked)
    for asked in actors["civilian"].asked:
        assert asked.prompt.endswith(f"\n\n{len(asked.clues) + 1}:")
    for asked in actors["spy"].asked:
        assert asked.prompt.endswith(f"\n\n{len(asked.clues) + 1} spy:")


# the base's transcripts


def test_later_models_vote_on_what_the_base_said() -> None:
    weak = cast(civilian=lambda asked: box(f"x{len(asked.clues)}"))
    before, clues = run(weak)
    kept = json.loads(json.dumps(transcripts_to_json(clues)))
    assert transcripts_from_json(kept) == [list(row) for row in clues]
    better = cast()
    after, own = run(better, base=transcripts_from_json(kept))
    assert own != clues
    assert after.values["clue_civilian_true"] == (1.0,) * 12
    on_base = {
        tuple(asked.clues.values())
        for asked in better["voter"].asked
        if "x" in "".join(asked.clues.values())
    }
    assert on_base == {tuple(clue.text for clue in row) for row in clues}
    asked_own = [a for a in better["voter"].asked if tuple(a.clues.values()) not in on_base]
    scripts = {tuple(clue.text for clue in i.script) for i in pair_items(CFG, "heldout", 12)}
    assert {tuple(asked.clues.values()) for asked in asked_own} == scripts, "not on its own"
    assert set(compare(before, after)["delta"]) == {*MEASURES, *HONESTY}


def test_the_run_keeps_the_base_s_transcripts_and_gives_them_again() -> None:
    wanted = RECIPES["vision_zero"].measure
    assert wanted is not None
    options = {"split": "dev", "items": 3, "samples": 1, "majority_items": 7}

    async def twice() -> tuple[Any, Any, Any]:
        _, kept = await wanted(cast(), Drawer(), CFG, kept=None, **options)
        kept = json.loads(json.dumps(kept))
        mute = cast(civilian=lambda _: "nothing", spy=lambda _: "nothing")
        second, again = await wanted(mute, Drawer(), CFG, kept=kept, **options)
        return kept, second, again

    kept, second, again = asyncio.run(twice())
    assert again == kept, "the base's stay, whatever comes later"
    assert [len(row) for row in kept] == [4, 4, 4]
    assert second.values["clue_read"] == (0.0, 0.0, 0.0)
    assert any(value for value in second.values["vote_base_t1"])


# losses


def lost_where(role: str, scene: Scene, greedy: bool = False) -> Callable[[Asked], bool]:
    return lambda asked: (
        asked.role == role
        and asked.picture == scene
        and (not greedy or asked.params.temperature == 0)
    )


@pytest.mark.parametrize(
    ("role", "greedy"), [("civilian", False), ("spy", False), ("voter", False), ("voter", True)]
)
def test_a_lost_request_is_a_missing_value(role: str, greedy: bool) -> None:
    item = pair_items(CFG, "heldout", 12)[5]
    actors = cast()
    actors[role].lost = lost_where(role, item.edited if role == "spy" else item.scene, greedy)
    result, clues = run(actors)
    for name in (*MEASURES, *HONESTY):
        column = result.values[name]
        assert column[5] is None
        assert None not in (*column[:5], *column[6:]), name
    assert result.means()["vote_scripted_t1"] == 1.0, "it counts as neither right nor wrong"
    assert clues[5] == []


def test_what_the_base_lost_is_not_made_up_by_the_model_measured() -> None:
    item = pair_items(CFG, "heldout", 12)[5]
    actors = cast()
    actors["civilian"].lost = lost_where("civilian", item.scene)
    before, clues = run(actors)
    after, _ = run(base=transcripts_from_json(json.loads(json.dumps(transcripts_to_json(clues)))))
    assert before.values["vote_base_t1"][5] is None
    assert after.values["vote_base_t1"][5] is None, "there is no clue of the base to vote on"
    assert after.values["vote_scripted_t1"][5] == 1.0
    assert after.values["vote_base_t1"][4] is not None


def test_a_picture_that_was_not_drawn_is_a_missing_value() -> None:
    item = pair_items(CFG, "heldout", 12)[3]

    class Busy(Drawer):
        async def render(self, svg: str) -> Picture | Invalid:
            if scene_of_svg(svg) == item.edited:
                return Invalid("timeout")
            return await super().render(svg)

    result, clues = run(renderer=Busy())
    assert result.values["vote_scripted_t1"][3] is None
    assert result.means()["vote_scripted_t1"] == 1.0
    assert [len(row) for row in clues].count(0) == 1


def test_where_all_is_lost_there_is_no_number() -> None:
    actors = cast()
    actors["voter"].lost = lambda asked: True
    result, clues = run(actors)
    assert result.means() == {}
    assert clues == [[]] * 12


def test_an_error_that_nobody_named_is_raised() -> None:
    def broken(asked: Asked) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(cast(voter=broken))


@pytest.mark.parametrize(
    ("text", "careful"),
    [
        ("<think>1 yes 2 no</think>\\boxed{2}", True),
        ("<think>just a guess</think>\\boxed{2}", False),
        ("<think>1 guess</think>\\boxed{2}", False),
        ("<think>hm</think>\\boxed{2}", False),
        ("\\boxed{2}", False),
        ("<think>1 yes 2 no", False),
        ("", False),
    ],
)
def test_who_is_careful(text: str, careful: bool) -> None:
    assert is_careful(text) is careful


def test_transcripts_survive_as_json() -> None:
    rows = [[Clue(1, 1, "a"), Clue(2, 1, None)], []]
    assert transcripts_from_json(json.loads(json.dumps(transcripts_to_json(rows)))) == rows
