"""Every family's forward equals plain transformers, one rollout at a time, and in its gradients."""

import dataclasses
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    InternVLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from engine.learner import preparation, scoring
from engine.learner.config import LearnerConfig
from engine.learner.costs import model_shape
from engine.learner.families import ModelFamily, PolicyModel, family_of
from engine.learner.preparation import Part, prepare
from engine.learner.sight import Sight
from engine.types import Group, Rollout
from tests.engine.learner.conftest import IMG, IMG_END, build_internvl
from tests.engine.learner.learner_data import (
    IMAGE,
    VOCAB,
    make_group,
    make_png,
    make_prompt,
    make_rollout,
)

CPU = torch.device("cpu")


# -- plain transformers ----------------------------------------------------------------------------


def plain_inputs(
    name: str, folder: Path, rollout: Rollout, image: int
) -> tuple[dict[str, Tensor], int]:
    """(What transformers' forward takes for a rollout, tokens of its prompt)."""
    pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in rollout.images]
    extra: dict[str, Tensor] = {}
    runs: list[list[int]] = []
    if pictures and name == "internvl":
        processor = GotOcr2ImageProcessorPil.from_pretrained(folder)
        features = processor(images=pictures, return_tensors="pt", crop_to_patches=True)
        extra = {"pixel_values": features["pixel_values"]}
        runs = [[IMG, *[image] * 4 * int(tiles), IMG_END] for tiles in features["num_patches"]]
    elif pictures:
        features = Qwen2VLImageProcessorPil.from_pretrained(folder)(
            images=pictures, return_tensors="pt"
        )
        extra = {key: features[key] for key in ("pixel_values", "image_grid_thw")}
        runs = [[image] * (int(grid.prod()) // 4) for grid in features["image_grid_thw"]]
    following = iter(runs)
    prompt: list[int] = []
    for token in rollout.prompt_ids:
        prompt += next(following) if token == image else [token]
    ids = torch.tensor([prompt + list(rollout.token_ids)])
    if pictures and name != "internvl":
        kinds = torch.zeros_like(ids, dtype=torch.int)
        kinds[0, : len(prompt)] = (ids[0, : len(prompt)] == image).int()
        extra["mm_token_type_ids"] = kinds
    return {"input_ids": ids, **extra}, len(prompt)


def plain_logprobs(
    model: Any,
    name: str,
    folder: Path,
    rollout: Rollout,
    *,
    targets: Sequence[int] | None = None,
    image: int = IMAGE,
) -> Tensor:
    """[tokens] by an unpadded, unshared, unmodified forward. `image`: the placeholder."""
    inputs, prompt_tokens = plain_inputs(name, folder, rollout, image)
    logits = model(**inputs).logits[0, prompt_tokens - 1 : -1]
    scaled: Tensor = (logits / rollout.sampling.temperature).log_softmax(-1)
    return scaled.gather(1, torch.tensor(targets or rollout.token_ids)[:, None])[:, 0]


# -- ours ------------------------------------------------------------------------------------------


def make_part(
    family: ModelFamily, folder: Path, groups: Sequence[Group], budget: int = 100_000
) -> Part:
    cfg = LearnerConfig(tokens_per_micro_batch=budget)
    (part,) = prepare(groups, cfg=cfg, family=family, shape=model_shape(folder)).parts
    return part


def logprobs_of(policy: PolicyModel, part: Part) -> dict[int, Tensor]:
    """{number of the sample: log-probs of its tokens}."""
    found: dict[int, Tensor] = {}
    shared = policy.look(part.shared) if part.shares else ()
    for batch in part.batches:
        logprobs_T, entropy_T = policy(batch, shared)
        assert (entropy_T > 0).all()
        for i, number in enumerate(batch.rollouts_S.tolist()):
            assert number not in found
            found[number] = logprobs_T[batch.sequences_T == i]
    return found


def mixed_groups() -> list[Group]:
    """Text only; one image; another prompt on the same image; two images in a prompt; the two the
    other way round; a prompt of one token; answers of one token. Two temperatures."""
    pictures = [make_png(4), make_png(5, 64)]
    two = make_prompt(4, 6, 2)
    return [
        make_group(1, temperature=0.7),
        make_group(2, num_images=1),
        make_group(3, num_images=1, image_seed=2, temperature=0.7),
        group_of(make_rollout(40 + i, prompt_ids=two, images=pictures) for i in range(2)),
        group_of(make_rollout(50 + i, prompt_ids=two, images=pictures[::-1]) for i in range(2)),
        make_group(5, prompt_tokens=1),
        group_of(
            make_rollout(
                60 + i, prompt_ids=make_prompt(2, 6, 1), images=[make_png(2)], num_tokens=tokens
            )
            for i, tokens in enumerate((1, 1, 4))
        ),
    ]


def group_of(rollouts: Iterable[Rollout]) -> Group:
    members = tuple(rollouts)
    rewards = tuple(float(i) for i in range(len(members)))
    return Group(stream="solver", game=0, rollouts=members, rewards=rewards)


@pytest.mark.parametrize("budget", [60, 100_000])
def test_packed_logprobs_equal_a_plain_forward(
    name: str, folder: Path, family: ModelFamily, policy: PolicyModel, plain: Any, budget: int
) -> None:
    part = make_part(family, folder, mixed_groups(), budget)
    assert (len(part.batches) > 1) == part.shares == (budget == 60)
    with torch.no_grad():
        got = logprobs_of(policy, part)
        assert sorted(got) == list(range(len(part.samples)))
        for number, sample in enumerate(part.samples):
            want = plain_logprobs(plain, name, folder, sample.rollout)
            torch.testing.assert_close(got[number], want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("budget", [60, 100_000])
def test_gradients_equal_those_of_a_plain_forward(
    name: str, folder: Path, family: ModelFamily, policy: PolicyModel, plain: Any, budget: int
) -> None:
    """Of the sum of all log-probs, for every parameter."""
    part = make_part(family, folder, mixed_groups(), budget)
    sight = Sight(policy.look(part.shared) if part.shares else ())
    for batch in part.batches:
        policy(batch, sight.copies())[0].sum().backward()
    sight.backward()
    for sample in part.samples:
        plain_logprobs(plain, name, folder, sample.rollout).sum().backward()
    want = dict(plain.named_parameters())
    got = dict(policy.named_weights())
    assert got.keys() == want.keys()
    for key, weight in want.items():
        scale = float(weight.grad.abs().max())
        assert scale > 0, key
        torch.testing.assert_close(got[key].grad, weight.grad, atol=2e-5 * scale + 1e-5, rtol=1e-4)


def test_no_rollout_sees_another(folder: Path, family: ModelFamily, policy: PolicyModel) -> None:
    """Other tokens in one rollout change its own log-probs, and no other's by a single bit."""
    groups = mixed_groups()
    before = make_part(family, folder, groups)
    changed = groups[1].rollouts[2]
    other = dataclasses.replace(changed, token_ids=tuple(t + 1 for t in changed.token_ids))
    rollouts = [other if r is changed else r for r in groups[1].rollouts]
    groups[1] = dataclasses.replace(groups[1], rollouts=tuple(rollouts))
    after = make_part(family, folder, groups)
    (number,) = (i for i, s in enumerate(before.samples) if s.rollout is changed)
    with torch.no_grad():
        old, new = (logprobs_of(policy, part) for part in (before, after))
    for i in old:
        assert torch.equal(old[i], new[i]) == (i != number)


def test_no_rollout_sees_the_picture_of_another(
    folder: Path, family: ModelFamily, policy: PolicyModel
) -> None:
    groups = mixed_groups()
    before = make_part(family, folder, groups)
    group = groups[1]
    pictured = [dataclasses.replace(r, images=(make_png(99),)) for r in group.rollouts]
    groups[1] = dataclasses.replace(group, rollouts=tuple(pictured))
    after = make_part(family, folder, groups)
    with torch.no_grad():
        old, new = (logprobs_of(policy, part) for part in (before, after))
    first = len(groups[0].rollouts)
    mine = range(first, first + len(pictured))
    for i in old:
        if i in mine:
            assert not torch.equal(old[i], new[i])
        else:  # a picture more: products of other shapes, so not to the bit
            torch.testing.assert_close(old[i], new[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("budget", [60, 100_000])
def test_the_tower_sees_each_distinct_picture_once(
    name: str,
    folder: Path,
    family: ModelFamily,
    policy: PolicyModel,
    budget: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preparation, "SHARED_SHARE", 9.0)
    seen: list[int] = []
    body = policy.model.model
    tower = body.vision_tower if name == "internvl" else body.visual
    tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len((args or tuple(kwargs.values()))[0])),
        with_kwargs=True,
    )
    rows = [len(family.encode(png)) for png in (make_png(2), make_png(4), make_png(5, 64))]
    part = make_part(family, folder, mixed_groups(), budget)
    with torch.no_grad():
        logprobs_of(policy, part)
    assert sum(seen) == sum(rows)
    assert part.image_passes == 3
    assert len(part.batches) > 1 or len(seen) == 1


def test_a_sampled_placeholder_is_text(
    name: str, folder: Path, family: ModelFamily, policy: PolicyModel, plain: Any
) -> None:
    """What the model samples is never replaced by a picture, whatever its value.

    transformers can't be told so; it gets another word there, with the placeholder's embedding.
    """
    word = 140
    with torch.no_grad():
        for model in (policy.model, plain):
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                layer.weight[word] = layer.weight[IMAGE]
    sampled = (7, IMAGE, 9, IMAGE, 11)
    rollout = make_rollout(1, prompt_ids=make_prompt(1, 4, 1), images=[make_png(1)])
    rollout = dataclasses.replace(rollout, token_ids=sampled)
    (batch,) = make_part(family, folder, [group_of([rollout])]).batches
    assert int(batch.is_image_N.sum()) == family.measure(make_png(1)).num_tokens
    stand_in = dataclasses.replace(
        rollout, token_ids=tuple(word if token == IMAGE else token for token in sampled)
    )
    with torch.no_grad():
        got, _ = policy(batch)
        want = plain_logprobs(plain, name, folder, stand_in, targets=sampled)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_computing_activations_again_changes_nothing(
    folder: Path, family: ModelFamily, policy: PolicyModel
) -> None:
    (batch,) = make_part(family, folder, mixed_groups()).batches
    again = family.load(folder, device=CPU)
    again.checkpoint_activations()
    runs: Counter[int] = Counter()
    for number, block in enumerate(again.shards()):
        first = next(block.children())
        first.register_forward_pre_hook(lambda *_, number=number: runs.update([number]))
    results = []
    for model in (policy, again):
        logprobs_T, _ = model(batch)
        logprobs_T.sum().backward()
        results.append((logprobs_T.detach(), {n: w.grad for n, w in model.named_weights()}))
    assert set(runs) == {0, 1, 2, 3}
    assert set(runs.values()) == {2}, "each layer ran in the backward pass too"
    (kept, kept_grads), (computed, computed_grads) = results
    torch.testing.assert_close(computed, kept, atol=1e-6, rtol=0)
    for key, gradient in kept_grads.items():
        torch.testing.assert_close(computed_grads[key], gradient, atol=1e-5, rtol=1e-5)


def test_scores_in_chunks_are_the_same(
    folder: Path, family: ModelFamily, policy: PolicyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch,) = make_part(family, folder, mixed_groups()).batches
    results = []
    for limit in (scoring.LOGITS_PER_CHUNK, VOCAB * 3):
        monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", limit)
        policy.zero_grad()
        logprobs_T, entropy_T = policy(batch)
        (logprobs_T.sum() + entropy_T.sum()).backward()
        gradients = {n: w.grad for n, w in policy.named_weights()}
        results.append((logprobs_T.detach(), entropy_T.detach(), gradients))
    whole, chunked = results
    # Not to the bit: on some processors a product of fewer rows is summed in another order.
    torch.testing.assert_close(chunked[0], whole[0], atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(chunked[1], whole[1], atol=2e-6, rtol=1e-6)
    for key, gradient in whole[2].items():
        torch.testing.assert_close(chunked[2][key], gradient, atol=1e-4, rtol=1e-4)


def test_half_precision_is_near(folder: Path, family: ModelFamily, policy: PolicyModel) -> None:
    """Float32 weights under autocast, as learners on GPUs compute."""
    (batch,) = make_part(family, folder, mixed_groups()).batches
    with torch.no_grad():
        exact, _ = policy(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near, _ = policy(batch)
    assert 0 < float((near - exact).abs().mean()) < 0.1
    assert near.dtype == torch.float32


def test_the_tower_runs_without_images_only_when_told(folder: Path, family: ModelFamily) -> None:
    (batch,) = make_part(family, folder, [make_group(1)]).batches
    logprobs = []
    for always_see in (False, True):
        model = family.load(folder, device=CPU, always_see=always_see)
        logprobs_T, _ = model(batch)
        logprobs_T.sum().backward()
        seen = [weight.grad for block in model.vision_blocks for weight in block.parameters()]
        assert all((gradient is not None) == always_see for gradient in seen)
        assert all(not gradient.any() for gradient in seen if gradient is not None)
        logprobs.append(logprobs_T.detach())
    assert torch.equal(*logprobs)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_on_the_shipped_base_equal_a_plain_forward(temperature: float) -> None:
    """Pictures of the size that is drawn in play, on the folder that users start from."""
    base = Path(__file__).parents[3] / "launch" / "tiny_base_model"
    family = family_of(base)
    policy = family.load(base, device=CPU)
    plain = Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32).eval()
    image = plain.config.image_token_id
    png = make_png(1, 96, 96)
    assert family.measure(png).num_tokens == 9
    shared: dict[str, Any] = {"temperature": temperature, "num_tokens": 12}
    looking = {"prompt_ids": [30, image, *range(40, 60)], "images": [png]}
    part = make_part(
        family,
        base,
        [
            group_of([make_rollout(1, prompt_ids=range(30, 50), **shared)]),
            group_of(make_rollout(seed, **looking, **shared) for seed in (2, 3)),
        ],
    )
    with torch.no_grad():
        got = logprobs_of(policy, part)
        for number, sample in enumerate(part.samples):
            want = plain_logprobs(plain, "qwen3_vl", base, sample.rollout, image=image)
            # Of ids drawn at random some are 30 nats away: a few last places of fp32.
            torch.testing.assert_close(got[number], want, atol=1e-5, rtol=1e-6)


def test_internvl3_5_has_the_decoder_of_qwen3(tmp_path: Path) -> None:
    build_internvl(tmp_path, decoder="qwen3")
    family = family_of(tmp_path)
    part = make_part(family, tmp_path, mixed_groups())
    plain = InternVLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    policy = family.load(tmp_path, device=CPU)
    names = {policy.published_name(key) for key, _ in policy.named_weights()}
    assert names == load_file(tmp_path / "model.safetensors").keys()
    with torch.no_grad():
        got = logprobs_of(policy, part)
        for number, sample in enumerate(part.samples):
            want = plain_logprobs(plain, "internvl", tmp_path, sample.rollout)
            torch.testing.assert_close(got[number], want, atol=1e-5, rtol=0)
