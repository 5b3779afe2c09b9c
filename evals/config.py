"""Configuration of the measurements that a self-play run makes of itself."""

from pydantic import BaseModel, ConfigDict, Field


class EvalConfig(BaseModel):
    """Sizes of the held-out measurement (before and after) and of the development curve."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heldout_items: int = Field(200, ge=0)
    """Scenes of the held-out split, each with an easy and a hard question; 0: not measured."""
    samples: int = Field(4, ge=1)
    """Samples at temperature 1 per question."""
    majority_items: int = Field(60, ge=0)
    """Held-out scenes on which 16 answers of the base are put to the vote, before self-play."""
    dev_items: int = Field(60, ge=0)
    """Scenes of the development split per point of the curve; 0: no curve."""
    dev_every: int = Field(30, ge=1)
    """Steps of the last policy to step between two points of the curve."""
