"""Which functions of `objectives.py` make up the objective, and the published choices by name.

A preset gives defaults; fields that are set beside it win. No torch here: `--help` is instant.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_PLAIN: Mapping[str, Any] = {
    "eps_low": 0.2,
    "eps_high": 0.2,
    "dual_clip": None,
    "weight_bounds": None,
    "mask_band": None,
}
"""PPO's clip and nothing else."""
_NO_CLIP: Mapping[str, Any] = {**_PLAIN, "eps_low": None, "eps_high": None}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "streamzero": {},
    # Papers. Their pi_old is the policy that sampled: no third policy, no weight.
    "grpo": {  # arXiv:2402.03300; the paper does not state its clip: PPO's
        **_PLAIN,
        "proximal": "sampler",
        "kl_beta": 0.04,
        "aggregation": "sequence",
    },
    "dr_grpo": {  # arXiv:2503.20783; the constant is the answer budget of its released runs
        **_PLAIN,
        "proximal": "sampler",
        "aggregation": "constant",
        "aggregation_constant": 3000,
        "divide_by_std": False,
    },
    "dapo": {**_PLAIN, "proximal": "sampler", "eps_high": 0.28},  # arXiv:2503.14476
    "rloo": {  # arXiv:2402.14740; its KL goes into the reward, as here once kl_beta is set
        **_NO_CLIP,
        "surrogate": "reinforce",
        "proximal": "current",
        "kl_estimator": "k1",
        "kl_place": "reward",
        "aggregation": "constant",
        "aggregation_constant": 1,
        "advantage": "leave_one_out",
        "divide_by_std": False,
    },
    "gspo": {  # arXiv:2507.18071
        **_PLAIN,
        "surrogate": "gspo",
        "proximal": "sampler",
        "eps_low": 3e-4,
        "eps_high": 4e-4,
        "aggregation": "sequence",
    },
    "cispo": {  # arXiv:2506.13585 leaves the cap open; 5 is slime's and SkyRL's
        **_NO_CLIP,
        "surrogate": "cispo",
        "proximal": "sampler",
        "eps_high": 4.0,
    },
    "icepop": {  # arXiv:2510.18855
        **_PLAIN,
        "weight_action": "band",
        "weight_bounds": (0.5, 5.0),
        "aggregation": "sequence",
    },
    # Systems.
    "areal": {  # what nearly all of its example configurations set
        **_PLAIN,
        "eps_low": 0.4,
        "eps_high": 0.4,
        "weight_action": "band",
        "weight_bounds": (0.0, 5.0),
        "kl_estimator": "k1",
        "kl_place": "reward",
        "std_eps": 1e-5,
    },
    "slime_tis": {  # --use-tis
        **_PLAIN,
        "weight_bounds": (0.0, 2.0),
        "aggregation": "sequence",
    },
    "slime_mis": {  # its mismatch helper's own configuration
        **_PLAIN,
        "weight_bounds": (0.0, 2.0),
        "mask_level": "token",
        "mask_band": (0.5, 2.0),
        "veto": 1e-4,
        "aggregation": "sequence",
    },
    "verl_tis": {**_PLAIN, "dual_clip": 3.0, "weight_bounds": (0.0, 2.0)},  # decoupled_token_is
    "verl_seq_tis": {  # decoupled_seq_is
        **_PLAIN,
        "dual_clip": 3.0,
        "weight_level": "product",
        "weight_bounds": (0.0, 2.0),
    },
    "verl_geo_rs": {**_PLAIN, "dual_clip": 3.0, "mask_band": (0.999, 1.001)},  # decoupled_geo_rs
    "trl": {  # GRPOConfig as it comes: sequence_mask, loss_type dapo
        **_PLAIN,
        "weight_level": "product",
        "weight_action": "band",
        "weight_bounds": (0.0, 3.0),
        "std_eps": 1e-4,
    },
    "pipelinerl": {  # conf/finetune/base.yaml, which overrides its code's PPO
        **_NO_CLIP,
        "surrogate": "reinforce",
        "proximal": "current",
        "weight_bounds": (0.0, 1.02),
        "aggregation": "constant",
        "aggregation_constant": 1,
        "advantage": "leave_one_out",
        "divide_by_std": False,
        "std_eps": 1e-4,
    },
    "tinker": {  # its `importance_sampling` loss: unbounded
        **_NO_CLIP,
        "proximal": "sampler",
        "aggregation": "constant",
        "aggregation_constant": 1,
        "divide_by_std": False,
    },
    "torchtitan": {**_PLAIN, "proximal": "sampler", "divide_by_std": False},
    "nemo_rl": {**_PLAIN, "kl_beta": 0.01, "advantage": "leave_one_out"},
    "skyrl": {**_PLAIN, "kl_beta": 1e-3},
}
"""Fields of `ObjectiveConfig`; the others are at their defaults. README.md tells of each."""

Bounds = tuple[float, float]
Level = Literal["token", "geometric", "product"]


class ObjectiveConfig(BaseModel):
    """What one update maximises. r = pi_theta / pi_prox, w = pi_prox / mu; mu sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    preset: str = "streamzero"
    """One of `PRESETS`: defaults for all that follows."""
    surrogate: Literal["ppo", "gspo", "cispo", "reinforce"] = "ppo"
    """`ppo`: clipped r A; `gspo`: r of whole rollouts; `cispo`: clipped weight; `reinforce`: A."""
    proximal: Literal["recomputed", "current", "approximated", "sampler"] = "recomputed"
    """`recomputed`: the weights at the start of the step, a forward of its own only with several
    updates per step; `current`: r is 1 in value; `approximated`: from the tokens' ages, without a
    forward; `sampler`: mu itself, and w is 1."""
    eps_low: float | None = Field(0.2, gt=0, lt=1)
    """The clip: r at least 1 - eps_low; None leaves that side open."""
    eps_high: float | None = Field(0.3, gt=0)
    """At most 1 + eps_high; None leaves that side open."""
    dual_clip: float | None = Field(3.0, gt=1)
    """For negative advantages the surrogate is at least dual_clip * A; None is off."""
    weight_bounds: Bounds | None = (0.0, 2.0)
    """(low, high) of the weight w; None: tokens are not weighted."""
    weight_action: Literal["truncate", "band"] = "truncate"
    """Out of bounds a weight is moved to the bound, or is 0."""
    weight_level: Level = "token"
    """w of the token, or of its rollout: the geometric mean or the product over all its tokens."""
    mask_band: Bounds | None = (0.5, 2.0)
    """Only where w lies in it a token counts; None is off."""
    mask_level: Level = "geometric"
    """Whose w the mask looks at: `geometric` and `product` mask whole rollouts."""
    veto: float | None = Field(None, gt=0, lt=1)
    """A rollout with one token of a smaller w does not count; None is off."""
    kl_beta: float = Field(0.0, ge=0)
    """Weight of the KL to the reference model; above 0 costs one more forward."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_place: Literal["loss", "reward"] = "loss"
    """In the reward it is summed over the rollout, for the policy at the start of the step."""
    reference_steps: int | None = Field(None, ge=1)
    """Every so many steps the reference becomes the policy as it is then (20, with the papers'
    phases of 20 steps: the start of each phase), and each policy has its own, which is in its
    checkpoints. None: it is the base, for the whole run."""
    entropy_bonus: float = Field(0.0, ge=0)
    """Weight of the entropy of the policy, in nats per token."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """The loss is a mean over all tokens; over rollouts of their tokens' mean; or the sum over
    rollouts * aggregation_constant."""
    aggregation_constant: float | None = Field(None, gt=0)
    advantage: Literal["group", "leave_one_out"] = "group"
    """The baseline: the mean of the group, or of the others in it."""
    divide_by_std: bool = True
    """Advantages are divided by the standard deviation of their group + std_eps."""
    std_eps: float = Field(1e-6, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_preset(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        name = data.get("preset", "streamzero")
        if not isinstance(name, str):
            return data  # the field's own error says it
        if name not in PRESETS:
            near = difflib.get_close_matches(name.lower(), PRESETS, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"preset {name!r}: unknown; did you mean {near!r}? There are {', '.join(PRESETS)}"
            )
        return {**PRESETS[name], **data}

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        for name in ("weight_bounds", "mask_band"):
            bounds = getattr(self, name)
            if bounds is not None and not 0 <= bounds[0] <= 1 <= bounds[1]:
                raise ValueError(f"{name} {bounds}: want 0 <= low <= 1 <= high")
        return self

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> Self:
        if found := _contradictions(self):
            raise ValueError("; ".join(found))
        return self

    @property
    def needs_reference(self) -> bool:
        """The KL is on, in the loss or in the reward."""
        return self.kl_beta > 0

    @property
    def moves_reference(self) -> bool:
        """Each policy has a reference of its own, which follows it."""
        return self.needs_reference and self.reference_steps is not None


def _contradictions(cfg: ObjectiveConfig) -> list[str]:
    """What the rest of the choice would ignore, or count twice; each with the fix."""
    of_w = ("weight_bounds", "mask_band", "veto")
    needless = [name for name in of_w if getattr(cfg, name) is not None]
    has_clip = (cfg.eps_low, cfg.eps_high) != (None, None)
    details = (cfg.weight_action, cfg.weight_level) != ("truncate", "token")
    has_constant = cfg.aggregation_constant is not None
    found = []
    if cfg.proximal == "sampler" and needless:
        found.append(
            f"{', '.join(needless)}: no effect with proximal: sampler, where w = pi_prox / mu is "
            "1; set to null, or set proximal: recomputed"
        )
    if cfg.dual_clip is not None and cfg.surrogate not in ("ppo", "gspo"):
        found.append(f"dual_clip: {cfg.surrogate} has none; set dual_clip: null")
    if cfg.proximal == "current" and cfg.surrogate != "reinforce":
        clips = ("eps_low", "eps_high", "dual_clip")
        if set_ := [name for name in clips if getattr(cfg, name) is not None]:
            found.append(
                f"{', '.join(set_)}: no effect with proximal: current, where r is 1; set to null, "
                "or set proximal: recomputed"
            )
    if cfg.surrogate == "reinforce" and has_clip:
        found.append(
            "eps_low, eps_high: reinforce has no clip; set both to null, or surrogate: cispo"
        )
    if cfg.weight_bounds is None and details:
        found.append(
            "weight_action, weight_level: no effect without weight_bounds; set weight_bounds: "
            "[low, high], or weight_action: truncate and weight_level: token"
        )
    if cfg.mask_band is None and cfg.mask_level != "geometric":
        found.append(
            "mask_level: no effect without mask_band; set mask_band: [low, high], or "
            "mask_level: geometric"
        )
    if cfg.reference_steps is not None and not cfg.needs_reference:
        found.append("reference_steps: no effect with kl_beta: 0; set kl_beta, or null")
    if has_constant != (cfg.aggregation == "constant"):
        found.append(
            "aggregation_constant: goes with aggregation: constant and only with it; set it, e.g. "
            "to the longest answer allowed, or set aggregation_constant: null"
        )
    return found
