"""Presets and the choice of an objective: each is what it says, and nothing is set in vain."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engine.config import load
from engine.errors import ConfigError
from engine.learner.config import LearnerConfig
from engine.learner.presets import PRESETS, ObjectiveConfig

README = Path(__file__).resolve().parents[3] / "engine" / "learner" / "README.md"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_being_saved(name: str) -> None:
    cfg = ObjectiveConfig(preset=name)
    assert cfg.preset == name
    assert ObjectiveConfig.model_validate(cfg.model_dump()) == cfg
    assert ObjectiveConfig.model_validate_json(cfg.model_dump_json()) == cfg


def test_no_two_presets_are_the_same() -> None:
    """Details of what is switched off, such as the estimator of a KL of weight 0, don't count."""
    seen: dict[str, str] = {}
    for name in PRESETS:
        fields = ObjectiveConfig(preset=name).model_dump(exclude={"preset"})
        if not fields["kl_beta"]:
            del fields["kl_estimator"], fields["kl_place"]
        if not fields["divide_by_std"]:
            del fields["std_eps"]
        assert repr(fields) not in seen, f"{name} is {seen[repr(fields)]}"
        seen[repr(fields)] = name


def test_the_readme_has_a_line_about_each() -> None:
    named = re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE)
    assert [name for name in named if name in PRESETS] == list(PRESETS)


@pytest.mark.parametrize(
    "name, fields",
    [
        ("streamzero", {"eps_low": 0.2, "eps_high": 0.3, "dual_clip": 3, "weight_bounds": (0, 2)}),
        ("streamzero", {"mask_band": (0.5, 2), "mask_level": "geometric", "kl_beta": 0}),
        ("streamzero", {"proximal": "recomputed", "aggregation": "token", "std_eps": 1e-6}),
        ("dr_grpo", {"divide_by_std": False, "aggregation": "constant"}),
        ("dapo", {"eps_low": 0.2, "eps_high": 0.28, "aggregation": "token", "kl_beta": 0}),
        ("gspo", {"eps_low": 3e-4, "eps_high": 4e-4, "aggregation": "sequence"}),
        ("areal", {"weight_action": "band", "weight_bounds": (0, 5), "weight_level": "token"}),
        ("slime_tis", {"weight_action": "truncate", "weight_bounds": (0, 2), "mask_band": None}),
        ("icepop", {"weight_action": "band", "weight_bounds": (0.5, 5)}),
        ("slime_mis", {"mask_level": "token", "mask_band": (0.5, 2), "veto": 1e-4}),
        ("verl_tis", {"dual_clip": 3, "weight_bounds": (0, 2), "aggregation": "token"}),
        ("trl", {"weight_level": "product", "weight_bounds": (0, 3), "std_eps": 1e-4}),
        ("pipelinerl", {"surrogate": "reinforce", "weight_bounds": (0, 1.02)}),
    ],
)
def test_presets_are_the_published_numbers(name: str, fields: dict[str, Any]) -> None:
    cfg = ObjectiveConfig(preset=name)
    assert {field: getattr(cfg, field) for field in fields} == fields


def test_fields_that_are_set_win_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("objective: {preset: areal, eps_high: 0.3}\n")
    cfg = load(LearnerConfig, path, ["objective.weight_bounds=[0.1, 4]"]).objective
    assert (cfg.preset, cfg.eps_low, cfg.eps_high) == ("areal", 0.4, 0.3)
    assert (cfg.weight_action, cfg.weight_bounds) == ("band", (0.1, 4))
    assert LearnerConfig().objective == ObjectiveConfig(preset="streamzero")


@pytest.mark.parametrize(
    "name, near", [("aral", "areal"), ("slime-tis", "slime_tis"), ("GSPO", "gspo"), ("", "")]
)
def test_an_unknown_preset_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValidationError, match=rf"preset '{name}': unknown; did you mean '{near}"):
        ObjectiveConfig(preset=name)


def test_an_unknown_field_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("objective: {preset: grpo, eps_hihg: 0.3}\n")
    with pytest.raises(ConfigError, match=r"did you mean 'objective.eps_high'"):
        load(LearnerConfig, path)


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"proximal": "sampler"}, "weight_bounds, mask_band: no effect with proximal: sampler"),
        ({"preset": "grpo", "veto": 1e-4}, "veto: no effect with proximal: sampler"),
        ({"surrogate": "cispo"}, "dual_clip: cispo has none; set dual_clip: null"),
        ({"surrogate": "reinforce", "dual_clip": None}, "eps_low, eps_high: reinforce has no clip"),
        ({"weight_bounds": None, "weight_level": "product"}, "no effect without weight_bounds"),
        ({"mask_band": None, "mask_level": "token"}, "no effect without mask_band"),
        ({"reference_steps": 20}, "reference_steps: no effect with kl_beta: 0"),
        ({"kl_beta": 0.1, "reference_steps": 0}, "reference_steps"),
        ({"aggregation": "constant"}, "aggregation_constant: goes with"),
        ({"aggregation_constant": 512}, "aggregation_constant: goes with"),
        ({"weight_bounds": (0, 0.5)}, "weight_bounds"),
        ({"mask_band": (1.1, 2)}, "mask_band"),
        ({"mask_band": (-0.1, 2)}, "mask_band"),
        ({"eps_low": 1.0}, "eps_low"),
        ({"eps_high": 0}, "eps_high"),
        ({"dual_clip": 1.0}, "dual_clip"),
        ({"kl_beta": -0.1}, "kl_beta"),
        ({"entropy_bonus": float("inf")}, "entropy_bonus"),
        ({"kl_estimator": "k4"}, "kl_estimator"),
        ({"preset": 3}, "preset"),
        ({"weight_cap": 2.0}, "weight_cap"),
    ],
)
def test_contradictions_are_refused(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObjectiveConfig.model_validate(choice)


def test_all_contradictions_are_named_at_once() -> None:
    with pytest.raises(ValidationError, match=r"dual_clip: reinforce.*; eps_low, eps_high"):
        ObjectiveConfig(surrogate="reinforce")


def test_the_reference_is_needed_for_a_kl_anywhere() -> None:
    assert not ObjectiveConfig().needs_reference
    assert ObjectiveConfig(preset="grpo").needs_reference
    assert ObjectiveConfig(preset="areal", kl_beta=0.1).needs_reference
    assert not ObjectiveConfig(preset="grpo").moves_reference
    assert ObjectiveConfig(preset="grpo", reference_steps=20).moves_reference
    with pytest.raises(ValidationError, match=r"objective\.reference_steps: .* lora to null"):
        LearnerConfig.model_validate(
            {"lora": {}, "objective": {"kl_beta": 0.1, "reference_steps": 20}}
        )


def test_no_torch_is_imported_for_a_config() -> None:
    code = "import sys, engine.learner.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_objective_is_one_screen_of_choices() -> None:
    assert len(ObjectiveConfig.model_fields) <= 22
