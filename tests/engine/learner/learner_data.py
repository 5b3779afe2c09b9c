"""Pictures, rollouts and groups for a tiny random Qwen3-VL."""

import io
import random
from collections.abc import Sequence

from PIL import Image

from engine.types import Group, Rollout, SamplingParams, Segment

VOCAB = 160
IMAGE, VISION_START, VISION_END = 150, 151, 152


def make_png(seed: int, width: int = 96, height: int = 64) -> bytes:
    """Coloured noise: no two pictures look alike to the model."""
    values = random.Random(seed).randbytes(3 * (width // 8) * (height // 8))
    image = Image.frombytes("RGB", (width // 8, height // 8), values)
    buffer = io.BytesIO()
    image.resize((width, height), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def make_prompt(seed: int, length: int, num_images: int = 0) -> tuple[int, ...]:
    """Random words, then the images, then more words."""
    rng = random.Random(seed)
    words = [rng.randrange(1, 140) for _ in range(length)]
    images = [VISION_START, IMAGE, VISION_END] * num_images
    return (*words[: length // 2], *images, *words[length // 2 :])


def make_rollout(
    seed: int,
    *,
    prompt_ids: Sequence[int],
    images: Sequence[bytes] = (),
    num_tokens: int = 5,
    temperature: float = 1.0,
    logprobs: Sequence[float] | None = None,
    policy: str = "solver",
) -> Rollout:
    rng = random.Random(seed)
    token_ids = tuple(rng.randrange(1, 140) for _ in range(num_tokens))
    return Rollout(
        policy=policy,
        role=policy,
        prompt_ids=tuple(prompt_ids),
        images=tuple(images),
        token_ids=token_ids,
        logprobs=tuple(logprobs or [rng.uniform(-6, -2) for _ in token_ids]),
        segments=(Segment(0, 0),),
        finish="stop",
        sampling=SamplingParams(max_new_tokens=64, temperature=temperature),
        text="",
    )


def make_group(
    seed: int,
    *,
    num_rollouts: int = 4,
    num_images: int = 0,
    prompt_tokens: int = 6,
    image_seed: int | None = None,
    temperature: float = 1.0,
    policy: str = "solver",
    advantages: tuple[float, ...] | None = None,
) -> Group:
    rng = random.Random(seed)
    prompt = make_prompt(seed, prompt_tokens, num_images)
    first = seed if image_seed is None else image_seed
    images = [make_png(first + i, 64 if i % 2 else 96) for i in range(num_images)]
    rollouts = tuple(
        make_rollout(
            1000 * seed + i,
            prompt_ids=prompt,
            images=images,
            num_tokens=rng.randint(1, 9),
            temperature=temperature,
            policy=policy,
        )
        for i in range(num_rollouts)
    )
    return Group(
        stream=policy,
        game=seed,
        rollouts=rollouts,
        rewards=tuple(rng.random() for _ in range(num_rollouts)),
        advantages=advantages,
    )
