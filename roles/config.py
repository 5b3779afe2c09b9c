"""What the settings of every recipe are made of."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from engine.types import SamplingParams


class Section(BaseModel):
    """A frozen part of a recipe's settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RoleConfig(Section):
    """How the replies of one role are sampled."""

    max_new_tokens: int = Field(4096, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    """Below 1 the behaviour log-probs are not those of the sampled distribution: the run warns."""

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p
        )


def below(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with what it leaves out taken from `defaults`, section by section."""
    merged = dict(defaults)
    for key, value in given.items():
        base = merged.get(key)
        if isinstance(base, Mapping) and isinstance(value, Mapping):
            value = below(base, value)
        merged[key] = value
    return merged
