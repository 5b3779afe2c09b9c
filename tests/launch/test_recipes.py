"""The recipes that are known, and what happens where two of them use one name."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from engine.buffer import Buffer
from engine.errors import ConfigError
from engine.rundir import RunDir
from launch.config import load_root
from launch.recipe import RECIPES, STREAMS, funnel_of
from launch.sections.run import opened

MIXED = Path(__file__).resolve().parents[2] / "launch/configs/mixed.yaml"


def test_no_two_shipped_recipes_share_a_stream() -> None:
    assert len(set(STREAMS)) == len(STREAMS)
    for recipe in RECIPES.values():
        assert set(recipe.funnel) == set(recipe.streams)


def test_two_recipes_of_one_run_may_not_have_a_stream_of_one_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = replace(RECIPES["vision_zero"], streams=("civilian", "spy", "solver"))
    monkeypatch.setitem(RECIPES, "vision_zero", other)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"mm_zero and vision_zero both have a stream 'solver'"):
        load_root(MIXED)


def test_nor_a_stream_of_the_name_of_a_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(RECIPES["vision_zero"], streams=("civilian", "spy", "judge"))
    monkeypatch.setitem(RECIPES, "vision_zero", other)  # type: ignore[arg-type]
    pinned = "recipe.recipes.0.judge=pinned"
    with pytest.raises(ConfigError, match=r"mm_zero and vision_zero both have a stream 'judge'"):
        load_root(MIXED, [pinned])


def test_a_recipe_that_is_not_played_relabels_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = replace(RECIPES["vision_zero"], funnel={"solver": ("guessed", "read")})
    monkeypatch.setitem(RECIPES, "look", look)  # type: ignore[arg-type]
    assert funnel_of(["mm_zero"])["solver"] == ("answered", "boxed")
    for name, words in (("mm_zero", ("answered", "boxed")), ("look", ("guessed", "read"))):
        run = RunDir(tmp_path / name)
        run.create()
        Buffer.open(run.database).close()
        run.config.write_text(yaml.safe_dump({"recipe": {"name": name}}))
        with opened(run.path) as found:
            assert found.words["solver"] == words


@pytest.mark.parametrize(
    "config",
    [None, "{a: [", "recipe: 3", "recipe: {recipes: [{name: mm_zero}, {name: vision_zero}]}"],
)
def test_a_run_without_a_readable_configuration_has_the_words_of_all(
    tmp_path: Path, config: str | None
) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    Buffer.open(run.database).close()
    if config is not None:
        run.config.write_text(config)
    with opened(run.path) as found:
        assert found.words == funnel_of(RECIPES)
