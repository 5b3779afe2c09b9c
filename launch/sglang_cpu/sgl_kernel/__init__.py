"""Stands in for SGLang's CPU kernels, of which PyPI has no package.

SGLang looks for `convert_weight_packed` to know whether the fast kernels are there; it is not, so
SGLang computes with plain torch. What is left is what its modules bind when they are imported: one
function that is called, and names of what is not served here (other models, speculative decoding),
which say so when called.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

_UNUSED_OPERATORS = (
    "fused_gdn_gating_cpu",
    "fused_qk_gemma_rmsnorm_cpu",
    "fused_qk_gemma_rmsnorm_with_gate_cpu",
    "fused_qkvzba_split_reshape_cat_contiguous_cpu",
    "fused_qkvzba_split_reshape_cat_cpu",
    "fused_sigmoid_gating_delta_rule_update_cpu",
    "fused_sigmoid_mul_cpu",
)
# Declared, not implemented: torch says so if one is ever called. The object must stay alive.
_library = torch.library.Library("sgl_kernel", "FRAGMENT")
for _name in _UNUSED_OPERATORS:
    _library.define(f"{_name}(Tensor x) -> Tensor")


def assign_req_to_token_pool_cpu(
    rows: Tensor, table: Tensor, starts: Tensor, ends: Tensor, slots: Tensor, width: int
) -> None:
    """Note where the cache holds each request's new tokens.

    Args:
        rows: [requests] of `table`.
        table: [rows, width] int32, written in place.
        starts, ends: [requests], the columns that are new.
        slots: [sum of ends - starts], in the order of the requests.
        width: of `table`.
    """
    taken = 0
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        assert end <= width, f"{end} tokens for a table of {width}"
        table[row, start:end] = slots[taken : taken + end - start].to(table.dtype)
        taken += end - start


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"the CPU stand-in for sgl_kernel has no {name}")

    return missing
