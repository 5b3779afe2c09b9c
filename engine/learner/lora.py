"""Low-rank adapters (LoRA, arXiv:2106.09685) through peft: few are trained, all are published.

The decoder's linear layers get W + s B A, with W frozen in the folder's own dtype. Servers never
hear of adapters: what is published and checkpointed as a model is the sum.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from engine.learner.base_model import check_targets
from engine.learner.config import LoraConfig
from engine.learner.families import PolicyModel

ADAPTER = "policy"
"""peft's name of the one adapter."""
_WRAPPED = ".base_layer."


def add_adapters(model: PolicyModel, cfg: LoraConfig, *, seed: int, dtype: torch.dtype) -> None:
    """Freeze `model` in `dtype`, and give its decoder's layers adapters that change nothing yet.

    B is 0; A is the same for the same seed, so that all ranks agree. Raises ConfigError where no
    linear layer is named as `cfg.targets` say.
    """
    import peft

    model.requires_grad_(False)
    layers: nn.Module = model.language.layers
    linear = {n.rpartition(".")[2] for n, m in layers.named_modules() if type(m) is nn.Linear}
    check_targets(cfg, linear)
    wanted = peft.LoraConfig(
        r=cfg.rank, lora_alpha=cfg.alpha, lora_dropout=0.0, target_modules=list(cfg.targets)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(wanted, layers, adapter_name=ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else dtype)


def merged_weights(
    model: PolicyModel,
) -> Iterator[tuple[str, Tensor, tuple[Tensor, Tensor, float] | None]]:
    """(name without adapters, weight, (A, B, s) or None): the weight to publish is W + s B A.

    Without adapters simply all parameters.
    """
    adapted = {
        name: module for name, module in model.model.named_modules() if hasattr(module, "lora_A")
    }
    for name, parameter in model.named_weights():
        if re.search(r"\.lora_[AB]\.", name):
            continue
        owner, wrapped, leaf = name.partition(_WRAPPED)
        if not wrapped:
            yield name, parameter, None
            continue
        module = adapted[owner]
        factors = None
        if leaf == "weight":
            a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
            factors = (a, b, float(module.scaling[ADAPTER]))
        yield f"{owner}.{leaf}", parameter, factors
