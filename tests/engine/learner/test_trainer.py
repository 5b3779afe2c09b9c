"""A step happens exactly, or not at all."""

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from engine.buckets import Memory, buckets
from engine.errors import BrokenWeightsError, ConfigError, FatalError
from engine.learner import sharding, trainer
from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer, load_reference
from engine.types import Group
from tests.engine.learner.learner_data import make_group


def make_cfg(objective: dict[str, object] | None = None, **over: object) -> LearnerConfig:
    return LearnerConfig.model_validate(
        {
            "lr": 1e-2,
            "weight_decay": 0,
            "objective": {"mask_band": None, **(objective or {})},
            "tokens_per_micro_batch": 4096,
            "max_gap": 100,
        }
        | over
    )


def make_trainer(base: Path, total_steps: int = 10, **over: object) -> PolicyTrainer:
    return PolicyTrainer("solver", base, make_cfg(**over), total_steps=total_steps)


def make_batch(first: int = 0) -> list[Group]:
    return [make_group(first + i, num_images=i % 2) for i in range(6)]


def weights(trainer: PolicyTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.named_weights()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    return max(float((after[name] - before[name]).abs().max()) for name in before)


def on_policy(trainer: PolicyTrainer, groups: Sequence[Group]) -> list[Group]:
    """The same groups with the learner's own log-probs as the sampler's."""
    found: dict[tuple[int, ...], tuple[float, ...]] = {}
    for batch in (b for part in trainer.prepare(groups).parts for b in part.batches):
        with torch.no_grad():
            logprobs, _ = trainer.model(batch)
        for i in range(batch.num_sequences):
            mine = batch.sequences_T == i
            found[tuple(batch.targets_T[mine].tolist())] = tuple(logprobs[mine].tolist())
    return [
        replace(g, rollouts=tuple(replace(r, logprobs=found[r.token_ids]) for r in g.rollouts))
        for g in groups
    ]


def test_a_step_raises_the_probability_of_what_was_rewarded(tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base, lr=1e-3)
    group = replace(make_group(1, num_rollouts=2, num_images=1), advantages=(1.0, -1.0))
    group = on_policy(trainer, [group])[0]
    report = trainer.step([group])
    assert not report.skipped
    assert report.step == trainer.step_count == 1
    assert report.metrics["ess"] == pytest.approx(1.0, abs=1e-4)
    assert report.metrics["k1"] == pytest.approx(0.0, abs=1e-5)
    after = on_policy(trainer, [group])[0]
    means = [[sum(r.logprobs) / len(r.logprobs) for r in g.rollouts] for g in (group, after)]
    assert means[1][0] > means[0][0]
    assert means[1][1] < means[0][1]


def test_micro_batches_do_not_change_the_update(tiny_base: Path) -> None:
    """One forward over everything, or many small ones: the same gradient, so the same weights."""
    results = []
    for budget in (100_000, 60, 20):
        trainer = make_trainer(tiny_base, tokens_per_micro_batch=budget)
        report = trainer.step(make_batch())
        results.append((report.metrics, weights(trainer)))
    assert [r[0]["micro_batches"] > 1 for r in results] == [False, True, True]
    for metrics, after in results[1:]:
        assert metrics["loss"] == pytest.approx(results[0][0]["loss"], abs=1e-6)
        assert metrics["grad_norm"] == pytest.approx(results[0][0]["grad_norm"], rel=1e-5)
        assert moved(results[0][1], after) < 2e-4


@pytest.mark.parametrize("bad", [1e300, -1e300])  # finite, but not as float32
def test_a_bad_batch_leaves_everything_as_it_was(tiny_base: Path, bad: float) -> None:
    """After a normal step, so that the optimiser has a state to spoil."""
    trainer = make_trainer(tiny_base)
    trainer.step(make_batch())
    before, state = weights(trainer), trainer.trainer_state()
    group = make_group(50, num_rollouts=2, advantages=(bad, 1.0))
    report = trainer.step([*make_batch(10), group])
    assert report.skipped
    assert report.reason == "non_finite_loss"
    assert report.step == trainer.step_count == 1
    assert all(torch.equal(before[name], t) for name, t in weights(trainer).items())
    after = trainer.trainer_state()
    assert state.keys() == after.keys()
    assert all(torch.equal(state[key], after[key]) for key in state)
    assert not trainer.step(make_batch(20)).skipped


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_weights_get_no_further(tiny_base: Path, tmp_path: Path, bad: float) -> None:
    """From memory that was spoiled, from a checkpoint, from a base folder."""
    trainer = make_trainer(tiny_base)
    trainer.step(make_batch())
    state = {key: tensor.clone() for key, tensor in trainer.trainer_state().items()}
    name = list(trainer._named)[3]
    trainer.optimizer.state[trainer._named[name]]["exp_avg"].view(-1)[7] = bad
    with pytest.raises(BrokenWeightsError, match=f"solver: .* after step 2: {re.escape(name)}$"):
        trainer.step(make_batch(10))

    def fill(live: dict[str, torch.Tensor]) -> None:
        for key, tensor in live.items():
            tensor.copy_(state[key])

    make_trainer(tiny_base).restore(1, state.keys(), fill)
    for key in (f"master.{name}", f"adamw.exp_avg_sq.{name}"):
        state[key].view(-1)[0] = bad
        with pytest.raises(
            FatalError, match=f"solver: its checkpoint of step 1 .*{re.escape(key)}"
        ):
            make_trainer(tiny_base).restore(1, state.keys(), fill)
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors[next(iter(tensors))].view(-1)[0] = bad
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FatalError, match="base: weights that are not finite"):
        make_trainer(folder)


def test_weights_whose_sum_overflows_are_not_broken() -> None:
    large = torch.full((9,), torch.finfo(torch.float32).max)
    assert torch.isinf(large.sum())
    assert sharding.broken({"large": large, "bad": torch.tensor([math.nan])}, None) == ["bad"]


def test_broken_sampler_logprobs_cost_their_tokens_only(tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base)
    group = make_group(1, num_rollouts=3)
    worst = replace(group.rollouts[0], logprobs=(-math.inf,) * len(group.rollouts[0].token_ids))
    report = trainer.step([replace(group, rollouts=(worst, *group.rollouts[1:]))])
    assert not report.skipped
    assert report.metrics["dropped_tokens"] == len(worst.token_ids)
    assert all(bool(tensor.isfinite().all()) for tensor in weights(trainer).values())


def test_nothing_to_learn_is_no_step(tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base)
    before = weights(trainer)
    assert trainer.step([]).reason == "empty"
    flat = replace(make_group(1, num_rollouts=3), rewards=(0.5, 0.5, 0.5))
    lonely = make_group(2, num_rollouts=1)
    assert trainer.step([flat, lonely]).reason == "no_signal"
    assert trainer.step_count == 0
    assert moved(before, weights(trainer)) == 0


def test_learning_rate_falls_linearly_to_zero_after_the_last_step(tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base, total_steps=4, lr=1e-3, lr_decay="linear")
    rates = [trainer.step(make_batch(10 * i)).metrics["lr"] for i in range(4)]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    before = weights(trainer)
    assert trainer.lr == 0
    trainer.step(make_batch(90))
    assert moved(before, weights(trainer)) == 0


def test_several_updates_per_step_use_the_weights_at_its_start_as_proximal(
    tiny_base: Path,
) -> None:
    trainer = make_trainer(tiny_base, updates_per_step=3, lr=3e-2)
    report = trainer.step(on_policy(trainer, make_batch()))
    assert trainer.step_count == 1
    # mu is what pi_prox is, so the importance weight is one although the weights moved on.
    assert report.metrics["ess"] == pytest.approx(1.0, abs=1e-4)
    assert report.metrics["clipped_fraction"] > 0
    steps = {float(s["step"]) for s in trainer.optimizer.state.values()}
    assert steps == {3.0}


def test_kl_pulls_back_to_the_reference(tiny_base: Path) -> None:
    """Far from the reference, with no reward signal, only the KL term moves the weights."""
    with pytest.raises(ConfigError, match="reference"):
        make_trainer(tiny_base, objective={"kl_beta": 0.1})
    trainer = PolicyTrainer(
        "solver",
        tiny_base,
        make_cfg(objective={"kl_beta": 5.0}, lr=1e-4),
        total_steps=100,
        reference=load_reference(tiny_base),
    )
    with torch.no_grad():
        for _, weight in trainer.model.named_weights():
            weight.add_(
                0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            )
    group = replace(make_group(1), rewards=(0.0,) * 4)
    metrics = [trainer.step([group]).metrics for _ in range(8)]
    assert metrics[0]["loss"] > 0
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    # The KL is all that there is in the loss, and is told by itself as a mean over tokens.
    for told in metrics:
        assert told["reference_kl"] == pytest.approx(told["loss"] / 5.0, rel=1e-5)


def test_a_reference_that_moves_is_the_policy_of_every_nth_step(tiny_base: Path) -> None:
    """The KL is told of the weights before an update: nothing where the reference has just become
    them."""

    def told(every: int | None) -> list[bool]:
        trainer = PolicyTrainer(
            "solver",
            tiny_base,
            make_cfg(objective={"kl_beta": 0.1, "reference_steps": every}),
            total_steps=100,
            reference=load_reference(tiny_base),
        )
        return [trainer.step(make_batch()).metrics["reference_kl"] < 1e-9 for _ in range(6)]

    assert told(None) == told(100) == [True, *[False] * 5]
    assert told(2) == [True, False] * 3
    assert told(3) == [True, False, False] * 2


def test_a_kl_in_the_reward_is_told_too(tiny_base: Path) -> None:
    def told(**objective: Any) -> float:
        trainer = PolicyTrainer(
            "solver",
            tiny_base,
            make_cfg(objective={"kl_beta": 0.1, **objective}),
            total_steps=100,
            reference=load_reference(tiny_base),
        )
        for _, weight in trainer.model.named_weights():
            weight.data.mul_(1.01)
        return trainer.step(make_batch()).metrics["reference_kl"]

    assert told(kl_place="reward", kl_estimator="k1") == told() > 0
    assert "reference_kl" not in make_trainer(tiny_base).step(make_batch()).metrics


def test_weights_are_published_as_a_cast_of_float32_masters(tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base, lr=1e-6)
    before = weights(trainer)
    trainer.step(make_batch())
    assert 0 < moved(before, weights(trainer)) < 1e-5
    for name, tensor in trainer.named_weights(torch.bfloat16):
        assert tensor.dtype == torch.bfloat16
        assert not tensor.requires_grad
        assert torch.equal(tensor, weights(trainer)[name].bfloat16())


def test_weights_are_published_from_where_they_are(tiny_base: Path) -> None:
    trainer = make_trainer(tiny_base, lr=1e-3)
    memory = Memory(), Memory()
    for _ in range(2):
        (bucket,) = buckets(trainer.named_weights(), 1 << 30, memory)
        first = next(iter(trainer.named_weights()))[1]
        assert bucket.data.data_ptr() == first.data_ptr()
        assert bucket.data.numel() == sum(weight.nbytes for weight in weights(trainer).values())
        trainer.step(make_batch())
    assert memory[0].exchange(None).numel() == memory[1].exchange(None).numel() == 0


def test_trainers_in_one_process_are_independent(tiny_base: Path) -> None:
    one, two, alone = (make_trainer(tiny_base) for _ in range(3))
    for i in range(2):
        one.step(make_batch(10 * i))
        two.step(make_batch(10 * i + 100))
    for i in range(2):
        alone.step(make_batch(10 * i))
    assert moved(weights(one), weights(alone)) == 0
    assert moved(weights(one), weights(two)) > 0


@pytest.mark.parametrize(
    "field, value",
    [
        ("lr", 0),
        ("objective", {"eps_low": 1.0}),
        ("betas", (0.9, 1.0)),
        ("lr", math.inf),
        ("learning_rate", 1e-6),
    ],
)
def test_config_rejects(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        LearnerConfig.model_validate({field: value})


def test_config_is_small() -> None:
    assert len(LearnerConfig.model_fields) <= 16


@pytest.mark.parametrize("is_sharded, first", [(True, "cpu"), (False, "cuda")])
def test_a_model_that_is_to_be_sharded_is_loaded_on_the_host(is_sharded: bool, first: str) -> None:
    """A device would not always have room for a whole one."""
    asked = []

    class Family:
        def load(self, path: Path, *, device: torch.device, always_see: bool) -> None:
            asked.append(device.type)
            raise InterruptedError  # where it is loaded is all that is asked

    mesh: Any = object() if is_sharded else None
    family: Any = Family()
    with pytest.raises(InterruptedError):
        trainer._load(family, Path("model"), torch.device("cuda"), mesh, LearnerConfig(), 0)
    assert asked == [first]
