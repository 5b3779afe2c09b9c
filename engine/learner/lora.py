"""Low-rank adapters (LoRA, arXiv:2106.09685) through peft: few are trained, all are published.

The decoder's linear layers get W + s B A, with W frozen in the folder's own dtype. Servers never
hear of adapters: what is published and checkpointed as a model is the sum, rounded to that dtype.

To the nearest number of bfloat16 most of it would be lost: for a thousand steps s B A may be
smaller than half the distance of W's neighbours, and W is one of those numbers, so that nothing
would ever move. So it is rounded up or down as far as it is from either: right on average over a
layer's weights, with a chance that is fixed for each of them, so that all ranks, servers and
checksums agree, and what has not changed stays as it is.
"""

import re
import zlib
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


def rounded(weight: Tensor, name: str) -> Tensor:
    """float32 to bfloat16: towards either neighbour with a chance as large as it is near, by random
    numbers that belong to `name`. Changes `weight`; it has to be finite.

    bfloat16 is the upper half of float32: a number from 0 to 2^16 - 1 added to the lower half
    carries into the upper one with just that chance, and never where the lower half is 0.
    """
    generator = torch.Generator(weight.device).manual_seed(zlib.crc32(name.encode()))
    chance = torch.randint(
        0, 1 << 16, weight.shape, generator=generator, device=weight.device, dtype=torch.int32
    )
    weight.view(torch.int32).add_(chance).bitwise_and_(-1 << 16)
    return weight.bfloat16()


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
