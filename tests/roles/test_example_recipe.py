"""The example of roles/README.md: whole, and played for real with the tiny base."""

import asyncio
import io
import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from engine.encoding import TextEncoder
from engine.errors import ConfigError
from engine.notes import to_json
from engine.tasks import concurrently
from engine.types import Group, Picture
from evals.scenes.drawing import to_svg
from evals.scenes.splits import scenes
from launch.gallery import game_html
from launch.library import reasons_of, rewards_of
from launch.recipe import RecipeSettings
from render_pool.config import RenderConfig
from render_pool.pool import RenderPool
from rewards.config import GraderConfig
from rewards.grader import Grader
from rewards.grading import boxed, canonical
from roles.table import Table
from roles.thoughts import said
from tests.roles.look import ROOT, blocks, example, follow_the_guide, section, tiny_words
from tests.roles.tiny_outputs.base import MODEL, VERSION, samplers_of

NUM_QUESTIONS, NUM_ANSWERS = 4, 8


@cache
def module() -> ModuleType:
    return example()


@dataclass
class Played:
    """One game that was played."""

    game: int
    picture: bytes
    cfg: Any
    notes: dict[str, Any] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def of(self, stream: str) -> list[Group]:
        return [group for group in self.groups if group.stream == stream]


async def play_all() -> list[Played]:
    """Games 0 to 5 with the words that the base knows, game 6 with those of the example."""
    async with (
        samplers_of(("asker", "looker")) as samplers,
        RenderPool(RenderConfig(workers=1, side=96)) as renderer,
        Grader(GraderConfig()) as grader,
    ):

        async def play(game: int) -> Played:
            picture = await renderer.render(drawings[game])
            assert isinstance(picture, Picture)
            words = tiny_words() if game < 6 else {"pictures": "p", "reply": {"max_new_tokens": 64}}
            played = Played(game, picture.png, module().LookConfig(**words))
            note = played.notes.__setitem__
            table = Table(game, samplers, renderer, grader, played.groups.append, note)
            await module().play(picture.png, table, played.cfg)
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
    return [canonical(boxed(said(rollout.text)) or "") for rollout in group.rollouts]


def readable(played: Played) -> list[re.Match[str]]:
    """The questions that were asked."""
    texts = [said(rollout.text) for group in played.of("asker") for rollout in group.rollouts]
    return [found for text in texts if (found := re.search(played.cfg.question, text))]


def test_the_guide_says_how_long_the_example_is() -> None:
    lines = sum(len(block.splitlines()) for block in blocks("python"))
    assert f" {lines} lines of Python" in section()


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
    game = blocks("python")[0]
    done = subprocess.run(argv, input=game, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_game_gives_one_group_of_questions_and_one_of_answers_per_question() -> None:
    for played in games():
        (asker,) = played.of("asker")
        number = len(readable(played))
        assert len(asker.rollouts) == NUM_QUESTIONS
        assert asker.extra["usable"] == number == len(played.of("looker"))
        assert (asker.extra["drop"] is None) == bool(number)
        assert {len(group.rollouts) for group in played.of("looker")} <= {NUM_ANSWERS}
        assert len(played.groups) == 1 + number
        for group in played.groups:
            assert group.game == played.game
            assert {r.role for r in group.rollouts} == {group.stream}
            assert {r.images for r in group.rollouts} == {(played.picture,)}


def test_an_answer_earns_by_the_majority_of_its_own_group() -> None:
    groups = [group for played in games() for group in played.of("looker")]
    assert groups
    for group in groups:
        forms = ballots(group)
        counts = Counter(filter(None, forms))
        top = [form for form, count in counts.items() if count == max(counts.values())]
        has_quorum = counts.total() >= NUM_ANSWERS / 2
        boxes = [boxed(said(rollout.text)) is not None for rollout in group.rollouts]
        allowed = [
            [0.9 * (form == label) + 0.1 * box for form, box in zip(forms, boxes, strict=True)]
            for label in (top if has_quorum else [None])
        ]
        assert any(list(group.rewards) == pytest.approx(rewards) for rewards in allowed)
        assert [sum(terms.values()) for terms in group.terms] == pytest.approx(group.rewards)
        assert group.extra["usable"] == counts.total()
        assert group.extra["drop"] == (None if has_quorum else "no_votes")


def test_a_question_earns_the_difficulty_of_its_vote_and_an_unreadable_one_minus_1() -> None:
    for played in games():
        (asker,) = played.of("asker")
        earned, unread = Counter(), []
        for rollout, reward in zip(asker.rollouts, asker.rewards, strict=True):
            found = re.search(played.cfg.question, said(rollout.text))
            if found:
                earned[played.cfg.answer.format(found[1]), round(reward, 9)] += 1
            else:
                unread.append(reward)
        assert set(unread) <= {-1.0}
        voted = Counter()
        for group in played.of("looker"):
            counts = Counter(filter(None, ballots(group)))
            share = max(counts.values(), default=0) / max(1, counts.total())
            share *= counts.total() >= NUM_ANSWERS / 2
            voted[question_of(group), round(min(share, 1 - share), 9)] += 1
        assert earned == voted


def test_versions_are_those_of_all_who_had_a_hand_in_the_rewards() -> None:
    for played in games():
        hands = {"asker", "looker"} if played.of("looker") else {"asker"}
        for group in played.groups:
            roles = hands if group.stream == "asker" else {"looker"}
            assert group.versions == dict.fromkeys(roles, (VERSION, VERSION))


def test_the_base_plays_a_real_game_and_fails_at_the_words_for_real_models() -> None:
    """Both sides of every rule were seen: read and unread questions, split and sure votes."""
    *known, foreign = games()
    asked = [group for played in known for group in played.of("asker")]
    rewards = [reward for group in asked for reward in group.rewards]
    assert sum(group.extra["usable"] for group in asked) > 0.6 * len(rewards)
    assert max(rewards) > 0.2
    assert len({question_of(g) for played in known for g in played.of("looker")}) > 1
    assert any(group.has_signal for played in known for group in played.of("looker"))
    assert -1.0 in foreign.of("asker")[0].rewards


def test_the_gallery_shows_what_was_seen_asked_and_answered() -> None:
    for played in games():
        text, pictures = to_json(played.notes)
        assert list(pictures.values()) == [played.picture]
        notes = json.loads(text)
        game = {"game": played.game, "state": "finished", "reason": None, "notes": notes}
        page = game_html(game, lambda name: f"/image/{name}.png")
        assert page.count("<img") == 1
        for found in readable(played):
            assert found[1] in page
        earned = {role: sorted(rewards) for role, rewards in rewards_of(game).items()}
        assert earned == {
            stream: sorted(r for group in played.of(stream) for r in group.rewards)
            for stream in ("asker", "looker")
            if played.of(stream)
        }
        is_unread = len(readable(played)) < NUM_QUESTIONS
        assert ("unreadable" in reasons_of(game)) == is_unread


def test_pictures_are_bounded_pngs_whatever_they_are_called(tmp_path: Path) -> None:
    pictures_in = module().pictures_in
    with pytest.raises(ConfigError, match=r"recipe\.pictures: no picture"):
        pictures_in(tmp_path)
    Image.new("RGB", (1000, 500), "red").save(tmp_path / "b.png", "JPEG")
    Image.new("L", (40, 60)).save(tmp_path / "a.PNG", "PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    found = [Image.open(io.BytesIO(png)) for png in pictures_in(tmp_path)]
    assert [(one.format, one.mode, one.size) for one in found] == [
        ("PNG", "RGB", (40, 60)), ("PNG", "RGB", (448, 224)),
    ]  # fmt: skip
    (tmp_path / "c.webp").write_bytes(b"no picture either")
    with pytest.raises(ConfigError, match=r"recipe\.pictures: .*c\.webp can't be read"):
        pictures_in(tmp_path)


CHECK = """
import asyncio
from pathlib import Path

import launch.recipe
from engine.layout import check_layout
from launch.config import followers, load_root, policies_of, recipes_of, settings_of
from launch.engine import rules_of
from launch.preflight import check_lengths, check_sharing

for path in map(Path, ("cpu.yaml", "gpu.yaml")):
    config = load_root(path)
    assert list(settings_of(config)) == ["look"]
    check_layout(config.layout, policies_of(config), None, followers(config))
    check_sharing(config)
    check_lengths(config)
    (look,) = recipes_of(config).values()
    assert set(look.streams) == set(look.funnel) == set(rules_of(config).streams)
    is_gpu = config.layout.device == "cuda"
    assert is_gpu == (config.streams.game_deadline_s > config.sampler.request_timeout_s)
    assert is_gpu == (config.weights.probe_tolerance == 0.5)

cpu = load_root(Path("cpu.yaml"), ["layout.branches=[{rank: 1, servers: [1]}]"])
(cfg,) = settings_of(cpu).values()
look.check(cfg, False)
both = "recipe={name: mixed, recipes: [{name: mm_zero}, {name: look, pictures: p}]}"
assert len(rules_of(load_root(Path("cpu.yaml"), [both])).streams) == 5

played = []
async def play(picture, table, cfg):
    played.append((picture, table))

async def play_three():
    async with look.begin(cfg, None) as playing:
        for game in (1, 2, 9):
            await playing.play(game, f"table {game}")

launch.recipe.play_look = play
asyncio.run(play_three())
pictures = launch.recipe.pictures_in(cfg.pictures)
assert played == [(pictures[n % len(pictures)], f"table {n}") for n in (1, 2, 9)]
print(launch.recipe.__file__)
"""


def test_the_guide_once_followed_both_configs_load(tmp_path: Path) -> None:
    """In a process of its own, whose packages are those of the copy."""
    folder = follow_the_guide(tmp_path)
    command = [sys.executable, "-c", CHECK]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == folder / "launch/recipe.py"


def test_the_settings_are_all_that_the_launcher_asks_for() -> None:
    cfg = module().LookConfig(**tiny_words())
    assert {name for name in vars(RecipeSettings) if name[0] != "_"} <= set(dir(cfg))
