"""Known models: their parameters against the published totals and against transformers' modules,
their pictures against the processors that cut them."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from engine.errors import ConfigError
from engine.learner.base_model import check_base_model
from engine.learner.costs import model_shape
from launch.planning.models import KNOWN, find_model
from launch.planning.shapes import shape_of_config
from tests.engine.learner.eight_b import EIGHT

PUBLISHED = {
    "Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen2.5-VL-7B-Instruct": 8_292_166_656,
}
ROUNDED = {"MiMo-VL-7B-RL": 8.31, "InternVL3-8B-hf": 7.94}
"""Of those whose exact total we have not seen: billions."""
TINY = Path(__file__).resolve().parents[3] / "launch/tiny_base_model"
CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "internvl": (InternVLConfig, InternVLForConditionalGeneration),
}
known = pytest.mark.parametrize("name", [*PUBLISHED, *ROUNDED])


def test_every_known_model_has_a_published_total() -> None:
    assert set(yaml.safe_load(KNOWN.read_text())) == {*PUBLISHED, *ROUNDED}


@known
def test_parameters_are_the_published_ones(name: str) -> None:
    params = find_model(name).shape.params
    if name in PUBLISHED:
        assert params == PUBLISHED[name]
    else:
        assert round(params / 1e9, 2) == ROUNDED[name]


def test_the_8b_is_the_one_of_the_learner_s_tests() -> None:
    assert find_model("Qwen3-VL-8B-Instruct").shape == EIGHT


@known
def test_each_part_is_that_of_the_modules(name: str) -> None:
    config = yaml.safe_load(KNOWN.read_text())[name]
    make_config, make_model = CLASSES[config["model_type"]]
    given = {key: value for key, value in config.items() if key not in ("model_type", "dtype")}
    with torch.device("meta"):
        model = make_model(make_config(**given))
    model.tie_weights()
    found = {"vision": 0, "embedding": 0, "head": 0, "language": 0}
    for weight_name, weight in model.named_parameters():
        if any(part in weight_name for part in ("visual.", "vision_tower.", "projector.")):
            part = "vision"
        elif "embed_tokens" in weight_name:
            part = "embedding"
        else:
            part = "head" if "lm_head" in weight_name else "language"
        found[part] += weight.numel()
    shape = shape_of_config(config)
    assert found == {
        "vision": shape.vision_params,
        "embedding": shape.embedding_params,
        "head": shape.head_params,
        "language": shape.language_params,
    }


def test_a_config_alone_says_what_the_weights_say(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((TINY / "config.json").read_bytes())
    assert find_model(str(tmp_path)).shape == model_shape(TINY)
    assert find_model(str(TINY)).shape == model_shape(TINY)


@pytest.mark.parametrize("name, patch", [("Qwen3-VL-8B", 16), ("Qwen2.5-VL-7B", 14)])
@pytest.mark.parametrize("side", [448, 896, 1344])
def test_a_picture_of_qwen_is_as_its_processor_cuts_it(name: str, patch: int, side: int) -> None:
    processor = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, size={"shortest_edge": 1 << 16, "longest_edge": 1 << 24}
    )
    seen = processor(images=[Image.new("RGB", (side, side))], return_tensors="pt")
    (grid,) = seen["image_grid_thw"].tolist()
    patches = math.prod(grid)
    assert find_model(name).picture(side) == (patches // 4, patches)


@pytest.mark.parametrize("side", [96, 448, 640, 896, 1344])
def test_a_picture_of_internvl_is_as_its_processor_cuts_it(side: int) -> None:
    processor = GotOcr2ImageProcessorPil(
        size={"height": 448, "width": 448}, crop_to_patches=True, min_patches=1, max_patches=12
    )
    tiles = processor.get_number_of_image_patches(side, side, {"crop_to_patches": True})
    assert find_model("InternVL3-8B").picture(side) == (256 * tiles, 1025 * tiles)


@pytest.mark.parametrize("said", ["qwen/qwen3-vl-4b", "Qwen3-VL-4B-Instruct", "QWEN3_VL_4B"])
def test_names_are_read_as_people_write_them(said: str) -> None:
    assert find_model(said).name == "Qwen3-VL-4B-Instruct"


def test_an_unknown_model_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'Qwen3-VL-9B'.*did you mean Qwen3-VL-8B-Instruct\?"):
        find_model("Qwen3-VL-9B")


def test_a_family_or_number_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="model_type 'llava' has no formula"):
        shape_of_config({"model_type": "llava"})
    config = yaml.safe_load(KNOWN.read_text())["Qwen3-VL-2B-Instruct"]
    del config["vision_config"]["spatial_merge_size"]
    with pytest.raises(ConfigError, match="spatial_merge_size is missing"):
        shape_of_config(config)


@pytest.mark.parametrize(
    "architecture, family",
    [
        ("Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe"),
        ("LlavaForConditionalGeneration", "llava"),
        ("InternVLChatModel", "internvl_chat"),
    ],
)
@pytest.mark.parametrize("with_weights", [True, False])
def test_a_folder_that_the_launcher_would_refuse_is_refused_in_the_same_words(
    architecture: str, family: str, with_weights: bool, tmp_path: Path
) -> None:
    for file in TINY.iterdir():
        if with_weights or file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((TINY / "config.json").read_text())
    config |= {"architectures": [architecture], "model_type": family}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as launched:
        check_base_model(tmp_path)
    with pytest.raises(ConfigError) as planned:
        find_model(str(tmp_path))
    assert str(planned.value) == str(launched.value)
    assert architecture in str(planned.value)


def test_a_size_of_pictures_that_is_missing_is_named(tmp_path: Path) -> None:
    for file in TINY.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((TINY / "config.json").read_text())
    del config["vision_config"]["spatial_merge_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="spatial_merge_size is missing; copy the whole"):
        find_model(str(tmp_path)).picture(448)


@pytest.mark.parametrize(
    "name, tps",
    [
        ("Qwen3-VL-8B", [1, 2, 4, 8]),
        ("Qwen2.5-VL-7B", [1, 2, 4]),  # 28 heads
        ("MiMo-VL-7B", [1, 2, 4, 8]),
        ("InternVL3-8B", [1, 2, 4]),
    ],
)
def test_a_server_divides_heads_equally(name: str, tps: list[int]) -> None:
    assert [tp for tp in (1, 2, 3, 4, 8) if find_model(name).splits(tp)] == tps


def test_each_part_of_a_model_must_be_divisible() -> None:
    whole = find_model("Qwen3-VL-8B")
    for part in ("heads", "intermediate", "vision_intermediate"):
        odd = replace(whole, shape=replace(whole.shape, **{part: 36}))
        assert [odd.splits(tp) for tp in (4, 8)] == [True, False]
    tower = whole.config["vision_config"] | {"num_heads": 12}
    odd = replace(whole, config={**whole.config, "vision_config": tower})
    assert [odd.splits(tp) for tp in (4, 8)] == [True, False]
    few = replace(whole, shape=replace(whole.shape, kv_heads=2))
    assert few.splits(8)  # each held by four
    assert not replace(whole, shape=replace(whole.shape, kv_heads=6)).splits(4)


def test_what_no_server_plays_says_so() -> None:
    assert "no token ids with pictures" in str(find_model("InternVL3-8B").caveat)
    assert find_model("MiMo-VL-7B").caveat is None
