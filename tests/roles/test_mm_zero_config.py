"""Settings and prompts of MM-Zero."""

import pytest
from pydantic import ValidationError

from engine.errors import ConfigError
from rewards.diversity import DiversityWeights
from rewards.proposer import ProposerWeights
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.parsing import FIELDS
from roles.mm_zero.prompts import load_prompts


def test_defaults_are_the_papers() -> None:
    cfg = MMZeroConfig()
    assert cfg.proposer_weights == ProposerWeights()
    assert cfg.window().weights == DiversityWeights()
    assert len(cfg.topics) == 8
    assert len(MMZeroConfig.model_fields) <= 24


def test_topics_go_round() -> None:
    cfg = MMZeroConfig(topics=("a", "b"))
    assert [cfg.topic(game) for game in range(4)] == ["a", "b", "a", "b"]


def test_scale_applies_to_text_only() -> None:
    weights = MMZeroConfig(diversity_scale=0.2, diversity_fields=(1, 0, 0)).window().weights
    assert weights.text == pytest.approx(0.1)
    assert (weights.caption, weights.hard_question, weights.type) == (1, 0, 0.15)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_svg": 4},
        {"num_svgs": 0},
        {"hard_band": (0.8, 0.2)},
        {"diversity_fields": (-1, 0, 0)},
        {"solver_temperature": 0},
        {"topics": ()},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        MMZeroConfig(**wrong)


def test_every_role_is_sampled_trainably() -> None:
    cfg = MMZeroConfig(coder_tokens=99, coder_temperature=0.7)
    params = cfg.params("coder")
    assert (params.max_new_tokens, params.temperature) == (99, 0.7)
    assert all(cfg.params(role).is_trainable for role in ("proposer", "coder", "solver"))


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
    assert "TOPIC" in str(prompts.proposer("TOPIC"))
    assert "QUESTION" in str(prompts.solver("QUESTION"))
    for messages in (prompts.coder(**given), prompts.proposer("T"), prompts.solver("Q")):
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
