"""Settings and prompts of MM-Zero."""

import pytest
from pydantic import BaseModel, ValidationError

from engine.errors import ConfigError
from rewards.coder import CoderWeights
from rewards.diversity import DiversityWeights
from rewards.proposer import ProposerWeights
from roles.mm_zero.config import (
    DiversityConfig,
    FilterConfig,
    MMZeroConfig,
    RewardConfig,
    RoleConfig,
)
from roles.mm_zero.memory import Memory
from roles.mm_zero.parsing import FIELDS
from roles.mm_zero.presets import PRESETS
from roles.mm_zero.prompts import load_prompts


def test_defaults_are_the_papers() -> None:
    cfg = MMZeroConfig()
    assert cfg.preset == "mm_zero"
    assert cfg.proposer_weights == ProposerWeights()
    assert cfg.coder_weights == CoderWeights()
    assert cfg.diversity_weights == DiversityWeights()
    assert len(cfg.topics) == 8


def sections() -> list[type[BaseModel]]:
    return [MMZeroConfig, RoleConfig, RewardConfig, DiversityConfig, FilterConfig]


def test_no_section_is_long() -> None:
    assert all(len(section.model_fields) <= 22 for section in sections())


def test_a_preset_fills_what_is_not_given() -> None:
    cfg = MMZeroConfig(preset="mm_zero_code", coder={"max_new_tokens": 120}, num_svgs=2)
    assert (cfg.rules, cfg.parser, cfg.show_hard_answer) == ("release", "release", True)
    assert (cfg.coder.max_new_tokens, cfg.coder.temperature, cfg.coder.top_p) == (120, 0.7, 0.95)
    assert cfg.proposer_weights.too_easy_tolerance == 0.0
    assert cfg.diversity.population == "game"
    assert cfg.filters.coder_spread is None
    assert cfg.filters.min_valid == 0.0
    assert cfg.num_svgs == 2


def test_what_is_given_stands_above_the_preset() -> None:
    given = {"rules": "paper", "parser": "lenient", "filters": {"coder_spread": 0.3}}
    cfg = MMZeroConfig(preset="mm_zero_code", **given)
    assert (cfg.rules, cfg.parser, cfg.filters.coder_spread) == ("paper", "lenient", 0.3)
    assert cfg.show_hard_answer


@pytest.mark.parametrize("name", PRESETS)
def test_a_saved_config_loads_as_itself(name: str) -> None:
    cfg = MMZeroConfig(preset=name)
    assert MMZeroConfig(**cfg.model_dump(mode="json")) == cfg


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_only_what_exists(name: str) -> None:
    MMZeroConfig.model_validate({"preset": name})  # unknown keys are refused
    known = MMZeroConfig(preset=name).model_dump()
    for key, value in PRESETS[name].items():
        given = value.items() if isinstance(value, dict) else [(None, value)]
        assert all((known[key][k] if k else known[key]) == v for k, v in given)


def test_topics_go_round_and_are_the_same_after_a_restart() -> None:
    memory, again = (Memory(MMZeroConfig(topics=("a", "b"))) for _ in range(2))
    topics = [memory.topic(game) for game in range(20)]
    assert all({*pair} == {"a", "b"} for pair in zip(topics[::2], topics[1::2], strict=True))
    assert [again.topic(game) for game in range(10, 20)] == topics[10:]


def test_scale_applies_to_the_windows_text_only() -> None:
    diversity = {"window_scale": 0.2, "fields": (1, 0, 0)}
    weights = MMZeroConfig(diversity=diversity).diversity_weights
    assert weights.text == pytest.approx(0.1)
    assert (weights.caption, weights.hard_question, weights.type) == (1, 0, 0.15)
    of_the_game = MMZeroConfig(diversity={**diversity, "population": "game"}).diversity_weights
    assert of_the_game.text == 0.5


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"num_svg": 4}, "num_svg"),
        ({"num_svgs": 0}, "num_svgs"),
        ({"filters": {"hard_band": (0.8, 0.2)}}, "hard_band"),
        ({"filters": {"coder_band": (0.8, 1.2)}}, "coder_band"),
        ({"diversity": {"fields": (-1, 0, 0)}}, "fields"),
        ({"solver": {"temperature": 0}}, "temperature"),
        ({"topics": ()}, "topics"),
        ({"preset": "mm_zer0"}, "preset"),
        ({"diversity": {"image_penalty": 0.15}}, "image_penalty"),
        ({"reward": {"too_easy_penalty": 0.4}}, "too_easy_penalty"),
        ({"preset": "mm_zero_code", "diversity": {"image_penalty": 0.15}}, "text_penalty"),
        ({"parser": "release"}, "rules=release"),
        ({"num_svgs": 1}, "num_svgs"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        MMZeroConfig(**wrong)


def test_the_image_variant_of_the_release_is_allowed() -> None:
    for preset in PRESETS:
        variant = {"image_penalty": 0.15, "text_penalty": 0.3}
        weights = MMZeroConfig(preset=preset, diversity=variant).diversity_weights
        assert (weights.image, weights.text) == (0.15, 0.3)


def test_every_role_is_sampled_trainably() -> None:
    cfg = MMZeroConfig(coder={"max_new_tokens": 99, "temperature": 0.7})
    params = cfg.params("coder")
    assert (params.max_new_tokens, params.temperature) == (99, 0.7)
    assert all(cfg.params(role).is_trainable for role in ("proposer", "coder", "solver"))
    assert cfg.params("judge") == cfg.params("solver")


def test_a_pinned_judge_follows_the_solver() -> None:
    assert MMZeroConfig().followers() == {}
    assert MMZeroConfig(judge="pinned", pin_every=7).followers() == {"judge": ("solver", 7)}


@pytest.mark.parametrize("name", ["full", "tiny"])
def test_prompts_say_all_that_they_are_given(name: str) -> None:
    prompts = load_prompts(name)
    given = {
        "caption": "CAPTION",
        "easy_question": "EASY {question}?",
        "easy_answer": "ANSWER",
        "hard_question": "HARD?",
    }
    coder = str(prompts.coder(**given))
    assert all(text in coder for text in given.values())
    told = str(prompts.coder(**given, hard_answer="THE HARD ANSWER"))
    assert all(text in told for text in (*given.values(), "THE HARD ANSWER"))
    assert "TOPIC" in str(prompts.proposer("TOPIC"))
    assert "QUESTION" in str(prompts.solver("QUESTION"))
    cards = [prompts.coder(**given), prompts.coder(**given, hard_answer="H")]
    for messages in (*cards, prompts.proposer("T"), prompts.solver("Q")):
        leftover = [
            field for field in ("topic", "question", *FIELDS) if f"{{{field}}}" in str(messages)
        ]
        assert leftover in ([], ["question"])  # only the one inside of a value


def test_the_full_prompts_ask_for_the_format_that_is_parsed() -> None:
    prompts = load_prompts("full")
    for field in FIELDS:
        assert f"<{field}>" in prompts.proposer_template
        assert f"</{field}>" in prompts.proposer_template
    assert "\\boxed{" in prompts.solver_template
    assert "<think>" in prompts.solver_template


def test_an_unknown_prompt_set_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no prompt set 'tinny'; there are .*tiny"):
        load_prompts("tinny")
