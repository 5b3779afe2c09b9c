"""The memory model against what autograd keeps, against the live tensors of steps, and as a check
before the start."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from engine.errors import ConfigError
from engine.learner import gloo, memory, scoring
from engine.learner.activations import activation_bytes, adapter_params
from engine.learner.config import LearnerConfig
from engine.learner.costs import model_shape
from engine.learner.families import family_of
from engine.learner.lora import add_adapters
from engine.learner.memory import GB, Setup, learner_memory
from engine.learner.memory_check import check_device, check_host, setup_of
from engine.learner.preparation import prepare
from engine.learner.trainer import PolicyTrainer, load_reference
from engine.types import Group
from tests.engine.learner.eight_b import EIGHT
from tests.engine.learner.learner_data import (
    IMAGE,
    VISION_END,
    VISION_START,
    make_png,
    make_prompt,
    make_rollout,
)
from tests.engine.learner.live_memory import LiveMemory

DTYPES = (torch.float32, torch.bfloat16)


def qwen3_vl(text: dict[str, Any], vision: dict[str, Any], *, tied: bool) -> Qwen3VLConfig:
    third = text["head_dim"] // 6
    section = [text["head_dim"] // 2 - 2 * third, third, third]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section}
    return Qwen3VLConfig(
        text_config={
            **text,
            "rope_parameters": {**rope, "mrope_interleaved": True},
            "tie_word_embeddings": tied,
        },
        vision_config={
            **vision,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": text["hidden_size"],
        },
        image_token_id=IMAGE,
        video_token_id=154,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=tied,
    )


def sizes(
    layers: int, hidden: int, inside: int, heads: int, groups: int, size: int, words: int
) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inside,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": size,
        "vocab_size": words,
    }


def tower(blocks: int, hidden: int, inside: int, deep: list[int], grid: int) -> dict[str, Any]:
    return {
        "depth": blocks,
        "hidden_size": hidden,
        "intermediate_size": inside,
        "num_heads": 2,
        "deepstack_visual_indexes": deep,
        "num_position_embeddings": grid,
    }


SHAPES = {
    "grouped heads, wide inside": qwen3_vl(
        sizes(4, 96, 288, 4, 2, 24, 512), tower(3, 64, 160, [0, 1, 2], 16), tied=True
    ),
    "all heads, narrow inside": qwen3_vl(
        sizes(3, 128, 192, 8, 8, 24, 2048), tower(2, 96, 192, [0], 16), tied=False
    ),
}


def save(path: Path, config: Qwen3VLConfig, dtype: torch.dtype) -> Path:
    """A model folder with random weights; nobody reads its tokenizer."""
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    nn.Module.to(model, dtype)  # transformers' own `to` is not typed
    model.save_pretrained(path)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 1024, "longest_edge": 65536},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    (path / "tokenizer.json").write_text("{}")
    return path


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, torch.dtype], Path]:
    return {
        (name, dtype): save(tmp_path_factory.mktemp("memory"), config, dtype)
        for name, config in SHAPES.items()
        for dtype in DTYPES
    }


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """One rank, sharded as several are."""
    dist.init_process_group(gloo.backend(), store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def group(game: int) -> Group:
    """Two rollouts of 100 tokens on one picture of six."""
    prompt = make_prompt(game, 20, 1)
    rollouts = tuple(
        make_rollout(10 * game + i, prompt_ids=prompt, images=[make_png(game)], num_tokens=100)
        for i in range(2)
    )
    return Group(stream="s", game=game, rollouts=rollouts, rewards=(0.0, 1.0))


def kept_bytes(model: nn.Module, batch: object) -> int:
    """Of the storages that autograd saves in a forward pass, weights aside."""
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(batch)
    del result
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_what_autograd_keeps(
    bases: dict[tuple[str, torch.dtype], Path], name: str, dtype: torch.dtype, checkpointing: bool
) -> None:
    base = bases[name, torch.float32]
    family, shape = family_of(base), model_shape(base)
    # As FSDP2 gathers the weights.
    model = family.load(base, device=torch.device("cpu")).to(dtype)
    if checkpointing:
        model.checkpoint_activations()
    cfg = LearnerConfig(tokens_per_micro_batch=10_000)
    (part,) = prepare([group(i) for i in range(3)], cfg=cfg, family=family, shape=shape).parts
    (batch,) = part.batches
    probabilities = 4 * batch.num_tokens * shape.vocabulary  # the scoring's, kept as one chunk
    estimated = activation_bytes(
        shape,
        tokens=len(batch.input_ids_N),
        patches=len(batch.pixels_PD),
        compute_bytes=dtype.itemsize,
        checkpointing=checkpointing,
    )
    assert estimated == pytest.approx(kept_bytes(model, batch) - probabilities, rel=0.15)


def trainer_of(
    base: Path, mesh: DeviceMesh, *, checkpointing: bool, reference: bool
) -> PolicyTrainer:
    cfg = LearnerConfig(
        lr=1e-3,
        activation_checkpointing=checkpointing,
        tokens_per_micro_batch=20 + 2 + 6 + 2 * 99,  # one group
        max_gap=1e9,
        objective={"kl_beta": 0.1 if reference else 0.0},
    )
    return PolicyTrainer(
        "solver",
        base,
        cfg,
        total_steps=9,
        mesh=mesh,
        reference=load_reference(base, mesh=mesh) if reference else None,
    )


@pytest.mark.parametrize(
    ("name", "dtype", "checkpointing", "reference"),
    [
        ("grouped heads, wide inside", torch.float32, False, False),
        ("grouped heads, wide inside", torch.bfloat16, True, False),
        ("all heads, narrow inside", torch.bfloat16, False, True),
    ],
)
def test_a_step_needs_what_was_estimated(
    bases: dict[tuple[str, torch.dtype], Path],
    mesh: DeviceMesh,
    name: str,
    dtype: torch.dtype,
    checkpointing: bool,
    reference: bool,
) -> None:
    base = bases[name, dtype]
    trainer = trainer_of(base, mesh, checkpointing=checkpointing, reference=reference)
    batch = trainer.prepare([group(i) for i in range(2)])
    trainer.step(batch)  # from now on there are moments
    models = [model for model in (trainer.model, trainer._reference) if model is not None]
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    live = LiveMemory([*(p for model in models for p in model.parameters()), *moments])
    with live:
        report = trainer.step(batch)
    assert not report.skipped
    (part,) = batch.parts
    tokens = max(len(one.input_ids_N) for one in part.batches)
    patches = max(len(one.pixels_PD) for one in part.batches)
    setup = replace(
        setup_of(base, trainer.cfg, policies=1, ranks=1),
        tokens_per_micro_batch=tokens,
        visual_share=patches / 4 / tokens,
        shared_share=len(part.shared.pixels_PD) / 4 / tokens,
        micro_batches=len(part.batches),
    )
    estimate = learner_memory(trainer.shape, setup)
    estimated = max(
        sum(v for term, v in terms.items() if term not in ("context", "fragmentation"))
        for moment, terms in estimate.device.items()
        if moment not in ("loading", "publication")
    )
    assert 0.97 <= estimated / live.peak <= 1.2
    assert setup.compute_bytes == dtype.itemsize


def test_the_chunk_of_logits_is_the_one_of_scoring() -> None:
    assert memory.LOGITS_PER_CHUNK == scoring.LOGITS_PER_CHUNK


def test_adapters_are_counted(bases: dict[tuple[str, torch.dtype], Path]) -> None:
    pytest.importorskip("peft")
    base = bases["grouped heads, wide inside", torch.float32]
    cfg = LearnerConfig.model_validate({"lora": {"rank": 5}})
    assert cfg.lora is not None
    family = family_of(base)
    model = family.load(base, device=torch.device("cpu"))
    add_adapters(model, cfg.lora, seed=0, dtype=family.dtype)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapter_params(model_shape(base), 5) == trained


# -- three policies of Qwen3-VL-8B on four GPUs ---------------------------------------------------

THREE = Setup(
    policies=3,
    ranks=4,
    tokens_per_micro_batch=16384,
    activation_checkpointing=True,
    reference=True,
    bucket_mb=512,
)


def test_the_shape_is_that_of_qwen3_vl_8b() -> None:
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(
            qwen3_vl(
                sizes(36, 4096, 12288, 32, 8, 128, 151936),
                tower(27, 1152, 4304, [8, 16, 24], 2304),
                tied=False,
            )
        )
    count = {name: p.numel() for name, p in model.named_parameters()}
    assert EIGHT.params == sum(count.values())
    assert EIGHT.vision_params == sum(n for name, n in count.items() if ".visual." in name)
    blocks = sum(n for name, n in count.items() if ".blocks." in name or ".layers." in name)
    assert memory._root_params(EIGHT) == pytest.approx(EIGHT.params - blocks, rel=0.001)


def test_loading_needs_room_for_one_group_beside_the_shards() -> None:
    """The largest is FSDP2's root: both embeddings, and what of the tower is no block."""
    setup = Setup(policies=3, ranks=4, tokens_per_micro_batch=16384, lora_rank=32, reference=True)
    terms = learner_memory(EIGHT, setup).device["loading"]
    assert terms["group, not yet sharded"] >= 4 * (EIGHT.embedding_params + EIGHT.head_params)
    assert terms["group, not yet sharded"] <= 4 * 0.17 * EIGHT.params
    assert terms["frozen bases"] == 2 * 3 * EIGHT.params / 4


def test_three_8b_policies_need_offloading_on_80_gb() -> None:
    offloaded = replace(THREE, offload_optimizer=True)
    check_device("layout.learners.0", EIGHT, offloaded, 80 * GB)
    with pytest.raises(ConfigError) as said:
        check_device("layout.learners.0", EIGHT, THREE, 80 * GB)
    message = str(said.value)
    assert message.startswith("layout.learners.0: 3 x 8.77 B parameters on 4 ranks need 126")
    assert "46.6 GB more than there are: Adam's moments 52.6, master weights 26.3" in message
    assert message.endswith("learner.offload_optimizer=true needs 71.3 GB")
    assert "\n" not in message


def test_numbers_worked_by_hand() -> None:
    """P = 8.767 G over 4 ranks: 4 P / 4 is 8.767 GB."""
    estimate = learner_memory(EIGHT, replace(THREE, offload_optimizer=True))
    share = EIGHT.params
    update = estimate.device["update"]
    assert update["master weights"] == pytest.approx(3 * share)
    assert update["Adam's moments"] == pytest.approx(2 * share)
    assert update["gradients"] == update["reference"] == pytest.approx(share)
    layer = estimate.device["backward pass of a decoder layer"]
    assert layer["Adam's moments"] == 0
    # Inputs of 36 layers, 8192 bytes a token each, are 4.8 GB; the tower's and the rest 2.2 GB.
    assert layer["activations"] / GB == pytest.approx(7.05, abs=0.01)
    assert layer["gradient of the output embedding"] == 2 * 151936 * 4096
    host = estimate.host["training"]
    assert host["checkpoints being written"] == pytest.approx(3 * 14 * EIGHT.params)
    own = learner_memory(EIGHT, replace(THREE, offload_optimizer=True, own_references=True))
    assert own.device["update"]["reference"] == pytest.approx(3 * share)
    assert own.host["training"]["checkpoints being written"] == pytest.approx(3 * 18 * EIGHT.params)
    assert host["offloaded moments"] == pytest.approx(24 * EIGHT.params * 1.4427, rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "fix"),
    [
        ({"activation_checkpointing": False, "offload_optimizer": True},
         "learner.activation_checkpointing=true needs"),
        ({"activation_checkpointing": False},
         "learner.offload_optimizer=true with learner.activation_checkpointing=true needs"),
        ({"tokens_per_micro_batch": 65536},
         "learner.offload_optimizer=true with learner.tokens_per_micro_batch=16384 needs"),
        ({"ranks": 2}, "on 4 ranks needs"),
        ({"shard": 1, "policies": 1}, "on 8 ranks needs"),
    ],
)  # fmt: skip
def test_the_smallest_change_is_named(changed: dict[str, Any], fix: str) -> None:
    with pytest.raises(ConfigError, match=fix):
        check_device("layout.learners.0", EIGHT, replace(THREE, **changed), 80 * GB)


def test_a_reply_that_is_longer_than_a_micro_batch_is_counted_whole() -> None:
    text = replace(THREE, visual_share=0, shared_share=0)
    small = replace(text, tokens_per_micro_batch=1024)
    longest = replace(small, longest_row=8192)
    whole = learner_memory(EIGHT, replace(text, tokens_per_micro_batch=8192)).device
    for moment, terms in learner_memory(EIGHT, longest).device.items():
        for term in ("activations", "working set", "layer, computed again", "logits"):
            assert terms.get(term) == whole[moment].get(term), (moment, term)
    assert learner_memory(EIGHT, replace(small, longest_row=512)) == learner_memory(EIGHT, small)


def test_shorter_replies_are_advised_where_smaller_micro_batches_are_of_no_use() -> None:
    small = replace(THREE, offload_optimizer=True, tokens_per_micro_batch=1024)
    with pytest.raises(ConfigError) as said:
        check_device("layout.learners.0", EIGHT, replace(small, longest_row=65536), 80 * GB)
    assert "a reply and its prompt of 65536 tokens" in str(said.value)
    assert "; replies with prompts of 32768 tokens (max_new_tokens" in str(said.value)
    unchecked = replace(small, longest_row=16384, activation_checkpointing=False)
    with pytest.raises(ConfigError, match=r"; learner.activation_checkpointing=true needs"):
        check_device("layout.learners.0", EIGHT, unchecked, 80 * GB)


def test_lora_is_the_last_resort_and_nothing_helps_a_small_device() -> None:
    with pytest.raises(ConfigError, match="use a smaller model"):
        check_device("layout.learners.0", EIGHT, THREE, 4 * GB)
    adapters = learner_memory(EIGHT, replace(THREE, lora_rank=32))
    assert adapters.device_bytes < 60 * GB
    assert adapters.device["update"]["frozen bases"] == pytest.approx(2 * 3 * EIGHT.params / 4)


def test_a_second_update_finds_the_moments_on_the_device() -> None:
    once = learner_memory(EIGHT, replace(THREE, offload_optimizer=True))
    twice = learner_memory(EIGHT, replace(THREE, offload_optimizer=True, updates_per_step=2))
    moment = "backward pass of a decoder layer"
    more = sum(twice.device[moment].values()) - sum(once.device[moment].values())
    assert more == pytest.approx(1.05 * 2 * EIGHT.params)


def test_groups_share_a_host() -> None:
    offloaded = learner_memory(EIGHT, replace(THREE, offload_optimizer=True, followers=1))
    assert offloaded.host["training"]["followers"] == 2 * EIGHT.params
    one = {"layout.learners.0": offloaded}
    check_host("the host", one, 1000 * GB)
    with pytest.raises(ConfigError, match=r"need 1470 GB of their host, 470 GB more"):
        check_host("the host", {**one, "layout.learners.1": offloaded}, 1000 * GB)


def host_of(setup: Setup) -> dict[str, float]:
    host = learner_memory(EIGHT, setup).host
    return {moment: sum(terms.values()) for moment, terms in host.items()}


def test_a_host_holds_the_part_of_its_ranks_and_rank_0_s_the_models_too() -> None:
    """Eight ranks on each of four nodes, one copy of the weights: a quarter of the state each."""
    group = replace(THREE, ranks=32, offload_optimizer=True, followers=1)
    first, other = (
        learner_memory(EIGHT, replace(group, here=tuple(range(start, start + 8)))).host
        for start in (0, 8)
    )
    shard = 3 * EIGHT.params / 4
    for terms in (first, other):
        assert terms["training"]["offloaded moments"] == pytest.approx(8 * shard * 1.4427, rel=1e-4)
        assert terms["training"]["processes"] == 8 * memory.PROCESS
        assert terms["loading"]["models being read"] == 8 * 4 * EIGHT.params
    models = 3 * 2 * EIGHT.params
    assert first["training"]["checkpoints being written"] == pytest.approx(12 * shard + models)
    assert other["training"]["checkpoints being written"] == pytest.approx(12 * shard)
    assert first["training"]["followers"] == 2 * EIGHT.params
    assert other["training"]["followers"] == 0


def test_every_copy_of_the_weights_has_its_moments_and_the_first_is_written() -> None:
    """Two copies on the eight ranks of one node."""
    group = replace(THREE, ranks=8, offload_optimizer=True)
    twice = learner_memory(EIGHT, replace(group, shard=4)).host
    once = learner_memory(EIGHT, group).host
    moments = "offloaded moments"
    assert twice["training"][moments] == pytest.approx(2 * once["training"][moments])
    assert twice["loading"] == once["loading"]
    for term in ("checkpoints being written", "prepared batches", "processes"):
        assert twice["training"][term] == pytest.approx(once["training"][term])
    second = learner_memory(EIGHT, replace(group, shard=4, here=(4, 5, 6, 7))).host["training"]
    assert second["checkpoints being written"] == 0
    assert second[moments] == pytest.approx(once["training"][moments])


@settings(max_examples=50)
@given(
    st.integers(1, 16),
    st.sampled_from([1, 2, 4, None]),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from([None, 32]),
)
def test_hosts_together_hold_what_one_would(
    copies: int, shard: int | None, local: int, offloaded: bool, rank: int | None
) -> None:
    """However ranks are divided over hosts; and rank 0's holds most where all have as many."""
    ranks = copies * (shard or 1)
    group = replace(
        THREE, ranks=ranks, shard=shard, offload_optimizer=offloaded, lora_rank=rank, followers=1
    )
    parts = [tuple(range(ranks))[start : start + local] for start in range(0, ranks, local)]
    hosts = [host_of(replace(group, here=part)) for part in parts]
    for moment, total in host_of(group).items():
        assert sum(host[moment] for host in hosts) == pytest.approx(total)
        assert hosts[0][moment] >= max(host[moment] for host in hosts)


def test_the_table_names_the_moment_and_its_terms() -> None:
    text = str(learner_memory(EIGHT, replace(THREE, offload_optimizer=True)))
    assert text.startswith("device: 71.3 GB, backward pass of a decoder layer\n    26.30  master")
    assert "(update: 67.8)" in text
    assert "host: 717.7 GB, training" in text


def test_the_model_needs_no_torch() -> None:
    code = "import sys, engine.learner.memory_check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
