"""Batched sampling from the tiny model, for measuring it: plain transformers modules and cache."""

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from launch.pretraining.model import Batch, collate, embed

_SHRINK_BELOW = 0.7


@torch.inference_mode()
def sample(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    *,
    pictures: list[int | None] | None = None,
    patches: torch.Tensor | None = None,
    n: int = 1,
    max_new_tokens: int = 96,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[list[str]]:
    """`n` replies to each prompt (ids with image tokens expanded), without special tokens.

    `patches` holds the pictures, `pictures[i]` the one of prompt i. Temperature 0 is greedy.
    """
    config = model.config
    batch = collate(
        prompts,
        pictures or [None] * len(prompts),
        torch.empty(0) if patches is None else patches,
        image_token=config.image_token_id,
        pad_token=tokenizer.pad_token_id,
        pad_left=True,
    )
    generator = torch.Generator().manual_seed(seed)
    tokens = _decode(
        model, batch, n, max_new_tokens, temperature, generator, tokenizer.eos_token_id
    )
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [texts[i * n : (i + 1) * n] for i in range(len(prompts))]


def _decode(
    model: Qwen3VLForConditionalGeneration, batch: Batch, n: int, max_new_tokens: int,
    temperature: float, generator: torch.Generator, end: int,
) -> list[list[int]]:  # fmt: skip
    """Token ids of each reply, prompt-major, up to and without the end token."""
    text_model = model.model.language_model
    embeds, visual, deepstack = embed(model, batch)
    cache = DynamicCache(config=text_model.config)
    out = text_model(
        inputs_embeds=embeds, attention_mask=batch.mask_BT, position_ids=batch.positions_3BT,
        past_key_values=cache, visual_pos_masks=visual, deepstack_visual_embeds=deepstack,
    )  # fmt: skip
    cache.batch_repeat_interleave(n)
    last = out.last_hidden_state[:, -1].repeat_interleave(n, 0)
    mask = batch.mask_BT.repeat_interleave(n, 0)
    place = batch.positions_3BT[:, :, -1:].repeat_interleave(n, 1)
    alive = np.arange(len(last))
    replies: list[list[int]] = [[] for _ in alive]
    finished = np.zeros(len(last), bool)
    for _ in range(max_new_tokens):
        tokens = _draw(model.lm_head(last), temperature, generator)
        for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            if token == end:
                finished[row] = True
            elif not finished[row]:
                replies[row].append(token)
        unfinished = np.flatnonzero(~finished[alive])
        keep = torch.from_numpy(unfinished)
        if not len(keep):
            break
        if len(keep) < _SHRINK_BELOW * len(alive):
            cache.batch_select_indices(keep)
            tokens, mask, place, alive = tokens[keep], mask[keep], place[:, keep], alive[unfinished]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        place = place + 1
        out = text_model(
            inputs_embeds=model.get_input_embeddings()(tokens[:, None]), attention_mask=mask,
            position_ids=place, past_key_values=cache,
        )  # fmt: skip
        last = out.last_hidden_state[:, -1]
    return replies


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
