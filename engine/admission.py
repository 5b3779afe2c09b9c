"""When a game may start, and which games the next step of a policy takes.

Counts in games, because the number of groups in a game is random. A game is *open* for a stream
until a step (or a closed stream) takes it; it is *settled* there when no more of its groups can
come. Games of several recipes may feed one policy: a step then takes games of each. Four rules:

1. Window: a game starts only while, for every stream r of its recipe, the games that are open or in
   a step not yet published are fewer than `(max_age_r + 1) * games_per_step` (near the end: fewer
   than the steps that are left can take). Of a closed stream its steps alone count, so that with
   `max_age` 0 no game starts before every policy that made a step has published it.
2. Take: a step takes the oldest `games_per_step` settled games of each of its policy's streams,
   more until `min_groups`, and every game that would be too old at the next step.
3. Wait: where such a game is not settled yet, the step waits for it; with `too_old="drop"` it
   takes the groups that the game has, and refuses those that come later.
4. Exhaustion: where no game of a recipe can start because the policy's window is full, or admission
   has stopped, and all of its open games are settled, the step takes what there is of it.

Liveness: when no game of a recipe may start, some stream's window is full. Either a step is in
flight, which ends; or its games settle (each has a deadline), and by rule 4 its policy steps. Age:
rules 2 and 3 leave no open game that the next step could find too old, and rule 1 starts none that
is born too old (a step in flight holds a step's worth of games, so at most `max_age` of them leave
room).
Games are judged by the step that was published when they started, the oldest that any of their
tokens can have; the true age of the tokens is checked again when a batch is leased.

A pure state machine: no task, no clock, no I/O. After a crash it is rebuilt from the buffer's
ready rows alone (`resume`), so it has no state of its own to lose.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRule:
    policy: str
    recipe: str = ""
    """Whose games fill this stream."""
    max_age: int = 4
    min_groups: int = 1
    """A step takes more games than `games_per_step` until it has this many groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRules:
    streams: Mapping[str, StreamRule]
    """The streams of all recipes that are played."""
    games_per_step: int
    games_of: Mapping[str, int] = field(default_factory=dict)
    """{recipe: its games per step}, where that is another number."""
    total_steps: int | None = None
    """Steps of every policy; None: no end."""
    too_old: Literal["wait", "drop"] = "wait"

    def size(self, recipe: str) -> int:
        """Games of `recipe` that one step takes."""
        return self.games_of.get(recipe, self.games_per_step)


@dataclass(frozen=True, slots=True)
class Consumption:
    """What the next step of a policy takes."""

    policy: str
    step: int
    """The step that the weights contain before this batch: ages are counted from here."""
    games: Mapping[str, tuple[int, ...]]
    """Per stream, oldest first."""
    num_groups: int
    """0: no optimiser step comes of it."""


@dataclass(frozen=True, slots=True)
class ReadyGame:
    """A game of an earlier attempt that still has ready groups in a stream."""

    game: int
    stream: str
    num_groups: int
    age: int
    """Of its oldest token, at the restored step."""


@dataclass(slots=True)
class _Entry:
    born: int
    """Step of the policy's published weights when the game started."""
    num_groups: int = 0
    is_settled: bool = False


@dataclass(slots=True)
class _Policy:
    streams: tuple[str, ...]
    published: int
    step: int
    """`published` plus the steps in flight."""
    in_flight: list[Consumption] = field(default_factory=list)


class Admission:
    """See the module's docstring. Methods raise ValueError on calls that contradict the state."""

    def __init__(
        self,
        rules: AdmissionRules,
        steps: Mapping[str, int] | None = None,
        resume: Iterable[ReadyGame] = (),
    ) -> None:
        """`steps`: step of each policy's restored weights (0); `resume`: games still to train."""
        self.rules = rules
        self._streams_of: dict[str, list[str]] = {}
        """By recipe."""
        for name, rule in rules.streams.items():
            self._streams_of.setdefault(rule.recipe, []).append(name)
        self._started = dict.fromkeys(self._streams_of, 0)
        self._stopped = False
        self._shut: set[str] = set()
        self._open: dict[str, dict[int, _Entry]] = {stream: {} for stream in rules.streams}
        self._policies: dict[str, _Policy] = {}
        for policy in dict.fromkeys(rule.policy for rule in rules.streams.values()):
            streams = tuple(r for r, rule in rules.streams.items() if rule.policy == policy)
            step = (steps or {}).get(policy, 0)
            self._policies[policy] = _Policy(streams, step, step)
        for row in sorted(resume, key=lambda row: (-row.age, row.game)):
            born = self._policies[rules.streams[row.stream].policy].step - row.age
            self._open[row.stream][row.game] = _Entry(born, row.num_groups, is_settled=True)
        for policy in self._policies:
            self._release_if_finished(policy)

    @property
    def started(self) -> int:
        """Games, of all recipes, in this attempt."""
        return sum(self._started.values())

    def next_recipe(self) -> str | None:
        """Of which recipe a game may start now: of those, the one that is furthest behind in steps'
        worth of games. None: no game may start."""
        free = [recipe for recipe in self._streams_of if self.may_start(recipe)]
        return min(free, key=lambda name: self._started[name] / self.rules.size(name), default=None)

    def may_start(self, recipe: str = "") -> bool:
        """True where the rules let one more game of `recipe` start now. False where none of its
        streams would train."""
        streams = self._streams_of[recipe]
        if self._stopped or all(self._closed(stream) is not None for stream in streams):
            return False
        return all(self._has_room(stream) for stream in streams)

    def start(self, game: int, recipe: str = "") -> None:
        if not self.may_start(recipe):
            raise ValueError(f"game {game} may not start")
        self._started[recipe] += 1
        for stream in self._streams_of[recipe]:
            self._open[stream][game] = _Entry(self._policy_of(stream).published)

    def refusal(self, game: int, stream: str) -> str | None:
        """Why a group of this game can't be trained (any more): its drop reason; else None."""
        if stream not in self._open:
            return "unknown_stream"
        if (reason := self._closed(stream)) is not None:
            return reason
        return None if game in self._open[stream] else "too_old"

    def submit(self, game: int, stream: str) -> None:
        """Count a group that is ready in the buffer. Filtered groups are not counted."""
        entry = self._open[stream][game]
        if entry.is_settled:
            raise ValueError(f"game {game} is settled for {stream}")
        entry.num_groups += 1

    def settle(self, game: int, stream: str | None = None) -> None:
        """No more groups of `game` will come, for one stream or (None: it ended) for all."""
        for name in self._open if stream is None else (stream,):
            if game in self._open[name]:
                self._open[name][game].is_settled = True
                if self._closed(name) is not None:
                    del self._open[name][game]

    def ready(self, policy: str) -> Consumption | None:
        """What the next step of `policy` takes; None: wait. Changes nothing."""
        state = self._policies[policy]
        streams = self._training(policy)
        if self.rules.total_steps is not None and state.step >= self.rules.total_steps:
            return None
        exhausted = self._exhausted(streams)
        taken = {}
        for stream in streams:
            is_exhausted = self.rules.streams[stream].recipe in exhausted
            games = self._take(stream, state.step, is_exhausted)
            if games is None:
                return None
            taken[stream] = games
        if not any(taken.values()):
            return None
        num_groups = sum(self._open[r][g].num_groups for r, games in taken.items() for g in games)
        return Consumption(policy, state.step, taken, num_groups)

    def consume(self, consumption: Consumption) -> bool:
        """Take the games. True: a step is in flight until `published` or `skipped`.

        False: there was no group, nothing is trained, and the games count as consumed at once
        (so games may start now, with no other event to say so).
        """
        for stream, games in consumption.games.items():
            for game in games:
                del self._open[stream][game]
        if consumption.num_groups == 0:
            return False
        state = self._policies[consumption.policy]
        if consumption.step != state.step:
            raise ValueError(f"{consumption.policy}: step {state.step}, not {consumption.step}")
        state.in_flight.append(consumption)
        state.step += 1
        return True

    def published(self, policy: str, step: int) -> None:
        """The servers of `policy` have weights of `step`: the steps before it are consumed."""
        state = self._policies[policy]
        if not state.published <= step <= state.step:
            raise ValueError(
                f"{policy}: published {step}, expected {state.published}..{state.step}"
            )
        state.in_flight = state.in_flight[step - state.published :]
        state.published = step
        self._release_if_finished(policy)

    def skipped(self, consumption: Consumption) -> None:
        """This step in flight made no update (its groups were all too old, or a bad batch)."""
        state = self._policies[consumption.policy]
        state.in_flight.remove(consumption)
        state.step -= 1

    def gate(self, stream: str, is_open: bool) -> None:
        """A closed stream consumes without training: refused as `gate_closed`."""
        if is_open:
            self._shut.discard(stream)
        else:
            self._shut.add(stream)
            self._release(stream)

    def is_open(self, stream: str) -> bool:
        """False while its gate is closed."""
        return stream not in self._shut

    def stop(self) -> None:
        """No game starts any more; what has started is played and trained."""
        self._stopped = True

    @property
    def is_finished(self) -> bool:
        """Every policy has made and published its last step."""
        return all(map(self.is_policy_finished, self._policies))

    def is_policy_finished(self, policy: str) -> bool:
        """It has made and published its last step."""
        return self._remaining(policy) == 0

    @property
    def is_drained(self) -> bool:
        """Nothing is open and no step is in flight."""
        idle = not any(state.in_flight for state in self._policies.values())
        return idle and not any(self._open.values())

    def waits_for(self, policy: str) -> str:
        """Why `ready` returned None, in words for the dashboard."""
        step, training = self._policies[policy].step, self._training(policy)
        if not training and self._remaining(policy) != 0:
            return "its turn"  # all of its gates are closed
        for stream in training:
            games, rule = self._open[stream], self.rules.streams[stream]
            size = self.rules.size(rule.recipe)
            late = sum(not games[game].is_settled for game in self._urgent(stream, step))
            settled = [entry.num_groups for entry in games.values() if entry.is_settled]
            if len(settled) < size:
                return f"{stream}: {len(settled)}/{size} games"
            if late and self.rules.too_old == "wait":
                return f"{stream}: {late} old games"
            if sum(settled) < rule.min_groups:
                return f"{stream}: {sum(settled)}/{rule.min_groups} groups"
        return "finished" if self._remaining(policy) == 0 else "nothing"

    def _exhausted(self, streams: Sequence[str]) -> set[str]:
        """The recipes that can give `streams`, those of one policy, no more games (rule 4)."""
        found = set()
        for recipe in {self.rules.streams[stream].recipe for stream in streams}:
            own = [r for r in streams if self.rules.streams[r].recipe == recipe]
            full = any(len(self._open[r]) >= self._limit(r) for r in own)
            settled = all(entry.is_settled for r in own for entry in self._open[r].values())
            if (self._stopped or full) and settled:
                found.add(recipe)
        return found

    def _training(self, policy: str) -> list[str]:
        return [r for r in self._policies[policy].streams if self._closed(r) is None]

    def _policy_of(self, stream: str) -> _Policy:
        return self._policies[self.rules.streams[stream].policy]

    def _remaining(self, policy: str) -> int | None:
        if self.rules.total_steps is None:
            return None
        return max(0, self.rules.total_steps - self._policies[policy].published)

    def _closed(self, stream: str) -> str | None:
        if self._remaining(self.rules.streams[stream].policy) == 0:
            return "finished"
        return "gate_closed" if stream in self._shut else None

    def _limit(self, stream: str) -> int:
        """Games that may be open for `stream` or in its steps in flight (rule 1)."""
        rule = self.rules.streams[stream]
        remaining = self._remaining(rule.policy)
        num_steps = rule.max_age + 1 if remaining is None else min(rule.max_age + 1, remaining)
        return num_steps * self.rules.size(rule.recipe)

    def _has_room(self, stream: str) -> bool:
        closed = self._closed(stream)
        if closed == "finished":
            return True
        state = self._policy_of(stream)
        in_steps = sum(len(step.games.get(stream, ())) for step in state.in_flight)
        # What a closed stream has open is no step's; but steps of it may still be on their way.
        num_open = 0 if closed else len(self._open[stream])
        return num_open + in_steps < self._limit(stream)

    def _urgent(self, stream: str, step: int) -> list[int]:
        """Open games that would be too old at `step + 1`."""
        max_age = self.rules.streams[stream].max_age
        return [g for g, entry in self._open[stream].items() if step + 1 - entry.born > max_age]

    def _take(self, stream: str, step: int, exhausted: bool) -> tuple[int, ...] | None:
        """Rules 2 to 4 for one stream; None: wait."""
        games, rule = self._open[stream], self.rules.streams[stream]
        urgent = self._urgent(stream, step)
        if self.rules.too_old == "wait" and not all(games[game].is_settled for game in urgent):
            return None
        # Unsettled games (they are urgent, and we drop) give what they have, but count for nothing.
        settled = [game for game, entry in games.items() if entry.is_settled]
        size = self.rules.size(rule.recipe)
        first = set(urgent)
        taken, num_settled, num_groups = list(urgent), 0, 0
        for game in sorted(settled, key=lambda game: game not in first):
            is_enough = num_settled >= size and num_groups >= rule.min_groups
            if game not in first:
                if is_enough:
                    break
                taken.append(game)
            num_settled += 1
            num_groups += games[game].num_groups
        is_enough = num_settled >= size and num_groups >= rule.min_groups
        return tuple(taken) if is_enough or exhausted else None

    def _release(self, stream: str) -> None:
        """The stream closed: what is settled is consumed, and no group counts any more."""
        games = self._open[stream]
        for game in [g for g, entry in games.items() if entry.is_settled]:
            del games[game]
        for entry in games.values():
            entry.num_groups = 0

    def _release_if_finished(self, policy: str) -> None:
        if self._remaining(policy) == 0:
            for stream in self._policies[policy].streams:
                self._release(stream)
