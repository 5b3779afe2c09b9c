"""Hyper-parameters of one policy's learner."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.learner.presets import ObjectiveConfig


class LoraConfig(BaseModel):
    """Low-rank adapters in the decoder's linear layers; everything else is frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(32, ge=1)
    alpha: int = Field(64, ge=1)
    """A layer's weight is W + alpha / rank * B A."""
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """Names of the layers."""


class LearnerConfig(BaseModel):
    """Objective, optimiser and batch shape. Defaults are the paper's scale on GPUs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    objective: ObjectiveConfig = ObjectiveConfig()
    """What an update maximises, e.g. `{preset: areal, eps_high: 0.3}`."""
    lr: float = Field(1e-6, gt=0)
    """Learning rate at the first step."""
    lr_decay: Literal["linear", "constant"] = "constant"
    """`linear` falls to 0 at the end of the last step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled weight decay."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest L2 norm of the gradient."""
    tokens_per_micro_batch: int = Field(8192, ge=1)
    """Bound on the tokens of a micro-batch, prompts and images included; nothing is padded."""
    prefetch: int = Field(2, ge=0)
    """Batches asked for ahead of the one that trains; from 2 on, one is prepared meanwhile. They
    make no data older: the oldest games go first in any case."""
    updates_per_step: int = Field(1, ge=1)
    """Optimiser updates per batch, each on its own part of the groups."""
    max_gap: float = Field(3.0, gt=0)
    """A batch whose |log pi_prox - log mu| is larger than this on average, in nats per token, was
    not sampled by anything like this policy: it is skipped as `exploding_ratio`."""
    gap_alarm: float = Field(0.1, gt=0)
    """A warning is given while |log pi - log mu| of tokens that these very weights sampled is
    larger than this on average: sampler and learner compute different things."""
    max_bad_batches: int = Field(5, ge=1)
    """So many batches in a row that are not finite or explode stop the run."""
    activation_checkpointing: bool = False
    """Keep only the layers' inputs; the rest is computed again in the backward pass."""
    offload_optimizer: bool = False
    """Keep AdamW's moments in host memory while other policies of the group train."""
    lora: LoraConfig | None = None
    """Train adapters instead of all weights (needs peft)."""

    @model_validator(mode="after")
    def _a_reference_that_moves_has_all_weights(self) -> Self:
        if self.lora is not None and self.objective.reference_steps is not None:
            raise ValueError(
                "objective.reference_steps: a reference that follows adapters is not supported; "
                "set it to null, or lora to null"
            )
        return self

    @model_validator(mode="after")
    def _decay_rates_are_below_one(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas}: want both in [0, 1)")
        return self
