"""The learner's forward equals Hugging Face's own, one rollout at a time."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, Qwen3VLForConditionalGeneration

from engine.errors import ConfigError
from engine.learner import model_family
from engine.learner.batch import Sample, micro_batches, samples_of
from engine.learner.model_family import Qwen3VL, Qwen3VLPolicy
from engine.types import Rollout
from tests.engine.learner.learner_data import IMAGE, make_group, make_png, make_prompt, make_rollout


@pytest.fixture(scope="module")
def family(tiny_base: Path) -> Qwen3VL:
    return Qwen3VL(tiny_base)


@pytest.fixture(scope="module")
def plain(tiny_base: Path) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()


def plain_logprobs(
    model: Qwen3VLForConditionalGeneration, base: Path, rollout: Rollout, image: int = IMAGE
) -> torch.Tensor:
    """Log-probs of the sampled tokens by an unpadded, unshared, unmodified forward."""
    processor = AutoImageProcessor.from_pretrained(base)
    extra = {}
    prompt: list[int] = []
    grids: list[int] = []
    if rollout.images:
        pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in rollout.images]
        features = processor(images=pictures, return_tensors="pt")
        extra = {
            "pixel_values": features["pixel_values"],
            "image_grid_thw": features["image_grid_thw"],
        }
        grids = [int(grid.prod()) // 4 for grid in features["image_grid_thw"]]
    for token in rollout.prompt_ids:
        prompt += [image] * grids.pop(0) if token == image else [token]
    ids = torch.tensor([prompt + list(rollout.token_ids)])
    if rollout.images:
        kinds = torch.zeros_like(ids, dtype=torch.int)
        kinds[0, : len(prompt)] = (ids[0, : len(prompt)] == image).int()
        extra["mm_token_type_ids"] = kinds
    with torch.no_grad():
        logits = model(input_ids=ids, **extra).logits[0, len(prompt) - 1 : -1]
    scaled = logits / rollout.sampling.temperature
    return scaled.log_softmax(-1).gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("token_budget", [40, 100_000])
def test_logprobs_equal_a_plain_forward(
    family: Qwen3VL,
    plain: Qwen3VLForConditionalGeneration,
    tiny_base: Path,
    temperature: float,
    token_budget: int,
) -> None:
    """Text and image prompts, shared images, two images in a prompt, one-token answers."""
    groups = [
        make_group(1, temperature=temperature),
        make_group(2, num_images=1, temperature=temperature),
        make_group(3, num_images=1, image_seed=2, temperature=temperature),
        make_group(4, num_images=2, temperature=temperature, num_rollouts=2),
        make_group(5, prompt_tokens=1, temperature=temperature),
    ]
    model = family.load(tiny_base, device=torch.device("cpu"))
    samples = samples_of(groups, divide_by_std=True)
    batches = micro_batches(
        samples, encode=family.encode, expand=family.expand, token_budget=token_budget
    )
    assert (len(batches) > 1) == (token_budget == 40)
    got: dict[tuple[int, ...], torch.Tensor] = {}
    for batch in batches:
        with torch.no_grad():
            logprobs, entropy = model(batch)
        assert (entropy > 0).all()
        for sequence in range(batch.num_sequences):
            mine = batch.sequences_T == sequence
            got[tuple(batch.targets_T[mine].tolist())] = logprobs[mine]
    assert len(got) == len(samples)
    for sample in samples:
        want = plain_logprobs(plain, tiny_base, sample.rollout)
        torch.testing.assert_close(got[sample.rollout.token_ids], want, atol=1e-5, rtol=0)


def test_a_sampled_placeholder_is_text(
    family: Qwen3VL, plain: Qwen3VLForConditionalGeneration, tiny_base: Path
) -> None:
    """What the model samples is never replaced by a picture, whatever its value."""
    rollout = make_rollout(1, prompt_ids=make_prompt(1, 4, 1), images=[make_png(1)])
    ids = (7, IMAGE, 9, IMAGE, 11)
    rollout = make_rollout(1, prompt_ids=rollout.prompt_ids, images=rollout.images)
    object.__setattr__(rollout, "token_ids", ids)
    (batch,) = micro_batches(
        [Sample(rollout, 1.0)], encode=family.encode, expand=family.expand, token_budget=999
    )
    assert int(batch.is_image_RL.sum()) == 6  # 96 x 64 pixels: 3 x 2 merged tokens
    model = family.load(tiny_base, device=torch.device("cpu"))
    # The plain model can't be told so; embed by hand through its own modules instead.
    with torch.no_grad():
        got, _ = model(batch)
    embeds = plain.get_input_embeddings()(batch.input_ids_RL)
    vision = plain.model.visual(batch.pixels_PD, grid_thw=batch.grid_I3)
    embeds[batch.is_image_RL] = vision.pooler_output
    with torch.no_grad():
        hidden = plain.model.language_model(
            inputs_embeds=embeds,
            position_ids=batch.positions_3RL,
            visual_pos_masks=batch.is_image_RL,
            deepstack_visual_embeds=vision.deepstack_features,
        ).last_hidden_state[0]
        want = plain.lm_head(hidden[-5:]).log_softmax(-1)
    torch.testing.assert_close(got, want[range(5), ids], atol=1e-5, rtol=0)


def test_chunked_scores_have_the_same_values_and_gradients(
    family: Qwen3VL, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_of([make_group(2, num_images=1)], divide_by_std=True)
    (batch,) = micro_batches(samples, encode=family.encode, expand=family.expand, token_budget=9999)
    results = []
    for limit in (1 << 26, 160 * 3):
        monkeypatch.setattr(model_family, "LOGITS_PER_CHUNK", limit)
        model = family.load(tiny_base, device=torch.device("cpu"))
        logprobs, entropy = model(batch)
        logprobs.sum().backward()
        gradients = {name: weight.grad for name, weight in model.weights()}
        results.append((logprobs.detach(), entropy, gradients))
    whole, chunked = results
    # Not to the bit: on some processors a product of fewer rows is summed in another order.
    torch.testing.assert_close(chunked[0], whole[0], atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(chunked[1], whole[1], atol=2e-6, rtol=1e-6)
    for name, gradient in whole[2].items():
        torch.testing.assert_close(chunked[2][name], gradient, atol=1e-5, rtol=1e-4)


def test_vision_tower_runs_without_images_only_when_told(family: Qwen3VL, tiny_base: Path) -> None:
    samples = samples_of([make_group(1)], divide_by_std=True)
    (batch,) = micro_batches(samples, encode=family.encode, expand=family.expand, token_budget=999)
    logprobs = []
    for always_see in (False, True):
        model = family.load(tiny_base, device=torch.device("cpu"), always_see=always_see)
        out, _ = model(batch)
        out.sum().backward()
        seen = [w.grad for name, w in model.weights() if ".visual.blocks." in name]
        assert all((gradient is not None) == always_see for gradient in seen)
        assert all(not gradient.any() for gradient in seen if gradient is not None)
        logprobs.append(out.detach())
    assert torch.equal(*logprobs)


def test_weight_names_are_those_of_the_checkpoint(family: Qwen3VL, tiny_base: Path) -> None:
    model = family.load(tiny_base, device=torch.device("cpu"))
    assert isinstance(model, Qwen3VLPolicy)
    with safe_open(tiny_base / "model.safetensors", "pt") as file:
        assert {name for name, _ in model.weights()} == set(file.keys())


def test_placeholders_must_match_the_images(family: Qwen3VL) -> None:
    with pytest.raises(ValueError, match="2 image placeholders for 1 images"):
        family.expand([1, IMAGE, 2, IMAGE], [family.encode(make_png(1))])
    with pytest.raises(ValueError, match="0 image placeholders for 0"):
        family.expand([], [])


def test_unknown_architecture_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match="gpt2"):
        model_family.family_of(tmp_path)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_on_the_shipped_base_equal_a_plain_forward(temperature: float) -> None:
    """Pictures of the size that is drawn in play, on the folder that users start from."""
    base = Path(__file__).parents[3] / "launch" / "tiny_base_model"
    family = Qwen3VL(base)
    model = family.load(base, device=torch.device("cpu"))
    plain = Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    image = plain.config.image_token_id
    shared = {"temperature": temperature, "num_tokens": 12}
    rollouts = [
        make_rollout(1, prompt_ids=range(30, 50), **shared),
        *(
            make_rollout(
                seed, prompt_ids=[30, image, *range(40, 60)], images=[make_png(1, 96, 96)], **shared
            )
            for seed in (2, 3)
        ),
    ]
    for rollout in rollouts:
        (batch,) = micro_batches(
            [Sample(rollout, 1.0)], encode=family.encode, expand=family.expand, token_budget=999
        )
        assert int(batch.is_image_RL.sum()) == 9 * len(rollout.images)
        with torch.no_grad():
            got, _ = model(batch)
        want = plain_logprobs(plain, base, rollout, image)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
