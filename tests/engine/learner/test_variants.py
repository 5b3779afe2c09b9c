"""Options of the learner that must not change what it learns: ranks, LoRA, memory savers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import Qwen3VLForConditionalGeneration

from engine.errors import ConfigError
from engine.learner import gloo
from engine.learner.config import LearnerConfig, LoraConfig
from engine.learner.lora import rounded
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


def as_bfloat16(base: Path, folder: Path) -> Path:
    """A copy of the model in half the bytes."""
    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


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


@given(st.floats(width=32, min_value=-(2.0**99), max_value=2.0**99), st.text(max_size=5))
def test_rounding_gives_one_of_the_two_neighbours(value: float, name: str) -> None:
    number = torch.tensor([value])
    down = (number.view(torch.int32) & -65536).view(torch.float32)
    up = ((number.view(torch.int32) & -65536) + 65536).view(torch.float32)
    got = rounded(number.clone(), name).float()
    assert got.equal(down) or (got.equal(up) and not number.equal(down))


def test_what_bfloat16_can_not_hold_is_published_on_average(
    tmp_path: Path, tiny_base: Path
) -> None:
    """Of an update far below half the distance of two numbers, to the nearest one nothing is left;
    as it is published the whole of it is, within chance."""
    trainer = make_trainer(as_bfloat16(tiny_base, tmp_path / "bf16"), lora=LoraConfig(rank=4))
    before = weights(trainer)
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=2e-5)
    after, again = weights(trainer), weights(trainer)
    moved = covered = nearest = 0.0
    for name, weight, adapter in trainer._published:
        published = trainer.model.published_name(name)
        if adapter is None:
            assert after[published].equal(weight.detach().bfloat16())
            continue
        old, new = before[published].float(), after[published].float()
        assert after[published].equal(again[published])
        assert old.equal(weight.detach().float())
        delta = (adapter[2] * (adapter[1] @ adapter[0])).detach()
        moved += delta.square().sum().item()
        covered += ((new - old) * delta).sum().item()
        nearest += (((old + delta).bfloat16().float() - old) * delta).sum().item()
    assert nearest / moved < 0.5, "no test of anything"
    assert covered / moved == pytest.approx(1.0, abs=0.1)


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
    base = as_bfloat16(tiny_base, tmp_path / "bf16")
    dist.init_process_group(gloo.backend(), store=dist.HashStore(), rank=0, world_size=1)
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
