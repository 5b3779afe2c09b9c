"""What a learner will send against what a server holds, before the first publication.

Servers skip names that they do not know, silently: a policy would be half its base for ever. The
embedded server has the learner's names; SGLang (0.5.23) has its own, of fused projections, and
gives no shapes: these are left to the probe that follows every publication.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.server_calls import Held

TIED = "lm_head.weight"
_PREFIXES = (("model.language_model.", "model."), ("model.visual.", "visual."))
_FUSED = {
    ".qkv_proj.": (".q_proj.", ".k_proj.", ".v_proj."),
    ".gate_up_proj.": (".gate_proj.", ".up_proj."),
    ".attn.qkv_proj.": (".attn.qkv.",),
}
_COMPUTED = (".rotary_emb.", ".rotary_pos_emb.")
"""Tables that a server makes itself and lists among its weights."""
_NAMED = 6
"""Names that an error lists of each kind."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One tensor that a learner publishes."""

    dtype: str
    """"float32", "bfloat16", ..."""
    shape: tuple[int, ...]


def fused_name(name: str) -> str:
    """The name under which SGLang holds the tensor that the Hub calls `name`."""
    for here, there in _PREFIXES:
        if name.startswith(here):
            name = there + name.removeprefix(here)
            break
    for fused, parts in _FUSED.items():
        for part in parts:
            name = name.replace(part, fused)
    return name


def _partners(name: str) -> list[str]:
    """Names of all tensors that are fused with this one, itself among them."""
    for parts in _FUSED.values():
        for part in parts:
            if part in name:
                return [name.replace(part, other) for other in parts]
    return [name]


def misfits(sent: Mapping[str, Sent], held: Mapping[str, Held], *, tied: bool) -> list[str]:
    """What is wrong between the weights that are sent and those that a server holds, a line for
    each kind; empty where they fit.

    `tied`: the output embedding is the input's, and may be absent on either side.
    """
    theirs = {name for name in held if not any(part in name for part in _COMPUTED)}
    ours = {name: name if name in theirs else fused_name(name) for name in sent}
    optional = {TIED} if tied else set()
    missing = theirs - set(ours.values()) - optional
    for name, mapped in ours.items():
        if mapped != name and mapped in theirs:  # fused, perhaps of less than all its parts
            missing |= {partner for partner in _partners(name) if partner not in sent}
    extra = sorted(name for name, mapped in ours.items() if mapped not in theirs | optional)
    shapes, dtypes = [], []
    for name, tensor in sent.items():
        other = held.get(name)
        if other is None:
            continue
        if other.shape not in (None, tensor.shape):
            shapes.append(f"{name} {list(tensor.shape)} for {list(other.shape or ())}")
        if other.dtype and not _holds(other.dtype, tensor.dtype):
            dtypes.append(f"{name} {tensor.dtype} for {other.dtype}")
    found = {
        "the server has what the learner does not send": sorted(missing),
        "the server does not know": extra,
        "of another shape": shapes,
        "of a dtype that loses some": dtypes,
    }
    return [f"{text}: {_listed(names)}" for text, names in found.items() if names]


def _holds(wide: str, narrow: str) -> bool:
    """Can a tensor of dtype `wide` hold one of dtype `narrow` without loss?"""
    kind: torch.dtype = getattr(torch, wide)
    return torch.promote_types(kind, getattr(torch, narrow)) == kind


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
