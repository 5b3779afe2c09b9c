"""Which streams train, step by step, and after a restart."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.admission import Admission, AdmissionRules, StreamRule
from engine.buffer import Buffer
from engine.stages import Stages
from engine.types import Group
from tests.engine.make_groups import make_group

SHARED = {"clue": "player", "vote": "player"}
SPLIT = {"clue": "writer", "vote": "voter"}


class EveryOther:
    """Votes first; switches at each tick."""

    def __init__(self) -> None:
        self.ticks = 0
        self.measured: Mapping[str, Mapping[str, float]] = {}

    def open_streams(self, finished: frozenset[str] = frozenset()) -> frozenset[str]:
        wanted, other = ({"clue"}, {"vote"}) if self.ticks % 2 else ({"vote"}, {"clue"})
        return frozenset(other if wanted <= finished else wanted)

    def tick(self, measured: Mapping[str, Mapping[str, float]]) -> str | None:
        self.ticks += 1
        self.measured = measured
        return f"switch {self.ticks}"

    def numbers(self) -> dict[str, float]:
        return {"ticks": float(self.ticks)}

    def state(self) -> Any:
        return {"ticks": self.ticks}

    def restore(self, state: Any, own: Mapping[str, Any]) -> None:
        self.ticks = state["ticks"]


class Club:
    """A buffer, an admission, and the stages of the recipe `spy` between them."""

    def __init__(self, folder: Path, policies: dict[str, str], total_steps: int | None = None):
        self.buffer = Buffer.open(folder / "run.db")
        self.rules = AdmissionRules(
            streams={
                stream: StreamRule(policy=policy, recipe="spy", max_age=1)
                for stream, policy in policies.items()
            },
            games_per_step=1,
            total_steps=total_steps,
        )
        self.steps = dict.fromkeys(policies.values(), 0)
        self.events: list[str] = []
        self.requests = 0
        self.begin()

    def begin(self) -> None:
        """A new attempt at `steps`."""
        self.attempt = self.buffer.begin_attempt()
        self.version = {
            policy: self.buffer.reserve_version(policy, step, self.attempt)
            for policy, step in self.steps.items()
        }
        self.gate = EveryOther()
        self.admission = Admission(self.rules, self.steps)
        self.stages = Stages(
            recipe="spy",
            gate=self.gate,
            rules=self.rules,
            buffer=self.buffer,
            on_event=lambda level, text: self.events.append(text),
        )
        self.stages.begin(self.steps, self.admission)

    def group(self, game: int, stream: str) -> Group:
        policy = self.rules.streams[stream].policy
        version = self.version[policy]
        return make_group(game=game, stream=stream, policy=policy, versions=(version,))

    def play(self) -> None:
        """A whole game with a group of each stream."""
        game = self.buffer.start_game("spy")
        self.admission.start(game, "spy")
        for stream in self.rules.streams:
            refusal = self.admission.refusal(game, stream)
            if self.buffer.submit(self.group(game, stream), drop=refusal):
                self.admission.submit(game, stream)
        self.buffer.end_game(game)
        self.admission.settle(game)

    def step(self, policy: str) -> list[str]:
        """The streams in the next batch of `policy`, which then steps."""
        taken = self.admission.ready(policy)
        assert taken is not None, self.admission.waits_for(policy)
        assert self.admission.consume(taken)
        self.requests += 1
        self.buffer.lease(
            policy,
            self.requests,
            self.attempt,
            games=taken.games,
            steps=self.steps,
            max_age=dict.fromkeys(taken.games, 1),
        )
        self.steps[policy] += 1
        with self.buffer.transaction():
            self.buffer.trained(policy, self.requests, self.attempt, self.steps[policy])
            metrics = {"reference_kl": self.steps[policy] / 10}
            self.stages.consumed(taken, self.steps, self.admission, metrics)
        self.admission.published(policy, self.steps[policy])
        return sorted(taken.games)

    def dropped(self, stream: str) -> int:
        dropped = self.buffer.counts()["groups"][stream]["dropped"]
        return int(dropped.get("gate_closed", 0))


@pytest.fixture(params=[SHARED, SPLIT], ids=["one policy", "two policies"])
def club(request: pytest.FixtureRequest, tmp_path: Path) -> Club:
    return Club(tmp_path, request.param)


def test_a_batch_holds_open_streams_alone(club: Club) -> None:
    of = {stream: rule.policy for stream, rule in club.rules.streams.items()}
    for number, stream in enumerate(["vote", "clue", "vote", "clue"]):
        club.play()
        assert club.step(of[stream]) == [stream]
        assert club.events[-1] == f"spy: switch {number + 1}"
    assert club.dropped("clue") == 2
    assert club.dropped("vote") == 2


def test_a_tick_hears_what_learners_measured_since_the_last_one(club: Club) -> None:
    of = {stream: rule.policy for stream, rule in club.rules.streams.items()}
    club.play()
    club.step(of["vote"])
    told = {"reference_kl": 0.1}
    trained = [stream for stream in of if of[stream] == of["vote"]]
    assert club.gate.measured == dict.fromkeys(trained, told)
    club.play()
    taken = club.admission.ready(of["clue"])
    assert taken is not None
    club.stages.consumed(taken, club.steps, club.admission)  # games that came to nothing
    assert club.gate.measured == {}


def test_what_was_ready_for_a_stream_that_closes_is_dropped_by_name(tmp_path: Path) -> None:
    club = Club(tmp_path, SHARED)
    club.play()
    club.play()
    club.step("player")
    assert club.dropped("vote") == 1, "the second game's, which no step had taken"
    assert club.admission.ready("player") is None, "and admission does not count on it"
    club.play()
    assert club.step("player") == ["clue"]


def test_a_restart_goes_on_with_the_gate_of_the_step_restored_to(club: Club) -> None:
    of = {stream: rule.policy for stream, rule in club.rules.streams.items()}
    for stream in ("vote", "clue", "vote"):
        club.play()
        club.step(of[stream])
    assert club.gate.ticks == 3
    back: Callable[[int, int], dict[str, int]] = lambda player, split: (  # noqa: E731
        {"player": player} if "player" in club.steps else {"writer": split, "voter": 1}
    )
    club.steps = back(2, 1)
    club.begin()
    assert club.gate.ticks == 2
    assert club.gate.open_streams() == {"vote"}
    club.steps = back(1, 0)
    club.begin()
    assert club.gate.ticks == 1
    club.play()
    assert club.step(of["clue"]) == ["clue"]


def test_when_the_open_streams_are_finished_the_others_open(tmp_path: Path) -> None:
    """Else a run whose policies make the same number of steps would never end."""
    club = Club(tmp_path, SPLIT, total_steps=2)
    club.gate.tick = lambda _: None  # type: ignore[method-assign]  # it stays with the votes
    for _ in range(2):
        club.play()
        club.step("voter")
    assert not club.admission.may_start("spy"), "nothing that is open can be trained"
    club.stages.finished("voter", club.admission)
    for _ in range(2):
        club.play()
        assert club.step("writer") == ["clue"]
    assert club.admission.is_finished


def test_a_batch_from_before_a_switch_makes_no_tick_after_it(tmp_path: Path) -> None:
    """Else a gate that switches at every step would switch back before the others had one."""
    club = Club(tmp_path, SHARED)
    club.play()
    club.play()
    ahead = club.admission.ready("player")
    assert ahead is not None
    assert club.admission.consume(ahead)
    assert club.step("player") == ["vote"]
    assert club.gate.open_streams() == {"clue"}
    club.steps["player"] += 1
    club.stages.consumed(ahead, club.steps, club.admission)
    assert club.gate.open_streams() == {"clue"}, "that batch was of votes"
    club.admission.published("player", 2)
    club.play()
    assert club.step("player") == ["clue"]


def test_games_that_bring_nothing_to_train_on_tick_too(tmp_path: Path) -> None:
    """Votes that are all right have no variance: only the gate can end this."""
    club = Club(tmp_path, SHARED)
    for _ in range(2):  # until its window is full, a step waits for games with groups
        game = club.buffer.start_game("spy")
        club.admission.start(game, "spy")
        club.admission.settle(game)
    taken = club.admission.ready("player")
    assert taken is not None
    assert not club.admission.consume(taken)
    club.stages.consumed(taken, club.steps, club.admission)
    assert club.gate.open_streams() == {"clue"}
