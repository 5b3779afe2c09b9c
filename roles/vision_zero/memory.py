"""What the games of one run share: the baselines of clues, the gate (Iterative-SPO), and whether
clues are still worth training.

Structurally an `engine.stages.Gate`: its state is kept with every step and outlives a restart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from engine.types import Invalid
from rewards.spy_baselines import (
    Baselines,
    baseline_key,
    leave_one_out,
    scale,
    subtract_then_update,
    update_then_subtract,
)
from roles.table import Pair
from roles.vision_zero.config import CLUES, STREAMS, GateConfig, VisionZeroConfig
from roles.vision_zero.credit import Credit, TurnCredit, turn_values
from roles.vision_zero.gate import GateState, Stage, open_streams, tick
from roles.vision_zero.outcome import Replica


@dataclass(frozen=True, slots=True)
class Health:
    """Whether clues are still clues: moving averages over games, from the first one on."""

    unreadable: float = 0.0
    """Share of the turns."""
    distinct: float = 1.0
    """Different clues / turns of a replica."""
    games: int = 0
    kl: float | None = None
    """To the reference, nats per token: of the policies that give clues the furthest, at their
    newest step."""

    def after(self, replicas: Sequence[Replica], decay: float) -> "Health":
        turns = [turn for replica in replicas for turn in replica.turns]
        unreadable = sum(isinstance(turn.clue, Invalid) for turn in turns) / len(turns)
        clues = [{t.clue for t in replica.turns if isinstance(t.clue, str)} for replica in replicas]
        distinct = sum(map(len, clues)) / len(turns)
        keep = min(decay, self.games / (self.games + 1))  # a plain mean at first
        return replace(
            self,
            unreadable=keep * self.unreadable + (1 - keep) * unreadable,
            distinct=keep * self.distinct + (1 - keep) * distinct,
            games=self.games + 1,
        )

    def trained(self, measured: Mapping[str, Mapping[str, float]]) -> "Health":
        """`measured`: by stream, what its policy's learner told of a step."""
        of_clues = [measured[stream] for stream in CLUES if stream in measured]
        told = [metrics["reference_kl"] for metrics in of_clues if "reference_kl" in metrics]
        return replace(self, kl=max(told)) if told else self

    def complaint(self, cfg: GateConfig) -> str | None:
        """Why clues should not be trained now; None where they may."""
        if self.unreadable > cfg.max_unreadable:
            return f"{self.unreadable:.0%} of the clues can't be read"
        if self.distinct < cfg.min_distinct:
            return f"only {self.distinct:.0%} of the turns bring a clue of their own"
        if self.is_adrift(cfg):
            return f"who gives clues is {self.kl:.2g} nats per token from the reference"
        return None

    def is_adrift(self, cfg: GateConfig) -> bool:
        """What no training of clues mends."""
        return cfg.max_kl is not None and self.kl is not None and self.kl > cfg.max_kl


class Memory:
    """One per run."""

    def __init__(self, cfg: VisionZeroConfig) -> None:
        self._cfg = cfg
        self._rules = cfg.gate_rules
        self._gate = GateState()
        self._baselines = Baselines()
        self._found: list[tuple[float, float]] = []
        """(accuracy, abstention) of each game since the last tick."""
        self._health = Health()
        self._waited: int | None = None
        """Ticks since clues were held back for what is wrong with them; None: they are well."""

    # what clues earn

    def credit(self, pair: Pair, spy: int, replicas: Sequence[Replica]) -> Credit:
        """Of every turn of a game; games are compared in the order in which they end."""
        cfg = self._cfg.clue_credit
        values = [turn_values(replica, spy, cfg) for replica in replicas]
        if cfg.baseline == "replica":
            above = leave_one_out(values)
        else:
            rows = zip(replicas, values, strict=True)
            above = tuple(self._above_role_means(pair, spy, *row) for row in rows)
        scales = {is_spy: self._scale(spy, replicas, above, is_spy) for is_spy in (True, False)}

        def turn_credit(replica: int, number: int) -> TurnCredit:
            turn = replicas[replica].turns[number]
            penalty = cfg.invalid if isinstance(turn.clue, Invalid) else 0.0
            advantage = above[replica][number] / scales[turn.seat == spy] - penalty
            return TurnCredit(values[replica][number], advantage, penalty)

        return tuple(
            tuple(turn_credit(k, number) for number in range(len(replica.turns)))
            for k, replica in enumerate(replicas)
        )

    def _above_role_means(
        self, pair: Pair, spy: int, replica: Replica, values: Sequence[float]
    ) -> tuple[float, ...]:
        """[turns] role-advantage estimation: of each round by itself where rounds differ."""
        cfg, num = self._cfg.clue_credit, self._cfg.num_players
        rounds = range(1, self._cfg.num_rounds + 1) if cfg.turns == "round_delta" else (None,)
        estimate = subtract_then_update
        if cfg.baseline == "rae_post":  # the release keeps its means in float32
            estimate = partial(update_then_subtract, in_float32=self._cfg.rules == "release")
        found: dict[int | None, tuple[float, ...]] = {}
        for round_ in rounds:
            key = baseline_key(pair.domain, pair.view, num, round_=round_)
            first = ((round_ or 1) - 1) * num  # the seats of a round speak in their order
            rewards = values[first : first + num]
            self._baselines, found[round_] = estimate(
                self._baselines, key, rewards, spy, decay=cfg.decay
            )
        return tuple(
            found[turn.round if None not in found else None][turn.seat - 1]
            for turn in replica.turns
        )

    def _scale(
        self,
        spy: int,
        replicas: Sequence[Replica],
        above: Sequence[Sequence[float]],
        is_spy: bool,
    ) -> float:
        cfg = self._cfg.clue_credit
        if not cfg.scaled:
            return 1.0
        own = [
            value
            for replica, row in zip(replicas, above, strict=True)
            for turn, value in zip(replica.turns, row, strict=True)
            if (turn.seat == spy) == is_spy
        ]
        role = "spy" if is_spy else "civilian"
        self._baselines, found = scale(self._baselines, role, own, decay=cfg.decay)
        return found

    # the gate

    def remember(self, replicas: Sequence[Replica], spy: int, *, is_probe: bool) -> None:
        """How a game went, for the next tick; of votes only probes count where there are some."""
        self._health = self._health.after(replicas, self._cfg.gate.decay)
        if self._cfg.probe_share and not is_probe:
            return
        finals = [replica.final for replica in replicas]
        accuracy = sum(poll.is_found(spy) for poll in finals) / len(finals)
        abstention = sum(poll.ballots.abstention for poll in finals) / len(finals)
        self._found.append((accuracy, abstention))

    def open_streams(self, finished: frozenset[str] = frozenset()) -> frozenset[str]:
        wanted = frozenset(STREAMS) if self._rules is None else open_streams(self._gate.stage)
        # Where roles have policies of their own, one may be done before the other.
        return frozenset(STREAMS) if wanted <= finished else wanted

    def tick(self, measured: Mapping[str, Mapping[str, float]]) -> str | None:
        self._health = self._health.trained(measured)
        found, self._found = self._found, []
        if self._rules is None:
            return None
        accuracy, abstention = (
            (sum(column) / len(found) for column in zip(*found, strict=True))
            if found
            else (None, None)
        )
        before = self._gate.stage
        self._gate, switched = tick(self._gate, self._rules, accuracy, abstention)
        return self._stop_loss(self._cfg.gate, before, switched)

    def _stop_loss(self, cfg: GateConfig, before: Stage, switched: str | None) -> str | None:
        """Hold back clues that are none, though not for ever: it is their own training that mends
        them. What to say of a tick at which the gate went from `before` and said `switched`."""
        sick = self._health.complaint(cfg)
        if sick is None:
            self._waited = None
            return switched
        waited = None if self._waited is None else self._waited + 1
        has_turn = waited is not None and waited >= cfg.max_wait and not self._health.is_adrift(cfg)
        if self._gate.stage == "decision":
            # The turn they had has ended by itself: they wait anew.
            self._waited = 0 if waited is not None and before == "clue" else waited
            return switched
        self._waited = waited
        if has_turn and self._gate.dwell < cfg.min_dwell:
            return f"clue stage after {waited} steps, though {sick}" if before != "clue" else None
        self._gate = replace(self._gate, stage="decision", dwell=0)
        if before == "clue":
            self._waited = 0
            return f"decision stage: {sick}"
        if waited is not None:
            return None  # told already
        self._waited = 0
        return f"clues must wait: {sick}"

    def numbers(self) -> dict[str, float]:
        """The averages that the gate compares, and its stage: 1 while clues are trained."""
        if self._rules is None:
            return {}
        accuracy, abstention = self._gate.averages(self._rules)
        stage = float(self._gate.stage == "clue")
        return {"accuracy": accuracy, "abstention": abstention, "trains clues": stage}

    def state(self) -> Any:
        return {
            "gate": self._gate.to_json(),
            "found": list(self._found),
            "baselines": self._baselines.to_json(),
            "health": asdict(self._health),
            "waited": self._waited,
        }

    def restore(self, state: Any, own: Mapping[str, Any]) -> None:
        self._gate = GateState.from_json(state["gate"])
        self._found = [(accuracy, abstention) for accuracy, abstention in state["found"]]
        self._baselines = Baselines.from_json(state["baselines"])
        self._health = Health(**state["health"])
        self._waited = state.get("waited")
