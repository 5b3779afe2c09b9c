"""The settings of MM-Zero. Rewards keep the paper's constants unless a field here says else."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from engine.types import SamplingParams
from rewards.coder import CoderWeights
from rewards.diversity import DiversityWeights
from rewards.proposer import ProposerWeights
from roles.config import RoleConfig, Section, below
from roles.mm_zero.presets import PRESETS
from roles.mm_zero.topics import TOPICS

STREAMS = ("proposer", "coder", "solver")
"""One per role."""
JUDGE = "judge"
"""The role that votes where the judge is pinned; its servers hold older weights of the solver."""


class RewardConfig(Section):
    """The numbers of the proposer's and the coder's rewards that a run may change."""

    solvability_cap: float = Field(0.5, ge=0, le=1)
    """Most that a readable picture earns its proposer; 1: no cap."""
    too_easy_below: float = Field(0.15, ge=0, le=0.5)
    too_easy_penalty: float = Field(0.3, ge=0)
    too_easy_tolerance: float = Field(1e-9, ge=0)
    leak_penalty: float = Field(0.0, ge=0)
    """Taken from the coder where the picture prints the answer of the hard question."""


class DiversityConfig(Section):
    """What a proposal is compared with, and what repetition costs."""

    population: Literal["window", "game"] = "window"
    """window: the run's last `window` valid proposals; game: as the released code judges a
    batch, where the proposals of one game are the batch."""
    window: int = Field(72, ge=1)
    """Read where the population is the window, and so is its scale."""
    window_scale: float = Field(1.0, ge=0, le=1)
    """Scales the text penalty of the window; a small grammar repeats itself however it tries."""
    text_penalty: float = Field(0.5, ge=0)
    """Largest penalty for repeated text; 0.3 in the release's image variant."""
    fields: tuple[float, float, float] = (0.45, 0.20, 0.35)
    """Weights of caption, easy question and hard question in that penalty."""
    type_penalty: float = Field(0.15, ge=0)
    """Largest penalty for an over-represented content type."""
    image_penalty: float = Field(0.0, ge=0)
    """Largest penalty for a repeated picture; 0.15 in the release's image variant."""

    @field_validator("fields")
    @classmethod
    def _not_negative(cls, fields: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fields) < 0:
            raise ValueError("must not be negative")
        return fields


class FilterConfig(Section):
    """Which groups are worth training on (`filters.py`)."""

    coder_band: tuple[float, float] = (0.25, 0.75)
    """Render rates, ends included, at which drawings of one card teach whatever they earn."""
    coder_spread: float | None = Field(0.1, ge=0)
    """So does a group whose rewards differ by at least so much; None: only the band counts."""
    min_valid: float = Field(0.5, ge=0, le=1)
    """Share of a vote's ballots that must be answers for anything to come of it; of fewer there is
    no label, no difficulty, and the picture is not readable. 0: any ballot decides."""
    min_easy_share: float = Field(0.5, ge=0, le=1)
    """A picture whose easy question divides the solver more than this teaches it nothing."""
    hard_band: tuple[float, float] = (0.25, 0.75)
    """Shares of the hard question's majority, ends included, that are worth training on."""

    @field_validator("coder_band", "hard_band")
    @classmethod
    def _is_band(cls, band: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= band[0] <= band[1] <= 1:
            raise ValueError("must be 0 <= low <= high <= 1")
        return band


class MMZeroConfig(Section):
    """One game: `num_proposals` proposals, `num_svgs` pictures of each, two votes on each."""

    name: Literal["mm_zero"] = "mm_zero"
    preset: Literal["mm_zero", "mm_zero_code"] = "mm_zero"
    """Values for all that is not given (`presets.py`): the paper's, or the released code's."""
    rules: Literal["paper", "release"] = "paper"
    """Whose parsers, answer equality, votes and filters (`rules.py`)."""
    parser: Literal["strict", "lenient", "release", "release_inference"] = "strict"
    """How proposals are read."""
    prompts: str = "full"
    """Prompt set, a folder of roles/mm_zero/prompts."""
    show_hard_answer: bool = False
    """Tell the coder the hard answer, as the released code does: a way to leak it."""
    topics: tuple[str, ...] = Field(TOPICS, min_length=1)
    curriculum: bool = False
    """Choose topics and content types by what was played least; else each topic is played as often.
    The topic then names its content type too, which the tiny base has not learned to read."""
    num_proposals: int = Field(4, ge=2)
    num_svgs: int = Field(4, ge=2)
    num_easy_votes: int = Field(5, ge=1)
    num_hard_votes: int = Field(8, ge=2)
    judge: Literal["current", "pinned"] = "current"
    """Which solver votes (label, solvability, difficulty): the one that is trained, whose votes
    are then its training group (streaming TTRL); or one whose weights are renewed only every
    `pin_every` steps, so that labels come from frozen weights, as in the paper's phases."""
    pin_every: int = Field(20, ge=1)
    label: Literal["majority", "random"] = "majority"
    """What a right answer is; random (one of those given) is an ablation that must not teach."""
    train_easy: bool = False
    """Also submit the answers to the easy questions, labelled by their majority."""
    proposer: RoleConfig = RoleConfig()
    coder: RoleConfig = RoleConfig()
    solver: RoleConfig = RoleConfig()
    reward: RewardConfig = RewardConfig()
    diversity: DiversityConfig = DiversityConfig()
    filters: FilterConfig = FilterConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return below(PRESETS.get(str(given.get("preset")), {}), given)

    @model_validator(mode="after")
    def _parser_suits_the_rules(self) -> Self:
        if self.parser.startswith("release") and self.rules != "release":
            raise ValueError(
                f"parser {self.parser!r} lets empty fields through, which only the release's rules "
                "score; set recipe.rules=release, or recipe.parser=strict"
            )
        return self

    @model_validator(mode="after")
    def _unparsable_is_the_worst(self) -> Self:
        penalties = {
            "reward.too_easy_penalty": self.reward.too_easy_penalty,
            "diversity.text_penalty": self.diversity_weights.text,
            "diversity.type_penalty": self.diversity.type_penalty,
            "diversity.image_penalty": self.diversity.image_penalty,
        }
        if (total := sum(penalties.values())) >= -ProposerWeights().unparsable:
            named = " + ".join(f"{name} {value:g}" for name, value in penalties.items() if value)
            raise ValueError(
                f"{named} = {total:g} must stay below 1, what an unreadable proposal costs; lower "
                "one of them"
            )
        return self

    def params(self, role: str) -> SamplingParams:
        """How a reply of `role` is sampled; the judge is sampled as a solver."""
        cfg: RoleConfig = getattr(self, "solver" if role == JUDGE else role)
        return cfg.params

    def policies(self) -> dict[str, str]:
        """{stream: policy} where the layout does not say else: each role has weights of its own."""
        return {stream: stream for stream in STREAMS}

    def followers(self) -> dict[str, tuple[str, int]]:
        """{name: (stream, steps between two refreshes)} of servers with older weights of the
        stream's policy."""
        return {JUDGE: ("solver", self.pin_every)} if self.judge == "pinned" else {}

    @property
    def proposer_weights(self) -> ProposerWeights:
        return ProposerWeights(**self.reward.model_dump(exclude={"leak_penalty"}))

    @property
    def coder_weights(self) -> CoderWeights:
        return CoderWeights(leak=self.reward.leak_penalty)

    @property
    def diversity_weights(self) -> DiversityWeights:
        caption, easy, hard = self.diversity.fields
        scale = self.diversity.window_scale if self.diversity.population == "window" else 1.0
        return DiversityWeights(
            text=self.diversity.text_penalty * scale,
            caption=caption,
            easy_question=easy,
            hard_question=hard,
            type=self.diversity.type_penalty,
            image=self.diversity.image_penalty,
        )
