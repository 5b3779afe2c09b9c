"""What autograd keeps of our forward pass, and what a layer's backward pass needs: bytes. No torch.

The coefficients follow from the modules of Qwen3-VL and our attention; tests compare them with what
autograd really saves. Families without q/k norms in the decoder (Qwen2.5-VL, InternVL3) keep less
there.

c: bytes of a number of forward and backward (2: bfloat16); H, F: hidden and intermediate size; D:
size of a head; V, W: hidden and intermediate size of the vision tower.
"""

from engine.learner.costs import ModelShape

PATCH_NUMBERS = 3 * 2 * 16 * 16
"""Pixel values of a patch (Qwen3-VL's; other families have fewer)."""
MERGERS = 4
"""Projections to the decoder: one, and three for its first layers (Qwen3-VL's deepstack)."""
ADAPTED = 7
"""Linear layers of a decoder layer that LoRA adapts at most."""


def activation_bytes(
    shape: ModelShape,
    *,
    tokens: float,
    patches: float,
    compute_bytes: int,
    checkpointing: bool,
    lora_rank: int | None = None,
) -> float:
    """What autograd keeps of a forward pass over `tokens` and, in the vision tower, `patches`.

    A decoder layer keeps `layer_bytes` a token, a vision block `block_bytes` a patch; checkpointed,
    both keep their inputs: c H and c V. Beside them, a token: (4 + c) H of the last norm, c H if it
    is scored, 2 c D of rotary angles; a patch: its pixels, and 4 c V in each merger.
    """
    c = compute_bytes
    layer = c * shape.hidden if checkpointing else layer_bytes(shape, c)
    block = c * shape.vision_hidden if checkpointing else block_bytes(shape, c)
    adapters = 0 if lora_rank is None or checkpointing else ADAPTED * c * lora_rank
    token = shape.layers * (layer + adapters) + (4 + 2 * c) * shape.hidden + 2 * c * shape.head_dim
    patch = shape.vision_layers * block + MERGERS * 4 * c * shape.vision_hidden + c * PATCH_NUMBERS
    return token * tokens + patch * patches


def layer_bytes(shape: ModelShape, compute_bytes: int) -> float:
    """Bytes per token that autograd keeps of a decoder layer:

    H (8 + 4 c)             two norms: the input in float32, normalised, scaled
    heads D (4 + 3 c)       q before its norm in float32, normalised, turned; attention's output
    kv_heads D (4 + 3 c)    k the same, and v
    F 4 c                   gate, its activation, up, their product
    4 (2 heads + kv_heads)  log-sum-exp of attention, and the scales of the norms
    """
    c = compute_bytes
    return (
        (8 + 4 * c) * shape.hidden
        + (4 + 3 * c) * (shape.heads + shape.kv_heads) * shape.head_dim
        + 4 * c * shape.intermediate
        + 4 * (2 * shape.heads + shape.kv_heads)
    )


def block_bytes(shape: ModelShape, compute_bytes: int) -> float:
    """Bytes per patch that autograd keeps of a vision block:

    V 11 c      two norms: input and output; q, k, v as one; q, k turned; attention's output as it
                was computed, and joined over pictures
    W 2 c       before and after the activation
    """
    return compute_bytes * (11 * shape.vision_hidden + 2 * shape.vision_intermediate)


def working_bytes(shape: ModelShape, compute_bytes: int) -> float:
    """Bytes per token that the backward pass of a decoder layer needs for itself.

    Its MLP: c (2 F + H), gradients of gate and up, and the one that came in. Its attention: copies
    of q, k, v, the output and its gradient for the completions, and gradients of both calls,
    c (8 heads + 6 kv_heads) D, with 4 heads D of the kernel's own; by then what the MLP kept is
    free: 4 c F + (4 + 2 c) H.
    """
    c, size = compute_bytes, shape.head_dim
    mlp = c * (2 * shape.intermediate + shape.hidden)
    attention = c * (8 * shape.heads + 6 * shape.kv_heads) * size + 4 * shape.heads * size
    freed = 4 * c * shape.intermediate + (4 + 2 * c) * shape.hidden
    return max(mlp, attention - freed)


def passing_bytes(shape: ModelShape, compute_bytes: int) -> float:
    """Bytes per token of a decoder layer's forward pass that keeps nothing: gate, its activation
    and up, 3 c F, and a norm, (4 + 2 c) H."""
    c = compute_bytes
    return 3 * c * shape.intermediate + (4 + 2 * c) * shape.hidden


def adapter_params(shape: ModelShape, rank: int) -> float:
    """rank (inputs + outputs) of all seven linear layers of every decoder layer."""
    q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * (shape.hidden + q) + 2 * (shape.hidden + k)
    return shape.layers * rank * (attention + 3 * (shape.hidden + shape.intermediate))
