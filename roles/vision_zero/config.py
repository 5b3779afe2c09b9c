"""The settings of Vision-Zero. The defaults are our preset, `vz_async`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from engine.types import SamplingParams
from rewards.spy import DecisionWeights
from roles.config import RoleConfig, Section, below
from roles.vision_zero.gate import GateRules
from roles.vision_zero.presets import PRESETS

CLUES = ("civilian", "spy")
"""The streams of those who give clues."""
VOTER = "voter"
STREAMS = (*CLUES, VOTER)
"""One per role."""
STOP_LOSS = frozenset({"max_unreadable", "min_distinct", "max_wait", "max_kl"})
"""The fields of `GateConfig` that stop clues from being trained."""
FROZEN = "frozen_voter"
"""The name of servers that hold older weights of the voter's policy (`frozen_every`)."""


class PairsConfig(Section):
    """Where the pairs of pictures come from (`render_pool/pairs`)."""

    source: Literal["objects", "bars", "lines", "pies", "grid", "folder", "jsonl"] = "objects"
    """A family of procedural scenes (`grid` is the tiny base's world), or the user's own pairs."""
    path: Path | None = None
    """The folder, or the JSONL file, of the user's own pairs."""
    edits: int = Field(2, ge=1, le=6)
    """Things that differ between the pictures (objects; for charts always one pair of values)."""
    spy_view: Literal["edited", "blank", "mixed"] = "mixed"
    """What the spy sees: an edited picture, a blank one, or either."""
    blank_share: float = Field(0.5, ge=0, le=1)
    """Of `mixed`."""
    prefetch: int = Field(16, ge=0)
    """Pairs drawn ahead of the games that play them."""
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _own_pairs_have_a_path(self) -> Self:
        if (self.source in ("folder", "jsonl")) != (self.path is not None):
            raise ValueError(
                f"pairs.source {self.source!r} and pairs.path {self.path}: a path is needed for "
                "'folder' and 'jsonl', and for nothing else"
            )
        return self


class CreditConfig(Section):
    """What a clue earns (`rewards/spy.py`), and what that is compared with
    (`rewards/spy_baselines.py`)."""

    weight: float = Field(0.8, gt=0)
    """beta = lambda of the paper's Eq. 1: of vote shares here, .1 of counts in the paper; the same
    at eight votes."""
    votes: Literal["shares", "counts"] = "shares"
    turns: Literal["terminal", "round_delta"] = "terminal"
    """Every clue of a seat earns what the last vote says; or what the vote after its own round
    adds, which takes a vote after every round."""
    baseline: Literal["replica", "rae", "rae_post"] = "replica"
    """replica: the other replicas of this pair and seat (needs replicas >= 2); rae: role-advantage
    estimation, subtracted before its update, without the bias of its start; rae_post: as printed
    in the paper's Alg. 1 and released, updated first."""
    decay: float = Field(0.9996, ge=0, lt=1)
    """Of role-advantage estimation, per game. The paper says .95 and not per what: here it is per
    iteration of 128 games; in the preset `vz_paper` per game, as its Eq. 2 is printed."""
    scaled: bool = True
    """Divide by the running root mean square of the role, so that clues and votes train alike."""
    invalid: float = Field(0.2, ge=0)
    """Taken from the advantage of a reply that holds no clue; outside of the zero-sum part."""


class DecisionConfig(Section):
    """What a vote earns."""

    right: float = 1.0
    abstain: float = -0.2
    """-.5 in the paper, where someone who has no idea among 4 loses nothing by a guess; at -.2
    a guess pays from a chance of .4 on."""
    wrong: float = -1.0
    format: float = Field(0.2, ge=0)
    """Taken where there is no vote to read, which also counts as wrong."""

    @model_validator(mode="after")
    def _right_pays_best(self) -> Self:
        if not self.wrong < self.abstain < self.right:
            raise ValueError("want wrong < abstain < right, else nobody should guess, or all")
        return self


class GateConfig(Section):
    """When clues and when votes are trained (Iterative-SPO, `gate.py`)."""

    switch: Literal["threshold", "cycle", "both", "off"] = "threshold"
    """off: everything trains all the time."""
    cycle: int = Field(10, ge=1)
    """Steps between two switches, of `cycle` and `both`."""
    clues_from_accuracy: float = Field(0.9, ge=0, le=1)
    clues_up_to_abstention: float = Field(0.1, ge=0, le=1)
    votes_from_error: float = Field(0.4, ge=0, le=1)
    votes_from_abstention: float = Field(0.5, ge=0, le=1)
    decay: float = Field(0.95, ge=0, lt=1)
    min_dwell: int = Field(5, ge=1)
    patience: int | None = Field(None, ge=1)
    debias: bool = True
    """Averages without the pull of their start at 0, which delays the first switch by 45 steps."""
    max_unreadable: float = Field(0.3, ge=0, le=1)
    """Clues are not trained while a larger share of them can't be read."""
    min_distinct: float = Field(0.3, ge=0, le=1)
    """Nor while a smaller share of a game's turns brings a clue of its own."""
    max_wait: int = Field(20, ge=1)
    """Steps after which clues that wait for either get their turn all the same, of `min_dwell`
    steps: only their own training mends them, by `clue_credit.invalid`."""
    max_kl: float | None = Field(None, gt=0)
    """Nor, however long, while their policy is further from its reference (nats per token; the
    learner's `reference_kl`, which there is where `learner.objective.kl_beta` is not 0)."""

    @field_validator("switch", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, given: Any) -> Any:
        return "off" if given is False else given


class VisionZeroConfig(Section):
    """All numbers of one recipe run."""

    name: Literal["vision_zero"] = "vision_zero"
    preset: Literal["vz_async", "vz_paper", "vz_code"] = "vz_async"
    rules: Literal["streamzero", "release"] = "streamzero"
    """release: clues and votes are read and scored as by the released code."""
    prompts: str = "full"
    """Prompt set, a folder of roles/vision_zero/prompts."""
    num_players: int = Field(4, ge=3, le=9)
    num_rounds: int = Field(2, ge=1)
    refuse_game_talk: bool = True
    """A clue that names a player by number, or says spy, vote or civilian, is none: it would lobby
    the voters. Of the rules `streamzero`. False where such words belong to your own pictures."""
    voters: Literal["judge", "civilians"] = "judge"
    """One who does not play and sees the civilians' picture, `num_votes` times; or every
    civilian once."""
    num_votes: int = Field(8, ge=2)
    """Of the judge."""
    replicas: int = Field(4, ge=1)
    """Times that a game plays its pair, with the same spy's seat."""
    probe_share: float = Field(0.05, ge=0, lt=1)
    """Share of the games that only feed the gate and train nobody; 0: the gate judges by the games
    that train."""
    frozen_every: int | None = Field(None, ge=1)
    """Have an older voter, renewed every so many steps, vote on the clues of some games beside the
    current one: where only the current one understands them, players and voter have made up a
    code. It trains nobody, and its servers are named `frozen_voter` in the layout. None: off."""
    frozen_share: float = Field(0.1, gt=0, le=1)
    """Of the games, those in which it votes."""
    pairs: PairsConfig = PairsConfig()
    clue: RoleConfig = RoleConfig(max_new_tokens=1024)
    vote: RoleConfig = RoleConfig(max_new_tokens=1024)
    clue_credit: CreditConfig = CreditConfig()
    decision: DecisionConfig = DecisionConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return below(PRESETS.get(str(given.get("preset")), {}), given)

    @model_validator(mode="after")
    def _replicas_are_compared(self) -> Self:
        if self.clue_credit.baseline == "replica" and self.replicas < 2:
            raise ValueError(
                "clue_credit.baseline 'replica' compares the replicas of a game; set replicas to 2 "
                "or more, or the baseline to 'rae'"
            )
        return self

    @model_validator(mode="after")
    def _the_release_asks_a_judge(self) -> Self:
        if self.rules == "release" and self.voters != "judge":
            raise ValueError("rules 'release' score the votes of one judge; set voters=judge")
        return self

    def params(self, role: str) -> SamplingParams:
        return (self.vote if role in (VOTER, FROZEN) else self.clue).params

    def policies(self) -> dict[str, str]:
        """{stream: policy} where the layout does not say else: all seats are one model's."""
        return dict.fromkeys(STREAMS, "player")

    def followers(self) -> dict[str, tuple[str, int]]:
        return {} if self.frozen_every is None else {FROZEN: (VOTER, self.frozen_every)}

    @property
    def decision_weights(self) -> DecisionWeights:
        return DecisionWeights(**self.decision.model_dump())

    @property
    def gate_rules(self) -> GateRules | None:
        """None where nothing is ever closed."""
        if self.gate.switch == "off":
            return None
        return GateRules(**self.gate.model_dump(exclude=set(STOP_LOSS)))
