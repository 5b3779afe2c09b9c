"""Settings of Vision-Zero: presets, what is refused and how, and how a run is composed of them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from engine.errors import ConfigError
from engine.layout import check_layout
from launch.config import RootConfig, load_root, policies_of, recipes_of, settings_of, streams_of
from launch.engine import rules_of
from launch.recipe import RECIPES
from rewards.spy import DecisionWeights, break_even
from roles.vision_zero.config import (
    STREAMS,
    CreditConfig,
    DecisionConfig,
    GateConfig,
    PairsConfig,
    VisionZeroConfig,
)
from roles.vision_zero.gate import GateRules
from roles.vision_zero.presets import PRESETS

CONFIGS = Path(__file__).resolve().parents[3] / "launch/configs"
SPY, MIXED, EIGHT = (
    CONFIGS / f"{name}.yaml" for name in ("vision_zero", "mixed", "vision_zero_8gpu")
)

# facts/vision_zero.md 8.9, row by row
TABLE: dict[str, dict[str, Any]] = {
    "vz_paper": {
        "num_players": 5,
        "num_rounds": 2,
        "voters": "civilians",
        "rules": "streamzero",
        "refuse_game_talk": False,
        "replicas": 1,
        "probe_share": 0.0,
        "pairs.spy_view": "blank",
        "clue_credit.weight": 0.1,
        "clue_credit.votes": "counts",
        "clue_credit.turns": "terminal",
        "clue_credit.baseline": "rae_post",
        "clue_credit.decay": 0.95,
        "clue_credit.scaled": False,
        "clue_credit.invalid": 0.0,
        "decision.right": 1.0,
        "decision.abstain": -0.5,
        "decision.wrong": -1.0,
        "decision.format": 0.0,
        "gate.switch": "threshold",
        "gate.debias": False,
        "gate.min_dwell": 5,
        "gate.decay": 0.95,
        "gate.patience": None,
        "gate.clues_from_accuracy": 0.9,
        "gate.clues_up_to_abstention": 0.1,
        "gate.votes_from_error": 0.4,
        "gate.votes_from_abstention": 0.5,
        "clue.temperature": 1.0,
        "vote.temperature": 1.0,
    },
    "vz_code": {
        "num_players": 4,
        "num_rounds": 2,
        "num_votes": 8,
        "voters": "judge",
        "rules": "release",
        "refuse_game_talk": False,
        "replicas": 1,
        "probe_share": 0.0,
        "pairs.spy_view": "edited",
        "clue_credit.weight": 0.1,
        "clue_credit.votes": "counts",
        "clue_credit.turns": "terminal",
        "clue_credit.baseline": "rae_post",
        "clue_credit.decay": 0.9,
        "clue_credit.scaled": False,
        "clue_credit.invalid": 0.0,
        "gate.switch": "cycle",
        "gate.cycle": 1,
        "clue.temperature": 0.8,
        "vote.temperature": 0.8,
        "clue.max_new_tokens": 1024,
        "vote.max_new_tokens": 1024,
    },
    "vz_async": {
        "num_players": 4,
        "num_rounds": 2,
        "num_votes": 8,
        "voters": "judge",
        "rules": "streamzero",
        "refuse_game_talk": True,
        "replicas": 4,
        "probe_share": 0.05,
        "pairs.spy_view": "mixed",
        "pairs.blank_share": 0.5,
        "clue_credit.weight": 0.8,
        "clue_credit.votes": "shares",
        "clue_credit.baseline": "replica",
        "clue_credit.scaled": True,
        "clue_credit.invalid": 0.2,
        "decision.right": 1.0,
        "decision.abstain": -0.2,
        "decision.wrong": -1.0,
        "decision.format": 0.2,
        "gate.switch": "threshold",
        "gate.debias": True,
        "gate.min_dwell": 5,
        "gate.max_unreadable": 0.3,
        "gate.min_distinct": 0.3,
        "gate.max_wait": 20,
        "clue.temperature": 1.0,
        "vote.temperature": 1.0,
    },
}


def at(cfg: BaseModel, dotted: str) -> Any:
    value: Any = cfg
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("preset", "field"), [(preset, field) for preset, row in TABLE.items() for field in row]
)
def test_presets(preset: str, field: str) -> None:
    assert at(VisionZeroConfig(preset=preset), field) == TABLE[preset][field]


def test_the_default_is_ours() -> None:
    assert VisionZeroConfig() == VisionZeroConfig(preset="vz_async")
    assert set(PRESETS) == set(TABLE)


def test_a_guess_pays_from_the_chance_that_a_preset_wants() -> None:
    assert break_even(VisionZeroConfig(preset="vz_paper").decision_weights) == pytest.approx(0.25)
    assert break_even(VisionZeroConfig().decision_weights) == pytest.approx(0.4)
    assert VisionZeroConfig().decision_weights == DecisionWeights()


def test_the_scale_of_shares_is_that_of_counts_of_eight_votes() -> None:
    ours, code = VisionZeroConfig(), VisionZeroConfig(preset="vz_code")
    assert ours.clue_credit.weight / 8 == pytest.approx(code.clue_credit.weight)
    assert ours.clue_credit.decay == pytest.approx(0.95 ** (1 / 128), abs=5e-6)


def test_rules_of_the_gate_are_the_config_s() -> None:
    assert VisionZeroConfig().gate_rules == GateRules()
    assert VisionZeroConfig(preset="vz_paper").gate_rules == GateRules(debias=False)
    assert VisionZeroConfig(preset="vz_code").gate_rules == GateRules(switch="cycle", cycle=1)
    assert VisionZeroConfig(gate={"switch": "off"}).gate_rules is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_saved_config_loads_as_itself(name: str) -> None:
    cfg = VisionZeroConfig(preset=name)
    assert VisionZeroConfig(**cfg.model_dump(mode="json")) == cfg
    assert VisionZeroConfig(**yaml.safe_load(yaml.safe_dump(cfg.model_dump(mode="json")))) == cfg


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_given_stands_above_the_preset(name: str) -> None:
    given = {"num_rounds": 3, "clue_credit": {"baseline": "rae"}, "clue": {"max_new_tokens": 9}}
    cfg = VisionZeroConfig(preset=name, **given)
    assert (cfg.num_rounds, cfg.clue_credit.baseline, cfg.clue.max_new_tokens) == (3, "rae", 9)
    kept = ["clue_credit.weight", "clue_credit.votes", "clue.temperature", "gate.debias"]
    assert all(at(cfg, field) == at(VisionZeroConfig(preset=name), field) for field in kept)


@pytest.mark.parametrize("name", PRESETS)
def test_every_role_is_sampled_trainably(name: str) -> None:
    cfg = VisionZeroConfig(preset=name, vote={"max_new_tokens": 7})
    assert all(cfg.params(role).is_trainable for role in STREAMS)
    assert cfg.params("voter").max_new_tokens == 7
    assert cfg.params("civilian") == cfg.params("spy") == cfg.clue.params
    assert cfg.params("civilian").max_new_tokens == 1024


def test_no_section_is_long() -> None:
    sections = (VisionZeroConfig, PairsConfig, CreditConfig, DecisionConfig, GateConfig)
    assert all(len(section.model_fields) <= 22 for section in sections)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_player": 4}, "num_player"),
        ({"num_players": 2}, "num_players"),
        ({"num_players": 10}, "num_players"),
        ({"num_rounds": 0}, "num_rounds"),
        ({"num_votes": 1}, "num_votes"),
        ({"probe_share": 1.0}, "probe_share"),
        ({"preset": "vz_papr"}, "preset"),
        ({"preset": ["vz_paper"]}, "preset"),
        ({"replicas": 1}, "set replicas to 2 or more, or the baseline to 'rae'"),
        ({"preset": "vz_paper", "clue_credit": {"baseline": "replica"}}, "set replicas to 2"),
        ({"preset": "vz_code", "voters": "civilians"}, "set voters=judge"),
        ({"rules": "release", "voters": "civilians"}, "set voters=judge"),
        ({"decision": {"abstain": 1.0}}, "want wrong < abstain < right"),
        ({"decision": {"abstain": -1.0}}, "want wrong < abstain < right"),
        ({"decision": {"right": float("nan")}}, "want wrong < abstain < right"),
        ({"decision": {"format": -0.1}}, "format"),
        ({"clue_credit": {"weight": 0}}, "weight"),
        ({"clue_credit": {"decay": 1.0}}, "decay"),
        ({"clue_credit": {"invalid": -0.2}}, "invalid"),
        ({"gate": {"cycle": 0}}, "cycle"),
        ({"gate": {"patience": 0}}, "patience"),
        ({"gate": {"min_dwell": 0}}, "min_dwell"),
        ({"gate": {"switch": "never"}}, "switch"),
        ({"pairs": {"source": "folder"}}, "a path is needed for"),
        ({"pairs": {"source": "grid", "path": "x"}}, "and for nothing else"),
        ({"pairs": {"edits": 0}}, "edits"),
        ({"pairs": {"blank_share": 1.5}}, "blank_share"),
        ({"clue": {"temperature": 0}}, "temperature"),
        ({"clue": 3}, "clue"),
        ({"gate": None}, "gate"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        VisionZeroConfig(**wrong)


# a run of it


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_root(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("path", "recipes", "policies"),
    [
        (SPY, ["vision_zero"], ("player",)),
        (EIGHT, ["vision_zero"], ("player",)),
        (MIXED, ["mm_zero", "vision_zero"], ("shared",)),
    ],
    ids=["vision_zero", "8 gpus", "mixed"],
)
def test_the_shipped_configs(path: Path, recipes: list[str], policies: tuple[str, ...]) -> None:
    config = load_root(path)
    assert list(settings_of(config)) == list(recipes_of(config)) == recipes
    assert policies_of(config) == policies
    check_layout(config.layout, policies_of(config))
    for name, cfg in settings_of(config).items():
        RECIPES[name].check(cfg, False)
    rules = rules_of(config)
    assert list(rules.streams) == [s for name in recipes for s in RECIPES[name].streams]
    assert {rule.policy for rule in rules.streams.values()} == set(policies)
    again = RootConfig.model_validate(config.model_dump(mode="json"))
    assert again == config, "as the run's folder keeps it"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_play_in_the_shipped_layout(preset: str) -> None:
    config = load_root(EIGHT, [f"recipe.preset={preset}"])
    assert settings_of(config)["vision_zero"] == VisionZeroConfig(preset=preset, prompts="full")


def test_each_recipe_has_its_own_number_of_games() -> None:
    config = load_root(MIXED)
    rules = rules_of(config)
    assert (rules.size("mm_zero"), rules.size("vision_zero")) == (2, 3)
    by_recipe = {stream: rule.recipe for stream, rule in rules.streams.items()}
    assert by_recipe == {
        "proposer": "mm_zero", "coder": "mm_zero", "solver": "mm_zero",
        "civilian": "vision_zero", "spy": "vision_zero", "voter": "vision_zero",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "override", "words"),
    [
        (SPY, "recipe.num_player=4", ["'recipe.num_player'", "'recipe.num_players'"]),
        (SPY, "recipe.gate.cycel=4", ["'recipe.gate.cycel'", "'recipe.gate.cycle'"]),
        (SPY, "recipe.clue_credit.wieght=1", ["'recipe.clue_credit.weight'"]),
        (SPY, "recipe.pairs.spyview=blank", ["'recipe.pairs.spy_view'"]),
        (SPY, "recipe.decision.abstian=0", ["'recipe.decision.abstain'"]),
        (SPY, "recipe.num_players=2", ["'recipe.num_players' is 2"]),
        (SPY, "recipe.replicas=1", ["'recipe'", "set replicas to 2 or more"]),
        (SPY, "recipe.preset=vz_cod", ["'recipe.preset' is 'vz_cod'", "'vz_code'"]),
        (
            MIXED,
            "recipe.recipes.1.num_player=4",
            ["'recipe.recipes.1.num_player'", "'recipe.recipes.1.num_players'"],
        ),
        (
            MIXED,
            "recipe.recipes.0.num_svg=4",
            ["'recipe.recipes.0.num_svg'", "'recipe.recipes.0.num_svgs'"],
        ),
        (
            MIXED,
            "recipe.recipes.0.coder.max_tokens=4",
            ["'recipe.recipes.0.coder.max_tokens'"],
        ),
        (
            MIXED,
            "recipe.recipes.1.gate.cycel=4",
            ["'recipe.recipes.1.gate.cycel'", "'recipe.recipes.1.gate.cycle'"],
        ),
        (MIXED, "recipe.recipes.1.gate.cycle=0", ["'recipe.recipes.1.gate.cycle' is 0"]),
        (
            MIXED,
            "recipe.recipes=[{name: vision_zero}, {name: vision_zero}]",
            ["'recipe'", "recipes vision_zero, vision_zero: name each once"],
        ),
        (MIXED, "recipe.recipes=[{name: mm_zero}]", ["'recipe'", "at least two"]),
        (MIXED, "recipe.recipe=[]", ["'recipe.recipe'", "'recipe.recipes'"]),
        (SPY, "recipe.name=vision_zer", ["'recipe'"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_no_tag(
    path: Path, override: str, words: list[str]
) -> None:
    text = refused(path, override)
    for word in words:
        assert word in text
    for tag in ("vision_zero", "mm_zero", "mixed"):
        assert f".{tag}" not in text, text
        assert f"{tag}." not in text, text


def test_an_unknown_game_is_told_with_those_that_there_are() -> None:
    text = refused(SPY, "recipe.name=vision_zer")
    for name in ("mm_zero", "vision_zero", "mixed"):
        assert name in text


def test_a_key_of_one_game_is_not_proposed_for_another() -> None:
    """`num_svgs` is a setting of MM-Zero; the spy game has none."""
    text = refused(SPY, "recipe.num_svgs=4")
    assert "unknown key 'recipe.num_svgs'" in text
    assert "did you mean 'recipe.num_svgs'" not in text


@pytest.mark.parametrize(
    ("path", "override", "words"),
    [
        (SPY, "layout.policies.spi=player", "there is no stream 'spi'; there are civilian, spy"),
        (SPY, "layout.policies.solver=player", "there is no stream 'solver'"),
        (MIXED, "layout.policies.judge=shared", "there is no stream 'judge'"),
        (SPY, "streams.games_of.mm_zero=3", "streams.games_of: mm_zero is not played"),
        (MIXED, "streams.games_of.chess=3", "chess is not played; there are mm_zero, vision_zero"),
        (MIXED, "streams.games_of.vision_zero=0", "streams.games_of.vision_zero"),
    ],
)
def test_what_is_not_played_has_no_place(path: Path, override: str, words: str) -> None:
    assert words in refused(path, override)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["recipe.prompts=tinny"], "no prompt set 'tinny'"),
        (["recipe.pairs.edits=5"], "recipe.pairs.edits: edits 5"),
        (["recipe.pairs.source=folder", "recipe.pairs.path=/nowhere"], "/nowhere"),
        (["recipe.pairs.source=jsonl", "recipe.pairs.path=/nowhere.jsonl"], "/nowhere.jsonl"),
    ],
)
def test_what_the_first_game_would_find_out_is_found_before(
    overrides: list[str], words: str
) -> None:
    config = load_root(SPY, overrides)
    ((name, cfg),) = settings_of(config).items()
    with pytest.raises(ConfigError, match=re.escape(words)):
        RECIPES[name].check(cfg, False)


SPLIT = [
    "layout.policies={civilian: civ, spy: spy, voter: voter}",
    "layout.learners=[{ranks: [0], policies: [civ]}, {ranks: [1], policies: [spy]}, "
    "{ranks: [2], policies: [voter]}]",
    "layout.servers=[{rank: 3, policies: [civ, spy, voter], kind: embedded}]",
]


def test_roles_may_have_learners_of_their_own() -> None:
    config = load_root(SPY, SPLIT)
    assert streams_of(config) == {"civilian": "civ", "spy": "spy", "voter": "voter"}
    assert policies_of(config) == ("civ", "spy", "voter")
    check_layout(config.layout, policies_of(config), world=4)
    rules = rules_of(config)
    assert {stream: (rule.policy, rule.recipe) for stream, rule in rules.streams.items()} == {
        "civilian": ("civ", "vision_zero"),
        "spy": ("spy", "vision_zero"),
        "voter": ("voter", "vision_zero"),
    }
    assert rules.games_per_step == 6


def test_two_roles_may_share_a_policy_and_the_third_not() -> None:
    cast = ["layout.policies={voter: judge}", "layout.learners.0.policies=[player, judge]"]
    config = load_root(SPY, [*cast, "layout.servers.0.policies=[player, judge]"])
    assert policies_of(config) == ("player", "judge")
    check_layout(config.layout, policies_of(config))
    policies = [rule.policy for rule in rules_of(config).streams.values()]
    assert policies == ["player", "player", "judge"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (SPLIT[:1], "layout.learners: there is no policy 'player'"),
        (
            [*SPLIT[:2], "layout.servers.0.rank=3"],
            "layout.servers: there is no policy 'player'",
        ),
        (SPLIT[1:], "layout.learners: there is no policy 'civ'"),
        ([*SPLIT, "layout.servers.0.policies=[civ, spy]"], "'voter'"),
    ],
)
def test_a_split_without_learners_or_servers_is_refused(overrides: list[str], words: str) -> None:
    config = load_root(SPY, overrides)
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_layout(config.layout, policies_of(config))
