"""What families make of pictures, prompts and folders is what transformers makes of them."""

import io
import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import InternVLProcessor
from transformers.vision_utils import get_vision_window_index

from engine.errors import ConfigError
from engine.learner.costs import model_shape
from engine.learner.families import ModelFamily, PolicyModel, family_of
from engine.learner.families.internvl import InternVL
from engine.learner.memory_check import compute_bytes
from engine.probe import probe_for
from tests.engine.learner.conftest import PLAIN
from tests.engine.learner.learner_data import IMAGE, make_png

CPU = torch.device("cpu")


@pytest.mark.parametrize("place", ["top", "text_config", "torch_dtype", "nowhere"])
def test_the_dtype_is_found_where_the_hub_has_it(
    tiny_base: Path, tmp_path: Path, place: str
) -> None:
    """A Qwen3-VL's has it in its text_config only, where transformers 5 does not look for it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part.pop("dtype", None)
    if place == "text_config":
        config["text_config"]["dtype"] = "bfloat16"
    elif place != "nowhere":
        config[{"top": "dtype"}.get(place, place)] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    want = torch.float32 if place == "nowhere" else torch.bfloat16
    assert family_of(folder).dtype == want
    assert compute_bytes(config) == want.itemsize


# -- pictures and prompts --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_the_probe_s_picture_is_taken_as_it_is(name: str, folders: Mapping[str, Path]) -> None:
    """Libraries differ in how they resize; what is compared is to be the weights alone."""
    family = family_of(folders[name])
    side = family.picture_side
    (png,) = probe_for(family.picture_ids, side).images
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (side, side)
    tiles, down, across = family.measure(png).grid_thw
    assert (tiles, down) == (1, across)
    values = family.encode(png)
    with Image.open(io.BytesIO(png)) as image:
        levels = len(set(image.tobytes()))
    assert len(values.unique()) <= 3 * levels, "resized it would have others, between them"


def blank_png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (90, 20, 200)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", PLAIN)
def test_a_measure_is_what_the_processor_makes(name: str, folders: Mapping[str, Path]) -> None:
    family = family_of(folders[name])

    @given(st.integers(1, 400), st.integers(1, 400))
    @settings(max_examples=80, deadline=None)
    def check(width: int, height: int) -> None:
        png = blank_png(width, height)
        try:
            size = family.measure(png)
        except ValueError:
            assert name != "internvl"
            assert max(width, height) / min(width, height) > 200
            with pytest.raises(ValueError, match="aspect ratio"):
                family.encode(png)
            return
        pixels = family.encode(png)
        tiles, down, across = size.grid_thw
        if name == "internvl":
            # A patch more in each tile: the class token.
            assert (len(pixels), down, across) == (tiles, 4, 4)
            assert size.num_tokens == 4 * tiles
            assert (size.num_patches, size.patch_pairs) == (17 * tiles, 17**2 * tiles)
        else:
            assert (tiles, down * across) == (1, len(pixels))
            assert size.num_tokens * 4 == size.num_patches == len(pixels)

    check()


def test_measuring_reads_the_header_only(family: ModelFamily) -> None:
    png = make_png(3, 320, 240)
    assert family.measure(png[:64]) == family.measure(png)
    with pytest.raises(OSError, match="truncated"):
        family.encode(png[:64])


def test_pairs_of_patches_are_those_of_the_windows(tiny_qwen2_5: Path) -> None:
    """Mean of a layer with windows and one without."""
    family = family_of(tiny_qwen2_5)
    for width, height in itertools.product((28, 56, 84, 140, 196), repeat=2):
        size = family.measure(blank_png(width, height))
        grid = torch.tensor([size.grid_thw])
        _, ends = get_vision_window_index(grid, spatial_merge_size=2, window_size=56, patch_size=14)
        windows = int((ends.unique().diff() ** 2).sum())
        assert size.patch_pairs == (windows + size.num_patches**2) // 2


def test_placeholders_must_match_the_images(family: ModelFamily) -> None:
    size = family.measure(make_png(1))
    with pytest.raises(ValueError, match="2 image placeholders for 1 images"):
        family.expand([1, IMAGE, 2, IMAGE], [size])
    with pytest.raises(ValueError, match="0 image placeholders for 1 images"):
        family.expand([1, 2], [size])
    with pytest.raises(ValueError, match="0 image placeholders for 0"):
        family.expand([], [])


def test_internvl_expands_as_its_processor_does(tiny_internvl: Path) -> None:
    family = family_of(tiny_internvl)
    names = {"start_image_token": "<img>", "end_image_token": "</img>"}
    theirs = SimpleNamespace(**names, image_token="<IMG_CONTEXT>", image_seq_length=4)
    pngs = [make_png(1), make_png(2, 28, 28)]
    tiles = [len(family.encode(png)) for png in pngs]
    assert tiles == [5, 1], "with a thumbnail where it is cut, without where not"
    tokenizer = Tokenizer.from_file(str(tiny_internvl / "tokenizer.json"))
    wanted: list[int] = [5]
    for i in range(2):
        text = InternVLProcessor.replace_image_token(theirs, {"num_patches": tiles}, i)  # type: ignore[arg-type]
        words = text.replace("><", "> <").split()
        wanted += [*map(tokenizer.token_to_id, words), 6 + i]
    expanded = family.expand([5, IMAGE, 6, IMAGE, 7], [family.measure(png) for png in pngs])
    assert expanded.ids.tolist() == wanted
    assert torch.equal(expanded.is_image, expanded.ids == IMAGE)
    assert expanded.positions.tolist() == [list(range(len(wanted)))] * 3
    assert expanded.next_position == len(wanted)


def test_mrope_positions_of_two_images_by_hand(tiny_qwen2_5: Path, tiny_base: Path) -> None:
    """Text counts on all axes; an image has its row and column; what follows begins after the
    larger side. 3 x 2 and 2 x 2 tokens."""
    for folder, sizes in ((tiny_base, (96, 64)), (tiny_qwen2_5, (84, 56))):
        family = family_of(folder)
        wide, height = sizes
        pngs = [blank_png(wide, height), blank_png(height, height)]
        prompt = family.expand([5, IMAGE, 6, IMAGE, 7], [family.measure(png) for png in pngs])
        time = [0, *[1] * 6, 4, *[5] * 4, 7]
        down = [0, 1, 1, 1, 2, 2, 2, 4, 5, 5, 6, 6, 7]
        across = [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 5, 6, 7]
        assert prompt.positions.tolist() == [time, down, across]
        assert prompt.next_position == 8


# -- weights and folders ---------------------------------------------------------------------------

ON_THE_HUB = {
    "qwen3_vl": (
        "model.language_model.layers.0.self_attn.q_norm.weight",
        "model.visual.deepstack_merger_list.0.linear_fc1.weight",
    ),
    "qwen2_5_vl": ("model.embed_tokens.weight", "visual.merger.ln_q.weight"),
    "mimo_vl": ("model.layers.1.self_attn.q_proj.bias", "visual.blocks.0.attn.qkv.weight"),
    "internvl": (
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.encoder.layer.0.attention.q_proj.weight",
    ),
}


def test_published_names_are_those_of_the_hub(name: str, folder: Path, policy: PolicyModel) -> None:
    names = [policy.published_name(key) for key, _ in policy.named_weights()]
    assert len(set(names)) == len(names)
    assert set(names) == load_file(folder / "model.safetensors").keys()
    assert set(ON_THE_HUB[name]) <= set(names)
    tied = name in ("qwen3_vl", "qwen2_5_vl")
    assert any("lm_head" in key for key in names) != tied


def test_what_is_published_loads_as_the_same_model(
    name: str, folder: Path, family: ModelFamily, policy: PolicyModel, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with torch.no_grad():
        for _, weight in policy.named_weights():
            weight.mul_(1.01)
    tensors = {policy.published_name(key): w.detach() for key, w in policy.named_weights()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    reloaded, found = PLAIN[name].from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    mine = dict(policy.named_weights())
    for key, weight in reloaded.named_parameters():
        assert torch.equal(weight, mine[key])


def test_a_folder_in_the_names_of_transformers_5_is_the_same_model(
    name: str, folder: Path, policy: PolicyModel, plain: Any, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    plain.save_pretrained(tmp_path, save_original_format=False)
    assert model_shape(tmp_path) == model_shape(folder)
    other = family_of(tmp_path).load(tmp_path, device=CPU)
    for (key, weight), (other_key, other_weight) in zip(
        policy.named_weights(), other.named_weights(), strict=True
    ):
        assert key == other_key
        assert policy.published_name(key) == other.published_name(key)
        assert torch.equal(weight, other_weight)


def test_a_folder_without_a_weight_is_a_config_error(
    folder: Path, family: ModelFamily, tmp_path: Path
) -> None:
    """transformers would start it at random, and train on."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    lost = next(key for key in tensors if key.endswith("layers.1.mlp.up_proj.weight"))
    del tensors[lost]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"no weights for .*layers\.1\.mlp\.up_proj\.weight"):
        family.load(tmp_path, device=CPU)


def edited(folder: Path, tmp_path: Path, change: Mapping[str, Any]) -> Path:
    """A copy of the folder with other values in its config.json, and in its text_config."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_windows_in_the_decoder_are_a_config_error(tiny_qwen2_5: Path, tmp_path: Path) -> None:
    kinds = {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True}
    path = edited(tiny_qwen2_5, tmp_path, {"text_config": kinds})
    with pytest.raises(ConfigError, match="sliding_attention"):
        family_of(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"text_config": {"model_type": "phi3"}}, "a decoder of phi3 is not supported"),
        ({"image_seq_length": 9}, "28 x 28 pixels and 9 tokens do not fit"),
        ({"architectures": ["InternVLChatModel"]}, r"InternVLChatModel .* -hf|-hf"),
    ],
)
def test_a_folder_that_internvl_can_not_be_is_a_config_error(
    tiny_internvl: Path, tmp_path: Path, change: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        family_of(edited(tiny_internvl, tmp_path, change))


def test_a_tokenizer_without_image_borders_is_a_config_error(
    tiny_internvl: Path, tiny_base: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_internvl, tmp_path, dirs_exist_ok=True)
    shutil.copy(tiny_base / "tokenizer.json", tmp_path)
    with pytest.raises(ConfigError, match="no <img>"):
        InternVL(tmp_path)


def test_unknown_architecture_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match="gpt2"):
        family_of(tmp_path)
