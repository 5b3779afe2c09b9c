"""Which of a recipe's streams train now, where it wants to choose (its *gate*).

A recipe may train its streams in stages, as Iterative-SPO does (arXiv:2509.25541): every game goes
on yielding groups of all streams, and the gate opens those that a step may take; the groups of a
closed one end as dropped[gate_closed]. No game waits for a switch and none is cancelled. A batch
holds open streams alone; one that was leased before a switch is trained after it.

The gate ticks once when every policy with an open stream has taken games of such a stream since
the last tick: with one policy, at each of its steps. What was leased before a switch makes no tick
after it; games that brought nothing to train on do, for it may be the gate that ends this (votes
that are all right have no variance). What the gate knows is kept with each step, in the same
transaction as the rows that the step trained, so a restored run goes on with the gate of the step
restored to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.admission import Admission, AdmissionRules, Consumption
from engine.buffer import Buffer


class Gate(Protocol):
    """A recipe's memory over its games, as far as it decides what trains."""

    def open_streams(self, finished: frozenset[str] = frozenset()) -> frozenset[str]:
        """The streams that may train now; one at least that is not among `finished`, whose policies
        have made their last step, unless all are."""
        ...

    def tick(self, measured: Mapping[str, Mapping[str, float]]) -> str | None:
        """The open streams were taken from once more. A sentence for the log where others are open
        from now on, or should be and can't. `measured`: by stream, what its policy's learner told
        of the newest step since the last tick; nothing where there was none."""
        ...

    def numbers(self) -> dict[str, float]:
        """What it decides by, for a chart."""
        ...

    def state(self) -> Any:
        """JSON data from which `restore` makes the same memory."""
        ...

    def restore(self, state: Any, own: Mapping[str, Any]) -> None:
        """Be as `state` says. `own`: for each stream the newest state of which its policy still has
        the steps, a later one where another policy was set back further."""
        ...


@dataclass(slots=True, kw_only=True)
class Stages:
    """Drives the gate of one recipe."""

    recipe: str
    gate: Gate
    rules: AdmissionRules
    buffer: Buffer
    on_event: Callable[[str, str], None]
    _open: frozenset[str] = frozenset()
    _due: set[str] = field(default_factory=set)
    """Policies that have not taken games of an open stream since the last tick."""
    _measured: dict[str, Mapping[str, float]] = field(default_factory=dict)
    """By policy, of its newest step since the last tick."""

    def begin(self, steps: Mapping[str, int], admission: Admission) -> None:
        """Go on with the gate of `steps`, those that the policies were restored to."""
        steps = {policy: steps[policy] for policy in self._policies()}
        kept = self.buffer.recipe_state(self.recipe, steps)
        if kept is None:  # the run begins: from here on there is one not beyond any checkpoint
            if any(steps.values()):
                self.on_event(
                    "warning",
                    f"{self.recipe}: of these steps nothing is kept of what its gate knew (it was "
                    "added since, or checkpoints lie too far apart): it begins anew",
                )
            self.buffer.keep_recipe_state(self.recipe, steps, self.gate.state())
        else:
            state, by_policy = kept
            self.gate.restore(state, {s: by_policy[self._policy(s)] for s in self._streams()})
        self._apply(admission)

    def consumed(
        self,
        consumption: Consumption,
        steps: Mapping[str, int],
        admission: Admission,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """A policy made a step of these games and its learner told `metrics`, or they came to
        nothing; `steps` are those made by now. To be called in the transaction that marks the
        step's rows trained."""
        if consumption.policy not in self._policies():
            return
        if metrics is not None:
            self._measured[consumption.policy] = metrics
        if self._open.intersection(stream for stream, games in consumption.games.items() if games):
            self._due.discard(consumption.policy)
        if not self._due:
            measured, self._measured = self._measured, {}
            of = {stream: self._policy(stream) for stream in self._streams()}
            switched = self.gate.tick(
                {stream: measured[policy] for stream, policy in of.items() if policy in measured}
            )
            if switched is not None:
                self.on_event("info", f"{self.recipe}: {switched}")
            self._apply(admission)
        steps = {p: steps[p] for p in self._policies()}
        self.buffer.keep_recipe_state(self.recipe, steps, self.gate.state())

    def finished(self, policy: str, admission: Admission) -> None:
        """A policy has published its last step; what was open may have nothing left to train."""
        if policy in self._policies():
            self._apply(admission)

    def _apply(self, admission: Admission) -> None:
        """Open and shut the streams."""
        finished = frozenset(
            stream
            for stream in self._streams()
            if admission.is_policy_finished(self._policy(stream))
        )
        wanted = self.gate.open_streams(finished)
        for stream in self._streams():
            admission.gate(stream, stream in wanted)
            if stream not in wanted:
                self.buffer.drop_ready(stream, "gate_closed")
        self._open = wanted
        self._due = {self._policy(stream) for stream in wanted}
        self._due -= {policy for policy in self._due if admission.is_policy_finished(policy)}

    def _streams(self) -> list[str]:
        return [name for name, rule in self.rules.streams.items() if rule.recipe == self.recipe]

    def _policy(self, stream: str) -> str:
        return self.rules.streams[stream].policy

    def _policies(self) -> set[str]:
        return {self._policy(stream) for stream in self._streams()}
