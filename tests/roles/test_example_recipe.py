"""The example of roles/README.md: short, and played for real with the tiny base."""

import asyncio
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

from engine.encoding import TextEncoder
from engine.errors import ConfigError
from engine.tasks import concurrently
from engine.types import Group, Picture, Renderer, SamplingParams
from evals.scenes.drawing import to_svg
from evals.scenes.splits import scenes
from launch.recipe import Playing, Recipe, RecipeSettings
from render_pool.config import RenderConfig
from render_pool.pool import RenderPool
from rewards.config import GraderConfig
from rewards.grader import Grader
from rewards.grading import boxed, canonical
from roles.config import Section
from roles.table import Table
from tests.roles.tiny_outputs.base import MODEL, ROOT, VERSION, samplers_of

GUIDE = ROOT / "roles/README.md"
MOST_LINES = 60
TINY_WORDS = {
    # The tiny base has seen no picture in front of a proposal. It can name a shape, often by a
    # guess; that shape is what the question is about.
    "ASK": "which shape is most frequent?",
    "QUESTION": r"\\boxed\{(\w+)\}",
    "ANSWER": "how many are red or {}?",
}
NUM_QUESTIONS, NUM_ANSWERS = 4, 8


def blocks() -> list[str]:
    """The Python blocks under the heading: the game, and what binds it."""
    section = GUIDE.read_text().partition("\n## Write your own game\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def example() -> str:
    return blocks()[0]


def recipe(words: dict[str, str]) -> ModuleType:
    """The example as a module that says `words`."""
    module = ModuleType("example")
    exec(compile(example(), str(GUIDE), "exec"), vars(module))
    assert words.keys() <= vars(module).keys()
    vars(module).update(words)
    return module


@dataclass
class Played:
    """One game that was played."""

    game: int
    picture: bytes
    recipe: ModuleType
    groups: list[Group] = field(default_factory=list)

    def of(self, stream: str) -> list[Group]:
        return [group for group in self.groups if group.stream == stream]


async def play_all() -> list[Played]:
    """Games 0 to 5 with the words that the base knows, game 6 with those of the example."""
    async with (
        samplers_of(("proposer", "solver")) as samplers,
        RenderPool(RenderConfig(workers=1, side=96)) as renderer,
        Grader(GraderConfig()) as grader,
    ):

        async def play(game: int) -> Played:
            picture = await renderer.render(drawings[game])
            assert isinstance(picture, Picture)
            played = Played(game, picture.png, recipe(TINY_WORDS if game < 6 else {}))
            table = Table(game, samplers, renderer, grader, played.groups.append, lambda *_: None)
            await played.recipe.play(picture.png, table)
            return played

        drawings = [to_svg(scene) for scene in itertools.islice(scenes("dev"), 7)]
        return list(await concurrently(play, range(7)))


@cache
def games() -> list[Played]:
    return asyncio.run(play_all())


@cache
def encoder() -> TextEncoder:
    return TextEncoder.load(MODEL)


def question_of(group: Group) -> str:
    """What the solver was asked, as its tokens say."""
    (prompt,) = {encoder().decode(rollout.prompt_ids) for rollout in group.rollouts}
    return prompt.removeprefix("user\n").removesuffix("\nassistant\n")


def ballots(group: Group) -> list[str]:
    """The canonical form of each answer; "" for none."""
    return [canonical(boxed(rollout.text) or "") for rollout in group.rollouts]


def test_the_example_is_short() -> None:
    assert len(example().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("check", [["check"], ["format", "--check"]], ids=lambda check: check[0])
def test_the_example_keeps_the_style_of_the_project(check: list[str]) -> None:
    argv = [
        sys.executable,
        "-m",
        "ruff",
        *check,
        "--no-cache",
        "--stdin-filename=roles/game.py",
        "-",
    ]
    done = subprocess.run(argv, input=example(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_game_gives_one_proposer_group_and_one_solver_group_per_question() -> None:
    for played in games():
        (proposer,) = played.of("proposer")
        readable = [r for r in proposer.rollouts if re.search(played.recipe.QUESTION, r.text)]
        assert len(proposer.rollouts) == NUM_QUESTIONS
        assert proposer.extra["usable"] == len(readable) == len(played.of("solver"))
        assert (proposer.extra["drop"] is None) == bool(readable)
        assert {len(group.rollouts) for group in played.of("solver")} <= {NUM_ANSWERS}
        assert len(played.groups) == 1 + len(readable)
        for group in played.groups:
            assert group.game == played.game
            assert {r.role for r in group.rollouts} == {group.stream}
            assert {r.images for r in group.rollouts} == {(played.picture,)}


def test_an_answer_earns_by_the_majority_of_its_own_group() -> None:
    groups = [group for played in games() for group in played.of("solver")]
    assert groups
    for group in groups:
        forms = ballots(group)
        counts = Counter(filter(None, forms))
        top = [form for form, count in counts.items() if count == max(counts.values())]
        boxes = [boxed(rollout.text) is not None for rollout in group.rollouts]
        allowed = [
            [0.9 * (form == label) + 0.1 * box for form, box in zip(forms, boxes, strict=True)]
            for label in top or [None]
        ]
        assert any(list(group.rewards) == pytest.approx(rewards) for rewards in allowed)
        assert [sum(terms.values()) for terms in group.terms] == pytest.approx(group.rewards)
        assert group.extra["usable"] == counts.total()
        assert (group.extra["drop"] is None) == bool(counts)


def test_a_question_earns_the_difficulty_of_its_vote_and_an_unreadable_one_minus_1() -> None:
    for played in games():
        (proposer,) = played.of("proposer")
        earned, unread = Counter(), []
        for rollout, reward in zip(proposer.rollouts, proposer.rewards, strict=True):
            found = re.search(played.recipe.QUESTION, rollout.text)
            if found:
                earned[played.recipe.ANSWER.format(found[1]), round(reward, 9)] += 1
            else:
                unread.append(reward)
        assert set(unread) <= {-1.0}
        voted = Counter()
        for group in played.of("solver"):
            counts = Counter(filter(None, ballots(group)))
            share = max(counts.values(), default=0) / max(1, counts.total())
            voted[question_of(group), round(min(share, 1 - share), 9)] += 1
        assert earned == voted


def test_versions_are_those_of_all_who_had_a_hand_in_the_rewards() -> None:
    for played in games():
        hands = {"proposer", "solver"} if played.of("solver") else {"proposer"}
        for group in played.groups:
            roles = hands if group.stream == "proposer" else {"solver"}
            assert group.versions == dict.fromkeys(roles, (VERSION, VERSION))


def test_the_base_plays_a_real_game_and_fails_at_the_words_for_real_models() -> None:
    """Both sides of every rule were seen: read and unread questions, split and sure votes."""
    *known, foreign = games()
    asked = [group for played in known for group in played.of("proposer")]
    rewards = [reward for group in asked for reward in group.rewards]
    assert sum(group.extra["usable"] for group in asked) > 0.6 * len(rewards)
    assert max(rewards) > 0.2
    assert len({question_of(g) for played in known for g in played.of("solver")}) > 1
    assert any(group.has_signal for played in known for group in played.of("solver"))
    assert -1.0 in foreign.of("proposer")[0].rewards


def test_the_binding_of_the_guide_plays_one_picture_after_the_other(tmp_path: Path) -> None:
    played: list[tuple[bytes, Table]] = []

    async def play(picture: bytes, table: Table) -> None:
        played.append((picture, table))

    names = {
        **{"Section": Section, "Path": Path, "Literal": Literal, "AsyncIterator": AsyncIterator},
        **{"asynccontextmanager": asynccontextmanager, "Renderer": Renderer, "Playing": Playing},
        **{"Recipe": Recipe, "ConfigError": ConfigError, "play": play, "__name__": "binding"},
        **{"SamplingParams": SamplingParams, "PARAMS": SamplingParams(max_new_tokens=9)},
    }
    _, *binding = blocks()
    for block in binding:
        exec(compile(block, str(GUIDE), "exec"), names)
    look = names["LOOK"]
    cfg = names["LookConfig"](pictures=tmp_path)
    assert {name for name in vars(RecipeSettings) if name[0] != "_"} <= set(dir(cfg))
    with pytest.raises(ConfigError, match=r"recipe\.pictures"):
        look.check(cfg, False)
    for name in ("b", "a"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    look.check(cfg, False)

    async def play_three() -> None:
        async with look.begin(cfg, None) as playing:
            for game in (1, 2, 3):
                await playing.play(game, f"table {game}")

    asyncio.run(play_three())
    assert played == [(b"b", "table 1"), (b"a", "table 2"), (b"b", "table 3")]
    assert cfg.followers() == {}
    assert set(look.streams) == set(look.funnel) == set(cfg.policies())
