"""Settings of the grader."""

from pydantic import BaseModel, Field


class GraderConfig(BaseModel, frozen=True, extra="forbid"):
    """Where answers are compared, and what one comparison may cost."""

    workers: int = Field(1, ge=1, le=64)
    """Worker processes; each compares one answer at a time."""
    deadline_s: float = Field(2.0, gt=0)
    """Wall seconds that one answer may take; then its worker is killed and it is no answer, unless
    the machine stood still."""
    memory_mb: int = Field(1024, ge=256)
    """Address space of one worker. Python with sympy takes about 200 of it."""
    cache_entries: int = Field(50_000, ge=0)
    """Results kept: voters repeat each other. 0 keeps none."""
