"""Kernels of state-space models, which the stand-in does not serve."""

from typing import Any, NoReturn


def _missing(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError("the CPU stand-in serves no state-space models")


causal_conv1d_fn_cpu = causal_conv1d_update_cpu = chunk_gated_delta_rule_cpu = _missing
