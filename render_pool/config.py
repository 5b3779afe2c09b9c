"""Settings of the render pool."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator


class RenderConfig(BaseModel, frozen=True, extra="forbid"):
    """How pictures are drawn, and what one drawing may cost."""

    backend: Literal["cairosvg", "resvg"] = "cairosvg"
    """The library that draws; `resvg` needs `pip install -e '.[resvg]'`."""
    workers: int = Field(2, ge=1, le=64)
    """Worker processes; each draws one picture at a time."""
    deadline_s: float = Field(3.0, gt=0)
    """Wall seconds that one picture may take; then its worker is killed from outside."""
    cpu_s: float = Field(1.0, gt=0)
    """Processor seconds that one picture may take; then the kernel ends its worker."""
    memory_mb: int = Field(768, ge=256)
    """Address space of a worker."""
    side: int = Field(448, ge=32, le=2048)
    """Pixels of the longer side. The shorter side follows the SVG's own shape."""
    grid: int = Field(32, ge=1, le=256)
    """Both sides are multiples of this many pixels (one merged visual token of Qwen3-VL)."""
    fit: Literal["pad", "scale"] = "pad"
    """How they become so: white to the right and below, or a page of the nearest such size, on
    which the drawing is placed as its `preserveAspectRatio` says."""
    max_bytes: int = Field(65536, ge=64, le=1 << 20)
    """Largest SVG, in UTF-8 bytes."""
    queue: int = Field(1024, ge=1)
    """Requests that may wait for a worker; further callers wait before theirs is looked at."""
    recycle_after: int = Field(500, ge=1)
    """Pictures that one worker draws before it is replaced."""
    recycle_mb: int = Field(256, ge=64)
    """Resident memory at which a worker is replaced."""
    cache_entries: int = Field(1024, ge=0)
    """Results kept by content hash: groups repeat themselves. 0 keeps none."""

    @model_validator(mode="after")
    def _side_on_grid(self) -> "RenderConfig":
        if self.side % self.grid:
            raise ValueError(f"side {self.side} is not a multiple of grid {self.grid}")
        return self
