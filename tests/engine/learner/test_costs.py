"""What a model costs, from its folder alone: the same as its modules say."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import ConfigError
from engine.learner.config import LearnerConfig
from engine.learner.costs import ModelShape, forward_flops, model_shape, peak_flops, step_flops
from engine.learner.families import family_of
from engine.learner.preparation import prepare
from tests.engine.learner.learner_data import VOCAB, make_group

SHAPE = ModelShape(
    layers=2,
    hidden=8,
    intermediate=16,
    heads=4,
    kv_heads=2,
    head_dim=3,
    vocabulary=10,
    vision_layers=3,
    vision_hidden=5,
    vision_intermediate=7,
    language_params=1000,
    embedding_params=80,
    head_params=0,
    vision_params=200,
)
FAMILIES = ("qwen3_vl", "qwen2_5_vl", "mimo_vl", "internvl")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shape_is_that_of_the_loaded_model(name: str, folders: Mapping[str, Path]) -> None:
    policy = family_of(folders[name]).load(folders[name], device=torch.device("cpu"))
    shape = model_shape(folders[name])
    config = policy.model.config
    text, vision = config.text_config, config.vision_config
    tied = policy.output_embedding() is policy.language.embed_tokens.weight
    assert tied == (name in ("qwen3_vl", "qwen2_5_vl"))
    assert shape.params == sum(weight.numel() for _, weight in policy.named_weights())
    assert shape.embedding_params == policy.language.embed_tokens.weight.numel()
    assert shape.head_params == (0 if tied else policy.output_embedding().numel())
    decoder = sum(weight.numel() for weight in policy.language.parameters())
    assert shape.language_params == decoder - shape.embedding_params
    sizes = (shape.layers, shape.hidden, shape.intermediate, shape.heads, shape.kv_heads)
    assert sizes == (
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
        text.num_attention_heads,
        text.num_key_value_heads,
    )
    assert shape.head_dim == policy.language.layers[0].self_attn.head_dim
    assert shape.vocabulary == VOCAB
    tower = (shape.vision_layers, shape.vision_hidden, shape.vision_intermediate)
    assert tower == (len(policy.vision_blocks), vision.hidden_size, vision.intermediate_size)


@pytest.mark.parametrize("name", FAMILIES)
def test_flops_of_the_decoder_are_those_that_are_counted(
    name: str, folders: Mapping[str, Path]
) -> None:
    """Matrix products of a forward pass over text; attention's own are not counted there."""
    family, shape = family_of(folders[name]), model_shape(folders[name])
    policy = family.load(folders[name], device=torch.device("cpu"))
    groups = [make_group(1), make_group(2)]
    (part,) = prepare(groups, cfg=LearnerConfig(), family=family, shape=shape).parts
    (batch,) = part.batches
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        policy(batch)
    products = {op: n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op)}
    estimated = forward_flops(
        shape, tokens=batch.input_ids_N.numel(), pairs=0, scored=batch.num_tokens
    )
    # Norms and biases are counted as if they were multiplied: 3 % at this size.
    assert sum(products.values()) <= estimated <= 1.03 * sum(products.values())
    assert part.flops > estimated


def test_flops_by_hand() -> None:
    """Decoder 2 x 1000 a token; a pair 4 x 2 layers x 4 heads x 3; the tied output 2 x 80 a scored
    token; tower 2 x 200 a patch; a pair of patches 4 x 3 layers x 5."""
    assert forward_flops(SHAPE, tokens=7, pairs=0, scored=0) == 14_000
    assert forward_flops(SHAPE, tokens=0, pairs=10, scored=0) == 960
    assert forward_flops(SHAPE, tokens=0, pairs=0, scored=3) == 480
    assert forward_flops(replace(SHAPE, head_params=90), tokens=0, pairs=0, scored=3) == 540
    assert forward_flops(SHAPE, tokens=0, pairs=0, scored=0, patches=4, patch_pairs=16) == 2560
    assert step_flops(100) == 300
    assert SHAPE.params == 1280


def test_a_config_without_a_size_is_named(tiny_mimo: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_mimo, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config\.json: it has no num_hidden_layers"):
        model_shape(tmp_path)


def test_a_tied_tensor_that_is_saved_twice_counts_once(tiny_mimo: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_mimo, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert model_shape(tmp_path).head_params == 0
    assert model_shape(tmp_path).params == model_shape(tiny_mimo).params - 32 * VOCAB


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA A1000 Laptop GPU", None),
        ("Some other device", None),
    ],
)
def test_peaks_go_by_the_most_exact_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
