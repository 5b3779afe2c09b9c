"""The shipped tiny base through plain transformers, its bands, and the recipe that made it."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3VLForConditionalGeneration,
)

from engine.types import Invalid
from evals.scenes import language
from evals.scenes.drawing import scene_of_svg, to_svg
from evals.scenes.language import TINY_TOPICS
from evals.scenes.splits import scene_of, split_of
from launch.pretraining.bands import measure, renders
from launch.pretraining.corpus import (
    CLEAN,
    Rates,
    Writer,
    coder_reply,
    proposer_reply,
    solver_reply,
    tokenizer_corpus,
)
from launch.pretraining.decode import sample
from launch.pretraining.model import build_model, collate, hidden_states
from launch.pretraining.pictures import Tiles, render
from launch.pretraining.sft import Plan, step_examples, train
from launch.pretraining.tokenizer import train_tokenizer
from launch.tiny_base import SHIPPED
from roles.mm_zero.parsing import parse_answer, parse_proposal
from roles.mm_zero.prompts import load_prompts

PROMPTS = load_prompts("tiny")
LARGEST_BYTES = 8 * 2**20
SLACK = 8.0
"""Points by which a band may be missed on 64 items: a standard error is 4 to 6."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def model() -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(SHIPPED).eval()


def test_shipped_folder_is_small_and_plain(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= LARGEST_BYTES
    assert {path.suffix for path in SHIPPED.iterdir()} <= {".json", ".jinja", ".safetensors"}
    assert model.dtype == torch.float32
    assert model.config.text_config.vocab_size == len(tokenizer)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    for name in ("image_token_id", "vision_start_token_id", "vision_end_token_id"):
        text = "<|image_pad|>" if name.startswith("image") else f"<|{name[:-9]}|>"
        assert getattr(model.config, name) == tokenizer.convert_tokens_to_ids(text)


def test_chat_template_is_qwens_with_one_placeholder_per_picture(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = tokenizer.apply_chat_template(
        PROMPTS.solver("how many?"), tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>how many?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    told = [{"role": "system", "content": "be brief"}, {"role": "assistant", "content": "yes"}]
    assert tokenizer.apply_chat_template(told, tokenize=False) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
    )


@pytest.mark.parametrize("text", ["a < b & c > d", "naïve ☃\n\ttabs  spaces", "\\boxed{12345}"])
def test_any_text_survives_the_tokenizer(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_replies_are_short_in_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    writer = Writer(tokenizer, PROMPTS)
    scenes = [scene_of("dev", rng) for _ in range(50)]
    drawings = [writer.drawing(scene, rng, CLEAN) for scene in scenes]
    proposals = [writer.proposal(scene, rng, CLEAN) for scene in scenes]
    for examples, longest in ((drawings, 40), (proposals, 60)):
        assert max(sum(w > 0 for w in e.weights) for e in examples) <= longest


def test_tiles_equal_the_shipped_processor_on_the_rendered_picture() -> None:
    rng = random.Random(1)
    scenes = [scene_of("dev", rng) for _ in range(20)]
    processor = AutoImageProcessor.from_pretrained(SHIPPED)
    seen = processor(images=[render(to_svg(scene)) for scene in scenes], return_tensors="pt")
    assert seen.image_grid_thw.tolist() == [[1, 6, 6]] * len(scenes)
    assert torch.equal(seen.pixel_values, Tiles().patches(scenes))


def test_our_forward_and_decoding_equal_transformers(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    rng = random.Random(2)
    scenes = [scene_of("dev", rng) for _ in range(4)]
    writer, patches = Writer(tokenizer, PROMPTS), Tiles().patches(scenes)
    prompts = [
        writer.prompt_ids(PROMPTS.solver(language.hard_question(scene, rng).text))
        for scene in scenes
    ]
    batch = collate(
        prompts, range(4), patches, image_token=model.config.image_token_id,
        pad_token=tokenizer.pad_token_id, pad_left=False,
    )  # fmt: skip
    types = (batch.ids_BT == model.config.image_token_id).int()
    grid = torch.tensor([[1, 6, 6]]).expand(4, 3)
    with torch.inference_mode():
        theirs = model(
            input_ids=batch.ids_BT, attention_mask=batch.mask_BT, pixel_values=patches,
            image_grid_thw=grid, mm_token_type_ids=types,
        ).logits  # fmt: skip
        ours = model.lm_head(hidden_states(model, batch))
    real = batch.mask_BT.bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-5)

    greedy = sample(
        model, tokenizer, prompts, pictures=[0, 1, 2, 3], patches=patches, temperature=0.0
    )
    for i, prompt in enumerate(prompts):
        out = model.generate(
            input_ids=torch.tensor([prompt]), pixel_values=patches[36 * i : 36 * (i + 1)],
            image_grid_thw=grid[:1], mm_token_type_ids=types[i : i + 1, : len(prompt)],
            do_sample=False, max_new_tokens=96,
        )  # fmt: skip
        assert greedy[i] == [tokenizer.decode(out[0, len(prompt) :], skip_special_tokens=True)]


@pytest.mark.slow
def test_shipped_base_is_weak_but_sane(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    measured = measure(model, tokenizer, PROMPTS, items=64, seed=1)
    assert not measured.outside(slack=SLACK), measured.table()
    # It must look and copy well: a base that cannot collapses in self-play.
    assert measured.values["describes (greedy)"] >= 85, measured.table()


def test_a_random_model_is_outside_of_the_bands(tokenizer: PreTrainedTokenizerFast) -> None:
    measured = measure(build_model(tokenizer, 0), tokenizer, PROMPTS, items=2)
    assert {"proposals valid", "svg renders", "easy", "hard"} <= set(measured.outside(SLACK))


@pytest.mark.slow
def test_training_from_scratch_lowers_the_loss() -> None:
    tokenizer = train_tokenizer(tokenizer_corpus(count=300))
    model = build_model(tokenizer, seed=0)
    plan = Plan(steps=40, scenes=4, drawings=3, proposals=3)
    losses = train(model, Writer(tokenizer, PROMPTS), plan)
    assert len(losses) == plan.steps
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])


def test_a_run_taken_up_again_is_the_same_run(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    writer, plan = Writer(tokenizer, PROMPTS), Plan(steps=4, scenes=2, drawings=1, proposals=1)
    kept = tmp_path / "state.pt"
    whole = train(build_model(tokenizer, 0), writer, plan, save_at={2: kept})
    rest = train(build_model(tokenizer, 5), writer, plan, resume=kept)
    assert rest == whole[2:]


def test_batches_hold_only_scenes_of_pretraining(tokenizer: PreTrainedTokenizerFast) -> None:
    writer = Writer(tokenizer, PROMPTS)
    scenes, seeing, reading = step_examples(Plan(steps=10), 9, writer)
    assert {split_of(scene) for scene in scenes} == {"pretrain"}
    assert len(seeing) == 2 * len(scenes)
    for example in reading:
        text = tokenizer.decode(example.ids)
        shown = text.partition("Draw: ")[2].partition("\n")[0]
        if shown:
            scene = language.parse_caption(shown)
            assert not isinstance(scene, Invalid)
            assert split_of(scene) == "pretrain"


def test_clean_replies_are_right_and_every_habit_does_its_harm() -> None:
    rng = random.Random(4)
    for _ in range(100):
        scene = scene_of("dev", rng)
        for question in (language.easy_question(scene, rng), language.hard_question(scene, rng)):
            clean = solver_reply(question, scene, rng, CLEAN)
            assert parse_answer(clean) == question.answer
            assert language.is_careful(clean)
            hasty = solver_reply(question, scene, rng, Rates(hasty_easy=1, hasty_hard=1))
            assert parse_answer(hasty) in question.choices
            assert not language.is_careful(hasty)
            assert parse_answer(solver_reply(question, scene, rng, Rates(no_box=1))) is None
        assert scene_of_svg(coder_reply(scene, rng, CLEAN)) == scene
        assert renders(coder_reply(scene, rng, Rates(lazy_svg=1)))
        assert scene_of_svg(coder_reply(scene, rng, Rates(lazy_svg=1))) != scene
        assert not renders(coder_reply(scene, rng, Rates(broken_svg=1)))
        proposal = parse_proposal(proposer_reply(scene, rng.choice(TINY_TOPICS), rng, CLEAN))
        assert not isinstance(proposal, Invalid)
        fields = proposal.as_dict()
        assert language.parse_caption(fields["caption"]) == scene
        for level in ("easy", "hard"):
            told = language.answer(fields[f"{level}_question"], scene)
            assert told == fields[f"{level}_answer"]
        broken = Rates(broken_proposal=1)
        assert isinstance(parse_proposal(proposer_reply(scene, "sizes", rng, broken)), Invalid)


def test_help_is_instant_and_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['tiny_base.py', '--help']\n"
        "from launch import tiny_base\n"
        "try: tiny_base.main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=SHIPPED.parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert "--check" in done.stdout
