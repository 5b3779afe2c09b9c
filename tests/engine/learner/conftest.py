"""Random tiny model folders: one of each family, and one of Qwen2.5-VL in the Hub's layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from engine.learner.families import ModelFamily, PolicyModel, family_of
from tests.engine.learner.learner_data import IMAGE, VISION_END, VISION_START, VOCAB

IMG, IMG_END = 156, 157
"""InternVL's tokens around an image."""
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Of the decoders of Qwen2.5-VL and InternVL3."""
PLAIN: Mapping[str, Any] = {
    "qwen3_vl": Qwen3VLForConditionalGeneration,
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "mimo_vl": Qwen2_5_VLForConditionalGeneration,
    "internvl": InternVLForConditionalGeneration,
}
"""The folders, and transformers' class of each."""


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen3-VL, with a tied output embedding."""
    path = tmp_path_factory.mktemp("tiny_base")
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {**rope, "mrope_interleaved": True},
            "tie_word_embeddings": True,
            "initializer_range": 0.2,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.2,
        },
        image_token_id=IMAGE,
        video_token_id=154,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )
    Qwen3VLForConditionalGeneration(config).save_pretrained(path)
    _save_processor(
        path,
        image_processor_type="Qwen2VLImageProcessor",
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32 * 64},
    )
    _save_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def tiny_qwen2_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2.5-VL, tied: a layer of its tower has windows of 2 x 2 tokens, one has none."""
    path = tmp_path_factory.mktemp("tiny_qwen2_5")
    _build_qwen2_5(path, tied=True)
    return path


@pytest.fixture(scope="session")
def tiny_mimo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiMo-VL, that is Qwen2.5-VL in the layout of the Hub: a flat config, nothing tied."""
    path = tmp_path_factory.mktemp("tiny_mimo")
    _build_qwen2_5(path, tied=False)
    saved = json.loads((path / "config.json").read_text())
    flat = {key: value for key, value in saved.items() if key not in ("text_config", "dtype")}
    flat |= {key: value for key, value in TEXT.items() if key != "initializer_range"}
    flat |= {
        "torch_dtype": "float32",
        "max_position_embeddings": 128000,
        "max_window_layers": 70,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]},
        "rope_theta": 640000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
    }
    (path / "config.json").write_text(json.dumps(flat))
    _save_processor(
        path,
        image_processor_type="Qwen2_5_VLImageProcessor",
        processor_class="Qwen2_5_VLProcessor",
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
        min_pixels=28 * 28,
        max_pixels=28 * 28 * 64,
    )
    return path


def _build_qwen2_5(path: Path, *, tied: bool) -> None:
    torch.manual_seed(1)
    config = Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 2],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        image_token_id=IMAGE,
        video_token_id=154,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=tied,
    )
    _save(Qwen2_5_VLForConditionalGeneration(config), path)
    _save_processor(
        path,
        image_processor_type="Qwen2VLImageProcessor",
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64},
    )
    _save_tokenizer(path)


@pytest.fixture(scope="session")
def tiny_internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InternVL3, nothing tied: tiles of 28 x 28 pixels and four tokens."""
    path = tmp_path_factory.mktemp("tiny_internvl")
    build_internvl(path, decoder="qwen2")
    return path


def build_internvl(path: Path, *, decoder: str) -> None:
    torch.manual_seed(2)
    config = InternVLConfig(
        text_config={**TEXT, "model_type": decoder, "tie_word_embeddings": False},
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "attention_bias": True,
            "image_size": (28, 28),
            "patch_size": (7, 7),
            "initializer_range": 0.2,
        },
        image_token_id=IMAGE,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    _save(InternVLForConditionalGeneration(config), path)
    _save_processor(
        path,
        image_processor_type="GotOcr2ImageProcessor",
        crop_to_patches=False,
        min_patches=1,
        max_patches=4,
        size={"height": 28, "width": 28},
    )
    _save_tokenizer(path, {"<img>": IMG, "</img>": IMG_END, "<IMG_CONTEXT>": IMAGE})


@pytest.fixture(scope="session")
def folders(
    tiny_base: Path, tiny_qwen2_5: Path, tiny_mimo: Path, tiny_internvl: Path
) -> Mapping[str, Path]:
    return {
        "qwen3_vl": tiny_base,
        "qwen2_5_vl": tiny_qwen2_5,
        "mimo_vl": tiny_mimo,
        "internvl": tiny_internvl,
    }


@pytest.fixture(params=PLAIN)
def name(request: pytest.FixtureRequest) -> str:
    """Of each family in turn; so are the fixtures that follow."""
    return str(request.param)


@pytest.fixture
def folder(name: str, folders: Mapping[str, Path]) -> Path:
    return folders[name]


@pytest.fixture
def family(folder: Path) -> ModelFamily:
    return family_of(folder)


@pytest.fixture
def policy(family: ModelFamily, folder: Path) -> PolicyModel:
    return family.load(folder, device=torch.device("cpu"))


@pytest.fixture
def plain(name: str, folder: Path) -> Any:
    """transformers' own."""
    return PLAIN[name].from_pretrained(folder, dtype=torch.float32).eval()


def _save(model: nn.Module, path: Path) -> None:
    """With noise on all weights: what starts as zero or one has to be right too."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(path)  # type: ignore[operator]


def _save_processor(path: Path, **settings: Any) -> None:
    shared = {"image_mean": [0.5, 0.4, 0.6], "image_std": [0.5, 0.6, 0.4]}
    (path / "preprocessor_config.json").write_text(json.dumps(settings | shared))


def _save_tokenizer(path: Path, names: Mapping[str, int] | None = None) -> None:
    words = {f"w{i}": i for i in range(VOCAB) if i not in (names or {}).values()}
    Tokenizer(models.WordLevel(words | dict(names or {}), unk_token="w0")).save(
        str(path / "tokenizer.json")
    )
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
