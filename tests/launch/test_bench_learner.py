"""The learner's benchmark: its arithmetic, its batches, and that its workers take turns."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3VLForConditionalGeneration

from engine.learner.batch import ImageSize
from engine.learner.config import LearnerConfig
from engine.learner.costs import ModelShape
from engine.learner.trainer import PolicyTrainer
from engine.types import Group, Rollout, SamplingParams, Segment
from launch.benches import flops, learner, learner_tables, random_model, rollouts
from launch.benches.learner import OURS, OWN, TRL, Held, Result, Spent, disagreement
from launch.benches.learner_worker import PARTS, parts
from launch.benches.turns import Worker

TINY = Path(__file__).resolve().parents[2] / "launch" / "tiny_base_model"
SHAPE = rollouts.Shape(
    pictures=1, prompts=2, samples=3, prompt_tokens=8, answer_tokens=6, side=96
)  # fmt: skip
SIZE = ModelShape(
    layers=2, hidden=8, intermediate=16, heads=2, kv_heads=1, head_dim=4, vocabulary=10,
    vision_layers=3, vision_hidden=6, vision_intermediate=12, language_params=1000,
    embedding_params=80, head_params=0, vision_params=500,
)  # fmt: skip


@pytest.fixture(scope="module")
def batches() -> rollouts.Batches:
    return rollouts.made_up(TINY, SHAPE, seed=0, device="cpu")


def rollout(prompt: tuple[int, ...], tokens: int, *pictures: bytes) -> Rollout:
    return Rollout(
        policy="p", role="p", prompt_ids=prompt, images=pictures, token_ids=(7,) * tokens,
        logprobs=(-1.0,) * tokens, segments=(Segment(0, 0),), finish="stop",
        sampling=SamplingParams(max_new_tokens=tokens), text="",
    )  # fmt: skip


def group(*members: Rollout) -> Group:
    return Group(stream="p", game=0, rollouts=members, rewards=(0.0,) * len(members))


def test_needed_flops_count_prompts_and_pictures_once() -> None:
    picture = ImageSize((1, 4, 4), 4, 16, 256)
    groups = [
        group(rollout((6, 1), 3, b"x"), rollout((6, 1), 1, b"x")),  # prompt: 4 + 1 tokens
        group(rollout((6, 2), 2, b"x")),
    ]
    tokens = (5 + 2 + 0) + (5 + 1)
    # Tokens of a completion see the 5 of the prompt, and each other up to themselves.
    pairs = (15 + (6 + 7)) + (15 + 6)
    forward = 2 * 1000 * tokens + 4 * 2 * 2 * 4 * pairs + 2 * 80 * (3 + 1 + 2)
    forward += 2 * 500 * 16 + 4 * 3 * 6 * 256
    assert flops.needed(groups, SIZE, lambda _: picture) == 3 * forward


def test_the_device_s_peak_is_plausible() -> None:
    value, what = flops.peak("cpu", torch.float32)
    assert 1e8 < value < 1e13
    assert "measured" in what


@pytest.mark.parametrize("name, params", [("2b", 2_127_532_032), ("8b", 8_767_123_696)])
def test_random_models_are_as_large_as_the_real_ones(name: str, params: int) -> None:
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(random_model.config_of(random_model.SIZES[name]))
    assert sum(parameter.numel() for parameter in model.parameters()) == params


def test_made_up_batches_have_the_shape_asked_for(batches: rollouts.Batches) -> None:
    assert {name: len(groups) for name, groups in batches.items()} == {"pictures": 2, "text": 2}
    (first, second), texts = batches["pictures"], batches["text"]
    assert first.rollouts[0].images == second.rollouts[0].images != ()
    for one in (first, second, *texts):
        assert len(one.rollouts) == 3
        assert all(3 <= len(r.token_ids) <= 9 for r in one.rollouts)
        assert sum(one.advantages or ()) == pytest.approx(0, abs=1e-6)


def test_both_files_of_a_batch_hold_the_same_rollouts(
    batches: rollouts.Batches, tmp_path: Path
) -> None:
    rollouts.write(batches, tmp_path, TINY)
    groups = rollouts.read(tmp_path / "pictures.groups")
    members = [r for one in groups for r in one.rollouts]
    assert [r.token_ids for r in members] == [
        r.token_ids for one in batches["pictures"] for r in one.rollouts
    ]
    flat = load_file(tmp_path / "pictures.safetensors")
    answers = flat["answer_ids"].split(flat["answer_lengths"].tolist())
    assert [tuple(ids.tolist()) for ids in answers] == [r.token_ids for r in members]
    prompts = flat["prompt_ids"].split(flat["prompt_lengths"].tolist())
    for ids, member in zip(prompts, members, strict=True):
        # 96 x 96 pixels are 36 patches, so 9 tokens.
        assert ids.tolist() == [6] * 9 + list(member.prompt_ids[1:])
    assert flat["image"].tolist() == [0] * 6
    assert flat["pixels"].shape[0] == int(flat["grids"].prod()) == 36


def test_behaviour_log_probs_are_those_of_the_learner_but_for_the_noise(
    batches: rollouts.Batches,
) -> None:
    trainer = PolicyTrainer("p", TINY, LearnerConfig(), total_steps=1)
    report = trainer.step([*batches["pictures"], *batches["text"]])
    assert not report.skipped
    assert abs(report.metrics["k1"]) < 4 * rollouts.NOISE / report.metrics["tokens"] ** 0.5
    assert report.metrics["ratio_max"] < 1.25


def test_parts_are_the_whole_step_and_leave_no_stopwatch(batches: rollouts.Batches) -> None:
    trainer = PolicyTrainer("p", TINY, LearnerConfig(), total_steps=1)
    before = (dict(vars(trainer)), dict(vars(trainer.model)), torch.Tensor.backward)
    spent = parts(trainer, batches["pictures"])
    assert tuple(spent) == PARTS
    assert all(spent[name] > 0 for name in PARTS)
    assert (vars(trainer).keys(), vars(trainer.model).keys()) == tuple(
        one.keys() for one in before[:2]
    )
    assert torch.Tensor.backward is before[2]
    assert trainer.step_count == 1


def result(batch: str, ours: tuple[float, ...], trl: tuple[float, ...], peak: float) -> Result:
    rounds = [
        {OURS: Spent(9 * a, a), TRL: Spent(9 * b, b), OWN: Spent(9 * b, 2 * b)}
        for a, b in zip(ours, trl, strict=True)
    ]
    return Result(
        batch=batch, rollouts=4, tokens=100, flops=1e9, settings={OURS: 64, TRL: 4, OWN: 4},
        rounds=rounds, memory={OURS: Held(100, peak), TRL: Held(200, 400), OWN: Held(200, 500)},
        disagreement=1e-7, versions="TRL 1", parts=dict.fromkeys(PARTS, 0.1),
    )  # fmt: skip


def test_ratios_are_medians_over_rounds_of_all_batches() -> None:
    results = [
        result("a", (1, 1, 1), (3, 1, 9), peak=150),
        result("b", (1, 1, 3), (1, 1, 3), peak=260),
    ]
    found = {
        ratio.name: (round(ratio.value, 3), ratio.goal)
        for ratio in learner_tables.ratios(results, lambda spent: spent.cpu_s)
    }
    assert found == {
        "TRL / ours, seconds of a step": (2.0, 1.5),  # of 4/2, 2/2 and 12/4
        "TRL, own forward / ours, seconds of a step": (4.0, 1.5),
        "TRL / ours, on the wall": (2.0, 0.0),
        "ours / TRL, growth of memory by training": (0.8, 1.0),
        "ours / TRL, peak memory of the process": (0.65, 1.0),
    }


def test_ours_alone_has_no_ratio() -> None:
    alone = result("a", (1,), (1,), peak=150)
    alone = replace(alone, memory={OURS: Held(100, 150)})
    assert learner_tables.ratios([alone], lambda spent: spent.cpu_s) == []


def first(loss: float, grad_norm: float) -> Mapping[str, float]:
    return {"loss": loss, "grad_norm": grad_norm}


def test_trainers_that_agree_are_compared() -> None:
    found = disagreement(
        {OURS: first(-0.5, 2.0), TRL: first(-0.5, 2.001), OWN: first(-0.5, 2.0)}, at_most=1e-3
    )
    assert found == pytest.approx(0.0005, rel=1e-2)


def test_trainers_that_compute_different_things_are_not() -> None:
    with pytest.raises(SystemExit, match="different things"):
        disagreement({OURS: first(-0.5, 2.0), TRL: first(-0.5, 2.01)}, at_most=1e-3)


CHILD = """
from launch.benches.turns import Turns, forget_peak, memory
turns = Turns()
print("what a library says")
held = bytearray(50 << 20)
del held
forget_peak("cpu")
turns.report(**memory("cpu"))
while word := turns.wait():
    if word == "die":
        raise RuntimeError("out of luck")
    turns.report(said=word, **memory("cpu"))
"""


@pytest.fixture
def child(tmp_path: Path) -> Worker:
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    return Worker(sys.executable, [str(script)], threads=1)


def test_a_worker_answers_when_it_is_its_turn(child: Worker) -> None:
    try:
        assert child.began["peak"] - child.began["held"] < 25  # the peak before is forgotten
        assert child.turn()["said"] == "go"
        assert child.turn("parts")["said"] == "parts"
    finally:
        child.close()


def test_the_last_words_of_a_worker_are_told(child: Worker) -> None:
    with pytest.raises(SystemExit, match="out of luck"):
        child.turn("die")
    child.close()


def test_trl_s_row_counts_divide_the_batch() -> None:
    options = learner.argparse.Namespace(rows=[4, 8, 16], budgets=[2048])
    case = learner.Case(options, TINY, Path("x"), tokens=9, rollouts=24, flops=1.0)
    assert case.candidates(TRL) == [4, 8, 24]
    assert case.candidates(OURS) == [2048]
