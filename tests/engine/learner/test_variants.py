"""Options of the learner that must not change what it learns: ranks, LoRA, memory savers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import Qwen3VLForConditionalGeneration

from engine.errors import ConfigError
from engine.learner.config import LearnerConfig, LoraConfig
from engine.learner.offload import HostState
from engine.learner.trainer import PolicyTrainer
from engine.probe import Probe
from tests.engine.learner import train_variants
from tests.engine.learner.forked import run_forked
from tests.engine.learner.learner_data import make_group

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the ranks of every variant have left their weights."""
    folder = tmp_path_factory.mktemp("variants")
    lines = run_forked(train_variants.__name__, tiny_base, folder)
    assert lines == [
        " ".join([variant, *["0"] * world]) for variant, world in train_variants.WORLDS.items()
    ]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("variant", train_variants.WORLDS)
def test_ranks_equal_one_process(tiny_base: Path, trained: Path, variant: str) -> None:
    """Two policies side by side on the same ranks, each the same as alone without ranks."""
    alone = train_variants.run(tiny_base, variant, ("solver", "coder"))
    for policy, trainer in alone.items():
        want = dict(trainer.named_weights())
        got = load_file(trained / variant / f"{policy}.safetensors")
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            torch.testing.assert_close(got[name], tensor, atol=2e-5, rtol=0)


def make_trainer(base: Path, **over: object) -> PolicyTrainer:
    cfg = LearnerConfig.model_validate(train_variants.COMMON | over)
    return PolicyTrainer("solver", base, cfg, total_steps=9)


def weights(trainer: PolicyTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.named_weights()}


# -- LoRA ------------------------------------------------------------------------------------------


def test_adapters_change_nothing_before_the_first_step(tiny_base: Path) -> None:
    plain, adapted = make_trainer(tiny_base), make_trainer(tiny_base, lora=LoraConfig(rank=2))
    for name, tensor in plain.named_weights():
        torch.testing.assert_close(weights(adapted)[name], tensor, atol=0, rtol=0)


def test_what_is_published_is_what_was_trained(tiny_base: Path, tmp_path: Path) -> None:
    """The merged weights, loaded by plain transformers, give the log-probs of the adapted model."""
    trainer = make_trainer(tiny_base, lora=LoraConfig(rank=4, alpha=16), lr=1e-2)
    before = weights(trainer)
    for i in range(3):
        assert not trainer.step([make_group(10 * i, num_images=1)]).skipped
    after = weights(trainer)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = [n for n in before if ".language_model.layers." in n and n.endswith("_proj.weight")]
    assert changed == set(layers)
    trained = sum(parameter.numel() for parameter in trainer._named.values())
    assert trained < 0.5 * sum(tensor.numel() for tensor in after.values())
    save_file(after, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((tiny_base / "config.json").read_text())
    plain = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = list(range(3, 40))
    with torch.no_grad():
        logprobs = plain(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    want = logprobs.gather(1, torch.tensor(ids)[1:, None])[:, 0]
    trainer.probe = Probe(tuple(ids[:1]), tuple(ids[1:]))
    torch.testing.assert_close(torch.tensor(trainer.score()), want, atol=2e-5, rtol=0)


def test_a_layer_that_is_not_there_is_named(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"targets: no linear layer is called c_attn; there are"):
        make_trainer(tiny_base, lora=LoraConfig(targets=("c_attn", "q_proj")))


# -- memory ----------------------------------------------------------------------------------------


def test_checkpointed_activations_change_nothing_beyond_rounding(tiny_base: Path) -> None:
    results = []
    for on in (False, True):
        trainer = make_trainer(tiny_base, activation_checkpointing=on)
        report = trainer.step(train_variants.batches("solver")[0])
        results.append((report.metrics, weights(trainer)))
    (plain, before), (frugal, after) = results
    assert frugal["loss"] == pytest.approx(plain["loss"], abs=1e-7)
    assert frugal["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-5)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, atol=1e-5, rtol=0)


def test_offloaded_moments_come_back_to_the_bit(tiny_base: Path) -> None:
    trainer, other = make_trainer(tiny_base, offload_optimizer=True), make_trainer(tiny_base)
    for i in range(3):
        groups = [make_group(10 * i, num_images=1)]
        for each in (trainer, other):
            assert not each.step(groups).skipped
            each.rest()
        moments = [
            value
            for state in trainer.optimizer.state.values()
            for key, value in state.items()
            if key != "step"
        ]
        assert all(moment.untyped_storage().nbytes() == 0 for moment in moments)
    state, want = trainer.trainer_state(), other.trainer_state()
    assert state.keys() == want.keys()
    assert all(torch.equal(state[key], want[key]) for key in want)


def test_eviction_is_idempotent_and_needs_no_state() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    host = HostState(optimizer)
    host.evict()
    host.fetch()
    weight.grad = torch.full((3,), 2.0)
    optimizer.step()
    before = optimizer.state[weight]["exp_avg"].clone()
    for _ in range(2):
        host.evict()
        host.evict()
        host.fetch()
        host.fetch()
    assert torch.equal(optimizer.state[weight]["exp_avg"], before)


# -- batches that are no good ----------------------------------------------------------------------


def test_rollouts_of_another_policy_are_not_trained_on(tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base, max_gap=1.0)
    group = make_group(1, num_rollouts=3)
    far = tuple(replace(r, logprobs=tuple(x - 30.0 for x in r.logprobs)) for r in group.rollouts)
    before = weights(trainer)
    report = trainer.step([replace(group, rollouts=far)])
    assert report.skipped
    assert report.reason == "exploding_ratio"
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(trainer).items())


def test_masters_are_float32_and_whole_weights_are_given_back(
    tiny_base: Path, tmp_path: Path
) -> None:
    """FSDP2 as on one GPU: a mesh of one rank that computes in the folder's bfloat16."""
    base = tmp_path / "bf16"
    shutil.copytree(tiny_base, base)
    tensors = load_file(base / "model.safetensors")
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(halves, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text()) | {"dtype": "bfloat16"}
    (base / "config.json").write_text(json.dumps(config))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        cfg = LearnerConfig.model_validate(train_variants.COMMON | {"lr": 1e-5})
        mesh = init_device_mesh("cpu", (1,))
        trainer = PolicyTrainer("solver", base, cfg, total_steps=9, mesh=mesh)
        before = weights(trainer)
        masters = {
            n: t.full_tensor().clone() for n, t in trainer.trainer_state().items() if "master" in n
        }
        report = trainer.step(train_variants.batches("solver")[0])
        assert not report.skipped, report
        moved = {n: t.full_tensor() for n, t in trainer.trainer_state().items() if "master" in n}
        assert {tensor.dtype for tensor in moved.values()} == {torch.float32}
        # A step that bfloat16 can't hold is not lost: the masters have it.
        assert any(not torch.equal(moved[name], masters[name]) for name in masters)
        after = weights(trainer)
        assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
        same = sum(torch.equal(before[name], after[name]) for name in before)
        assert same > 0.2 * len(before)
        trainer.score()
        assert all(isinstance(parameter, DTensor) for parameter in trainer.model.parameters())
    finally:
        dist.destroy_process_group()
