"""What canned rollout servers answer: replies of the three roles, as long as one wants.

Proposals, drawings and answers are of the embedded world, well-formed, behind a thought that fills
them up; half of the answers agree, so that votes come out as a solver's do that learns. Beside
their text they have token ids and log-probs, encoded once, as SGLang writes them.
"""

import json
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.encoding import TextEncoder
from evals.scenes import language
from evals.scenes.drawing import to_svg
from evals.scenes.scene import random_scene

ROLES = ("proposer", "coder", "solver")
LARGE_IDS = 150_000
"""Where the ids of ordinary tokens begin: as long to write as those of a large vocabulary."""
_ANSWERS = ("3", "yes", "red", "2", "\\frac{1}{2}")
_WEIGHTS = (6, 2, 1, 1, 1)
_PADDING = "A picture shows what its caption says, and nothing else is to be seen in it. "
_MEAN_NATS = 0.3


@dataclass(frozen=True, slots=True)
class CannedReply:
    """The costly parts of an answer to /generate, as JSON."""

    num_tokens: int
    text: bytes
    output_ids: bytes
    logprobs: bytes


def canned_model(base: Path, folder: Path, prompt_tokens: int) -> None:
    """A model folder without weights: that of `base`, with ids of a large vocabulary, whose chat
    template puts a system message in front, so that a prompt has `prompt_tokens` or a few more."""
    folder.mkdir()
    for path in base.glob("*.json"):
        (folder / path.name).write_text(path.read_text())
    template = (base / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    special = {token["content"] for token in tokenizer["added_tokens"]}
    words = tokenizer["model"]["vocab"]
    for word in words.keys() - special:
        words[word] += LARGE_IDS
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["vocab_size"] = 1 + max(words.values())
    (folder / "config.json").write_text(json.dumps(config))
    encoder = TextEncoder.load(folder)
    number = -(-prompt_tokens // len(encoder.tokenizer.encode(_PADDING).ids))
    system = f"{{{{- '<|im_start|>system\\n{_PADDING * number}<|im_end|>\\n' }}}}\n"
    (folder / "chat_template.jinja").write_text(system + template)


def canned_replies(
    encoder: TextEncoder, role: str, *, tokens: int, number: int, seed: int = 0
) -> list[CannedReply]:
    """`number` different ones, each of `tokens` tokens (or more, where what it says takes more)."""
    rng = random.Random(f"{role} {seed}")
    end = _ENDS[role]
    return [_encoded(encoder, _ids(encoder, end(rng), rng, tokens), rng) for _ in range(number)]


def answer_body(reply: CannedReply, meta: Mapping[str, Any]) -> bytes:
    """The JSON of an answer to /generate; `meta` without what `reply` has."""
    small = json.dumps(
        {"finish_reason": {"type": "stop"}, "completion_tokens": reply.num_tokens, **meta},
        separators=(",", ":"),
    ).encode()
    return b"".join(
        (
            b'{"text":',
            reply.text,
            b',"output_ids":',
            reply.output_ids,
            b',"meta_info":',
            small[:-1],
            b',"output_token_logprobs":',
            reply.logprobs,
            b"}}",
        )
    )


def _proposal(rng: random.Random) -> str:
    scene = random_scene(rng)
    easy = language.easy_question(scene, rng)
    hard = language.hard_question(scene, rng)
    fields = {
        "content_type": "geometry",
        "caption": language.caption(scene),
        "easy_question": easy.text,
        "easy_answer": easy.answer,
        "hard_question": hard.text,
        "hard_answer": hard.answer,
    }
    return "".join(f"<{tag}>{value}</{tag}>" for tag, value in fields.items())


def _drawing(rng: random.Random) -> str:
    return to_svg(random_scene(rng))


def _answer(rng: random.Random) -> str:
    return f"\\boxed{{{rng.choices(_ANSWERS, _WEIGHTS)[0]}}}"


_ENDS: Mapping[str, Callable[[random.Random], str]] = {
    "proposer": _proposal,
    "coder": _drawing,
    "solver": _answer,
}


def _ids(encoder: TextEncoder, end: str, rng: random.Random, tokens: int) -> list[int]:
    """Of a thought and what follows it, the stop token included."""
    encode = encoder.tokenizer.encode
    last = [*encode(f"</think>{end}", add_special_tokens=False).ids, encoder.eos_ids[0]]
    first = encode("<think>", add_special_tokens=False).ids
    thought: list[int] = []
    while len(thought) < tokens:
        scene = f"{language.caption(random_scene(rng))}, "
        thought += encode(scene, add_special_tokens=False).ids
    return [*first, *thought[: max(0, tokens - len(first) - len(last))], *last]


def _encoded(encoder: TextEncoder, ids: list[int], rng: random.Random) -> CannedReply:
    # A server's log-probs are of float32, which takes seventeen digits to write as a double.
    drawn = [-rng.expovariate(1 / _MEAN_NATS) for _ in ids]
    logprobs = struct.unpack(f"{len(ids)}f", struct.pack(f"{len(ids)}f", *drawn))
    pairs = [[logprob, token, None] for logprob, token in zip(logprobs, ids, strict=True)]
    return CannedReply(
        num_tokens=len(ids),
        text=json.dumps(encoder.decode(ids)).encode(),
        output_ids=json.dumps(ids, separators=(",", ":")).encode(),
        logprobs=json.dumps(pairs, separators=(",", ":")).encode(),
    )
