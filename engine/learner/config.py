"""Hyper-parameters of one policy's learner."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class LearnerConfig(BaseModel):
    """Objective, optimiser and batch shape. Defaults are the paper's scale on GPUs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
    eps_low: float = Field(0.2, gt=0, lt=1)
    """PPO clip: ratio to the proximal policy at least 1 - eps_low."""
    eps_high: float = Field(0.3, gt=0)
    """PPO clip: at most 1 + eps_high."""
    dual_clip: float | None = Field(3.0, gt=1)
    """For negative advantages the objective is at least dual_clip * A; None is off."""
    weight_cap: float = Field(2.0, ge=1)
    """Cap C of the importance weight pi_prox / mu."""
    sequence_band: tuple[float, float] | None = (0.5, 2.0)
    """A rollout counts only if the geometric mean of pi_prox / mu lies in it; None is off."""
    kl_beta: float = Field(0.0, ge=0)
    """Weight of the k3 KL to the reference model; above 0 costs one more forward."""
    divide_by_std: bool = True
    """Advantages are divided by the standard deviation of their group."""
    tokens_per_micro_batch: int = Field(8192, ge=1)
    """Bound on a micro-batch's rows x longest row: prompts, images and padding included."""
    updates_per_step: int = Field(1, ge=1)
    """Optimiser updates per batch, each on its own part of the groups."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.sequence_band is not None:
            low, high = self.sequence_band
            if not 0 < low <= 1 <= high:
                raise ValueError(f"sequence_band {self.sequence_band}: want 0 < low <= 1 <= high")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas}: want both in [0, 1)")
        return self
