"""Configuration of the measurements that a self-play run makes of itself."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from evals.benchmarks import NAMES


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


class LiveEvalsConfig(BaseModel):
    """Benchmarks on which one policy is evaluated while the run goes on, beside all else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmarks: tuple[str, ...] = ()
    """Names, as `launch/evaluate.py` has them, or `all`; empty: none."""
    policy: str = "solver"
    every: int = Field(20, ge=1)
    """Steps of the policy between two evaluations; the base and the last step are evaluated in any
    case. What becomes due while one goes on waits for it, and only the newest of it is made up."""
    servers: Literal["rollout", "own"] = "rollout"
    """`rollout`: the policy's own, which serve play first. Their weights go on meanwhile: each
    point says between which steps it lies. `own`: those of `evaluated` in the layout, which get the
    policy's weights every `every` steps only; an evaluation that takes longer says so likewise."""
    regime: Literal["official", "mm_zero"] = "official"
    data: str = "hub"
    """`hub`, or a local folder of rows."""
    limit: int | None = Field(200, ge=1)
    """The first rows of each benchmark, so many (of HallusionBench, as many whole sets as fit);
    None: all."""
    concurrency: int = Field(8, ge=1)
    """Questions under way at a time."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Of an answer; None: as each benchmark says."""
    deadline_s: float = Field(7200.0, gt=0)
    """Seconds that an evaluation may take, all its tries together; then it is given up, and play
    goes on as ever."""
    judge: str | None = None
    """URL of an OpenAI-compatible server, up to /v1, for the benchmarks that are judged; None: they
    have no score. Its key is read from the environment: JUDGE_API_KEY."""
    judge_model: str | None = None

    @field_validator("benchmarks")
    @classmethod
    def _benchmarks_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(names) - {*NAMES, "all"}):
            raise ValueError(f"unknown: {', '.join(unknown)}; there are all, {', '.join(NAMES)}")
        return names

    @model_validator(mode="after")
    def _judge_has_a_model(self) -> "LiveEvalsConfig":
        if (self.judge is None) != (self.judge_model is None):
            raise ValueError("judge and judge_model go together")
        return self
