"""Do the learners fit? Compares the memory model (`memory.py`) with what there is. No torch.

Before anything starts where the layout says how much that is, and on CUDA, when a rank begins,
against its device.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.learner.base_model import compute_dtype, read_json
from engine.learner.config import LearnerConfig
from engine.learner.costs import ModelShape
from engine.learner.memory import GB, MemoryEstimate, Setup, Terms, learner_memory, worst


def setup_of(
    base: Path,
    cfg: LearnerConfig,
    *,
    policies: int,
    ranks: int,
    shard: int | None = None,
    longest_row: int = 0,
    followers: int = 0,
    bucket_mb: float = 64.0,
    overlap: bool = False,
) -> Setup:
    """The setup of a group whose policies start from folder `base`."""
    return setup_for(
        cfg,
        compute_bytes=compute_bytes(read_json(base / "config.json")),
        policies=policies,
        ranks=ranks,
        shard=shard,
        longest_row=longest_row,
        followers=followers,
        bucket_mb=bucket_mb,
        overlap=overlap,
    )


def compute_bytes(config: Mapping[str, Any]) -> int:
    """Bytes of a number of forward and backward, by the dtype of a model's config.json."""
    return {"float32": 4, "bfloat16": 2}[compute_dtype(config)]


def setup_for(
    cfg: LearnerConfig,
    *,
    compute_bytes: int,
    policies: int,
    ranks: int,
    shard: int | None = None,
    longest_row: int = 0,
    followers: int = 0,
    bucket_mb: float = 64.0,
    overlap: bool = False,
) -> Setup:
    """The setup of a group, without a folder."""
    return Setup(
        policies=policies,
        ranks=ranks,
        shard=shard,
        tokens_per_micro_batch=cfg.tokens_per_micro_batch,
        longest_row=longest_row,
        compute_bytes=compute_bytes,
        activation_checkpointing=cfg.activation_checkpointing,
        offload_optimizer=cfg.offload_optimizer,
        lora_rank=cfg.lora.rank if cfg.lora else None,
        reference=cfg.objective.needs_reference,
        own_references=cfg.objective.moves_reference,
        updates_per_step=cfg.updates_per_step,
        followers=followers,
        bucket_mb=bucket_mb,
        prefetch=cfg.prefetch,
        overlap=overlap,
    )


def check_device(where: str, shape: ModelShape, setup: Setup, available: float) -> None:
    """Raise ConfigError (one line: what, by how much, why, fix) if a device of `available` bytes is
    too small for a rank. `where`: the layout's key of the group."""
    estimate = learner_memory(shape, setup)
    needed = estimate.device_bytes
    if needed <= available:
        return
    moment, terms = worst(estimate.device)
    if setup.longest_row > setup.tokens_per_micro_batch:
        moment += f", a reply and its prompt of {setup.longest_row} tokens"
    raise ConfigError(
        f"{where}: {setup.policies} x {shape.params / GB:.2f} B parameters on {setup.ranks} ranks "
        f"need {needed / GB:.1f} GB each ({moment}), {(needed - available) / GB:.1f} GB more than "
        f"there are: {_largest(terms)}; {_fix(shape, setup, available)}"
    )


def check_host(what: str, estimates: Mapping[str, MemoryEstimate], available: float) -> None:
    """Raise ConfigError if a host of `available` bytes is too small for these groups together.
    `what`: where that number comes from."""
    needed = sum(estimate.host_bytes for estimate in estimates.values())
    if needed <= available:
        return
    where, largest = max(estimates.items(), key=lambda item: item[1].host_bytes)
    moment, terms = worst(largest.host)
    fixes = ["give the host more memory", "learner.lora keeps little state"]
    if terms.get("offloaded moments"):
        fixes.insert(0, "use more ranks instead of learner.offload_optimizer")
    raise ConfigError(
        f"{what}: the learners need {needed / GB:.0f} GB of their host, "
        f"{(needed - available) / GB:.0f} GB more than there are; most in {where} ({moment}): "
        f"{_largest(terms)}; {', or '.join(fixes)}"
    )


def _largest(terms: Terms) -> str:
    return ", ".join(f"{term} {value / GB:.1f}" for term, value in list(terms.items())[:4])


def _fix(shape: ModelShape, setup: Setup, available: float) -> str:
    """The smallest change of the settings with which it fits."""
    for text, changed in _changes(setup):
        needed = learner_memory(shape, changed).device_bytes
        if needed <= available:
            return f"{text} needs {needed / GB:.1f} GB"
    return "nothing that we know makes it fit: use a smaller model"


def _changes(setup: Setup) -> Iterator[tuple[str, Setup]]:
    """Cheap ones first: host transfers, a forward pass more, small matrices, shorter replies where
    they alone are larger than a micro-batch, hardware, LoRA."""
    switches: Sequence[Mapping[str, Any]] = [
        {},
        {"offload_optimizer": True},
        {"activation_checkpointing": True},
        {"offload_optimizer": True, "activation_checkpointing": True},
    ]
    tokens = setup.tokens_per_micro_batch
    for size in (tokens, tokens // 2, tokens // 4):
        for switch in switches:
            changed = replace(setup, tokens_per_micro_batch=max(1, size), **switch)
            texts = [f"learner.{key}=true" for key in switch if not getattr(setup, key)]
            if size != tokens:
                texts.append(f"learner.tokens_per_micro_batch={size}")
            yield " with ".join(texts), changed
    everything = replace(setup, offload_optimizer=True, activation_checkpointing=True)
    for longest in (setup.longest_row // 2, setup.longest_row // 4):
        if tokens < longest:
            text = f"replies with prompts of {longest} tokens (max_new_tokens, context_length)"
            yield text, replace(setup, longest_row=longest)
    both = "learner.offload_optimizer=true with learner.activation_checkpointing=true"
    for ranks in (2 * setup.ranks, 4 * setup.ranks, 8 * setup.ranks):
        yield f"{both} on {ranks} ranks", replace(everything, ranks=ranks, shard=None)
    yield f"{both} and learner.lora={{rank: 32}}", replace(everything, lora_rank=32)
