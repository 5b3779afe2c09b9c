"""Settings of the render pool."""

from pydantic import BaseModel, Field


class RenderConfig(BaseModel, frozen=True, extra="forbid"):
    """How pictures are drawn, and what one drawing may cost."""

    workers: int = Field(2, ge=1, le=64)
    """Worker processes; each draws one picture at a time."""
    deadline_s: float = Field(3.0, gt=0)
    """Wall seconds that one picture may take; then its worker is killed."""
    side: int = Field(448, ge=32, le=2048, multiple_of=32)
    """Pixels of the longer side. The shorter side follows the SVG's own shape and is padded
    with white to a multiple of 32 (one merged visual token of Qwen3-VL)."""
    max_bytes: int = Field(65536, ge=64, le=1 << 20)
    """Largest SVG, in UTF-8 bytes."""
    recycle_after: int = Field(500, ge=1)
    """Pictures that one worker draws before it is replaced."""
    cache_entries: int = Field(1024, ge=0)
    """Results kept by content hash: groups repeat themselves. 0 keeps none."""
