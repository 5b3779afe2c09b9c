import heapq
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.admission import Admission, AdmissionRules, Consumption, ReadyGame, StreamRule


def rules(max_age: int = 1, games: int = 2, **others: Any) -> AdmissionRules:
    streams = {name: StreamRule(policy=name, max_age=max_age) for name in ("coder", "solver")}
    return AdmissionRules(streams=streams, games_per_step=games, **others)


def play(admission: Admission, game: int, num_groups: int = 1) -> None:
    """The groups of a game that has started, in every stream; then its end."""
    for stream in admission.rules.streams:
        for _ in range(num_groups):
            if admission.refusal(game, stream) is None:
                admission.submit(game, stream)
    admission.settle(game)


def step(admission: Admission, policy: str) -> Consumption:
    consumption = admission.ready(policy)
    assert consumption is not None, admission.waits_for(policy)
    admission.consume(consumption)
    return consumption


def start_all(admission: Admission, first: int) -> list[int]:
    games = []
    while admission.may_start():
        games.append(first + len(games))
        admission.start(games[-1])
        assert len(games) < 1000, "nothing bounds the games"
    return games


def test_the_window_holds_max_age_plus_one_steps() -> None:
    for max_age in range(4):
        assert len(start_all(Admission(rules(max_age, games=3)), 1)) == 3 * (max_age + 1)


def test_a_step_takes_the_oldest_settled_games() -> None:
    admission = Admission(rules(max_age=2))
    start_all(admission, 1)
    assert admission.ready("solver") is None
    for game in (6, 4, 3):
        play(admission, game)
    assert step(admission, "solver").games == {"solver": (3, 4)}
    assert admission.ready("solver") is None
    assert admission.waits_for("solver") == "solver: 1/2 games"


def test_a_game_settles_earlier_for_one_stream() -> None:
    admission = Admission(rules())
    start_all(admission, 1)
    for game in (1, 2):
        admission.submit(game, "coder")
        admission.settle(game, "coder")
    assert admission.ready("solver") is None
    assert step(admission, "coder").num_groups == 2


def test_consumption_opens_the_window_when_it_is_published_by_every_policy() -> None:
    admission = Admission(rules(max_age=0))
    for game in start_all(admission, 1):
        play(admission, game)
    for policy in ("coder", "solver"):
        step(admission, policy)
        assert not admission.may_start()
        admission.published(policy, 1)
        assert admission.may_start() == (policy == "solver")


def test_max_age_zero_does_not_wait_for_a_policy_that_made_no_step() -> None:
    admission = Admission(rules(max_age=0))
    for game in start_all(admission, 1):
        admission.submit(game, "coder")
        admission.settle(game)
    step(admission, "coder")
    nothing = step(admission, "solver")
    assert nothing.num_groups == 0
    assert not admission.may_start()
    admission.published("coder", 1)
    assert admission.may_start()


def test_a_skipped_batch_is_consumed_at_once_and_makes_no_step() -> None:
    admission = Admission(rules(max_age=0))
    for game in start_all(admission, 1):
        play(admission, game)
    step(admission, "coder")
    admission.published("coder", 1)
    admission.skipped(step(admission, "solver"))
    assert start_all(admission, 3) == [3, 4]
    play(admission, 3)
    play(admission, 4)
    assert step(admission, "solver").step == 0
    assert step(admission, "coder").step == 1


def test_a_step_takes_more_games_until_it_has_enough_groups() -> None:
    streams = {"solver": StreamRule(policy="solver", max_age=3, min_groups=3)}
    admission = Admission(AdmissionRules(streams=streams, games_per_step=2))
    games = start_all(admission, 1)
    for game in games[:4]:
        play(admission, game, num_groups=game == 2)
    assert admission.waits_for("solver") == "solver: 1/3 groups"
    play(admission, games[4], num_groups=5)
    assert step(admission, "solver").games["solver"] == (1, 2, 3, 4, 5)


def test_a_full_and_settled_window_gives_what_there_is() -> None:
    streams = {"solver": StreamRule(policy="solver", max_age=1, min_groups=100)}
    admission = Admission(AdmissionRules(streams=streams, games_per_step=2))
    games = start_all(admission, 1)
    for game in games[:-1]:
        play(admission, game)
    assert admission.ready("solver") is None
    play(admission, games[-1])
    assert step(admission, "solver").games["solver"] == tuple(games)


def test_a_stopped_admission_gives_what_there_is_once_all_is_settled() -> None:
    admission = Admission(rules(max_age=3))
    for game in (1, 2, 3):
        admission.start(game)
    admission.stop()
    assert not admission.may_start()
    play(admission, 1)
    assert admission.ready("solver") is None
    play(admission, 2)
    play(admission, 3)
    assert step(admission, "solver").games["solver"] == (1, 2)
    assert step(admission, "solver").games["solver"] == (3,)
    for _ in range(2):
        step(admission, "coder")
    assert admission.ready("solver") is None
    assert not admission.is_drained
    admission.published("solver", 2)
    admission.published("coder", 2)
    assert admission.is_drained


def slow_game(too_old: Any) -> Admission:
    """Game 1 never settles, while the solver steps to the limit of its age."""
    admission = Admission(rules(max_age=1, games=1, too_old=too_old))
    for game in (1, 2):
        admission.start(game)
    admission.submit(1, "solver")
    play(admission, 2)
    for policy in ("solver", "coder"):
        step(admission, policy)
        admission.published(policy, 1)
    admission.start(3)
    play(admission, 3)
    return admission


def test_a_step_waits_for_a_game_that_would_be_too_old_at_the_next() -> None:
    admission = slow_game("wait")
    assert admission.ready("solver") is None
    assert admission.waits_for("solver") == "solver: 1 old games"
    admission.settle(1)
    assert step(admission, "solver").games == {"solver": (1,)}


def test_or_takes_what_the_game_has_and_refuses_the_rest() -> None:
    admission = slow_game("drop")
    taken = step(admission, "solver")
    assert (taken.games, taken.num_groups) == ({"solver": (1, 3)}, 2)
    assert admission.refusal(1, "solver") == "too_old"
    assert admission.refusal(1, "coder") is None
    admission.settle(1)


def test_streams_of_one_policy_step_together() -> None:
    streams = {name: StreamRule(policy="player", max_age=0) for name in ("clue", "decision")}
    admission = Admission(AdmissionRules(streams=streams, games_per_step=1))
    admission.start(1)
    admission.submit(1, "clue")
    admission.settle(1, "clue")
    assert admission.ready("player") is None
    admission.submit(1, "decision")
    admission.settle(1)
    taken = step(admission, "player")
    assert (taken.games, taken.num_groups) == ({"clue": (1,), "decision": (1,)}, 2)


def test_a_closed_gate_consumes_without_training() -> None:
    admission = Admission(rules(max_age=0))
    admission.gate("coder", is_open=False)
    for game in start_all(admission, 1):
        assert admission.refusal(game, "coder") == "gate_closed"
        play(admission, game)
    assert admission.ready("coder") is None
    step(admission, "solver")
    assert not admission.may_start()
    admission.published("solver", 1)
    admission.gate("coder", is_open=True)
    assert len(start_all(admission, 3)) == 2


def test_what_a_policy_waits_for_is_named() -> None:
    admission = Admission(rules(max_age=0, total_steps=1))
    admission.gate("coder", is_open=False)
    for game in start_all(admission, 1):
        play(admission, game, num_groups=game % 2)
        if game == 1:
            # With max_age 0 all games are as old as they may be; that is not what is wanting.
            assert admission.waits_for("solver") == "solver: 1/2 games"
    assert admission.waits_for("coder") == "its turn"
    step(admission, "solver")
    admission.published("solver", 1)
    assert admission.waits_for("solver") == "finished"


def test_nothing_starts_where_every_gate_is_closed() -> None:
    admission = Admission(rules())
    for stream in ("coder", "solver"):
        admission.gate(stream, is_open=False)
    assert not admission.may_start()


def test_the_last_steps_start_no_game_that_none_will_train() -> None:
    admission = Admission(rules(max_age=4, total_steps=2))
    games = start_all(admission, 1)
    assert len(games) == 4
    for game in games:
        play(admission, game)
    for number in (1, 2):
        for policy in ("coder", "solver"):
            step(admission, policy)
            admission.published(policy, number)
    assert admission.is_finished
    assert not admission.may_start()
    assert admission.is_drained


def test_a_finished_policy_lets_the_others_go_on() -> None:
    admission = Admission(rules(max_age=0, total_steps=1))
    for game in start_all(admission, 1):
        play(admission, game)
    step(admission, "coder")
    admission.published("coder", 1)
    admission.skipped(step(admission, "solver"))
    for game in start_all(admission, 3):
        assert admission.refusal(game, "coder") == "finished"
        play(admission, game)
    step(admission, "solver")
    admission.published("solver", 1)
    assert admission.is_finished


def test_resumed_games_keep_their_age() -> None:
    ready = [ReadyGame(7, "solver", 2, age=0), ReadyGame(5, "solver", 1, age=1)]
    admission = Admission(rules(max_age=1, games=1), {"solver": 40, "coder": 38}, ready)
    assert not admission.may_start()
    first = step(admission, "solver")
    assert (first.step, first.games, first.num_groups) == (40, {"solver": (5,)}, 1)
    admission.published("solver", 41)
    assert admission.may_start()
    assert step(admission, "solver").games == {"solver": (7,)}


def test_calls_that_contradict_the_state_are_errors() -> None:
    admission = Admission(rules(max_age=0, games=1))
    admission.start(1)
    with pytest.raises(ValueError, match="may not start"):
        admission.start(2)
    with pytest.raises(ValueError, match="published 1"):
        admission.published("solver", 1)
    admission.settle(1)
    with pytest.raises(ValueError, match="settled"):
        admission.submit(1, "solver")
    with pytest.raises(ValueError):
        admission.skipped(Consumption("solver", 0, {}, 1))


@dataclass
class World:
    """A seeded simulation: random games and learners, with crashes, on a virtual clock."""

    rules: AdmissionRules
    rng: random.Random
    crash_rate: float = 0.0
    skip_rate: float = 0.05
    clock: float = 0.0
    events: list[tuple[float, int, str, Any]] = field(default_factory=list)
    groups: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    """State of each group: ready, leased, trained, or dropped and why."""
    born: dict[int, dict[str, int]] = field(default_factory=dict)
    ages: list[int] = field(default_factory=list)
    queue: dict[str, list[Consumption]] = field(default_factory=dict)
    """Per policy, batches that a learner trains and publishes one after the other."""
    depth: int = 1
    games: int = 0
    number: int = 0

    def __post_init__(self) -> None:
        self.steps = {rule.policy: 0 for rule in self.rules.streams.values()}
        self.queue = {policy: [] for policy in self.steps}
        self.speed = {policy: self.rng.choice((0.1, 1.0, 3.0)) for policy in self.steps}
        self.admission = Admission(self.rules)

    def later(self, seconds: float, what: str, value: Any) -> None:
        self.number += 1
        heapq.heappush(self.events, (self.clock + seconds, self.number, what, value))

    def run(self) -> None:
        for _ in range(20_000):
            self.act()
            if self.admission.is_finished:
                return
            assert self.events, f"dead-lock at {self.steps}"
            self.clock, _, what, value = heapq.heappop(self.events)
            getattr(self, what)(value)
            if self.rng.random() < self.crash_rate:
                self.crash()
        raise AssertionError(f"no end in sight at {self.steps}")

    def act(self) -> None:
        """Start and take whatever may, until nothing changes."""
        is_busy = True
        while is_busy:
            is_busy = False
            while (recipe := self.admission.next_recipe()) is not None:
                self.play(recipe)
            for policy in [p for p in self.steps if len(self.queue[p]) < self.depth]:
                if (taken := self.admission.ready(policy)) is not None:
                    self.take(taken)
                    is_busy = True

    def play(self, recipe: str) -> None:
        self.games += 1
        self.admission.start(self.games, recipe)
        self.born[self.games] = dict(self.steps)
        tail = self.rng.paretovariate(1.2) if self.rng.random() < 0.5 else 1.0
        own = [s for s, rule in self.rules.streams.items() if rule.recipe == recipe]
        plan = [s for s in own for _ in range(self.rng.choice((0, 1, 3, 8)))]
        self.rng.shuffle(plan)
        seconds = self.rng.expovariate(1.0) * min(tail, 50.0)
        for position, stream in enumerate(plan):
            self.later(seconds * position / len(plan), "group", (self.games, stream))
        self.later(seconds, "end", self.games)

    def take(self, taken: Consumption) -> None:
        queue = self.queue[taken.policy]
        assert taken.step == self.steps[taken.policy] + len(queue)
        assert self.rules.total_steps is None or taken.step < self.rules.total_steps
        found = 0
        for stream, games in taken.games.items():
            for game in games:
                age = taken.step - self.born[game][taken.policy]
                assert age <= self.rules.streams[stream].max_age
                states = self.groups.get((game, stream), [])
                found += states.count("ready")
                self.ages += [age] * states.count("ready")
                self.groups[game, stream] = [s.replace("ready", "leased") for s in states]
        assert found == taken.num_groups
        if self.admission.consume(taken):
            queue.append(taken)
            if len(queue) == 1:
                self.train(taken.policy)

    def train(self, policy: str) -> None:
        self.later(self.speed[policy] * self.rng.random(), "publish", self.queue[policy][0])

    def group(self, value: tuple[int, str]) -> None:
        reason = self.admission.refusal(*value)
        if reason is None and self.rng.random() < 0.3:
            reason = "zero_variance"
        self.groups.setdefault(value, []).append(reason or "ready")
        if reason is None:
            self.admission.submit(*value)

    def end(self, game: int) -> None:
        self.admission.settle(game)

    def publish(self, taken: Consumption) -> None:
        self.queue[taken.policy].pop(0)
        skipped = self.rng.random() < self.skip_rate
        for stream, games in taken.games.items():
            for game in games:
                states = self.groups.get((game, stream), [])
                done = "bad_batch" if skipped else "trained"
                self.groups[game, stream] = [s.replace("leased", done) for s in states]
        if skipped:
            self.admission.skipped(taken)
        else:
            self.steps[taken.policy] += 1
            self.admission.published(taken.policy, self.steps[taken.policy])
        if self.queue[taken.policy]:
            self.train(taken.policy)

    def crash(self) -> None:
        """Everything in flight is lost; each policy resumes at its last step."""
        self.events.clear()
        self.queue = {policy: [] for policy in self.steps}
        ready = []
        for (game, stream), states in self.groups.items():
            self.groups[game, stream] = [s.replace("leased", "ready") for s in states]
            policy = self.rules.streams[stream].policy
            if number := self.groups[game, stream].count("ready"):
                age = self.steps[policy] - self.born[game][policy]
                ready.append(ReadyGame(game, stream, number, age))
        self.admission = Admission(self.rules, self.steps, ready)


def make_world(seed: int, crash_rate: float, **changes: Any) -> World:
    rng = random.Random(seed)
    names = ("proposer", "coder", "solver")
    shared = rng.random() < 0.3  # one policy with several streams
    recipes = rng.choice((("a", "a", "a"), ("a", "a", "b"), ("a", "b", "c")))
    streams = {
        name: StreamRule(
            policy="player" if shared else name,
            recipe=recipe,
            max_age=changes.get("max_age", rng.choice((0, 1, 2, 4))),
            min_groups=rng.choice((0, 1, 1, 5, 30)),
        )
        for name, recipe in zip(names, recipes, strict=True)
    }
    options: dict[str, Any] = {"games_per_step": rng.choice((1, 2, 4, 7)), "total_steps": 12}
    options["games_of"] = {"b": rng.choice((1, 3))}
    options["too_old"] = rng.choice(("wait", "drop"))
    depth = rng.choice((1, 1, 2, 3))
    return World(AdmissionRules(streams=streams, **options), rng, crash_rate, depth=depth)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.003, 0.02]))
def test_no_dead_lock_no_broken_age_and_nothing_vanishes(seed: int, crash_rate: float) -> None:
    world = make_world(seed, crash_rate)
    world.run()
    assert set(world.steps.values()) == {world.rules.total_steps}
    states = [state for row in world.groups.values() for state in row]
    known = {"ready", "leased", "trained", "bad_batch", "zero_variance", "finished", "too_old"}
    assert set(states) <= known
    if not crash_rate:
        # What is ready at the end belongs to a policy that made its last step.
        assert states.count("leased") == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_max_age_zero_is_on_policy(seed: int) -> None:
    world = make_world(seed, 0.0, max_age=0)
    world.run()
    assert set(world.ages) <= {0}


def test_the_window_keeps_the_policies_at_one_rate() -> None:
    streams = {r: StreamRule(policy=r, max_age=1) for r in ("proposer", "coder", "solver")}
    shared = AdmissionRules(streams=streams, games_per_step=4, total_steps=40)
    world = World(shared, random.Random(5), skip_rate=0.0)
    world.speed = {"proposer": 0.1, "coder": 1.0, "solver": 3.0}
    spread = 0
    original = world.publish

    def publish(taken: Consumption) -> None:
        nonlocal spread
        original(taken)
        spread = max(spread, max(world.steps.values()) - min(world.steps.values()))

    world.publish = publish  # type: ignore[method-assign]
    world.run()
    assert world.steps == dict.fromkeys(world.steps, 40)
    assert spread <= 2


def two_recipes(**others: Any) -> AdmissionRules:
    """Three streams of two recipes that feed one policy."""
    streams = {
        name: StreamRule(policy="player", recipe=recipe, max_age=1)
        for name, recipe in (("clue", "spy"), ("vote", "spy"), ("answer", "quiz"))
    }
    return AdmissionRules(streams=streams, games_per_step=2, games_of={"quiz": 1}, **others)


def test_a_shared_policy_steps_with_games_of_each_recipe() -> None:
    admission = Admission(two_recipes())
    started: dict[str, list[int]] = {"spy": [], "quiz": []}
    while (recipe := admission.next_recipe()) is not None:
        game = len(started["spy"]) + len(started["quiz"]) + 1
        admission.start(game, recipe)
        started[recipe].append(game)
    assert {name: len(games) for name, games in started.items()} == {"spy": 4, "quiz": 2}
    assert admission.refusal(started["quiz"][0], "clue") == "too_old", "it is not its stream"
    for game in started["spy"]:
        play(admission, game)
    assert admission.ready("player") is None, "the other recipe's games are on their way"
    play(admission, started["quiz"][0])
    games = step(admission, "player").games
    assert games == {
        "clue": tuple(started["spy"][:2]),
        "vote": tuple(started["spy"][:2]),
        "answer": (started["quiz"][0],),
    }


def test_a_recipe_that_can_give_no_more_does_not_hold_the_other_up() -> None:
    admission = Admission(two_recipes())
    admission.start(1, "spy")
    for game in (2, 3):
        admission.start(game, "quiz")
        play(admission, game)
    play(admission, 1)
    # The quiz's window is full and settled, but games of the other recipe may still start.
    assert admission.ready("player") is None
    admission.stop()
    assert step(admission, "player").games == {"clue": (1,), "vote": (1,), "answer": (2,)}
