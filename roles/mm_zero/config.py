"""The settings of MM-Zero. Rewards keep the paper's constants unless a field here says else."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.types import SamplingParams
from rewards.diversity import DiversityWeights, DiversityWindow
from rewards.proposer import ProposerWeights

TOPICS = (
    "Understanding of charts and graphs",
    "Statistics and trends over time",
    "Quantities and mathematical reasoning",
    "Space and geometry",
    "Logic and abstract patterns",
    "Diagrams and the comparison of structures",
    "Reading text in pictures",
    "Perception of basic shapes and objects",
)
"""The eight fields that the paper seeds its proposer with, in our words."""


class MMZeroConfig(BaseModel):
    """One game: `num_proposals` proposals, `num_svgs` pictures of each, two votes on each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: str = "full"
    """Prompt set, a folder of roles/mm_zero/prompts."""
    topics: tuple[str, ...] = Field(TOPICS, min_length=1)
    """Game g proposes on topic g modulo their number."""
    num_proposals: int = Field(4, ge=1)
    num_svgs: int = Field(4, ge=1)
    num_easy_votes: int = Field(5, ge=1)
    num_hard_votes: int = Field(8, ge=1)
    proposer_tokens: int = Field(4096, ge=1)
    """Largest number of new tokens of a reply, per role."""
    coder_tokens: int = Field(4096, ge=1)
    solver_tokens: int = Field(4096, ge=1)
    proposer_temperature: float = Field(1.0, gt=0)
    coder_temperature: float = Field(1.0, gt=0)
    solver_temperature: float = Field(1.0, gt=0)
    solvability_cap: float = Field(0.5, ge=0, le=1)
    """Most that a readable picture earns its proposer."""
    too_easy_below: float = Field(0.15, ge=0, le=0.5)
    too_easy_penalty: float = Field(0.3, ge=0)
    diversity_window: int = Field(72, ge=1)
    """Number of recent valid proposals that a new one is compared with."""
    diversity_scale: float = Field(1.0, ge=0)
    """Scales the penalty for repeated text; a small grammar repeats itself however it tries."""
    diversity_fields: tuple[float, float, float] = (0.45, 0.20, 0.35)
    """Weights of caption, easy question and hard question in that penalty."""
    type_penalty: float = Field(0.15, ge=0)
    """Largest penalty for an over-represented content type."""
    min_easy_share: float = Field(0.5, ge=0, le=1)
    """A picture whose easy question divides the solver more than this teaches it nothing."""
    hard_band: tuple[float, float] = (0.25, 0.75)
    """Shares of the hard question's majority, ends included, that are worth training on."""
    train_easy: bool = False
    """Also submit the answers to the easy questions, labelled by their majority."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.hard_band
        if not 0 <= low <= high <= 1:
            raise ValueError(f"hard_band {self.hard_band}: must be 0 <= low <= high <= 1")
        if min(self.diversity_fields) < 0:
            raise ValueError(f"diversity_fields {self.diversity_fields}: must not be negative")
        return self

    def params(self, role: str) -> SamplingParams:
        """How a reply of `role` is sampled: trainable, so no top_p and no top_k."""
        return SamplingParams(
            max_new_tokens=getattr(self, f"{role}_tokens"),
            temperature=getattr(self, f"{role}_temperature"),
        )

    def topic(self, game: int) -> str:
        return self.topics[game % len(self.topics)]

    @property
    def proposer_weights(self) -> ProposerWeights:
        return ProposerWeights(
            solvability_cap=self.solvability_cap,
            too_easy_below=self.too_easy_below,
            too_easy_penalty=self.too_easy_penalty,
        )

    def window(self) -> DiversityWindow:
        """An empty window, to be shared by all games of a run."""
        caption, easy, hard = self.diversity_fields
        weights = DiversityWeights(
            text=DiversityWeights().text * self.diversity_scale,
            caption=caption,
            easy_question=easy,
            hard_question=hard,
            type=self.type_penalty,
        )
        return DiversityWindow(self.diversity_window, weights)
