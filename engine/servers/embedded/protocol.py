"""The JSON of SGLang's /generate: checked questions in, answers out. No torch, no sockets."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.servers.embedded.request import Progress, Sampling


class BadRequest(ValueError):
    """Answered with 400 and this message."""


_IGNORED = (
    "sampling_seed",
    "custom_params",
    "spaces_between_special_tokens",
    "n",
)
_REFUSED = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "min_new_tokens": 0,
    "stop_regex": None,
    "logit_bias": None,
    "json_schema": None,
    "regex": None,
    "ebnf": None,
    "structural_tag": None,
    "beam_width": None,
    "watermark": None,
}
"""Parameters that SGLang has and this server has not, with their neutral values."""
_HONOURED = (
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "skip_special_tokens",
    "no_stop_trim",
    "stream_interval",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One sequence that a client wants to have generated or scored."""

    rid: str
    input_ids: tuple[int, ...] | None
    text: str | None
    images: tuple[str, ...]
    """Base64 or data URIs."""
    sampling: Sampling
    return_logprob: bool
    logprob_start: int
    """-1: outputs only."""
    return_prompt_ids: bool
    priority: int


@dataclass(frozen=True, slots=True)
class Ask:
    """A parsed body."""

    questions: tuple[Question, ...]
    is_list: bool
    """The answer is a list."""
    stream: bool


def parse_generate(body: Any) -> Ask:
    """Check a /generate body; unknown top-level keys are ignored. Raises BadRequest."""
    if not isinstance(body, Mapping):
        raise BadRequest("the body must be a JSON object")
    if (body.get("text") is None) == (body.get("input_ids") is None):
        raise BadRequest("Either text or input_ids should be provided, and not both.")
    for name in ("top_logprobs_num", "token_ids_logprob", "return_hidden_states", "lora_path"):
        if body.get(name):
            raise BadRequest(f"{name} is not supported by the embedded server")
    source = "input_ids" if body.get("text") is None else "text"
    given = body[source]
    batched = isinstance(given, list) and bool(given) and isinstance(given[0], list | str)
    prompts = given if batched else [given]
    stream = _flag(body, "stream")
    questions: list[Question] = []
    is_list = batched
    for i, prompt in enumerate(prompts):
        one = _one_of_batch(body, i, len(prompts)) if batched else body
        parameters = one.get("sampling_params") or {}
        sampling, n = parse_sampling(parameters)
        is_list |= n > 1
        for _ in range(n):
            questions.append(_question(one, source, prompt, sampling, keep_rid=n == 1))
    return Ask(tuple(questions), is_list, stream)


def _one_of_batch(body: Mapping[str, Any], index: int, size: int) -> dict[str, Any]:
    """The fields of one prompt of a batch: lists are per prompt, all else holds for each."""
    one = dict(body)
    for name in ("rid", "image_data", "sampling_params", "return_logprob", "logprob_start_len"):
        value = body.get(name)
        if isinstance(value, list):
            if len(value) != size:
                raise BadRequest(f"{name}: {len(value)} entries for {size} prompts")
            one[name] = value[index]
        elif name == "rid" and isinstance(value, str):
            one[name] = f"{value}_{index}"
    return one


def _question(
    body: Mapping[str, Any], source: str, prompt: Any, sampling: Sampling, *, keep_rid: bool
) -> Question:
    rid = body.get("rid") if keep_rid else None
    if rid is not None and not isinstance(rid, str):
        raise BadRequest("rid must be a string")
    if source == "text" and not isinstance(prompt, str):
        raise BadRequest("text must be a string or a list of strings")
    images = body.get("image_data") or []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise BadRequest("image_data must be base64 text or a list of it")
    start = body.get("logprob_start_len", -1)
    start = -1 if start is None else start
    if not _is_int(start) or start < -1:
        raise BadRequest("logprob_start_len must be an integer >= -1")
    return_logprob = _flag(body, "return_logprob")
    return Question(
        rid=rid or uuid.uuid4().hex,
        input_ids=_token_ids(prompt) if source == "input_ids" else None,
        text=prompt if source == "text" else None,
        images=tuple(images),
        sampling=sampling,
        return_logprob=return_logprob,
        logprob_start=start if return_logprob else -1,
        return_prompt_ids=_flag(body, "return_prompt_token_ids"),
        priority=_number(body, "priority", 0, _is_int, "an integer"),
    )


def _token_ids(prompt: Any) -> tuple[int, ...]:
    if not isinstance(prompt, list) or not all(_is_int(token) for token in prompt):
        raise BadRequest("input_ids must be a list of integers or a list of such lists")
    if not prompt:
        raise BadRequest("input_ids is empty")
    return tuple(prompt)


def parse_sampling(given: Any) -> tuple[Sampling, int]:
    """Check sampling_params; returns them and `n`. Raises BadRequest."""
    if not isinstance(given, Mapping):
        raise BadRequest("sampling_params must be an object")
    known = {*_HONOURED, *_IGNORED, *_REFUSED}
    unknown = sorted(set(given) - known)
    if unknown:
        raise BadRequest(
            f"Unexpected sampling_params: {', '.join(unknown)}. Known: {', '.join(sorted(known))}"
        )
    for name, neutral in _REFUSED.items():
        if given.get(name) not in (None, neutral, [], {}):
            raise BadRequest(f"sampling_params.{name} is not supported by the embedded server")
    n = _number(given, "n", 1, lambda x: _is_int(x) and 1 <= x <= 256, "an integer in [1, 256]")
    return Sampling(
        max_new_tokens=_number(
            given, "max_new_tokens", 128, lambda x: _is_int(x) and x >= 0, "an integer >= 0"
        ),
        temperature=float(_number(given, "temperature", 1.0, lambda x: 0 <= x < 1e6, ">= 0")),
        top_p=float(_number(given, "top_p", 1.0, lambda x: 0 < x <= 1, "in (0, 1]")),
        top_k=_number(
            given,
            "top_k",
            -1,
            lambda x: _is_int(x) and (x == -1 or x >= 1),
            "-1 (disable) or an integer >= 1",
        ),
        min_p=float(_number(given, "min_p", 0.0, lambda x: 0 <= x <= 1, "in [0, 1]")),
        stop_strings=_stop_strings(given.get("stop")),
        stop_token_ids=_stop_token_ids(given.get("stop_token_ids")),
        ignore_eos=_flag(given, "ignore_eos"),
        skip_special_tokens=_flag(given, "skip_special_tokens", default=True),
        no_stop_trim=_flag(given, "no_stop_trim"),
        stream_interval=_number(
            given, "stream_interval", 1, lambda x: _is_int(x) and x >= 1, "an integer >= 1"
        ),
    ), n


def _number(
    given: Mapping[str, Any], name: str, default: Any, is_valid: Callable[[Any], bool], want: str
) -> Any:
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_valid(value):
        raise BadRequest(f"{name} must be {want}, got {value!r}")
    return value


def _flag(given: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = given.get(name)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false, got {value!r}")
    return value


def _stop_strings(value: Any) -> tuple[str, ...]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise BadRequest("stop must be a string or a list of strings, none of them empty")
    return tuple(texts)


def _stop_token_ids(value: Any) -> frozenset[int]:
    ids = [] if value is None else value
    if not isinstance(ids, list) or not all(_is_int(token) for token in ids):
        raise BadRequest("stop_token_ids must be a list of integers")
    return frozenset(ids)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def answer(
    question: Question,
    progress: Progress,
    *,
    prompt_ids: Sequence[int],
    image_columns: int,
    hidden_id: int | None,
    decode: Callable[[Sequence[int], bool], str],
    created_s: float,
) -> dict[str, Any]:
    """The answer to one question, complete or so far.

    Args:
        prompt_ids: with placeholders expanded.
        image_columns: how many of them are image tokens, each of them `hidden_id`.
        decode: (token ids, skip special tokens) -> text.
        created_s: Unix time of the question.
    """
    now = time.time()
    meta: dict[str, Any] = {
        "id": question.rid,
        "finish_reason": progress.finish,
        "prompt_tokens": len(prompt_ids),
        "weight_version": progress.version,
        "num_retractions": progress.retractions,
        "reasoning_tokens": 0,
        "completion_tokens": len(progress.token_ids),
        "cached_tokens": progress.cached_tokens,
        "cached_tokens_details": {"device": progress.cached_tokens, "host": 0},
        "dp_rank": None,
        "e2e_latency": now - created_s,
        "response_sent_to_client_ts": now,
    }
    if progress.finish is not None:  # told at the end only
        meta["weight_versions"] = [
            {"version": version, "start": first, "end": end}
            for version, first, end in progress.spans
        ]
    if image_columns:
        meta["image_tokens"] = image_columns
    if question.return_logprob:
        pairs = zip(progress.logprobs, progress.token_ids, strict=True)
        meta["output_token_logprobs"] = [[logprob, token, None] for logprob, token in pairs]
        meta["output_token_logprobs_length"] = len(progress.token_ids)
        scores = progress.input_logprobs or ()
        shown = prompt_ids[len(prompt_ids) - len(scores) :]
        meta["input_token_logprobs"] = [
            [score, 0 if token == hidden_id and image_columns else token, None]
            for score, token in zip(scores, shown, strict=True)
        ]
    result: dict[str, Any] = {
        "text": _text(question, progress, decode),
        "output_ids": list(progress.token_ids),
        "meta_info": meta,
    }
    if question.return_prompt_ids:
        result["prompt_token_ids"] = list(prompt_ids)
    return result


def _text(
    question: Question, progress: Progress, decode: Callable[[Sequence[int], bool], str]
) -> str:
    """The text without what stopped it, unless asked to keep it."""
    sampling = question.sampling
    matched = (progress.finish or {}).get("matched")
    ids: Sequence[int] = progress.token_ids
    if isinstance(matched, int) and not sampling.no_stop_trim:
        ids = ids[:-1]
    text = decode(ids, sampling.skip_special_tokens)
    if isinstance(matched, str) and not sampling.no_stop_trim:
        text = text.partition(matched)[0]
    return text
