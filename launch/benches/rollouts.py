"""Batches of rollouts for the learner's benchmark: played by the shipped base, or made up.

Each is the batch of one step of one policy, so a benchmark has one for every policy. On the disk
it is two files: NAME.groups, which our learner reads as it gets them from the engine, and
NAME.safetensors for another trainer, with images decoded and prompts expanded beforehand.

A rollout's behaviour log-probs are the model's own (plain transformers, one sequence at a time)
plus a little noise, as if older weights had sampled it. Advantages are drawn: they cost nothing.
"""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, Qwen3VLForConditionalGeneration

from engine.encoding import TextEncoder
from engine.types import Group, Rollout, SamplingParams, Segment
from engine.wire import decode_group, encode_group, pack, unpack
from evals.heldout import heldout_items
from evals.scenes import language
from evals.scenes.drawing import to_svg
from launch.pretraining.pictures import render
from roles.mm_zero.prompts import load_prompts

NOISE = 0.05
"""Standard deviation of what is added to a behaviour log-prob, nats."""
TOPICS = ("colors", "shapes", "sizes", "mixtures")
Batches = dict[str, list[Group]]


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt, how often it is answered, and by how many tokens at most."""

    prompt_ids: tuple[int, ...]
    num: int
    max_new_tokens: int
    png: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of made-up batches: lengths are drawn between half and one and a half of what is named."""

    pictures: int
    prompts: int
    """Text-only ones."""
    samples: int
    """Rollouts of each prompt."""
    prompt_tokens: int
    """Without the picture's."""
    answer_tokens: int
    side: int
    """Pixels of a picture."""


class Plain:
    """A Qwen3-VL of plain transformers, called with one prompt at a time."""

    def __init__(self, folder: Path, device: str) -> None:
        config = AutoConfig.from_pretrained(folder)
        self.module: Any = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=config.dtype
        )
        torch.nn.Module.to(self.module, device).eval()
        self.device = device
        self.image_token = int(config.image_token_id)
        self.vocab_size = int(config.text_config.vocab_size)
        self._merge = int(config.vision_config.spatial_merge_size)
        self._processor = AutoImageProcessor.from_pretrained(folder, backend="pil")

    def see(self, png: bytes) -> tuple[Tensor, Tensor]:
        """([patches, values] float32, [1, 3] grid) of a picture."""
        with Image.open(io.BytesIO(png)) as image:
            seen = self._processor(images=[image.convert("RGB")], return_tensors="pt")
        return seen["pixel_values"].float(), seen["image_grid_thw"]

    def inputs(self, ask: Ask) -> dict[str, Tensor]:
        """What the module takes for the prompt of `ask`, its placeholder expanded."""
        ids, pictures = list(ask.prompt_ids), {}
        if ask.png is not None:
            pixels, grid = self.see(ask.png)
            place = ids.index(self.image_token)
            ids[place : place + 1] = [self.image_token] * (int(grid.prod()) // self._merge**2)
            pictures = {"pixel_values": pixels, "image_grid_thw": grid}
        whole = torch.tensor([ids])
        is_image = (whole == self.image_token).int()
        found = {"input_ids": whole, "mm_token_type_ids": is_image, **pictures}
        return {name: value.to(self.device) for name, value in found.items()}

    @torch.inference_mode()
    def sample(self, ask: Ask) -> list[list[int]]:
        """`ask.num` answers by `generate` at temperature 1, end tokens included."""
        inputs = self.inputs(ask)
        whole = self.module.generate(
            **inputs, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            num_return_sequences=ask.num, max_new_tokens=ask.max_new_tokens,
        )  # fmt: skip
        ends = set(self.module.generation_config.eos_token_id)
        answers = whole[:, inputs["input_ids"].shape[1] :].tolist()
        return [_until_end(answer, ends) for answer in answers]

    @torch.inference_mode()
    def logprobs(self, ask: Ask, answer: Sequence[int]) -> list[float]:
        """[len(answer)] log-probs at temperature 1, nats."""
        inputs = self.inputs(ask)
        added = torch.tensor([list(answer)], device=self.device)
        for name, more in (("input_ids", added), ("mm_token_type_ids", torch.zeros_like(added))):
            inputs[name] = torch.cat([inputs[name], more.to(inputs[name].dtype)], 1)
        logits = self.module(**inputs, use_cache=False, logits_to_keep=len(answer) + 1).logits
        scores = logits[0, :-1].float().log_softmax(-1).gather(-1, added[0, :, None])
        found: list[float] = scores[:, 0].tolist()
        return found


def _until_end(answer: list[int], ends: set[int]) -> list[int]:
    for length, token in enumerate(answer, start=1):
        if token in ends:
            return answer[:length]
    return answer


def played(folder: Path, *, games: int, seed: int) -> Batches:
    """A step of the quickstart's three policies: real prompts and pictures, real answers.

    As many as `games` games make of them: 4 proposals each, 4 drawings of each of these, and of 16
    pictures in 3 games' 48 the 8 answers to a question that are worth training on.
    """
    torch.manual_seed(seed)
    plain, encoder, prompts = Plain(folder, "cpu"), TextEncoder.load(folder), load_prompts("tiny")
    items = heldout_items("dev", 4 * games, seed)
    asks: dict[str, list[Ask]] = {"proposer": [], "coder": [], "solver": []}
    for game in range(games):
        messages = prompts.proposer(TOPICS[game % len(TOPICS)])
        asks["proposer"].append(Ask(tuple(encoder.encode(messages)), 4, 96))
    for item in items:
        messages = prompts.coder(
            caption=language.caption(item.scene), easy_question=item.easy.text,
            easy_answer=item.easy.answer, hard_question=item.hard.text,
        )  # fmt: skip
        asks["coder"].append(Ask(tuple(encoder.encode(messages)), 4, 120))
    for item in items[: 8 * games // 3]:
        picture = png_of(render(to_svg(item.scene)))
        for question in (item.easy.text, item.hard.text):
            ids = tuple(encoder.encode(prompts.solver(question)))
            asks["solver"].append(Ask(ids, 8, 64, picture))
    rng = random.Random(seed)
    return {
        role: [_group(plain, role, ask, plain.sample(ask), rng) for ask in some]
        for role, some in asks.items()
    }


def made_up(folder: Path, shape: Shape, *, seed: int, device: str) -> Batches:
    """Random tokens for a random model: two questions on each picture, and text alone."""
    plain, rng = Plain(folder, device), random.Random(seed)
    noise = np.random.default_rng(seed)
    asks: dict[str, list[Ask]] = {"pictures": [], "text": []}
    for _ in range(shape.pictures):
        pixels = noise.integers(0, 256, (shape.side, shape.side, 3), dtype=np.uint8)
        picture = png_of(Image.fromarray(pixels))
        for _ in range(2):
            ids = (plain.image_token, *_tokens(plain, rng, shape.prompt_tokens))
            asks["pictures"].append(Ask(ids, shape.samples, 2 * shape.answer_tokens, picture))
    for _ in range(shape.prompts):
        ids = _tokens(plain, rng, shape.prompt_tokens)
        asks["text"].append(Ask(ids, shape.samples, 2 * shape.answer_tokens))
    return {
        name: [
            _group(
                plain, name, ask,
                [list(_tokens(plain, rng, shape.answer_tokens)) for _ in range(ask.num)], rng,
            )
            for ask in some
        ]
        for name, some in asks.items() if some
    }  # fmt: skip


def _tokens(plain: Plain, rng: random.Random, num: int) -> tuple[int, ...]:
    """Ordinary ids: the special ones of the tiny base's tokenizer are the first."""
    length = rng.randint(max(1, num // 2), num + num // 2)
    return tuple(rng.randrange(64, plain.vocab_size) for _ in range(length))


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _group(
    plain: Plain, stream: str, ask: Ask, answers: list[list[int]], rng: random.Random
) -> Group:
    rollouts = tuple(
        Rollout(
            policy=stream,
            role=stream,
            prompt_ids=ask.prompt_ids,
            images=() if ask.png is None else (ask.png,),
            token_ids=tuple(answer),
            logprobs=tuple(x + rng.gauss(0, NOISE) for x in plain.logprobs(ask, answer)),
            segments=(Segment(0, 0),),
            finish="stop",
            sampling=SamplingParams(max_new_tokens=ask.max_new_tokens),
            text="",
        )
        for answer in answers
    )
    drawn = np.array([rng.gauss(0, 1) for _ in answers])
    advantages = (drawn - drawn.mean()) / drawn.std(ddof=1)
    return Group(
        stream=stream,
        game=0,
        rollouts=rollouts,
        rewards=tuple(drawn.tolist()),
        advantages=tuple(advantages.tolist()),
    )


def write(batches: Batches, folder: Path, model: Path) -> None:
    """Both files of every batch."""
    plain = Plain(model, "cpu")
    for name, groups in batches.items():
        images: dict[str, bytes] = {}
        headers = []
        for group in groups:
            header, pictures = encode_group(group)
            headers.append(header)
            images |= pictures
        (folder / f"{name}.groups").write_bytes(pack([headers, images]))
        save_file(_tensors(plain, groups), folder / f"{name}.safetensors")


def read(path: Path) -> list[Group]:
    """The groups of a NAME.groups file. Raises TransportError where it is none."""
    headers, images = unpack(path.read_bytes())
    return [decode_group(header, images) for header in headers]


def _tensors(plain: Plain, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Rollout after rollout, flat: *_ids with *_lengths; `image` is the row of `grids`, or -1."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    pictures = dict.fromkeys(png for rollout in rollouts for png in rollout.images)
    seen = [plain.see(png) for png in pictures]
    place = {png: row for row, png in enumerate(pictures)}
    prompts = [
        plain.inputs(Ask(r.prompt_ids, 1, 1, r.images[0] if r.images else None))["input_ids"][0]
        for r in rollouts
    ]
    answers = [torch.tensor(rollout.token_ids) for rollout in rollouts]
    return {
        "prompt_ids": torch.cat(prompts),
        "prompt_lengths": torch.tensor([len(prompt) for prompt in prompts]),
        "answer_ids": torch.cat(answers),
        "answer_lengths": torch.tensor([len(answer) for answer in answers]),
        "logprobs": torch.tensor([x for rollout in rollouts for x in rollout.logprobs]),
        "advantages": torch.tensor([a for group in groups for a in group.advantages or ()]),
        "image": torch.tensor([place[r.images[0]] if r.images else -1 for r in rollouts]),
        "image_token": torch.tensor(plain.image_token),
        "pixels": torch.cat([pixels for pixels, _ in seen]) if seen else torch.empty(0),
        "grids": torch.cat([grid for _, grid in seen]) if seen else torch.empty(0, 3).long(),
    }
