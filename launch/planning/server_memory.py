"""What a rollout server holds on each of its GPUs: bytes. No torch.

    weights      c P / tp: decoder, embeddings, vision tower
    cache        2 layers kv_heads head_dim c / tp bytes a token: keys and values
    beside them  CUDA's context and process groups; CUDA graphs; logits of a decode step, and what a
                 chunk of a prompt needs while it is read

SGLang gives weights and cache `mem_fraction` of the GPU. c: bytes of a number; P: parameters; tp:
GPUs of the server.
"""

import math
from dataclasses import dataclass

from engine.learner.activations import passing_bytes
from engine.learner.costs import ModelShape
from engine.learner.memory import GB

CONTEXT = 1.5 * GB
"""CUDA's context, cuBLAS's workspaces and NCCL's buffers. An allowance, as are CUDA graphs."""
GRAPHS = 2.0 * GB
PREFILL_CHUNK = 8192
"""Tokens of prompts that SGLang reads at a time."""
MOST_RUNNING = 512
"""Requests at a time that we let a server have."""
_LOGIT_BYTES = 3 * 4
"""Of a logit: raw, scaled, and its probability, all float32."""
MEM_FRACTION = 0.88
"""At most, as SGLang itself chooses on large GPUs."""
BETWEEN = 0.05
"""Of a GPU that several processes share: what stays free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMemory:
    """Bytes on each GPU of one server."""

    weights: float
    beside: float
    """What weights and cache leave to everything else."""
    token: float
    """Of the cache, per token."""
    tokens: int
    """That the cache holds."""

    @property
    def total(self) -> float:
        return self.weights + self.beside + self.token * self.tokens

    def requests(self, tokens: float) -> int:
        """Requests of so many tokens that the cache holds at a time, at most `MOST_RUNNING`."""
        return min(MOST_RUNNING, int(self.tokens / tokens))


def cache_bytes(shape: ModelShape, number_bytes: int, tp: int = 1) -> float:
    """Of a token, on each of `tp` GPUs; heads that are fewer than GPUs are held several times."""
    heads = max(1, math.ceil(shape.kv_heads / tp))
    return 2.0 * shape.layers * heads * shape.head_dim * number_bytes


def beside_bytes(shape: ModelShape, number_bytes: int, tp: int = 1) -> float:
    """All that a server needs on a GPU beside weights and cache."""
    work = working_bytes(shape, number_bytes, read=PREFILL_CHUNK, running=MOST_RUNNING)
    return CONTEXT + GRAPHS + work / tp


def working_bytes(shape: ModelShape, number_bytes: int, *, read: int, running: int) -> float:
    """Of a step that reads `read` tokens of prompts and gives `running` requests a token each."""
    return running * shape.vocabulary * _LOGIT_BYTES + read * passing_bytes(shape, number_bytes)


def server_memory(
    shape: ModelShape, *, number_bytes: int, memory: float, tp: int = 1, share: int = 1
) -> ServerMemory | None:
    """A server on GPUs of `memory` bytes, of which `share` equal servers divide each.

    None where weights and the rest leave no room for a cache at all.
    """
    weights = number_bytes * shape.params / tp
    beside = beside_bytes(shape, number_bytes, tp)
    own = memory * (1 - BETWEEN) / share if share > 1 else memory
    static = own - beside if share > 1 else mem_fraction(shape, number_bytes, memory, tp) * memory
    token = cache_bytes(shape, number_bytes, tp)
    tokens = int((static - weights) // token)
    if tokens <= 0:
        return None
    return ServerMemory(weights=weights, beside=beside, token=token, tokens=tokens)


def mem_fraction(shape: ModelShape, number_bytes: int, memory: float, tp: int = 1) -> float:
    """What weights and cache may have of a GPU that is the server's alone, in hundredths."""
    rest = beside_bytes(shape, number_bytes, tp)
    return max(0.0, min(MEM_FRACTION, math.floor(100 * (1 - rest / memory)) / 100))
